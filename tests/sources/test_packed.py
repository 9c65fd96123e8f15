"""Packed layouts by hand, bit by bit: GPTQ of any width, AWQ, compressed-tensors, MXFP4, NVFP4."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gguffast.errors import FormatError
from gguffast.sources.checkpoint import open_checkpoint
from gguffast.sources.lazy import FLOAT8_VALUES, DType, LazyTensor, round_to
from support.handmade import Raw, write_safetensors

RNG = np.random.default_rng(12)
Tensors = Mapping[str, "Raw | np.ndarray"]
MXFP4 = gguf.GGMLQuantizationType.MXFP4
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], "f4")


def opened(folder: Path, tensors: Tensors, config: Mapping[str, Any]) -> dict[str, LazyTensor]:
    write_safetensors(folder / "model.safetensors", tensors)
    return open_checkpoint(folder, config).tensors


def check(tensor: LazyTensor, expected: np.ndarray) -> None:
    """The whole, and ranges of elements that begin and end anywhere."""
    assert tensor.shape == expected.shape
    stored = expected.astype(tensor.dtype.storage).reshape(-1)
    np.testing.assert_array_equal(tensor.numpy().reshape(-1), stored)
    for _ in range(20):
        first = int(RNG.integers(0, tensor.size))
        count = int(RNG.integers(1, min(3 * tensor.n_columns, tensor.size - first) + 1))
        np.testing.assert_array_equal(tensor.elements(first, count), stored[first : first + count])


def bit_stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """Rows of codes as little-endian streams of bits, in whole 32-bit words."""
    n_words = -(-codes.shape[1] * bits // 32)
    rows = []
    for row in codes.tolist():
        number = sum(code << (i * bits) for i, code in enumerate(row))
        rows.append(np.frombuffer(number.to_bytes(4 * n_words, "little"), "<i4"))
    return np.stack(rows)


def scales(*shape: int) -> np.ndarray:
    return RNG.uniform(0.01, 2, shape).astype("f4")


# --- GPTQ -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act_order", [False, True], ids=["in order", "act-order"])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(tmp_path: Path, bits: int, version: str, act_order: bool) -> None:
    n_in, n_out, groups = 128, 96, 4
    codes, zeros = RNG.integers(0, 1 << bits, (n_out, n_in)), RNG.integers(0, 1 << bits, (groups, n_out))
    scale = scales(groups, n_out).astype("f2")
    index = RNG.permutation(n_in) % groups if act_order else np.arange(n_in) // (n_in // groups)
    tensors = {
        "l.qweight": np.ascontiguousarray(bit_stream(codes, bits).T),
        "l.qzeros": bit_stream(zeros, bits),
        "l.scales": scale,
        "l.g_idx": index.astype("i4"),
    }
    config = {"quant_method": "gptq", "bits": bits, "checkpoint_format": version}
    found = opened(tmp_path, tensors, config)
    assert list(found) == ["l.weight"]
    points = zeros + (version == "gptq")
    check(found["l.weight"], scale.astype("f4").T[:, index] * (codes - points.T[:, index]).astype("f4"))


def test_three_bits_straddle_words_as_autogptq_packs_them(tmp_path: Path) -> None:
    """AutoGPTQ's packing of 32 codes in three words, spelled out as its ``pack`` has it."""
    codes = RNG.integers(0, 8, 32).astype("u4")
    words = np.zeros(3, "u4")
    for i in range(10):
        words[0] |= codes[i] << np.uint32(3 * i)
    words[0] |= codes[10] << np.uint32(30)
    words[1] |= codes[10] >> np.uint32(2) & np.uint32(1)
    for i in range(10):
        words[1] |= codes[11 + i] << np.uint32(3 * i + 1)
    words[1] |= codes[21] << np.uint32(31)
    words[2] |= codes[21] >> np.uint32(1) & np.uint32(3)
    for i in range(10):
        words[2] |= codes[22 + i] << np.uint32(3 * i + 2)
    tensors = {
        "l.qweight": np.repeat(words.view("i4")[:, None], 32, axis=1),
        "l.qzeros": np.zeros((1, 3), "i4"),
        "l.scales": np.ones((1, 32), "f2"),
        "l.g_idx": np.zeros(32, "i4"),
    }
    config = {"quant_method": "gptq", "bits": 3, "checkpoint_format": "gptq_v2"}
    check(opened(tmp_path, tensors, config)["l.weight"], np.tile(codes.astype("f4"), (32, 1)))


# --- AWQ --------------------------------------------------------------------------------------------------


def awq_pack(codes: np.ndarray) -> np.ndarray:
    """As AutoAWQ's ``WQLinear_GEMM.from_linear``: eight columns in an integer, in its order."""
    packed = np.zeros((codes.shape[0], codes.shape[1] // 8), "u4")
    for place, column in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
        packed |= codes[:, column::8].astype("u4") << np.uint32(4 * place)
    return packed.view("i4")


def awq() -> tuple[dict[str, np.ndarray], np.ndarray]:
    n_in, n_out, size = 128, 48, 32
    codes, zeros = RNG.integers(0, 16, (n_in, n_out)), RNG.integers(0, 16, (n_in // size, n_out))
    scale = scales(n_in // size, n_out).astype("f2")
    tensors = {"l.qweight": awq_pack(codes), "l.qzeros": awq_pack(zeros), "l.scales": scale}
    values = (codes - zeros.repeat(size, axis=0)).astype("f2") * scale.repeat(size, axis=0)
    return tensors, np.ascontiguousarray(values.T)


def test_awq(tmp_path: Path) -> None:
    tensors, values = awq()
    found = opened(tmp_path, tensors, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"})
    assert list(found) == ["l.weight"]
    assert found["l.weight"].dtype is DType.F16
    check(found["l.weight"], values)


@pytest.mark.parametrize("name", ["l.qweight", "l.qzeros", "l.scales"])
def test_broken_awq_layers(tmp_path: Path, name: str) -> None:
    tensors, _ = awq()
    with pytest.raises(FormatError, match=r"layer 'l'.* do not fit 4 bits"):
        opened(tmp_path, tensors | {name: tensors[name][:, :-1]}, {"quant_method": "awq", "bits": 4})
    del tensors[name]
    if name != "l.qweight":
        with pytest.raises(FormatError, match="layer 'l' lacks"):
            opened(tmp_path, tensors, {"quant_method": "awq", "bits": 4})


# --- compressed-tensors -----------------------------------------------------------------------------------


COMPRESSED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}


def packed(
    bits: int, groups: int, *, n_in: int = 96, asymmetric: bool = False, act_order: bool = False
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    n_out = 20
    codes, scale = RNG.integers(0, 1 << bits, (n_out, n_in)), scales(n_out, groups)
    tensors = {
        "l.weight_packed": bit_stream(codes, bits),
        "l.weight_scale": scale,
        "l.weight_shape": np.array([n_out, n_in]),
    }
    zeros = np.full((n_out, groups), 1 << (bits - 1))
    if asymmetric:
        zeros = RNG.integers(0, 1 << bits, (n_out, groups))
        tensors["l.weight_zero_point"] = np.ascontiguousarray(bit_stream(zeros.T, bits).T)
    index = np.arange(n_in) // (n_in // groups)
    if act_order:
        index = RNG.permutation(index)
        tensors["l.weight_g_idx"] = index.astype("i4")
    return tensors, (codes - zeros[:, index]).astype("f4") * scale[:, index]


@pytest.mark.parametrize("act_order", [False, True], ids=["in order", "act-order"])
@pytest.mark.parametrize("asymmetric", [False, True], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(("bits", "groups"), [(4, 3), (4, 1), (8, 3), (3, 3), (2, 1), (6, 2)])
def test_packed_integers(tmp_path: Path, bits: int, groups: int, asymmetric: bool, act_order: bool) -> None:
    tensors, values = packed(bits, groups, asymmetric=asymmetric, act_order=act_order)
    found = opened(tmp_path, tensors | {"a": scales(2), "l.input_scale": scales(1)}, COMPRESSED)
    assert list(found) == ["a", "l.weight"]
    check(found["l.weight"], values)


def test_rows_that_do_not_fill_their_words(tmp_path: Path) -> None:
    tensors, values = packed(4, 1, n_in=75)
    check(opened(tmp_path, tensors, COMPRESSED)["l.weight"], values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight_packed", np.zeros((20, 11), "i4")),
        ("weight_packed", np.zeros((19, 12), "i4")),
        ("weight_packed", np.zeros((20, 12), "i8")),
        ("weight_scale", np.ones((20, 5), "f4")),
        ("weight_scale", np.ones((19, 3), "f4")),
        ("weight_shape", np.array([20, 0])),
        ("weight_shape", np.array([1 << 50, 1 << 50])),
        ("weight_shape", np.array([20.0, 96.0])),
        ("weight_zero_point", np.zeros((2, 3), "i4")),
        ("weight_g_idx", np.zeros(95, "i4")),
        ("weight_g_idx", np.full(96, 3, "i4")),
    ],
    ids=range(11),
)
def test_broken_packed_layers(tmp_path: Path, name: str, value: np.ndarray) -> None:
    tensors, _ = packed(4, 3)
    with pytest.raises(FormatError, match=r"'l|'l\.weight_") as caught:
        opened(tmp_path, tensors | {f"l.{name}": value}, COMPRESSED)
    assert str(caught.value).isprintable()


def test_scales_by_group_of_plain_numbers(tmp_path: Path) -> None:
    codes, scale = RNG.integers(-128, 128, (6, 32), dtype="i1"), scales(6, 4)
    group = {"weights": {"strategy": "group", "group_size": 8, "num_bits": 8, "type": "int"}}
    config = COMPRESSED | {"format": "int-quantized", "config_groups": {"group_0": group}}
    found = opened(tmp_path, {"x.weight": codes, "x.weight_scale": scale}, config)["x.weight"]
    check(found, codes.astype("f4") * scale.repeat(8, axis=1))


# --- 4-bit floats -----------------------------------------------------------------------------------------


def float4(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Packed codes, the first of two in the low half, and their values."""
    codes = RNG.integers(0, 16, shape, dtype="u1")
    return codes[..., ::2] | codes[..., 1::2] << np.uint8(4), E2M1[codes]


def e4m3(*shape: int) -> tuple[Raw, np.ndarray]:
    codes = RNG.integers(1, 0x7F, shape, dtype="u1")
    return Raw("F8_E4M3", shape, codes.tobytes()), FLOAT8_VALUES[DType.F8_E4M3][codes]


def test_nvfp4_of_compressed_tensors_divides_by_the_outer_scale(tmp_path: Path) -> None:
    (codes, values), (raw_scale, scale), outer = float4(12, 64), e4m3(12, 4), np.array([3.7], "f4")
    tensors = {"l.weight_packed": codes, "l.weight_scale": raw_scale, "l.weight_global_scale": outer}
    found = opened(tmp_path, tensors | {"l.input_global_scale": outer}, COMPRESSED)
    assert list(found) == ["l.weight"]
    check(found["l.weight"], values * (scale / outer).repeat(16, axis=1))


def test_nvfp4_of_modelopt_multiplies_and_may_be_mixed_with_fp8(tmp_path: Path) -> None:
    (codes, values), (raw_scale, scale), outer = float4(12, 64), e4m3(12, 4), np.array(0.07, "f4")
    raw_plain, plain = e4m3(3, 5)
    tensors = {
        "l.weight": codes, "l.weight_scale": raw_scale, "l.weight_scale_2": outer, "l.input_scale": outer,
        "m.weight": raw_plain, "m.weight_scale": np.array(0.5, "f4"), "m.k_scale": outer,
    }  # fmt: skip
    found = opened(tmp_path, tensors, {"quant_method": "modelopt", "quant_algo": "NVFP4"})
    assert sorted(found) == ["l.weight", "m.weight"]
    check(found["l.weight"], values * (scale * outer).repeat(16, axis=1))
    check(found["m.weight"], plain * np.float32(0.5))


def test_mxfp4_of_compressed_tensors(tmp_path: Path) -> None:
    (codes, values), exponent = float4(6, 64), RNG.integers(100, 140, (6, 2), dtype="u1")
    found = opened(tmp_path, {"l.weight_packed": codes, "l.weight_scale": exponent}, COMPRESSED)
    check(found["l.weight"], values * (2.0 ** (exponent.astype(int) - 127)).astype("f4").repeat(32, axis=1))


def test_mxfp4_of_gpt_oss_keeps_its_numbers_in_blocks_of_gguf(tmp_path: Path) -> None:
    (codes, values), exponent = float4(3, 10, 64), RNG.integers(100, 140, (3, 10, 2), dtype="u1")
    tensors = {
        "e.up_proj_blocks": codes.reshape(3, 10, 2, 16),
        "e.up_proj_scales": exponent,
        "e.bias": scales(3),
    }
    found = opened(tmp_path, tensors, {"quant_method": "mxfp4"})
    assert sorted(found) == ["e.bias", "e.up_proj_blocks"]
    blocks = found["e.up_proj_blocks"]
    assert (blocks.shape, blocks.ne) == ((3, 10, 2), (64, 10, 3))
    expected = values * (2.0 ** (exponent.astype(int) - 127)).astype("f4").repeat(32, axis=2)
    stored = blocks.numpy().view(np.uint8).reshape(30, 34)
    np.testing.assert_array_equal(gguf.quants.dequantize(stored, MXFP4).reshape(3, 10, 64), expected)
    for first in range(0, 60, 7):
        assert blocks.elements(first, 3).tobytes() == stored.tobytes()[17 * first : 17 * first + 51]


@pytest.mark.parametrize("shape", [(10, 2), (3, 10, 3), (3, 10, 1), (3, 9, 2)])
def test_mxfp4_of_gpt_oss_with_scales_that_do_not_fit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    codes = np.zeros((3, 10, 2, 16), "u1")
    tensors = {"e_blocks": codes, "e_scales": np.zeros(shape, "u1")}
    with pytest.raises(FormatError, match=r"'e_scales', U8 .* does not scale 'e_blocks'"):
        opened(tmp_path, tensors, {"quant_method": "mxfp4"})
    with pytest.raises(FormatError, match="'e_scales' is missing; 'e_blocks' needs it"):
        opened(tmp_path, {"e_blocks": codes}, {"quant_method": "mxfp4"})


@pytest.mark.parametrize("shape", [(6, 3), (5, 2), (6, 2, 1), (12,)])
def test_float4_scales_that_do_not_fit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensors = {"l.weight_packed": float4(6, 64)[0], "l.weight_scale": np.ones(shape, "u1")}
    with pytest.raises(FormatError, match=r"'l\.weight_scale', U8 .* does not scale 'l\.weight_packed'"):
        opened(tmp_path, tensors, COMPRESSED)


def test_fbgemm(tmp_path: Path) -> None:
    weight, values = e4m3(6, 8)
    tensors = {"x.weight": weight, "x.weight_scale": scales(6, 1), "x.input_scale_ub": scales(1)}
    found = opened(tmp_path, tensors, {"quant_method": "fbgemm_fp8"})
    assert list(found) == ["x.weight"]
    check(found["x.weight"], values * tensors["x.weight_scale"])


def test_bitnet(tmp_path: Path) -> None:
    codes, scale = RNG.integers(0, 3, (24, 10), dtype="u1"), np.array([1.7], "f4")
    stored = sum(codes.reshape(4, 6, 10)[i] << np.uint8(2 * i) for i in range(4)).astype("u1")
    found = opened(tmp_path, {"l.weight": stored, "l.weight_scale": scale}, {"quant_method": "bitnet"})
    assert list(found) == ["l.weight"]
    check(found["l.weight"], (codes.astype("f4") - 1) / scale)
    with pytest.raises(FormatError, match=r"'l\.weight_scale' is no scale of"):
        opened(tmp_path, {"l.weight_scale": scale}, {"quant_method": "bitnet"})


# --- Layers that compressed-tensors made ------------------------------------------------------------------

LAYERS = sorted((Path(__file__).parents[1] / "data" / "packed_layers").glob("*.safetensors"))


def test_the_layers_are_all_there() -> None:
    assert len(LAYERS) == 11


@pytest.mark.parametrize("path", LAYERS, ids=lambda path: path.stem)
def test_real_layers_give_compressed_tensors_own_values(path: Path, tmp_path: Path) -> None:
    header = path.read_bytes()
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    (tmp_path / "model.safetensors").symlink_to(path)
    found = open_checkpoint(tmp_path, json.loads(metadata["config"])).tensors
    assert list(found) == ["l.weight"]
    values = found["l.weight"].values()
    if metadata["dtype"] == "bfloat16":
        out = np.empty(values.shape, "u2")
        round_to(DType.BF16, values, out)
        values = out
    assert hashlib.sha256(values.tobytes()).hexdigest() == metadata["sha256"]

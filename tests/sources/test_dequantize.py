"""Quantized checkpoints by hand: bitsandbytes, FP8, GPTQ and their kin against the plain formula."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguffast.errors import FormatError, GGUFFastError
from gguffast.sources.checkpoint import Checkpoint, open_checkpoint
from gguffast.sources.lazy import FLOAT8_VALUES, DType, LazyTensor
from support.handmade import Raw, raw, write_safetensors

RNG = np.random.default_rng(11)
Tensors = Mapping[str, "Raw | np.ndarray"]


def opened(folder: Path, tensors: Tensors, config: Mapping[str, Any] | None = None) -> Checkpoint:
    write_safetensors(folder / "model.safetensors", tensors)
    return open_checkpoint(folder, config)


def check_rows(tensor: LazyTensor, expected: np.ndarray) -> None:
    """The whole, and ranges of rows that start and end anywhere."""
    assert tensor.shape == expected.shape
    np.testing.assert_array_equal(tensor.values(), expected)
    rows = expected.reshape(tensor.n_rows, -1).astype(tensor.dtype.storage, copy=False)
    if tensor.dtype is DType.BF16:
        return
    for first, count in [(0, 1), (1, 2), (tensor.n_rows - 1, 1), (2, tensor.n_rows - 2)]:
        np.testing.assert_array_equal(tensor.rows(first, count), rows[first : first + count])


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("f4")


# --- bitsandbytes -----------------------------------------------------------------------------------------


def four_bit(
    shape: tuple[int, ...], dtype: str, block: int, *, nested: bool, kind: str = "nf4"
) -> dict[str, Any]:
    numel = int(np.prod(shape))
    blocks = -(-numel // block)
    state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": dtype, "shape": list(shape)}
    tensors: dict[str, Any] = {
        "x.weight": RNG.integers(0, 256, ((numel + 1) // 2, 1), dtype="u1"),
        "x.weight.quant_map": numbers(16),
    }
    if nested:
        state |= {"nested_blocksize": 4, "nested_dtype": "float32", "nested_offset": 0.25}
        tensors["x.weight.absmax"] = RNG.integers(0, 256, blocks, dtype="u1")
        tensors["x.weight.nested_quant_map"] = numbers(256)
        tensors["x.weight.nested_absmax"] = numbers(-(-blocks // 4))
    else:
        tensors["x.weight.absmax"] = numbers(blocks)
    return tensors | {f"x.weight.quant_state.bitsandbytes__{kind}": record(state)}


def record(state: object) -> np.ndarray:
    return np.frombuffer(json.dumps(state).encode(), "u1")


def four_bit_values(tensors: Mapping[str, Any], shape: tuple[int, ...], block: int) -> np.ndarray:
    numel = int(np.prod(shape))
    scales = tensors["x.weight.absmax"]
    if scales.dtype == np.uint8:
        outer = tensors["x.weight.nested_absmax"][np.arange(len(scales)) // 4]
        scales = tensors["x.weight.nested_quant_map"][scales] * outer + np.float32(0.25)
    byte = tensors["x.weight"].reshape(-1)
    codes = np.stack([byte >> 4, byte & 15], axis=1).reshape(-1)[:numel]
    values = tensors["x.weight.quant_map"][codes] * scales[np.arange(numel) // block]
    return values.reshape(shape)


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize(
    ("shape", "block"),
    [((8, 64), 64), ((6, 96), 64), ((5, 33), 64), ((7, 3), 4), ((3, 4, 50), 64), ((300, 512), 64)],
)
def test_four_bits(tmp_path: Path, shape: tuple[int, ...], block: int, kind: str, nested: bool) -> None:
    tensors = four_bit(shape, "float32", block, nested=nested, kind=kind)
    checkpoint = opened(tmp_path, tensors)
    assert list(checkpoint.tensors) == ["x.weight"]
    check_rows(checkpoint.tensors["x.weight"], four_bit_values(tensors, shape, block))


def test_four_bits_round_to_the_stored_type(tmp_path: Path) -> None:
    tensors = four_bit((8, 64), "float16", 64, nested=True)
    expected = four_bit_values(tensors, (8, 64), 64)
    half = opened(tmp_path, tensors).tensors["x.weight"]
    assert half.dtype is DType.F16
    np.testing.assert_array_equal(half.numpy(), expected.astype("f2"))
    state = "x.weight.quant_state.bitsandbytes__nf4"
    tensors[state] = record(json.loads(tensors[state].tobytes()) | {"dtype": "bfloat16"})
    brain = opened(tmp_path, tensors).tensors["x.weight"]
    bits = expected.view("u4").astype("u8")
    assert brain.dtype is DType.BF16
    np.testing.assert_array_equal(brain.numpy(), ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("u2"))


def test_four_bits_stored_as_another_type(tmp_path: Path) -> None:
    tensors = four_bit((8, 64), "float32", 64, nested=False)
    expected = four_bit_values(tensors, (8, 64), 64)
    tensors["x.weight"] = Raw("BF16", [128, 1], tensors["x.weight"].tobytes())
    check_rows(opened(tmp_path, tensors).tensors["x.weight"], expected)


def test_scales_that_are_not_numbers_stay_so(tmp_path: Path) -> None:
    for dtype in ("float32", "float16", "bfloat16"):
        tensors = four_bit((4, 64), dtype, 64, nested=False)
        tensors["x.weight.absmax"] = np.array([1, 0x7FFFFFFF, 0x7F800001, 0x3F800000], "u4").view("f4")
        values = opened(tmp_path, tensors).tensors["x.weight"].values()
        assert np.isfinite(values).all(axis=1).tolist() == [True, False, False, True]


@pytest.mark.parametrize("half", ["f2", "u2", "f4"])
def test_int8_takes_the_format_of_the_other_weights(tmp_path: Path, half: str) -> None:
    codes, scales = RNG.integers(-128, 128, (300, 500), dtype="i1"), np.abs(numbers(300))
    tensors = {
        "l.weight": codes,
        "l.SCB": scales,
        "l.weight_format": np.array(0, "u1"),
        "embed.weight": np.ones((2, 2), half),
    }
    checkpoint = opened(tmp_path, tensors)
    assert list(checkpoint.tensors) == ["embed.weight", "l.weight"]
    found = checkpoint.tensors["l.weight"]
    assert found.dtype is {"f2": DType.F16, "u2": DType.BF16, "f4": DType.F32}[half]
    expected = codes.astype("f4") * scales[:, None] * np.float32(7.874015718698502e-3)
    if half != "u2":
        check_rows(found, expected.astype(half).astype("f4"))


def altered(**changes: Any) -> dict[str, Any]:
    """A good flat checkpoint with tensors replaced, or removed where None; `state` changes the record."""
    tensors = four_bit((8, 64), "float32", 64, nested=False)
    name = "x.weight.quant_state.bitsandbytes__nf4"
    if "state" in changes:
        tensors[name] = record(json.loads(tensors[name].tobytes()) | changes.pop("state"))
    for key, value in changes.items():
        name = "x.weight" if key == "weight" else f"x.weight.{key}"
        tensors[name] = value
    return {name: value for name, value in tensors.items() if value is not None}


INT8: dict[str, Any] = {"l.weight": np.ones((3, 4), "i1"), "l.SCB": numbers(3)}
BROKEN = {
    "no weight": altered(weight=None),
    "weight too short": altered(weight=np.zeros((255, 1), "u1")),
    "no scales": altered(absmax=None),
    "scales too short": altered(absmax=numbers(7)),
    "scales of another type": altered(absmax=numbers(8).astype("f8")),
    "no levels": altered(quant_map=None),
    "too few levels": altered(quant_map=numbers(15)),
    "nested, but flat": altered(state={"nested_blocksize": 4}),
    "block of nothing": altered(state={"blocksize": 0}),
    "odd block": altered(state={"blocksize": 63}),
    "block of text": altered(state={"blocksize": "64"}),
    "negative shape": altered(state={"shape": [-8, -64]}),
    "huge shape": altered(state={"shape": [1 << 39, 1 << 39]}),
    "shape of truth": altered(state={"shape": [True, 512]}),
    "shape that is a number": altered(state={"shape": 512}),
    "unknown type": altered(state={"dtype": "int4"}),
    "type that is a list": altered(state={"dtype": []}),
    "offset of text": altered(state={"nested_offset": "x"}),
    "record that is a list": altered(**{"quant_state.bitsandbytes__nf4": record([])}),
    "record that is no JSON": altered(**{"quant_state.bitsandbytes__nf4": np.frombuffer(b"{" * 9, "u1")}),
    "deep record": altered(**{"quant_state.bitsandbytes__nf4": np.frombuffer(b"[" * 100_000, "u1")}),
    "int8 without weight": {"l.SCB": numbers(3)},
    "int8 scales too long": INT8 | {"l.SCB": numbers(4)},
    "int8 that is none": INT8 | {"l.weight": numbers(3, 4)},
    "int8 in tiles": INT8 | {"l.weight_format": np.array(2, "u1")},
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_bitsandbytes_weights_are_one_clear_line(tmp_path: Path, case: str) -> None:
    with pytest.raises(FormatError, match=r"tensor '[xl]\.") as caught:
        opened(tmp_path, BROKEN[case])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


# --- Scaled weights ---------------------------------------------------------------------------------------


def fp8(*shape: int) -> tuple[Raw, np.ndarray]:
    codes = RNG.integers(0, 0x7F, shape, dtype="u1")
    return Raw("F8_E4M3", shape, codes.tobytes()), FLOAT8_VALUES[DType.F8_E4M3][codes]


def repeated(scale: np.ndarray, block: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    full = scale.repeat(block[0], -2).repeat(block[1], -1)
    return full[tuple(slice(n) for n in shape)]


@pytest.mark.parametrize(
    ("shape", "scale_shape"),
    [((6, 8), (3, 2)), ((5, 7), (3, 2)), ((2, 4, 4), (2, 2, 1)), ((300, 512), (150, 128))],
)
def test_fp8_scales_by_block(tmp_path: Path, shape: tuple[int, ...], scale_shape: tuple[int, ...]) -> None:
    weight, values = fp8(*shape)
    scale = numbers(*scale_shape)
    tensors = {
        "x.weight": weight,
        "x.weight_scale_inv": scale,
        "x.activation_scale": numbers(1),
        "a": numbers(2),
    }
    checkpoint = opened(tmp_path, tensors, {"quant_method": "fp8", "weight_block_size": [2, 4]})
    assert list(checkpoint.tensors) == ["a", "x.weight"]
    assert checkpoint.tensors["x.weight"].dtype is DType.F32
    check_rows(checkpoint.tensors["x.weight"], values * repeated(scale, (2, 4), shape))


@pytest.mark.parametrize("scale_shape", [(), (1,), (6,), (6, 1), (1, 1), (6, 8)])
@pytest.mark.parametrize(
    ("suffix", "config"),
    [
        ("_scale_inv", {"quant_method": "fp8", "weight_block_size": None}),
        ("_scale", {"quant_method": "modelopt", "quant_algo": "FP8"}),
        (
            "_scale",
            {
                "quant_method": "compressed-tensors",
                "format": "float-quantized",
                "config_groups": {"group_0": {"weights": {"strategy": "channel", "num_bits": 8}}},
            },
        ),
    ],
    ids=["fp8", "modelopt", "compressed-tensors"],
)
def test_scales_by_tensor_or_row(
    tmp_path: Path, suffix: str, config: dict[str, Any], scale_shape: tuple[int, ...]
) -> None:
    weight, values = fp8(6, 8)
    scale = np.asarray(numbers(*scale_shape), "f4")
    checkpoint = opened(tmp_path, {"x.weight": weight, f"x.weight{suffix}": scale}, config)
    broadcast = scale.reshape(scale.shape + (1,) * (2 - scale.ndim))
    check_rows(checkpoint.tensors["x.weight"], values * broadcast)
    assert list(checkpoint.stored) == ["x.weight", f"x.weight{suffix}"]


def test_mistrals_names_of_fp8_scales(tmp_path: Path) -> None:
    weight, values = fp8(6, 8)
    tensors = {"x.weight": weight, "x.qscale_weight": np.array(0.5, "f4"), "x.qscale_act": numbers(1)}
    checkpoint = opened(tmp_path, tensors, {"quant_method": "fp8"})
    assert list(checkpoint.tensors) == ["x.weight"]
    check_rows(checkpoint.tensors["x.weight"], values * np.float32(0.5))


def test_fp8_without_scales_is_a_number_format(tmp_path: Path) -> None:
    weight, values = fp8(6, 8)
    np.testing.assert_array_equal(opened(tmp_path, {"x.weight": weight}).tensors["x.weight"].values(), values)


@pytest.mark.parametrize(
    ("scale_shape", "block"),
    [((5,), None), ((6, 2), None), ((6, 8, 1), None), ((2, 2), [2, 4]), ((3, 1), [2, 4]), ((3,), [2, 4])],
)
def test_scales_that_do_not_fit(
    tmp_path: Path, scale_shape: tuple[int, ...], block: list[int] | None
) -> None:
    tensors = {"x.weight": fp8(6, 8)[0], "x.weight_scale_inv": numbers(*scale_shape)}
    with pytest.raises(FormatError, match=r"'x\.weight_scale_inv' of shape .* does not scale 'x\.weight'"):
        opened(tmp_path, tensors, {"quant_method": "fp8", "weight_block_size": block})


def test_a_scale_without_weight(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"'x\.weight' is missing"):
        opened(tmp_path, {"x.weight_scale_inv": numbers(2, 2)}, {"quant_method": "fp8"})


# --- GPTQ -------------------------------------------------------------------------------------------------


def gptq(
    bits: int, n_in: int = 64, n_out: int = 96, groups: int = 4
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A layer and its values for zero points that are stored less one."""
    codes = RNG.integers(0, 1 << bits, (n_in, n_out))
    zeros = RNG.integers(0, 1 << bits, (groups, n_out))
    scales = np.abs(numbers(groups, n_out)).astype("f2")
    group = RNG.integers(0, groups, n_in).astype("i4")
    per = 32 // bits
    shifts = np.arange(per) * bits
    packed = (codes.reshape(-1, per, n_out) << shifts[None, :, None]).sum(axis=1)
    packed_zeros = (zeros.reshape(groups, -1, per) << shifts).sum(axis=2)
    layer = {
        "l.qweight": packed.astype("u4").view("i4"),
        "l.qzeros": packed_zeros.astype("u4").view("i4"),
        "l.scales": scales,
        "l.g_idx": group,
    }
    values = scales[group].astype("f4") * (codes - zeros[group] - 1).astype("f4")
    return layer, np.ascontiguousarray(values.T)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gptq(tmp_path: Path, bits: int) -> None:
    layer, values = gptq(bits)
    checkpoint = opened(tmp_path, layer | {"z.weight": numbers(2)}, {"quant_method": "gptq", "bits": bits})
    assert list(checkpoint.tensors) == ["z.weight", "l.weight"]
    check_rows(checkpoint.tensors["l.weight"], values)


def test_gptq_of_the_second_format(tmp_path: Path) -> None:
    layer, values = gptq(4)
    config = {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"}
    found = opened(tmp_path, layer, config).tensors["l.weight"].values()
    scales = layer["l.scales"][layer["l.g_idx"]].T.astype("f4")
    np.testing.assert_allclose(found, values + scales, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["l.qweight", "l.qzeros", "l.scales", "l.g_idx"])
def test_broken_gptq_layers(tmp_path: Path, name: str) -> None:
    layer, _ = gptq(4)
    config = {"quant_method": "gptq", "bits": 4}
    cut = layer | {name: layer[name][:-1]}
    with pytest.raises(FormatError, match=r"layer 'l'.* do not fit 4 bits"):
        opened(tmp_path, cut, config)
    without = {key: value for key, value in layer.items() if key != name}
    if name != "l.qweight":
        with pytest.raises(FormatError, match="layer 'l' lacks"):
            opened(tmp_path, without, config)


@pytest.mark.parametrize("bad", [-1, 4])
def test_gptq_groups_that_do_not_exist(tmp_path: Path, bad: int) -> None:
    layer, _ = gptq(4)
    layer["l.g_idx"] = np.where(np.arange(64) == 5, bad, layer["l.g_idx"]).astype("i4")
    with pytest.raises(FormatError, match=r"'l\.g_idx' names groups outside 0 to 3"):
        opened(tmp_path, layer, {"quant_method": "gptq", "bits": 4})


# --- Methods ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quant_method": "awq", "bits": 8}, ["'awq'", "bits '8'"]),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, ["'awq'", "version 'gemv'"]),
        ({"quant_method": "gptq", "bits": 5}, ["'gptq'", "bits '5'"]),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, ["'gptq'", "'marlin'"]),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": ["x"]}, ["'gptq'", "['x']"]),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, ["'modelopt'", "'W4A16_AWQ'"]),
        ({"quant_method": "fp8", "weight_block_size": "128x128"}, ["128x128"]),
        ({"quant_method": "fp8", "weight_block_size": [0, 1]}, ["[0, 1]"]),
        ({"quant_method": ["x"]}, ["['x']"]),
        ({"quant_method": "a\nb"}, ["'a\\nb'"]),
    ],
    ids=range(10),
)
def test_methods_that_cannot_be_read_are_named(
    tmp_path: Path, config: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(FormatError) as caught:
        opened(tmp_path, {"x": raw(np.ones(1, "f4"))}, config)
    assert all(word in str(caught.value) for word in words)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "groups",
    [
        {},
        [],
        {"a": {"weights": {"strategy": "channel"}}, "b": {}},
        {"a": {"weights": {"strategy": "group"}}},
        {"a": {"weights": {"strategy": "block", "block_structure": "2x2"}}},
        {"a": {"weights": {"strategy": "channel"}}, "b": {"weights": {"strategy": "group", "group_size": 2}}},
        {"a": {"weights": {"strategy": "token"}}},
        {"a": 5},
    ],
    ids=range(8),
)
def test_compressed_tensors_groups_that_cannot_be_read(tmp_path: Path, groups: object) -> None:
    config = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups}
    tensors = {"x.weight": fp8(6, 8)[0], "x.weight_scale": numbers(6, 4)}
    with pytest.raises(FormatError, match="quantization_config: "):
        opened(tmp_path, tensors, config)


# --- Whatever stands there --------------------------------------------------------------------------------

ODD = (
    st.none()
    | st.booleans()
    | st.sampled_from([-1, 0, 1, 2, 3, 4, 8, 1 << 31, 1 << 62, 1 << 90, 0.5, "4", "int"])
)
ODD_LISTS = ODD | st.lists(ODD, max_size=3)
WEIGHTS = st.fixed_dictionaries(
    {},
    optional={
        "strategy": st.sampled_from(["channel", "block", "group", "tensor", "tensor_group", "token"])
        | ODD_LISTS,
        "type": st.sampled_from(["int", "float"]) | ODD,
        "num_bits": st.sampled_from([4, 8]) | ODD,
        "group_size": st.sampled_from([16, 32, 128]) | ODD,
        "symmetric": ODD,
        "actorder": ODD,
        "block_structure": st.just([128, 128]) | ODD_LISTS,
    },
)
GROUPS = st.fixed_dictionaries({"weights": WEIGHTS | ODD_LISTS}, optional={"format": ODD})
METHODS = ["fp8", "gptq", "awq", "compressed-tensors", "modelopt", "bitsandbytes", "mxfp4", "bitnet"]
FORMATS = [
    "float-quantized", "int-quantized", "naive-quantized", "pack-quantized", "nvfp4-pack-quantized",
]  # fmt: skip
QUANTIZATION = st.fixed_dictionaries(
    {"quant_method": st.sampled_from(METHODS) | ODD_LISTS},
    optional={
        "bits": st.sampled_from([2, 3, 4, 8]) | ODD_LISTS,
        "group_size": ODD_LISTS,
        "desc_act": ODD,
        "checkpoint_format": st.sampled_from(["gptq", "gptq_v2"]) | ODD_LISTS,
        "version": st.sampled_from(["gemm", "gemv"]) | ODD_LISTS,
        "zero_point": ODD,
        "weight_block_size": st.just([128, 128]) | ODD_LISTS,
        "format": st.sampled_from(FORMATS) | ODD_LISTS,
        "quant_algo": st.sampled_from(["FP8", "NVFP4", "W4A16_AWQ"]) | ODD_LISTS,
        "config_groups": ODD_LISTS | st.dictionaries(st.text(max_size=3), ODD_LISTS | GROUPS, max_size=2),
        "ignore": ODD_LISTS,
    },
)  # fmt: skip
SUFFIXES = [
    ".weight", ".weight_scale", ".weight_scale_inv", ".weight_packed", ".weight_shape", ".weight_zero_point",
    ".weight_g_idx", ".weight_global_scale", ".weight_scale_2", ".qweight", ".qzeros", ".scales", ".g_idx",
    ".SCB", ".weight_format", "_blocks", "_scales", ".weight.quant_state.bitsandbytes__nf4", ".weight.absmax",
    ".weight.quant_map", ".weight.nested_absmax", ".weight.nested_quant_map", ".qscale_weight",
]  # fmt: skip
SHAPES = st.lists(st.sampled_from([0, 1, 2, 4, 8, 16, 32]), max_size=4)
DTYPES = st.sampled_from(
    ["F32", "F16", "BF16", "U8", "I8", "I32", "I64", "I16", "F8_E4M3", "F8_E8M0", "BOOL"]
)


@given(
    QUANTIZATION,
    st.dictionaries(st.sampled_from(SUFFIXES), st.tuples(DTYPES, SHAPES), max_size=7),
    st.integers(),
)
@settings(max_examples=300, deadline=None)
def test_any_configuration_and_tensors_never_surprise(
    tmp_path_factory: pytest.TempPathFactory,
    config: dict[str, Any],
    tensors: dict[str, tuple[str, list[int]]],
    seed: int,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(abs(seed))
    content = {}
    for suffix, (dtype, shape) in tensors.items():
        size = math.prod(shape) * DType[dtype].itemsize
        content[f"l{suffix}"] = Raw(dtype, shape, random.bytes(size) if seed % 2 else bytes(size))
    message = ""
    try:
        checkpoint = opened(folder, content, config)
        for tensor in checkpoint.tensors.values():
            assert tensor.values().shape == tensor.shape
    except GGUFFastError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 1000

"""Small files made to hurt: each costs little memory and time, and gives one clear line.

(64 MiB and four times the file, 2 s for each 10 MB: `support.bounded`.)
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguffast.errors import GGUFFastError
from gguffast.sources.checkpoint import open_checkpoint
from gguffast.sources.lazy import (
    LazyTensor,
    map_f32,
    permute_rows,
    stack,
    to_f32,
    transpose,
    widen,
)
from support.bounded import run_bounded
from support.handmade import Raw, Storage, dumps, legacy_bytes, safetensors_bytes, tensor, zip_bytes

MB = 1_000_000


def header(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def many_tensors(count: int) -> bytes:
    entries = b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(count))
    return header(b"{%s}" % entries)


HEADERS: dict[str, Callable[[], bytes]] = {
    "50 MB of tensors": lambda: many_tensors(50 * MB // 55),
    "2 MB of tensors": lambda: many_tensors(2 * MB // 55),
    "50 MB of lists": lambda: header(b'{"a":[%s[]]}' % (b"[]," * (50 * MB // 3))),
    "2 MB of lists": lambda: header(b'{"a":[%s[]]}' % (b"[]," * (2 * MB // 3))),
    "2 MB of objects": lambda: header(b'{"a":[%s{}]}' % (b"{}," * (2 * MB // 3))),
    "2 MB of metadata": lambda: header(
        b'{"__metadata__":{%s"":""},"a":1}' % b"".join(b'"%x":"",' % i for i in range(2 * MB // 9))
    ),
    "2 MB of brackets": lambda: header(b'{"a":' + b"[" * 2 * MB),
    "50 MB of one name": lambda: header(b'{"%s":1}' % (b"x" * 50 * MB)),
    "a name of 2 MB": lambda: header(b'{"%s":1}' % (b"x" * 2 * MB)),
}


def refusal(folder: Path, size: int, config: Mapping[str, Any] | None = None) -> str:
    """Open a checkpoint that is refused, within bounds; give the message."""
    with pytest.raises(GGUFFastError) as caught:
        run_bounded(open_checkpoint, folder, config, file_bytes=size)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600 + len(str(folder))
    return message


@pytest.mark.parametrize("case", HEADERS)
def test_safetensors_headers(tmp_path: Path, case: str) -> None:
    content = HEADERS[case]()
    (tmp_path / "model.safetensors").write_bytes(content)
    if case == "2 MB of tensors":  # so many there may be
        run_bounded(lambda: len(open_checkpoint(tmp_path).tensors), file_bytes=len(content))
    else:
        assert "model.safetensors" in refusal(tmp_path, len(content))


PICKLES: dict[str, Callable[[], bytes]] = {
    "dictionaries": lambda: b"\x80\x02" + b"}" * 6 * MB + b".",
    "lists": lambda: b"\x80\x02" + b"]" * 6 * MB + b".",
    "memos": lambda: b"\x80\x04N" + b"\x94" * 6 * MB + b".",
    "memos far apart": lambda: b"\x80\x02N"
    + b"".join(b"r" + (i * 999).to_bytes(4, "little") for i in range(MB)),
    "dictionaries in memos": lambda: b"\x80\x04" + b"}\x94" * 4 * MB + b".",
    "marks": lambda: b"\x80\x02" + b"(" * 6 * MB + b".",
    "large numbers": lambda: b"\x80\x02" + (b"\x8a\xff" + b"\x7f" * 255) * (6 * MB // 257),
    "text that widens": lambda: b"\x80\x02X"
    + struct.pack("<I", 6 * MB + 4) + "\U0001f600".encode() + b"x" * 6 * MB,
    "names": lambda: b"\x80\x02}" + b"".join(b"(U\x06%06dK\x01u" % i for i in range(MB // 2)) + b".",
    "one long list as many shapes": lambda: b"\x80\x02(" + b"K\x01" * 200_000 + b"tq\x00"
    + b"(ctorch._utils\n_rebuild_tensor_v2\n(NK\0h\0h\0NNtRt" * 300_000,
}  # fmt: skip


@pytest.mark.parametrize("case", [*PICKLES, "legacy"])
def test_pickles(tmp_path: Path, case: str) -> None:
    if case == "legacy":
        content = legacy_bytes({}, [])[:15] + PICKLES["memos"]()
    else:
        content = zip_bytes(PICKLES[case](), {})
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    assert "pickle" in refusal(tmp_path, len(content))


STORAGE = Storage("FloatStorage", "0", np.arange(24, dtype="f4").tobytes(), 4)
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "strides of 2^62": ((4, 6), (1 << 62, 1)),
    "a shape of 2^62": ((1 << 62,), (1,)),
    "expanded": ((1 << 40, 24), (0, 1)),
    "products beyond words": ((1 << 62,) * 8, (0,) * 8),
    "nothing of a huge shape": ((0, 1 << 40, 1 << 40), (1, 1, 1)),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes_and_strides_of_pickles(tmp_path: Path, case: str) -> None:
    content = zip_bytes(dumps({"x": tensor(STORAGE, *SHAPES[case])}), {"0": STORAGE.data})
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    message = refusal(tmp_path, len(content))
    assert "tensor 'x' of shape" in message or "a tensor of the shape" in message


def test_a_stride_along_an_axis_of_one_is_any_number(tmp_path: Path) -> None:
    content = zip_bytes(dumps({"x": tensor(STORAGE, (1, 6, 4), (1 << 62, 4, 1))}), {"0": STORAGE.data})
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    values = open_checkpoint(tmp_path).tensors["x"].values()
    np.testing.assert_array_equal(values, np.arange(24, dtype="f4").reshape(1, 6, 4))


def member(name: bytes, offset: int, size: int) -> bytes:
    return struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", 0, 0, 0, 0, 0, 0, 0, size, size, len(name), 0, 0, 0, 0, 0, offset
    ) + name  # fmt: skip


def archive(body: bytes, directory: bytes, count: int = 1) -> bytes:
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), 0)
    return body + directory + end


LOCAL = struct.pack("<4s5H3I2H", b"PK\x03\x04", 0, 0, 0, 0, 0, 0, 4, 4, 1, 0) + b"abbbb"
ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a million members": (
        lambda: archive(LOCAL, b"".join(member(b"%07d" % i, 0, 4) for i in range(MB)), 65535),
        "directory of",
    ),
    "members in each other": (
        lambda: archive(LOCAL * 2, member(b"a", 0, 30) + member(b"b", 35, 4)),
        "'b' does not lie where",
    ),
    "one member many times": (
        lambda: archive(LOCAL, b"".join(member(b"%d" % i, 0, 4) for i in range(10))),
        "does not lie where",
    ),
    "a member in the directory": (lambda: archive(LOCAL, member(b"a", 0, 60)), "does not lie where"),
    "a directory outside": (lambda: LOCAL + archive(b"", member(b"a", 0, 4))[:-6] + b"\xff" * 6, "damaged"),
    "no directory": (lambda: LOCAL * MB, "damaged or truncated zip"),
    "ends of directories": (lambda: LOCAL + b"PK\x05\x06" * MB, "damaged or truncated zip"),
}


@pytest.mark.parametrize("case", ZIPS)
def test_zip_directories(tmp_path: Path, case: str) -> None:
    make, word = ZIPS[case]
    content = make()
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    assert word in refusal(tmp_path, len(content))


@pytest.mark.parametrize("size", [MB, 30 * MB])
def test_an_index_of_many_names(tmp_path: Path, size: int) -> None:
    (tmp_path / "model-1.safetensors").write_bytes(safetensors_bytes({"a": np.ones(1, "f4")}))
    names = ",".join(f'"{i:x}":"model-1.safetensors"' for i in range(size // 30))
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map":{{{names}}}}}')
    assert "index.json" in refusal(tmp_path, size)


def bitsandbytes(**changes: Any) -> dict[str, np.ndarray]:
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [8, 64]} | changes
    blocks = -(-512 // state["blocksize"]) if state["blocksize"] else 1
    return {
        "x.weight": np.arange(256, dtype="u1")[:, None],
        "x.weight.absmax": np.ones(blocks, "f4"),
        "x.weight.quant_map": np.arange(16, dtype="f4"),
        "x.weight.quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(state).encode(), "u1"),
    }


@pytest.mark.parametrize("block", [1 << 31, 1 << 39, 512, 1 << 17])
def test_a_block_larger_than_the_weights_costs_nothing(tmp_path: Path, block: int) -> None:
    content = safetensors_bytes(bitsandbytes(blocksize=block))
    (tmp_path / "model.safetensors").write_bytes(content)
    values = run_bounded(
        lambda: open_checkpoint(tmp_path).tensors["x.weight"].values(), file_bytes=len(content)
    )
    codes = np.arange(256)
    np.testing.assert_array_equal(values.reshape(-1), np.stack([codes >> 4, codes & 15], 1).reshape(-1))


def test_a_record_of_megabytes(tmp_path: Path) -> None:
    tensors = bitsandbytes() | {"x.weight.quant_state.bitsandbytes__nf4": np.full(20 * MB, ord("["), "u1")}
    content = safetensors_bytes(tensors)
    (tmp_path / "model.safetensors").write_bytes(content)
    assert "not a valid record" in refusal(tmp_path, len(content))


CONFIGS: dict[str, dict[str, Any]] = {
    "fp8 blocks of 0": {"quant_method": "fp8", "weight_block_size": [0, 128]},
    "fp8 blocks below 0": {"quant_method": "fp8", "weight_block_size": [-128, 128]},
    "fp8 blocks of many axes": {"quant_method": "fp8", "weight_block_size": [1] * 100_000},
    "fp8 blocks of text": {"quant_method": "fp8", "weight_block_size": "128"},
    "a method of many letters": {"quant_method": "x" * MB},
    "a method that is a list": {"quant_method": [["x"]] * 1000},
    "gptq of no bits": {"quant_method": "gptq", "bits": 0},
    "gptq of 2^70 bits": {"quant_method": "gptq", "bits": 1 << 70},
    "gptq of true bits": {"quant_method": "gptq", "bits": True},
    "compressed-tensors of nothing": {"quant_method": "compressed-tensors", "format": "int-quantized"},
    "compressed-tensors of a list": {
        "quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": [1],
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations(tmp_path: Path, case: str) -> None:
    scale, weight = np.ones((1, 1), "f4"), Raw("F8_E4M3", [4, 4], bytes(16))
    content = safetensors_bytes({"x.weight": weight, "x.weight_scale_inv": scale, "x.weight_scale": scale})
    (tmp_path / "model.safetensors").write_bytes(content)
    assert "quant" in refusal(tmp_path, len(content), CONFIGS[case])


@pytest.mark.parametrize("block", [1 << 31, 1 << 61])
def test_scales_of_blocks_larger_than_the_weights_cost_nothing(tmp_path: Path, block: int) -> None:
    weight, scale = np.ones((4, 4), "f4"), np.full((1, 1), 3, "f4")
    content = safetensors_bytes({"x.weight": weight, "x.weight_scale_inv": scale})
    (tmp_path / "model.safetensors").write_bytes(content)
    config = {"quant_method": "fp8", "weight_block_size": [block, block]}
    values = run_bounded(
        lambda: open_checkpoint(tmp_path, config).tensors["x.weight"].values(), file_bytes=len(content)
    )
    np.testing.assert_array_equal(values, 3 * weight)


def test_groups_that_do_not_exist(tmp_path: Path) -> None:
    content = safetensors_bytes(
        {
            "l.qweight": np.ones((4, 8), "i4"),
            "l.qzeros": np.ones((1, 1), "i4"),
            "l.scales": np.ones((1, 8), "f2"),
            "l.g_idx": np.full(32, 1 << 30, "i4"),
        }
    )
    (tmp_path / "model.safetensors").write_bytes(content)
    assert "names groups outside 0 to 0" in refusal(
        tmp_path, len(content), {"quant_method": "gptq", "bits": 4}
    )


def test_a_tensor_of_one_row_is_read_in_parts(tmp_path: Path) -> None:
    """2^27 weights in one row, from a file of holes."""
    text = b'{"a":{"dtype":"BF16","shape":[%d],"data_offsets":[0,%d]}}' % (1 << 27, 2 << 27)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(header(text))
        file.truncate(8 + len(text) + (2 << 27))

    def walk() -> int:
        row = open_checkpoint(tmp_path).tensors["a"]
        return sum(int(np.count_nonzero(row.elements(i, 1 << 20))) for i in range(0, 1 << 27, 1 << 20))

    assert run_bounded(walk, file_bytes=0) == 0


# --- Real sizes -------------------------------------------------------------------------------------------


def sparse(path: Path, tensors: Mapping[str, tuple[str, list[int], int]]) -> None:
    """A safetensors file of holes: dtype, shape, bytes by name."""
    entries, end = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(header(text))
        file.truncate(8 + len(text) + end)


def walk_ends(tensor: LazyTensor, chunk: int = 1 << 20) -> int:
    """Read a few chunks of a tensor, the first and the last among them; give the number of bytes."""
    scratch = memoryview(bytearray(chunk * tensor.dtype.itemsize))
    for first in (0, tensor.size // 2 + 1, tensor.size - chunk):
        tensor.read(first, scratch)
    return len(scratch)


def test_transformations_stream_whatever_the_size(tmp_path: Path) -> None:
    """256 experts of 7168 x 2048 (7.5 GB), and a vocabulary to transpose and permute: holes in a file."""
    expert, vocabulary = [2048, 7168], [65_536, 7168]
    tensors = {f"e.{i:03}": ("BF16", expert, 2 * 2048 * 7168) for i in range(256)}
    tensors["v"] = ("F8_E4M3", vocabulary, 65_536 * 7168)
    sparse(tmp_path / "model.safetensors", tensors)

    def walk() -> int:
        found = open_checkpoint(tmp_path).tensors
        experts = stack([found[name] for name in sorted(found) if name.startswith("e.")])
        order = np.random.default_rng(1).permutation(65_536)
        return sum(
            walk_ends(tensor)
            for tensor in (
                experts,
                to_f32(experts),
                map_f32(stack([experts, experts]), np.negative),
                to_f32(permute_rows(found["v"], order)),
                transpose(experts),
                widen(transpose(found["v"])),
            )
        )

    before = len(os.listdir("/proc/self/fd"))
    assert run_bounded(walk, file_bytes=0) > 0
    assert len(os.listdir("/proc/self/fd")) == before
    checkpoint = open_checkpoint(tmp_path)
    assert (len(checkpoint.tensors), len(os.listdir("/proc/self/fd"))) == (257, before + 1)

"""GGUF headers: what is read, what is written, and what is refused."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import gguf as gguf_py
import numpy as np
import pytest

from gguffast import FileError, FormatError, GGMLQuantizationType, GGUFFile, OptionError
from gguffast.gguf import KV, GGUFValueType, Metadata, kv, serialize_header
from gguffast.reading import LocalFile
from support.bounded import run_bounded
from support.gguf_bytes import (
    ARRAY,
    STRING,
    array,
    header,
    scalar,
    small_file,
    string,
    tensor,
    text,
    with_data,
)
from support.gguf_files import GGUF

FIXTURES = ["gemma2-f32.gguf", "llama-wide-f16.gguf", "smollm2.imatrix.gguf"]
V, T = GGUFValueType, GGMLQuantizationType

SCALARS = [
    (V.UINT8, 255),
    (V.INT8, -128),
    (V.UINT16, 65535),
    (V.INT16, -32768),
    (V.UINT32, 2**32 - 1),
    (V.INT32, -(2**31)),
    (V.FLOAT32, -0.15625),
    (V.BOOL, True),
    (V.STRING, "Grüße 🦙"),
    (V.UINT64, 2**64 - 1),
    (V.INT64, -(2**63)),
    (V.FLOAT64, 1e300),
]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# --- against gguf-py ----------------------------------------------------------------------------------------


def test_reads_what_gguf_py_writes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf_py.GGUFWriter(path, "llama")
    for kind, value in SCALARS:
        writer.add_key_value(f"scalar.{kind.name}", value, gguf_py.GGUFValueType(kind))
        writer.add_key_value(
            f"array.{kind.name}",
            [value] * 3,
            gguf_py.GGUFValueType.ARRAY,
            sub_type=gguf_py.GGUFValueType(kind),
        )
    weights = np.arange(6 * 32, dtype=np.float32).reshape(2, 3, 32)
    writer.add_tensor("f32", weights)
    writer.add_tensor("f16", weights.astype(np.float16))
    for dtype in (np.int8, np.int16, np.int32, np.int64, np.float64):
        writer.add_tensor(np.dtype(dtype).name, weights.astype(dtype))
    quantized = gguf_py.quants.quantize(weights, gguf_py.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q8_0", quantized, raw_dtype=gguf_py.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with GGUFFile(path) as file:
        assert file.version == 3
        assert file.metadata["general.architecture"] == "llama"
        for kind, value in SCALARS:
            found = file.metadata[f"scalar.{kind.name}"]
            assert found == value
            assert type(found) is type(value)
            items = file.metadata[f"array.{kind.name}"]
            assert list(items) == [value] * 3
            assert isinstance(items, list if kind is V.STRING else np.ndarray)
        assert file.tensors["f32"].data.dtype == np.float32
        np.testing.assert_array_equal(file.tensors["f32"].data, weights)
        np.testing.assert_array_equal(file.tensors["f16"].data, weights.astype(np.float16))
        for name in ("int8", "int16", "int32", "int64", "float64"):
            assert file.tensors[name].data.dtype == np.dtype(name)
            np.testing.assert_array_equal(file.tensors[name].data, weights.astype(name))
        np.testing.assert_array_equal(file.tensors["q8_0"].data, quantized)


def test_gguf_py_reads_what_is_written(tmp_path: Path) -> None:
    kvs = [kv("general.architecture", "llama", V.STRING)]
    for kind, value in SCALARS:
        kvs.append(kv(f"scalar.{kind.name}", value, kind))
        kvs.append(kv(f"array.{kind.name}", [value, value], V.ARRAY, kind))
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    head = serialize_header(kvs, [("w", (4, 3), GGMLQuantizationType.F32, 0)])
    reader = gguf_py.GGUFReader(write(tmp_path / "out.gguf", head + weights.tobytes()))

    for kind, value in SCALARS:
        field = reader.get_field(f"scalar.{kind.name}")
        assert field is not None
        assert field.types == [kind]
        assert field.contents() == value
        items = reader.get_field(f"array.{kind.name}")
        assert items is not None
        assert items.types == [V.ARRAY, kind]
        assert items.contents() == [value, value]
    np.testing.assert_array_equal(reader.get_tensor(0).data, weights)


@pytest.mark.parametrize("name", FIXTURES)
def test_agrees_with_gguf_py_on_real_files(name: str) -> None:
    reader = gguf_py.GGUFReader(GGUF / name)
    with GGUFFile(GGUF / name) as file:
        assert file.alignment == reader.alignment
        assert file.data_offset == reader.data_offset
        assert [f"GGUF.{key}" for key in ("version", "tensor_count", "kv_count")] + list(
            file.metadata
        ) == list(reader.fields)
        for key in file.metadata:
            value = file.metadata[key]
            assert (value.tolist() if isinstance(value, np.ndarray) else value) == reader.fields[
                key
            ].contents()
        assert len(file.tensors) == len(reader.tensors)
        for ours, theirs in zip(file.tensors, reader.tensors, strict=True):
            assert ours.name == theirs.name
            assert ours.ne == tuple(theirs.shape)
            assert (ours.type, ours.offset, ours.nbytes) == (
                theirs.tensor_type,
                theirs.data_offset,
                theirs.n_bytes,
            )
            np.testing.assert_array_equal(ours.data, theirs.data)


@pytest.mark.parametrize("name", FIXTURES)
def test_a_header_comes_back_byte_for_byte(name: str) -> None:
    with GGUFFile(GGUF / name) as file:
        tensors = [(t.name, t.ne, t.type, t.offset - file.data_offset) for t in file.tensors]
        head = serialize_header(file.kvs, tensors, file.alignment, file.version)
        assert head == (GGUF / name).read_bytes()[: file.data_offset]


# --- reading ------------------------------------------------------------------------------------------------


def test_the_small_file(tmp_path: Path) -> None:
    content = small_file()
    with GGUFFile(write(tmp_path / "small.gguf", content)) as file:
        assert (file.version, file.alignment, file.byte_size) == (3, 64, len(content))
        assert file.metadata["strings"] == ["a", "", "ü"]
        assert file.metadata["nothing"] == []
        assert file.metadata["empty"] == ""
        assert [t.shape for t in file.tensors] == [(2, 32), (5,), (1, 2, 2, 3)]
        a, b, c = file.tensors
        assert (a.ne, a.n_rows, a.row_bytes, a.nbytes, a.n_weights) == ((32, 2), 2, 18, 36, 64)
        assert a.data.shape == (2, 18)
        assert a.data.tobytes() == content[file.data_offset :][:36]
        assert (b.n_rows, b.row_bytes, b.data.dtype) == (1, 10, np.float16)
        assert c.data.tobytes() == content[-48:]
        assert not a.data.flags.writeable


def test_version_2_differs_in_its_number_only(tmp_path: Path) -> None:
    pairs = [kv("general.architecture", "llama", V.STRING)]
    head = serialize_header(pairs, [("w", (8,), GGMLQuantizationType.F32, 0)], version=2)
    assert head == b"GGUF\x02" + serialize_header(pairs, [("w", (8,), GGMLQuantizationType.F32, 0)])[5:]
    with GGUFFile(write(tmp_path / "v2.gguf", head + bytes(32))) as file:
        assert file.version == 2
        assert file.tensors["w"].ne == (8,)


def test_tensors_by_position_and_by_name(tmp_path: Path) -> None:
    with GGUFFile(write(tmp_path / "small.gguf", small_file())) as file:
        assert file.tensors[0] is file.tensors["a"]
        assert file.tensors[-1].name == "c"
        assert [t.name for t in file.tensors[1:]] == ["b", "c"]
        assert "b" in file.tensors
        assert file.tensors[1] in file.tensors
        assert "x" not in file.tensors
        assert len(file.tensors) == 3
        with pytest.raises(KeyError):
            file.tensors["x"]


def test_metadata_is_a_mapping(tmp_path: Path) -> None:
    with GGUFFile(write(tmp_path / "small.gguf", small_file())) as file:
        assert file.metadata.get("missing", 7) == 7
        assert "empty" in file.metadata
        assert file.metadata.raw("scalar.4") == KV("scalar.4", V.UINT32, b"\1\0\0\0")
        assert [pair.key for pair in file.kvs] == list(file.metadata)
        strings = file.metadata.raw("strings")
        assert (strings.type, strings.item_type, strings.n_items) == (V.ARRAY, V.STRING, 3)
        assert file.metadata.raw("scalar.4").n_items == 1
        with pytest.raises(KeyError):
            file.metadata["missing"]


def test_metadata_outlives_the_file_and_views_keep_their_data(tmp_path: Path) -> None:
    content = small_file()
    with GGUFFile(write(tmp_path / "small.gguf", content)) as file:
        view = file.tensors["c"].data
    assert view.tobytes() == content[-48:]
    assert file.metadata["strings"] == ["a", "", "ü"]


def test_a_closed_file_gives_no_data(tmp_path: Path) -> None:
    with GGUFFile(write(tmp_path / "small.gguf", small_file())) as file:
        pass
    with pytest.raises(ValueError, match="closed"):
        file.tensors["a"].data  # noqa: B018


def test_text_that_is_not_utf8_comes_back_as_it_was(tmp_path: Path) -> None:
    raw = b"caf\xe9 \xff\0"
    content = header(
        [text(b"key\xff", raw), array("list", STRING, [string(raw)])], [tensor(b"\xfe", (1,), kind=24)]
    )
    with GGUFFile(write(tmp_path / "latin.gguf", with_data(content, 1))) as file:
        (value, items) = file.metadata.values()
        assert value.encode("utf-8", "surrogateescape") == raw
        assert items == [value]
        (name,) = (t.name for t in file.tensors)
        head = serialize_header(file.kvs, [(name, (1,), GGMLQuantizationType.I8, 0)])
        assert head == with_data(content, 0)


def test_numpy_waits_until_it_is_needed() -> None:
    code = (
        f"import sys; from gguffast.gguf import GGUFFile; f = GGUFFile({str(GGUF / FIXTURES[0])!r}); "
        "f.metadata['tokenizer.ggml.tokens']; print('numpy' in sys.modules); "
        "f.tensors[0].data; print('numpy' in sys.modules)"
    )
    assert run_python(code).split() == ["False", "True"]


def run_python(code: str) -> str:
    import subprocess

    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


# --- sound files that look odd ------------------------------------------------------------------------------

F32, F16, Q4_0 = 0, 1, 2

ODD = {
    "no tensors, no padding": header([scalar("x", 0, 1)]),
    "nothing at all": header(),
    "a scalar": with_data(header([], [tensor("t", ())]), 4),
    "a name of 63 bytes": with_data(header([], [tensor("n" * 63, (1,))]), 4),
    "an empty name": with_data(header([], [tensor("", (1,))]), 4),
    "no rows": with_data(header([], [tensor("t", (32, 0), kind=Q4_0)]), 0),
    "no weights": with_data(header([], [tensor("t", (0, 2**60))]), 0),
    "empty tensors at one place": with_data(header([], [tensor("a", (0,)), tensor("b", (0,))]), 0),
    "trailing bytes": with_data(header([], [tensor("t", (1,))]), 999),
    "an alignment of 1": with_data(header([scalar("general.alignment", 4, 1)], [tensor("t", (1,))]), 4, 1),
    "data in another order": with_data(header([], [tensor("a", (8,), offset=32), tensor("b", (8,))]), 64),
    "a gap": with_data(header([], [tensor("a", (8,)), tensor("b", (8,), offset=320)]), 352),
    "a bool of 2": header([string("b") + struct.pack("<IB", 7, 2)]),
    "a key of any length": header([scalar("k" * 100_000, 0, 1)]),
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_accepts(content: bytes, tmp_path: Path) -> None:
    with GGUFFile(write(tmp_path / "odd.gguf", content)) as file:
        for info in file.tensors:
            assert info.data.nbytes == info.nbytes
            assert info.n_rows * info.row_bytes == info.nbytes
        for key in file.metadata:
            assert file.metadata[key] is not None


# --- bad files ----------------------------------------------------------------------------------------------

ONE = [tensor("t", (8,))]
HUGE = 2**64 - 1
BAD = {
    "empty": (b"", ["empty", "0 bytes"]),
    "zip": (b"PK\3\4" + bytes(99), ["not a GGUF", r"b'PK\x03\x04'", ".gguf"]),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\n", ["Git LFS", "git lfs pull"]),
    "version 0": (header(version=0), ["version 0", "known: 2 and 3"]),
    "version 1": (header(version=1), ["version 1", "convert the original model"]),
    "version 4": (header(version=4), ["version 4", "newer"]),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), ["big-endian", "gguf-convert-endian"]),
    "tensor count": (header(n_tensors=2**40), [f"{2**40} tensors", "room for 0"]),
    "tensor count, most": (header(n_tensors=HUGE), [f"{HUGE} tensors", "damaged"]),
    "pair count": (header(n_pairs=2**63), [f"{2**63} key-value pairs", "room for 0"]),
    "one pair too many": (header([text("key", "x" * 30)], n_pairs=2), ["key-value pair 1", "file ends"]),
    "key length": (header([string("key", HUGE) + bytes(20)]), ["key-value pair 0", f"needs {HUGE} bytes"]),
    "string length": (
        header([string("name") + struct.pack("<I", STRING) + string("x", 2**63)]),
        ["key 'name'", f"needs {2**63} bytes", "file ends after 1"],
    ),
    "array length": (
        header([array("list", 4, [bytes(4)], count=2**62)]),
        ["'list'", f"{2**62} items", "room for 1"],
    ),
    "array length, wraps": (
        header([array("list", 10, [bytes(8)], count=2**61 + 1)]),
        ["'list'", f"{2**61 + 1} items"],
    ),
    "array of strings, length": (header([array("list", STRING, [], count=2**60)]), ["'list'", "room for 0"]),
    "string in array": (header([array("list", STRING, [string("x", 99)])]), ["'list'", "needs 99 bytes"]),
    "empty key": (header([scalar("", 10, 1)]), ["key-value pair 0", "empty key"]),
    "duplicate key": (
        header([scalar("twice", 0, 1), scalar("once", 0, 1), scalar("twice", 0, 2)]),
        ["key 'twice'", "twice (key-value pairs 0 and 2)"],
    ),
    "value type": (
        header([string("odd") + struct.pack("<IQ", 13, 0)]),
        ["key 'odd'", "unknown value type 13"],
    ),
    "item type": (header([array("odd", 77, [bytes(8)])]), ["key 'odd'", "unknown value type 77"]),
    "nested array": (header([array("deep", ARRAY, [bytes(20)])]), ["key 'deep'", "array of arrays"]),
    "alignment 0": (
        header([scalar("general.alignment", 4, 0)], ONE),
        ["general.alignment", "0", "power of two"],
    ),
    "alignment 48": (
        header([scalar("general.alignment", 4, 48)], ONE),
        ["general.alignment", "48", "power of two"],
    ),
    "alignment u64": (
        header([scalar("general.alignment", 10, 32)], ONE),
        ["general.alignment", "type 10", "UINT32"],
    ),
    "long name": (
        with_data(header([], [tensor("n" * 64, (8,))]), 32),
        ["tensor 0", "64 bytes", "more than 63"],
    ),
    "duplicate tensor": (
        with_data(
            header([], [tensor("a", (8,)), tensor("b", (8,), offset=32), tensor("a", (8,), offset=64)]), 96
        ),
        ["tensor 'a'", "twice (tensors 0 and 2)"],
    ),
    "5 dimensions": (with_data(header([], [tensor("t", (1,) * 5)]), 32), ["tensor 't'", "5 dimensions"]),
    "dimension count": (
        header([], [tensor("t", (1,), n_dims=2**32 - 1)]),
        ["tensor 't'", f"{2**32 - 1} dim"],
    ),
    "negative dimension": (
        with_data(header([], [tensor("t", (8, -2))]), 64),
        ["tensor 't'", "negative size -2", "dimension 1"],
    ),
    "weights overflow": (with_data(header([], [tensor("t", (2**32, 2**32))]), 64), ["tensor 't'", "63 bits"]),
    "weights overflow to 0": (
        with_data(header([], [tensor("t", (2**62, 2**62, 0))]), 0),
        ["tensor 't'", "63 bits"],
    ),
    "weights overflow but for a 0": (
        with_data(header([], [tensor("t", (0, 2**62, 2**62))]), 0),
        ["tensor 't'", "63 bits"],
    ),
    "bytes overflow": (with_data(header([], [tensor("t", (2**62,))]), 64), ["tensor 't'", "63 bits"]),
    "unknown type": (
        with_data(header([], [tensor("t", (8,), kind=4711)]), 64),
        ["tensor 't'", "type id 4711"],
    ),
    "removed type": (with_data(header([], [tensor("t", (32,), kind=4)]), 64), ["tensor 't'", "type id 4;"]),
    "negative type": (with_data(header([], [tensor("t", (8,), kind=2**32 - 1)]), 64), ["type id 4294967295"]),
    "partial block": (
        with_data(header([], [tensor("t", (48, 2), kind=Q4_0)]), 64),
        ["tensor 't'", "rows of 48", "blocks of 32"],
    ),
    "no block": (with_data(header([], [tensor("t", (), kind=Q4_0)]), 64), ["rows of 1 ", "blocks of 32"]),
    "not aligned": (
        with_data(header([], [tensor("t", (8,), offset=16)]), 64),
        ["tensor 't'", "data offset 16", "multiple of 32"],
    ),
    "not aligned to the file's own": (
        with_data(header([scalar("general.alignment", 4, 64)], [tensor("t", (8,), offset=32)]), 64, 64),
        ["tensor 't'", "data offset 32", "multiple of 64"],
    ),
    "no data": (header([], [tensor("t", (8,))]), ["the header needs", "file ends", "damaged or incomplete"]),
    "data cut short": (
        with_data(header([], [tensor("t", (8,))]), 31),
        ["tensor 't'", "up to byte 96", "95 bytes", "incomplete"],
    ),
    "offset past the end": (
        with_data(header([], [tensor("t", (8,), offset=2**40)]), 32),
        ["tensor 't'", f"up to byte {2**40 + 96}", "has 96 bytes"],
    ),
    "offset overflow": (
        with_data(header([], [tensor("t", (8,), offset=2**64 - 32)]), 32),
        ["tensor 't'", f"up to byte {HUGE}"],
    ),
    "empty tensor past the end": (
        with_data(header([], [tensor("t", (0,), offset=2**40)]), 32),
        ["tensor 't'", f"up to byte {2**40 + 64}"],
    ),
    "overlap": (
        with_data(header([], [tensor("a", (9,)), tensor("b", (8,), offset=32)]), 64),
        ["tensor 'b'", "shares bytes with tensor number 0"],
    ),
    "same place": (
        with_data(header([], [tensor("a", (8,)), tensor("b", (8,))]), 64),
        ["tensor 'b'", "shares bytes"],
    ),
    "huge key": (header([scalar("k" * 10**6, 0, 1)] * 2), ["key 'kkk", "...' is there twice"]),
    "control characters": (
        with_data(header([], [tensor(b"\x1b[2J\n\xff", (8,), kind=99)]), 64),
        [r"tensor '\x1b[2J\n\\xff'"],
    ),
}


@pytest.mark.parametrize(("content", "words"), BAD.values(), ids=BAD)
def test_refuses(content: bytes, words: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "bad.gguf", content)
    with pytest.raises(FormatError) as caught:
        GGUFFile(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable(), "one clear line"
    assert len(message) < 500
    for word in words:
        assert word in message
    assert isinstance(caught.value, ValueError)


def test_refuses_a_file_cut_at_any_byte(tmp_path: Path) -> None:
    content = small_file()
    path = tmp_path / "cut.gguf"
    for size in range(len(content)):
        write(path, content[:size])
        with pytest.raises(FormatError, match=r"truncated|incomplete|empty"):
            GGUFFile(path)
    with GGUFFile(write(path, content)) as file:
        assert len(file.tensors) == 3


def test_refuses_what_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        GGUFFile(tmp_path / "missing.gguf")
    with pytest.raises(FileError, match="folder"):
        GGUFFile(tmp_path)
    with pytest.raises(FileError, match=r"cannot read .*: Not a directory"):
        GGUFFile(write(tmp_path / "file", b"GGUF") / "model.gguf")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="not a regular file"):
        GGUFFile(tmp_path / "pipe")


# --- writing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ne", [(), (1,), (1, 1), (4, 3, 1, 1), (4, 1), (1, 3)])
def test_a_shape_is_written_as_it_is_given(ne: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "shape.gguf"
    path.write_bytes(serialize_header([], [("t", ne, GGMLQuantizationType.F32, 0)]) + bytes(4 * 12))
    with GGUFFile(path) as file:
        assert file.tensors["t"].ne == ne


@pytest.mark.parametrize(
    ("value", "item_type"),
    [
        ([True, False], V.BOOL),
        ([1, -2], V.INT32),
        ([0.5], V.FLOAT32),
        (["a", b"\xff"], V.STRING),
        (b"bytes", V.UINT8),
        (np.array([1, 2], np.uint64), V.UINT64),
        (np.array([1, 2], np.float64), V.FLOAT64),
        (np.array([True]), V.BOOL),
    ],
)
def test_the_item_type_follows_the_items(value: object, item_type: GGUFValueType) -> None:
    assert kv("key", value, V.ARRAY).item_type is item_type


@pytest.mark.parametrize(
    ("value", "kind", "item_type"),
    [
        (256, V.UINT8, None),
        (-1, V.UINT32, None),
        (2**63, V.INT64, None),
        (1.5, V.INT32, None),
        ("1", V.INT32, None),
        ("false", V.BOOL, None),
        (1e39, V.FLOAT32, None),
        (5, V.STRING, None),
        ([], V.ARRAY, None),
        ([1, "a"], V.ARRAY, None),
        ([[1]], V.ARRAY, V.ARRAY),
        ([None], V.ARRAY, None),
        (5, V.ARRAY, None),
        (np.zeros(2, np.float16), V.ARRAY, None),
    ],
)
def test_refuses_a_value_that_does_not_fit(
    value: object, kind: GGUFValueType, item_type: GGUFValueType | None
) -> None:
    with pytest.raises(OptionError, match=f"key 'some.key': .* does not fit the type {kind.name}"):
        kv("some.key", value, kind, item_type)


F = GGMLQuantizationType.F32


@pytest.mark.parametrize(
    ("kvs", "tensors", "alignment", "words"),
    [
        ([], [("n" * 64, (1,), F, 0)], 32, "name of 64 bytes"),
        ([], [("ä" * 32, (1,), F, 0)], 32, "name of 64 bytes"),
        ([], [("t", (1,), F, 0), ("t", (1,), F, 32)], 32, "tensor 't' is there twice"),
        ([], [("t", (1,) * 5, F, 0)], 32, "5 dimensions"),
        ([], [("t", (1,), F, 8)], 32, "multiple of 32"),
        ([], [], 24, "alignment 24"),
        ([], [], 0, "alignment 0"),
        ([kv("general.alignment", 64, V.UINT32)], [], 32, "general.alignment is 64"),
        ([kv("general.alignment", 32, V.UINT64)], [], 32, "UINT64"),
        ([kv("a", 1, V.UINT8), kv("a", 2, V.UINT8)], [], 32, "key 'a' is there twice"),
        ([kv("", 1, V.UINT8)], [], 32, "key is empty"),
    ],
)
def test_refuses_to_write_what_nobody_could_read(
    kvs: list[KV],
    tensors: list[tuple[str, tuple[int, ...], GGMLQuantizationType, int]],
    alignment: int,
    words: str,
) -> None:
    with pytest.raises(OptionError, match=words):
        serialize_header(kvs, tensors, alignment)


# --- what a key has to be -----------------------------------------------------------------------------------


METADATA = Metadata(
    [
        kv("u", 7, V.UINT8),
        kv("i", -7, V.INT64),
        kv("f", 0.5, V.FLOAT32),
        kv("b", True, V.BOOL),
        kv("s", "text", V.STRING),
        kv("us", [1, 2], V.ARRAY, V.UINT16),
        kv("is", [1, -2], V.ARRAY, V.INT32),
        kv("none", [], V.ARRAY, V.INT32),
        kv("ss", ["a", ""], V.ARRAY, V.STRING),
        kv("fs", [0.5], V.ARRAY, V.FLOAT32),
    ],
    "model.gguf",
)
KNOWN = {
    "uint": {"u": 7},
    "number": {"u": 7, "i": -7, "f": 0.5},
    "flag": {"b": True},
    "text": {"s": "text"},
    "texts": {"ss": ["a", ""]},
    "uints": {"u": [7], "us": [1, 2], "none": []},
}


@pytest.mark.parametrize("accessor", KNOWN)
def test_a_key_is_what_it_has_to_be_or_refused(accessor: str) -> None:
    get = getattr(METADATA, accessor)
    assert get("missing") is None
    for key in METADATA:
        if key in KNOWN[accessor]:
            assert get(key) == KNOWN[accessor][key]
            continue
        with pytest.raises(
            FormatError, match=rf"^model\.gguf: the key '{key}' is .*, expected .*: convert"
        ) as error:
            get(key)
        assert "\n" not in str(error.value)


# --- headers that cost much, files that change --------------------------------------------------------------


def test_a_header_longer_than_the_first_read(tmp_path: Path) -> None:
    """The size of a large vocabulary: read in pieces, and the same."""
    words = [f"token-{i:09}" for i in range(400_000)]
    pairs = [kv("general.architecture", "llama", V.STRING), kv("words", words, V.ARRAY, V.STRING)]
    path = write(tmp_path / "m.gguf", serialize_header(pairs, [("t", (8,), T.F32, 0)]) + bytes(32))
    assert path.stat().st_size > 8_000_000
    with GGUFFile(path) as file:
        assert file.kvs == pairs
        assert file.tensors["t"].read().tolist() == [0] * 8


@pytest.mark.parametrize("to", [0, 1000, 2**20, 2**20 + 1])
def test_a_file_cut_while_its_header_is_read(
    to: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [kv("words", [f"token-{i:09}" for i in range(100_000)], V.ARRAY, V.STRING)]
    path = write(tmp_path / "m.gguf", serialize_header(pairs, []))
    read_into = LocalFile.read_into

    def cut_and_read(self: LocalFile, offset: int, into: memoryview, what: str = "") -> None:
        os.truncate(path, to)
        read_into(self, offset, into, what)

    monkeypatch.setattr(LocalFile, "read_into", cut_and_read)
    with pytest.raises(FormatError, match=r"m\.gguf: ends inside the header; it was cut short"):
        GGUFFile(path)


def test_a_file_cut_while_a_tensor_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", small_file())
    with GGUFFile(path) as file:
        os.truncate(path, path.stat().st_size - 8)
        with pytest.raises(FormatError, match=r"ends inside tensor 'c'"):
            file.tensors["c"].read()


def _counts(path: Path) -> tuple[int, int]:
    with GGUFFile(path) as file:
        return len(file.metadata), len(file.tensors)


def _keys(count: int) -> bytes:
    return header([scalar(f"{i:07}", 0, 1) for i in range(count)])


def _tensors(count: int) -> bytes:
    return with_data(header([], [tensor(f"{i}", (0,)) for i in range(count)]), 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_keys(1_000_000), "counts 1000000 key-value pairs; more than 65536 are not read"),
        (_tensors(700_000), "counts 700000 tensors; more than 65536 are not read"),
        (
            header([scalar("general.alignment", 4, 2**31)]),
            "is 2147483648, which is not a power of two up to 1048576",
        ),
        (header([array("a", STRING, [], 2**60)]) + bytes(2**24), "counts 1152921504606846976 items"),
    ],
    ids=["keys", "tensors", "alignment", "items"],
)
def test_small_files_cost_little(content: bytes, words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", content)
    with pytest.raises(FormatError, match=words):
        run_bounded(_counts, path, file_bytes=len(content))


@pytest.mark.parametrize(
    ("content", "counts"),
    [(_keys(2**16), (2**16, 0)), (_tensors(2**16), (0, 2**16))],
    ids=["keys", "tensors"],
)
def test_the_most_that_is_read_costs_little(content: bytes, counts: tuple[int, int], tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", content)
    assert run_bounded(_counts, path, file_bytes=len(content)) == counts


def test_a_header_that_claims_a_terabyte(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", header(n_pairs=1) + struct.pack("<Q", 2**40))
    os.truncate(path, 2**41)
    with pytest.raises(FormatError, match=r"has more than 1073741824 bytes"):
        run_bounded(_counts, path, file_bytes=0)

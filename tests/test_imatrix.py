"""Importance matrices in both formats, sound and damaged."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gguffast import DataError, FormatError, OptionError, imatrix
from gguffast.errors import FileError
from gguffast.gguf import KV, GGUFValueType, kv, serialize_header
from gguffast.imatrix import ImportanceMatrix
from gguffast.types import GGMLQuantizationType
from support.bounded import run_bounded
from support.gguf_bytes import STRING, array, header, scalar, tensor, text, with_data
from support.gguf_files import GGUF

METADATA = [
    kv("imatrix.datasets", ["text.txt"], GGUFValueType.ARRAY, GGUFValueType.STRING),
    kv("imatrix.chunk_count", 4, GGUFValueType.UINT32),
    kv("imatrix.chunk_size", 512, GGUFValueType.UINT32),
]


def write_gguf(
    path: Path, tensors: dict[str, object], kvs: Sequence[KV] = METADATA, dtype: str = "<f4"
) -> Path:
    arrays = {name: np.array(values, dtype) for name, values in tensors.items()}
    infos, data = [], b""
    kind = {"<f4": GGMLQuantizationType.F32, "<f2": GGMLQuantizationType.F16}[dtype]
    for name, numbers in arrays.items():
        infos.append((name, numbers.shape[::-1], kind, len(data)))
        data += numbers.tobytes() + bytes(-numbers.nbytes % 32)
    path.write_bytes(serialize_header(kvs, infos) + data)
    return path


def legacy(
    entries: Sequence[tuple[bytes, int, Sequence[float]]], tail: bytes = b"", count: int | None = None
) -> bytes:
    out = struct.pack("<i", len(entries) if count is None else count)
    for name, calls, values in entries:
        out += struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, len(values))
        out += np.array(values, "<f4").tobytes()
    return out + tail


def load_legacy(path: Path, data: bytes) -> ImportanceMatrix:
    path.write_bytes(data)
    return imatrix.load(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.imatrix"


def test_both_formats_of_a_real_matrix_agree() -> None:
    new, old = (imatrix.load(GGUF / f"smollm2.imatrix.{suffix}") for suffix in ("gguf", "dat"))
    assert len(new.entries) == 210
    assert new.entries.keys() == old.entries.keys()
    assert (new.chunk_count, new.datasets) == (old.chunk_count, old.datasets)
    assert new.chunk_count > 0
    for name, values in new.entries.items():
        assert values.dtype == old.entries[name].dtype == np.float32
        # the older format holds mean times calls: it was rounded once more
        np.testing.assert_allclose(values, old.entries[name], rtol=3e-7)


def test_gguf_means_are_taken_expert_by_expert(path: Path) -> None:
    sums = [[1, 2, 3], [10, 20, 30], [7, 7, 7], [1, 1, 1]]
    write_gguf(path, {"a.in_sum2": sums, "a.counts": [[3], [7], [0], [2.5]], "other": [[1]]})
    matrix = imatrix.load(path)
    third, seventh = np.float32([1, 2, 3]) / np.float32(3), np.float32([10, 20, 30]) / np.float32(7)
    expected = [third, seventh, np.ones(3), np.full(3, np.float32(1) / np.float32(3))]
    table = matrix.for_tensor("a", (3, 5, 4))
    np.testing.assert_array_equal(table, np.array(expected, np.float32))
    assert (matrix.chunk_count, matrix.datasets, matrix.path) == (4, ("text.txt",), str(path))


def test_legacy_values_are_divided_by_their_calls(path: Path) -> None:
    entries = [(b"a\0b", 3, [1, 2, 3]), (b"b", 0, [4]), (b"c", -1, [5]), (b"b", 2, [9])]
    matrix = load_legacy(path, legacy(entries))
    np.testing.assert_array_equal(matrix.entries["a"], np.float32([1, 2, 3]) / np.float32(3))
    assert {name: values.tolist() for name, values in matrix.entries.items() if name != "a"} == {
        "b": [4.5],
        "c": [5],
    }
    assert (matrix.chunk_count, matrix.datasets) == (0, ())


@pytest.mark.parametrize(
    ("tail", "chunks", "datasets"),
    [
        (struct.pack("<i", 6), 6, ()),
        (struct.pack("<ii", 6, 0), 6, ()),
        (struct.pack("<ii", 6, 4) + b"wiki", 6, ("wiki",)),
    ],
)
def test_the_end_of_a_legacy_file_is_optional(
    path: Path, tail: bytes, chunks: int, datasets: tuple[str, ...]
) -> None:
    matrix = load_legacy(path, legacy([(b"a", 1, [1])], tail))
    assert (matrix.chunk_count, matrix.datasets) == (chunks, datasets)


def test_every_truncation_of_a_legacy_file_is_found(path: Path) -> None:
    data = legacy([(b"ab", 1, [1, 2]), (b"c", 1, [3])], struct.pack("<ii", 6, 4) + b"wiki")
    whole = {len(data) - 4 - 4 - 4, len(data) - 4 - 4}  # what follows the entries is optional
    for size in set(range(len(data))) - whole:
        with pytest.raises(
            FormatError, match=r"some\.imatrix: offset \d+: the .* truncated or not an importance"
        ):
            load_legacy(path, data[:size])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "offset 0: the number of entries take 4 bytes, but 0 are left"),
        (struct.pack("<i", 0), "claims 0 entries"),
        (struct.pack("<i", -3), "claims -3 entries"),
        (struct.pack("<ii", 1, -1), "name of entry 0 take -1 bytes"),
        (struct.pack("<ii", 1, 2**31 - 1), "name of entry 0 take 2147483647 bytes"),
        (legacy([(b"a", 1, [])]), "a has 0 values; expected at least 1"),
        (
            struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 2**31 - 1),
            r"2147483647 values of a take \d+ bytes",
        ),
        (
            legacy([(b"a", 1, [1])], count=2**16),
            "length of the name of entry 1 take 4 bytes, but 0 are left",
        ),
        (legacy([(b"a", 1, [1])], count=2**31 - 1), "claims 2147483647 entries, expected 1 to 65536"),
        (b"not an importance matrix at all", "not an importance matrix: it claims"),
    ],
)
def test_legacy_lengths_that_lie(path: Path, data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        load_legacy(path, data)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a.in_sum2": [[1, 2]]}, r"a\.counts is missing"),
        ({"a.counts": [[1]]}, r"a\.in_sum2 is missing"),
        ({"a.in_sum2": [[1, 2, 3]], "a.counts": [[1], [1]]}, "a has 3 sums, which 2 counts do not divide"),
        ({"a.in_sum2": [[1]], "a.counts": [[-1]]}, r"a\.counts are no counts: found -1"),
        ({"a.in_sum2": [[1]], "a.counts": [[np.nan]]}, r"a\.counts are no counts: found nan"),
        ({"a.in_sum2": [[1]], "a.counts": [[np.inf]]}, r"a\.counts are no counts: found inf"),
        ({"output.weight": [[1]]}, r"not an importance matrix: it has no tensors named \*\.in_sum2"),
    ],
)
def test_gguf_files_that_are_no_importance_matrix(
    path: Path, tensors: dict[str, object], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        imatrix.load(write_gguf(path, tensors))


def test_a_model_is_no_importance_matrix() -> None:
    with pytest.raises(
        FormatError, match=r"not an importance matrix: its metadata have no imatrix\.datasets"
    ):
        imatrix.load(GGUF / "gemma2-f32.gguf")


def test_gguf_sums_are_f32(path: Path) -> None:
    write_gguf(path, {"a.in_sum2": [[1]], "a.counts": [[1]]}, dtype="<f2")
    with pytest.raises(FormatError, match=r"a\.in_sum2: expected F32, found F16"):
        imatrix.load(path)


@pytest.mark.parametrize("size", [4, 30, 100, 631000])
def test_a_truncated_gguf_is_named(path: Path, size: int) -> None:
    path.write_bytes((GGUF / "smollm2.imatrix.gguf").read_bytes()[:size])
    with pytest.raises(FormatError, match=r"some\.imatrix"):
        imatrix.load(path)


def test_a_missing_file(path: Path) -> None:
    with pytest.raises(FileError, match=r"some\.imatrix: there is no such file"):
        imatrix.load(path)
    with pytest.raises(FileError, match="it is a folder"):
        imatrix.load(path.parent)


def test_a_pipe_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(FileError, match="it is not a regular file"):
        imatrix.load(path)
    with pytest.raises(FileError, match="it is not a regular file"):
        imatrix.load("/dev/zero")


@pytest.mark.parametrize("wrong", [text("imatrix.chunk_count", "many"), scalar("imatrix.chunk_count", 5, -1)])
def test_metadata_of_another_type_are_refused(path: Path, wrong: bytes) -> None:
    pairs = [array("imatrix.datasets", STRING, []), wrong, scalar("imatrix.chunk_size", 4, 512)]
    tensors = [tensor("a.in_sum2", [1]), tensor("a.counts", [1], 0, 32)]
    path.write_bytes(with_data(header(pairs, tensors), 36))
    with pytest.raises(FormatError, match=r"some\.imatrix: the key 'imatrix\.chunk_count' is "):
        imatrix.load(path)


def test_many_entries_of_few_bytes_cost_little(path: Path) -> None:
    entries = [struct.pack("<i4siif", 4, b"%04x" % (i % 2**16), 1, 1, 1) for i in range(500_000)]
    path.write_bytes(struct.pack("<i", len(entries)) + b"".join(entries))
    with pytest.raises(FormatError, match="claims 500000 entries"):
        run_bounded(imatrix.load, path, file_bytes=path.stat().st_size)
    path.write_bytes(struct.pack("<i", 2**16) + b"".join(entries[: 2**16]))
    assert len(run_bounded(_names, path, file_bytes=path.stat().st_size)) == 2**16


def _names(path: Path) -> list[str]:
    return list(imatrix.load(path).entries)


def matrix_of(**entries: Sequence[float]) -> ImportanceMatrix:
    return ImportanceMatrix("m.dat", {name: np.array(values, np.float32) for name, values in entries.items()})


def test_filters() -> None:
    matrix = matrix_of(attn_v=[1], attn_k=[1], ffn_up=[1])
    assert matrix.filter() is matrix
    assert list(matrix.filter(include=["attn", "_v"]).entries) == ["attn_v", "attn_k"]
    assert list(matrix.filter(exclude=["attn_v", "ffn"]).entries) == ["attn_k"]
    assert not matrix.filter(include=["nothing"])
    with pytest.raises(OptionError, match="`include_weights` and `exclude_weights` cannot be used together"):
        matrix.filter(["a"], ["b"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
def test_values_that_no_square_can_have(value: float) -> None:
    matrix = matrix_of(a=[1, 2], b=[0, value])
    with pytest.raises(DataError, match=rf"m\.dat: importance 1 of b is {value}; expected a finite number"):
        matrix.check(["a", "b"])
    matrix.filter(exclude=["b"]).check(["a", "b"])


def test_a_matrix_of_another_model_by_its_names() -> None:
    matrix = matrix_of(a=[1], b=[1])
    with pytest.raises(
        DataError, match=r"none of the 2 tensors .* names, a for one; it belongs to another model"
    ):
        matrix.check(["c", "d"])
    matrix.check(["b", "c"])


def test_a_matrix_of_another_model_by_its_sizes() -> None:
    matrix = matrix_of(a=[1, 2, 3])
    message = r"m\.dat: tensor a: expected 8 importances \(4 columns, 2 experts\), found 3; .* another model"
    with pytest.raises(DataError, match=message):
        matrix.for_tensor("a", (4, 9, 2))


def test_token_embeddings_of_another_size_are_quantized_without() -> None:
    matrix = ImportanceMatrix("m", {"token_embd.weight": np.ones(3, np.float32)})
    assert matrix.for_tensor("token_embd.weight", (4, 9)) is None


def test_missing_entries() -> None:
    matrix = matrix_of(a=[1])
    assert matrix.for_tensor("b", (1, 2)) is None
    with pytest.raises(DataError, match=r"m\.dat: tensor b has no importances, which its type needs"):
        matrix.for_tensor("b", (1, 2), required=True)


def test_a_slice_for_each_expert() -> None:
    table = matrix_of(a=[1, 2, 3, 4]).for_tensor("a", (2, 7, 2))
    assert table is not None
    assert table.tolist() == [[1, 2], [3, 4]]
    assert table.flags.c_contiguous


def test_metadata_for_the_output() -> None:
    matrix = ImportanceMatrix("dir/a.gguf", {"a": np.ones(1, np.float32)}, ("one.txt", "two.txt"), 5)
    assert matrix.kvs() == [
        kv("quantize.imatrix.file", "dir/a.gguf", GGUFValueType.STRING),
        kv("quantize.imatrix.dataset", "one.txt", GGUFValueType.STRING),
        kv("quantize.imatrix.entries_count", 1, GGUFValueType.UINT32),
        kv("quantize.imatrix.chunks_count", 5, GGUFValueType.UINT32),
    ]


def test_metadata_are_cut_to_127_bytes_even_within_a_character() -> None:
    matrix = ImportanceMatrix("é" * 100, {"a": np.ones(1, np.float32)}, ("x" * 126 + "é",))
    file, dataset, entries = matrix.kvs()
    assert file.raw == struct.pack("<Q", 127) + ("é" * 63).encode() + b"\xc3"
    assert dataset.raw == struct.pack("<Q", 127) + b"x" * 126 + b"\xc3"
    assert entries.key == "quantize.imatrix.entries_count"


def test_no_entries_no_metadata() -> None:
    assert matrix_of().kvs() == []

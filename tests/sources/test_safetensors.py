"""Safetensors headers: good ones, lying ones, and a thousand damaged ones."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from gguffast.errors import FileError, FormatError, GGUFFastError
from gguffast.sources.common import open_weights
from gguffast.sources.lazy import DType
from gguffast.sources.safetensors import read_safetensors
from support.handmade import Raw, mutations, raw, safetensors_bytes, write_safetensors

ARRAYS = {
    "b": np.arange(6, dtype="f4").reshape(2, 3),
    "a": np.arange(3, dtype="i1"),
    "scalar": np.array(1.5, "f8"),
    "empty": np.empty((0, 4), "f2"),
    "odd": np.arange(5, dtype="f2"),
}


def test_tensors_are_read_from_the_file_sorted_by_name(tmp_path: Path) -> None:
    tensors = read_safetensors(open_weights(write_safetensors(tmp_path / "x.safetensors", ARRAYS)))
    assert list(tensors) == ["a", "b", "empty", "odd", "scalar"]
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(tensors[name].numpy(), array)
        assert tensors[name].shape == array.shape
    np.testing.assert_array_equal(tensors["b"].rows(1, 1), ARRAYS["b"][1:])


def test_tensors_outlive_the_name_of_their_file(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", ARRAYS)
    tensors = read_safetensors(open_weights(path))
    path.unlink()
    np.testing.assert_array_equal(tensors["b"].numpy(), ARRAYS["b"])


@pytest.mark.parametrize("dtype", [d for d in DType if d is not DType.MXFP4], ids=lambda dtype: dtype.name)
def test_every_number_format(tmp_path: Path, dtype: DType) -> None:
    data = bytes(range(2 * dtype.itemsize))
    path = write_safetensors(tmp_path / "x.safetensors", {"x": Raw(dtype.name, [2], data)})
    tensor = read_safetensors(open_weights(path))["x"]
    assert tensor.dtype is dtype
    assert tensor.numpy().tobytes() == data


def header(text: object, data: bytes = b"", length: int | None = None) -> bytes:
    encoded = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


TWICE = b"{%s,%s}" % ((json.dumps({"a": entry()}).encode()[1:-1],) * 2)
LIES = {
    "shorter than a length": (b"abc", "truncated"),
    "length beyond the end": (header({"a": entry()}, bytes(8), 1000), "should end at byte 1008"),
    "length of all ones": (header({}, b"", 2**64 - 1), "should end at byte"),
    "cut data": (header({"a": entry()}, bytes(7)), "data of 7 bytes; the file is truncated"),
    "appended data": (header({"a": entry()}, bytes(9)), "8 bytes of 9; something was appended"),
    "hole": (header({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)), "'b' leaves a hole behind 'a'"),
    "hole at the start": (header({"a": entry(offsets=(4, 12))}, bytes(12)), "a hole behind the header"),
    "overlap": (header({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "'b' overlaps 'a'"),
    "the same bytes": (header({"a": entry(), "b": entry()}, bytes(8)), "'b' overlaps 'a'"),
    "backwards": (header({"a": entry(offsets=(8, 0))}, bytes(8)), "data_offsets [8, 0]"),
    "negative offset": (header({"a": entry(offsets=(-8, 0))}, bytes(8)), "data_offsets [-8, 0]"),
    "one offset": (header({"a": entry(offsets=(8,))}, bytes(8)), "data_offsets [8]"),
    "beyond the end": (header({"a": entry(shape=(4,), offsets=(0, 16))}, bytes(8)), "truncated"),
    "shape and offsets differ": (
        header({"a": entry(shape=(3,))}, bytes(8)),
        "12 bytes, its data_offsets are 8",
    ),
    "negative shape": (header({"a": entry(shape=(-2,))}, bytes(8)), "shape [-2]"),
    "fraction in the shape": (header({"a": entry(shape=(2.0,))}, bytes(8)), "shape [2.0]"),
    "truth in the shape": (header({"a": entry(shape=(2, True))}, bytes(8)), "shape [2, True]"),
    "huge shape": (header({"a": entry(shape=(2**62, 2**62))}, bytes(8)), "[4611686018427387904, 46"),
    "shape beyond words": (
        header(b'{"a":{"dtype":"F32","shape":[1%s],"data_offsets":[0,8]}}' % (b"0" * 4000)),
        "'a' has the shape",
    ),
    "number of 5,000 digits": (
        header(b'{"a":{"dtype":"F32","shape":[1%s],"data_offsets":[0,8]}}' % (b"0" * 5000)),
        "thousands of digits",
    ),
    "number without end": (
        header(b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}'),
        "[inf]",
    ),
    "nothing of a huge shape": (
        header({"a": entry(shape=(0, 2**40, 2**40), offsets=(0, 0))}),
        "'a' has the shape",
    ),
    "many axes": (header({"a": entry(shape=(1,) * 65)}, bytes(8)), "'a' has the shape"),
    "unknown dtype": (header({"a": entry(dtype="Q9")}, bytes(8)), "'a' has dtype 'Q9'"),
    "dtype without a meaning here": (header({"a": entry(dtype="C64")}, bytes(8)), "'a' has dtype 'C64'"),
    "dtype that is none": (header({"a": entry(dtype=["F32"])}, bytes(8)), "'a' is not described"),
    "duplicate name": (header(TWICE, bytes(8)), "has 'a' twice"),
    "duplicate field": (header(b'{"a":{"dtype":"F32","dtype":"F32"}}'), "has 'dtype' twice"),
    "missing field": (header({"a": {"dtype": "F32"}}), "'a' is not described"),
    "surplus field": (header({"a": entry() | {"more": 1}}, bytes(8)), "'a' is not described"),
    "a tensor alone": (header(entry(), bytes(8)), "is not described"),
    "metadata that are none": (header({"a": entry(), "__metadata__": []}, bytes(8)), "__metadata__"),
    "a list": (header([]), "begin with a brace"),
    "a deep list": (header(b"[" * 100_000), "begin with a brace"),
    "a deep unknown field": (header(b'{"a":' + b"[" * 100_000), "levels deep"),
    "half a header": (header(b'{"a":'), "valid JSON"),
    "two headers": (header(b"{}{}"), "valid JSON"),
    "UTF-16": (header("{}".encode("utf-16-le")), "valid JSON"),
    "not UTF-8": (header(b'{"\xff": 1}'), "not UTF-8"),
    "NUL in a name": (header({"a\0b": entry(shape=(3,))}, bytes(8)), r"'a\x00b'"),
    "a name of a lone surrogate": (header(b'{"\\ud800": 1}'), "half a surrogate"),
    "a long name": (header({"a" * 5000: entry(shape=(3,))}, bytes(8)), "'aaaaaaaa"),
    "line breaks in the message": (header({"a": entry(dtype="Q\n\x1b[2J9")}, bytes(8)), "has dtype"),
    "a long message": (header({"a": entry(dtype="Q" * 100_000)}, bytes(8)), "has dtype"),
    "a pickle": (b"\x80\x02}q\x00." + bytes(100), "should end at byte"),
    "a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "git lfs pull",
    ),
    "empty": (b"", "empty"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_refused_in_one_line(tmp_path: Path, lie: str) -> None:
    content, word = LIES[lie]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        read_safetensors(open_weights(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert word in message
    assert message.isprintable()
    assert len(message) < 600 + len(str(path))


def test_a_header_of_more_than_100_mb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(200_000_000)
    with pytest.raises(FormatError, match="a header of 100000001 bytes"):
        read_safetensors(open_weights(path))


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"nowhere.*no such file"):
        read_safetensors(open_weights(tmp_path / "nowhere"))
    with pytest.raises(FileError, match="it is a folder"):
        read_safetensors(open_weights(tmp_path))


# What the format's own package lets pass: duplicates, which it settles silently, formats without a use here,
# and shapes that no array can have.
STRICTER = (
    "twice in one object",
    "readable are",
    "has the shape",
    "is not described by",
    "half a surrogate",
    "levels deep",
    "__metadata__",
)


def read_any(path: Path, content: bytes) -> None:
    """Read what may be damaged: tensors that can be walked, or an error that was raised on purpose.

    The format's own package has to be of the same opinion.
    """
    path.write_bytes(content)
    try:
        tensors = read_safetensors(open_weights(path))
    except GGUFFastError as error:
        if any(word in str(error) for word in STRICTER):
            return
        with pytest.raises(safetensors.SafetensorError):
            safetensors.safe_open(path, framework="numpy")
        return
    with safetensors.safe_open(path, framework="numpy") as theirs:
        assert set(theirs.keys()) == tensors.keys()
    for tensor in tensors.values():
        assert sys.getsizeof(tensor.shape) < 10_000
        assert tensor.numpy().nbytes == tensor.size * tensor.dtype.itemsize


def test_damaged_headers_never_surprise(tmp_path: Path) -> None:
    content = safetensors_bytes({**ARRAYS, "x.weight": raw(np.arange(4, dtype="u2"))})
    for damaged in mutations(content, 1500, seed=1, reach=len(content) - 60):
        read_any(tmp_path / "x.safetensors", damaged)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**64) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "U8", "C64", "F8_E8M0", "x"]) | JSON,
        "shape": st.lists(st.sampled_from([0, 1, 2, 3, 2**32, 2**63]), max_size=4) | JSON,
        "data_offsets": st.lists(st.sampled_from([0, 1, 2, 4, 8, 16, 2**64 - 1]), max_size=3) | JSON,
    }
)


@given(st.dictionaries(st.text(max_size=5), FIELDS | JSON, max_size=4), st.integers(0, 32))
@settings(max_examples=150, deadline=None)
def test_any_json_never_surprises(
    tmp_path_factory: pytest.TempPathFactory, content: object, size: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    read_any(path, header(content, bytes(size)))

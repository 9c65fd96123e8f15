"""The bridge to C lets nothing through that C does not check: wrong arguments are Python's errors."""

from __future__ import annotations

import numpy as np
import pytest

from gguffast import _core
from gguffast import gguf as gguf_module

T = {row.name: row.number for row in _core.type_table()}
PAIR, TENSOR = (b"key", 4, b"\1\0\0\0"), (b"t", (4,), 0, 0)


def test_the_size_of_an_empty_header() -> None:
    assert len(_core.write_gguf(3, [], [], 1)) == 24
    assert len(_core.write_gguf(3, [], [], 32)) == 32


@pytest.mark.parametrize("alignment", [0, 3, 2**21, 2**31, 2**32, -1, "32", None])
def test_an_alignment_that_is_none(alignment: object) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        _core.write_gguf(3, [], [], alignment)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kvs", "tensors"),
    [
        (None, []),
        ([], None),
        ((PAIR,), []),
        ([PAIR[:2]], []),
        ([(None, 4, b"")], []),
        ([("key", 4, b"")], []),
        ([(b"key", 4, None)], []),
        ([(b"key", -1, b"")], []),
        ([(b"key", 2**32, b"")], []),
        ([], [TENSOR[:3]]),
        ([], [(b"t", (1,) * 5, 0, 0)]),
        ([], [(b"t", (2**63,), 0, 0)]),
        ([], [(b"t", 4, 0, 0)]),
        ([], [(b"t", ("4",), 0, 0)]),
        ([], [(None, (4,), 0, 0)]),
        ([], [(b"t", (4,), 0, -1)]),
        ([], [(b"t", (4,), 0, 2**64)]),
    ],
)
def test_a_header_of_wrong_parts(kvs: object, tensors: object) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        _core.write_gguf(3, kvs, tensors, 32)  # type: ignore[arg-type]


@pytest.mark.parametrize("type_", [-1, 4, 9, 63, 64, 2**31 - 1])
def test_a_type_without_a_codec(type_: int) -> None:
    x = np.zeros(256, np.float32)
    with pytest.raises(ValueError, match="no codec"):
        _core.quantize(type_, x, 256, x)
    with pytest.raises(ValueError, match="no codec"):
        _core.dequantize(type_, x, x)
    with pytest.raises(ValueError, match="no codec"):
        _core.recode(type_, x, T["Q8_0"], x, 256)


@pytest.mark.parametrize("ncols", [0, 31, 33, 2**49, 2**63])
def test_rows_that_are_no_blocks(ncols: int) -> None:
    x, out = np.zeros(64, np.float32), np.zeros(68, np.uint8)
    with pytest.raises(ValueError, match="weights"):
        _core.quantize(T["Q8_0"], x, ncols, out)
    with pytest.raises(ValueError, match="weights"):
        _core.recode(T["F32"], x, T["Q8_0"], out, ncols)


def test_buffers_of_other_sizes() -> None:
    x, out = np.zeros(64, np.float32), np.zeros(68, np.uint8)
    for source, target, importance in (
        (x[:63], out, None),
        (x, out[:67], None),
        (x, out, x[:31]),
        (x, out, np.zeros(32, np.float64)),
        (x.view(np.uint8)[2:-2], out, None),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            _core.quantize(T["Q8_0"], source, 32, target, importance)
        with pytest.raises(ValueError):  # noqa: PT011
            _core.recode(T["F32"], source, T["Q8_0"], target, 32, importance)
    with pytest.raises(ValueError, match="do not fit together"):
        _core.dequantize(T["Q8_0"], out, x[:-1])


def test_buffers_that_are_none() -> None:
    x = np.zeros(64, np.float32)
    for wrong in (None, "text", 3, x[::2], b"read-only"):
        with pytest.raises((TypeError, ValueError, BufferError)):
            _core.quantize(T["Q8_0"], x, 32, wrong)  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError, BufferError)):
            _core.recode(T["F32"], wrong, T["Q8_0"], x, 32)  # type: ignore[arg-type]


def test_rows_are_read_from_any_address() -> None:
    """Only floats must be aligned, and those that are not are refused."""
    blocks = np.zeros(69, np.uint8)
    x = np.zeros(65, np.float32).view(np.uint8)[1:-3]
    with pytest.raises(ValueError, match="not aligned"):
        _core.dequantize(T["Q8_0"], blocks[1:], x)
    assert _core.recode(T["Q8_0"], blocks[1:], T["F32"], x, 32).status is _core.RecodeStatus.OK


def test_a_longer_piece_than_the_file() -> None:
    with pytest.raises(ValueError, match="24 bytes of a file of 23"):
        _core.parse_gguf(bytes(24), 23)
    with pytest.raises(OverflowError):
        _core.parse_gguf(b"", -1)


def test_strings_that_end_early() -> None:
    for items, count in ((b"", 1), (b"\1" + bytes(7), 1), (b"\xff" * 8, 1), (bytes(8), 2), (bytes(8), 2**40)):
        with pytest.raises(ValueError, match="string"):
            _core.decode_strings(items, count)


def test_every_status_has_its_words() -> None:
    elsewhere = {"INCOMPLETE", "NOT_GGUF", "BAD_VERSION"}
    assert {*gguf_module._PROBLEMS} | elsewhere == {*_core.header_statuses()}


@pytest.mark.parametrize("name", ["Q4_0", "Q5_1", "Q4_K", "IQ4_NL", "F16"])
@pytest.mark.parametrize("importance", [False, True])
def test_recode_in_pieces(name: str, importance: bool) -> None:
    """A row longer than the core takes at a time gives the bytes of one call, and errors name its row."""
    ncols = 3 * 2**15 + 512
    random = np.random.default_rng(1)
    x = random.standard_normal((2, ncols), np.float32)
    weights = random.random(ncols, np.float32) if importance else None
    row = {row.name: row for row in _core.type_table()}[name]
    whole = np.empty((2, ncols // row.block_size * row.block_bytes), np.uint8)
    pieces = np.empty_like(whole)
    _core.quantize(row.number, x, ncols, whole, weights)
    assert _core.recode(T["F32"], x, row.number, pieces, ncols, weights).status is _core.RecodeStatus.OK
    np.testing.assert_array_equal(pieces, whole)
    x[1, 5] = np.nan
    result = _core.recode(T["F32"], x, row.number, pieces, ncols, weights)
    assert result == (_core.RecodeStatus.BAD_INPUT, 1)

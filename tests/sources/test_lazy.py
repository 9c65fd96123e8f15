"""Lazy tensors: every combinator against NumPy on whole arrays, by any range of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguffast.errors import FormatError
from gguffast.sources.lazy import (
    DType,
    HeldTensor,
    LazyTensor,
    as_bytes,
    as_source,
    concat_rows,
    from_array,
    map_f32,
    permute_rows,
    reshape,
    round_to,
    slice_rows,
    stack,
    strided,
    to_f32,
    transpose,
    widen,
)
from gguffast.types import GGMLQuantizationType

RNG = np.random.default_rng(7)


class Copying(LazyTensor):
    """A tensor that fills the buffer it is given, as dequantizing ones do."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__("copying", array.shape, DType.F32)
        self.array = array

    def read(self, first: int, into: memoryview) -> None:
        into[:] = as_bytes(self.array.reshape(-1)[first : first + len(into) // 4])


LEAVES = [lambda array: from_array("leaf", array), Copying]


def check(tensor: LazyTensor, expected: np.ndarray) -> None:
    """Shape, the whole, every range of rows, and ranges that begin and end inside a row."""
    assert tensor.shape == expected.shape
    np.testing.assert_array_equal(tensor.numpy(), expected)
    flat = expected.reshape(-1)
    for first in range(0, flat.size, 2):
        for count in (1, 2, 7, flat.size):
            found = tensor.elements(first, min(count, flat.size - first))
            np.testing.assert_array_equal(found, flat[first : first + count])
    rows = expected.reshape(tensor.n_rows, tensor.n_columns)
    for first in range(tensor.n_rows):
        for count in range(1, tensor.n_rows - first + 1):
            into = memoryview(bytearray(b"\xee" * (count * tensor.row_bytes + 3)))
            tensor.read(first * tensor.n_columns, into[:-3])
            assert into.tobytes() == rows[first : first + count].tobytes() + b"\xee" * 3


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("f4")


ARRAYS = {1: numbers(12), 2: numbers(12, 5), 3: numbers(4, 3, 5)}
CASES: dict[str, Callable[[LazyTensor, np.ndarray], tuple[LazyTensor, np.ndarray]]] = {
    "slice": lambda t, a: (slice_rows(t, 1, 3), a[1:3]),
    "permute": lambda t, a: (permute_rows(t, np.arange(len(a))[::-1]), a[::-1]),
    "reshape": lambda t, a: (reshape(t, (4, a.size // 4)), a.reshape(4, -1)),
    "reshape to columns": lambda t, a: (reshape(t, (a.size, 1)), a.reshape(-1, 1)),
    "stack": lambda t, a: (stack([t, permute_rows(t, range(len(a))[::-1])]), np.stack([a, a[::-1]])),
    "concat": lambda t, a: (concat_rows([t, slice_rows(t, 0, 2), t]), np.concatenate([a, a[:2], a])),
    "map": lambda t, a: (map_f32(t, lambda w: w + 1), a + np.float32(1)),
    "chain": lambda t, a: (slice_rows(stack([t, map_f32(t, np.negative)]), 1, 2), -a[None]),
}


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("axes", ARRAYS)
@pytest.mark.parametrize("case", CASES)
def test_combinators_stream_what_numpy_computes(
    case: str, axes: int, leaf: Callable[[np.ndarray], LazyTensor]
) -> None:
    check(*CASES[case](leaf(ARRAYS[axes]), ARRAYS[axes]))


@pytest.mark.parametrize("leaf", LEAVES)
def test_transpose(leaf: Callable[[np.ndarray], LazyTensor]) -> None:
    check(transpose(leaf(ARRAYS[2])), ARRAYS[2].T)
    check(transpose(leaf(ARRAYS[3])), ARRAYS[3].swapaxes(1, 2))


@given(st.permutations(range(16)), st.integers(0, 15), st.data())
@settings(max_examples=50, deadline=None)
def test_any_order_of_rows(order: list[int], first: int, data: st.DataObject) -> None:
    array = np.arange(48, dtype="f4").reshape(16, 3)
    count = data.draw(st.integers(1, 16 - first))
    rows = permute_rows(from_array("x", array), order).rows(first, count)
    np.testing.assert_array_equal(rows, array[order][first : first + count])


class Counting(Copying):
    """A tensor that notes how much is read of it, call by call."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array)
        self.reads: list[int] = []

    def read(self, first: int, into: memoryview) -> None:
        self.reads.append(len(into) // 4)
        super().read(first, into)


def test_an_order_that_jumps_far_reads_no_more_than_its_rows() -> None:
    array = numbers(10_000, 100)
    tensor = Counting(array)
    order = np.arange(10_000).reshape(2, -1).T.ravel()
    np.testing.assert_array_equal(permute_rows(tensor, order).rows(1000, 40), array[order][1000:1040])
    assert tensor.reads == [2000, 2000]


def test_heads_whose_rows_are_interleaved_are_one_read() -> None:
    array = numbers(1024, 100)
    tensor = Counting(array)
    order = np.arange(1024).reshape(8, 2, -1).swapaxes(1, 2).ravel()
    np.testing.assert_array_equal(permute_rows(tensor, order).rows(256, 128), array[order][256:384])
    assert tensor.reads == [128 * 100]


@pytest.mark.parametrize("shape", [(3000, 200), (200, 3000), (2000, 2000)])
def test_a_transposed_matrix_is_read_in_bands(shape: tuple[int, int]) -> None:
    array = numbers(*shape)
    tensor = Counting(array)
    found = transpose(tensor).rows(20, 150)
    np.testing.assert_array_equal(found, array.T[20:170])
    assert max(tensor.reads) <= max(4 * found.size, 1 << 18)
    assert sum(tensor.reads) <= 20 * found.size
    assert len(tensor.reads) <= array.shape[0]


def test_strides_of_any_kind() -> None:
    array = numbers(1000)
    leaf = from_array("x", array)
    for shape, stride, offset in [
        ((2, 3, 4), (12, 1, 3), 5),
        ((4, 5), (10, 1), 0),
        ((4, 5), (10, 2), 3),
        ((5,), (7,), 1),
        ((1, 6), (1 << 62, 1), 0),
        ((6, 1), (3, 1 << 62), 2),
        ((3, 4), (0, 1), 2),
        ((), (), 9),
    ]:
        view = np.lib.stride_tricks.as_strided(array[offset:], shape, [s * 4 % (1 << 62) for s in stride])
        check(strided(leaf, shape, stride, offset), view)


def test_scalars_are_one_row_of_one() -> None:
    scalar = from_array("s", np.float32(3))
    assert (scalar.n_rows, scalar.n_columns, scalar.values()) == (1, 1, 3)


def test_empty_tensors_read_as_empty() -> None:
    empty = HeldTensor("e", np.empty((0, 3), "u2"), DType.BF16)
    assert transpose(empty).numpy().shape == (3, 0)
    assert to_f32(empty).values().shape == (0, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda t: slice_rows(t, 0, 13),
        lambda t: slice_rows(t, -1, 3),
        lambda t: slice_rows(from_array("s", np.float32(1)), 0, 1),
        lambda t: permute_rows(t, range(11)),
        lambda t: permute_rows(from_array("s", np.float32(1)), [0]),
        lambda t: reshape(t, (7, 7)),
        lambda t: stack([t, from_array("other", numbers(5, 12))]),
        lambda t: concat_rows([t, from_array("other", numbers(12, 4))]),
        lambda t: concat_rows([t, from_array("other", numbers(12))]),
        lambda t: transpose(from_array("x", numbers(2))),
    ],
    ids=range(10),
)
def test_shapes_that_do_not_fit_are_refused_by_name(make: Callable[[LazyTensor], LazyTensor]) -> None:
    with pytest.raises(FormatError, match=r"^tensor \w+: shape \["):
        make(from_array("x", ARRAYS[2]))


# --- Number formats ---------------------------------------------------------------------------------------


def stored(dtype: DType, array: np.ndarray) -> HeldTensor:
    return HeldTensor("x", array, dtype)


def float8(codes: Sequence[int], exponent_bits: int, *, has_infinity: bool) -> np.ndarray:
    """Values of 8-bit floats, from the definition."""
    mantissa_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    values = []
    for code in codes:
        sign = -1.0 if code & 0x80 else 1.0
        exponent, mantissa = (code & 0x7F) >> mantissa_bits, code & (2**mantissa_bits - 1)
        last = exponent == 2**exponent_bits - 1
        if last and (mantissa if has_infinity else mantissa == 2**mantissa_bits - 1):
            values.append(np.nan)
        elif last and has_infinity:
            values.append(sign * np.inf)
        elif exponent == 0:
            values.append(sign * mantissa * 2.0 ** (1 - bias - mantissa_bits))
        else:
            values.append(sign * (1 + mantissa * 2.0**-mantissa_bits) * 2.0 ** (exponent - bias))
    return np.array(values, "f4")


CODES = np.arange(256, dtype="u1")
WIDE = {
    DType.F64: (np.array([1 / 3, -1e-50, 1e300, 16777217]), np.array([1 / 3, -0.0, np.inf, 16777216], "f4")),
    DType.F16: (np.array([1.5, -6e-8, np.inf], "f2"), np.array([1.5, -(2.0**-24), np.inf], "f4")),
    DType.BF16: (np.array([0x3F80, 0xC040, 0x7F80], "u2"), np.array([1, -3, np.inf], "f4")),
    DType.F8_E4M3: (CODES, float8(CODES.tolist(), 4, has_infinity=False)),
    DType.F8_E5M2: (CODES, float8(CODES.tolist(), 5, has_infinity=True)),
    DType.F8_E8M0: (CODES, np.append(2.0 ** (np.arange(255) - 127), np.nan).astype("f4")),
    DType.U64: (np.array([2**63, 16777217], "u8"), np.array([2.0**63, 16777216], "f4")),
    DType.U32: (np.array([2**31, 16777217], "u4"), np.array([2.0**31, 16777216], "f4")),
    DType.U16: (np.array([5, 65535], "u2"), np.array([5, 65535], "f4")),
    DType.I64: (np.array([-(2**62), 16777217]), np.array([-(2.0**62), 16777216], "f4")),
    DType.I32: (np.array([-5, 16777217], "i4"), np.array([-5, 16777216], "f4")),
    DType.I16: (np.array([-5, 300], "i2"), np.array([-5, 300], "f4")),
    DType.I8: (np.array([-128, 127], "i1"), np.array([-128, 127], "f4")),
    DType.U8: (np.array([0, 255], "u1"), np.array([0, 255], "f4")),
    DType.BOOL: (np.array([True, False]), np.array([1, 0], "f4")),
    DType.F32: (np.array([1, 2], "f4"), np.array([1, 2], "f4")),
}


def test_the_table_of_formats_is_complete() -> None:
    assert set(WIDE) == set(DType) - {DType.MXFP4}  # blocks of 32, which are never widened


@pytest.mark.parametrize("dtype", WIDE, ids=lambda dtype: dtype.name)
def test_every_format_widens_to_float32(dtype: DType) -> None:
    array, expected = WIDE[dtype]
    tensor = to_f32(stored(dtype, array))
    assert tensor.dtype is DType.F32
    np.testing.assert_array_equal(tensor.numpy(), expected)
    np.testing.assert_array_equal(stored(dtype, array).values(), expected)


@pytest.mark.parametrize("dtype", WIDE, ids=lambda dtype: dtype.name)
def test_the_engine_gets_its_own_formats_untouched(dtype: DType) -> None:
    tensor = stored(dtype, WIDE[dtype][0])
    assert (widen(tensor) is tensor) == (dtype.name in ("F32", "F16", "BF16"))


def test_mixed_formats_join_as_float32() -> None:
    half = stored(DType.F16, np.array([[1.5]], "f2"))
    brain = stored(DType.BF16, np.array([[0x4040]], "u2"))
    assert stack([half, half]).dtype is DType.F16
    joined = concat_rows([half, brain])
    assert joined.dtype is DType.F32
    check(joined, np.array([[1.5], [3.0]], "f4"))


def test_functions_of_half_precision_round_to_half_precision() -> None:
    half = np.array([0.0004, 2048], "f2")
    check(map_f32(stored(DType.F16, half), lambda w: w + 1), half + np.float16(1))
    assert map_f32(stored(DType.BF16, np.array([0x3F80], "u2")), lambda w: w + 1).dtype is DType.F32


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.BF16])
def test_rounding_keeps_what_is_not_finite(dtype: DType, bad: float) -> None:
    values = np.array([1.5, bad, -2, *np.array([0x7FFFFFFF, 0x7F800001], "u4").view("f4")], "f4")
    out = np.empty(5, dtype.storage)
    round_to(dtype, values.copy(), out)
    found = stored(dtype, out).values()
    assert np.isfinite(found).tolist() == [True, False, True, False, False]
    np.testing.assert_array_equal(found[[0, 2]], [1.5, -2])


def test_the_engine_sees_gguf_order_and_types() -> None:
    source = as_source("blk.0.x", stored(DType.I8, np.ones((2, 3, 4), "i1")))
    assert source[:5] == ("blk.0.x", (4, 3, 2), GGMLQuantizationType.F32, 6, 16)
    into = memoryview(bytearray(32))
    source.read_into(4 * source.row_bytes, into)
    assert bytes(into) == np.ones(8, "f4").tobytes()

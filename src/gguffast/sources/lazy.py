"""Tensors that are shapes until somebody asks for rows, and the few ways to make one out of others.

A `LazyTensor` is read as the engine reads: a range of its elements, in row-major order. Leaves read files;
combinators map a range of the result to ranges of their inputs, so a chain of them streams: memory is a small
multiple of the range, for tensors of any size and any transformation.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gguffast import _core
from gguffast.errors import FormatError, quote
from gguffast.reading import ReadableFile
from gguffast.types import GGMLQuantizationType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Elementwise = Callable[[NDArray[np.float32]], NDArray[np.float32]]


# Elements that are read at once however few of them are wanted: half a megabyte is copied in about the time
# that Python takes for a few calls.
_SMALL_READ = 1 << 18


class DType(Enum):
    """Number formats of checkpoints, by their names in safetensors files; at last, blocks of GGUF.

    Attributes
    ----------
    storage : numpy.dtype
        How NumPy sees the bytes (an unsigned integer where it has no such format).
    """

    F64 = "<f8"
    F32 = "<f4"
    F16 = "<f2"
    BF16 = "<u2", "bf16"
    F8_E4M3 = "u1", "e4m3"
    F8_E5M2 = "u1", "e5m2"
    F8_E8M0 = "u1", "e8m0"
    I64 = "<i8"
    I32 = "<i4"
    I16 = "<i2"
    I8 = "i1"
    U64 = "<u8"
    U32 = "<u4"
    U16 = "<u2"
    U8 = "u1"
    BOOL = "?"

    # An element of such a tensor is a block, so that whatever moves elements moves whole blocks.
    MXFP4 = "V17"

    def __init__(self, storage: str, _distinct: str = "") -> None:
        self.storage = np.dtype(storage)

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return self.storage.itemsize

    @property
    def numbers(self) -> int:
        """Numbers in an element: one, but for blocks."""
        return 32 if self is DType.MXFP4 else 1

    @property
    def is_native(self) -> bool:
        """True for F32, F16, BF16 and blocks, which the engine reads as they are."""
        return self in (DType.F32, DType.F16, DType.BF16, DType.MXFP4)


class LazyTensor(ABC):
    """A tensor whose bytes are read when asked for.

    Attributes
    ----------
    name : str
        Its name in the checkpoint (combinators keep that of their first input).
    shape : tuple of int
        Lengths in NumPy order: the last axis is the contiguous one.
    dtype : DType
        Number format of the bytes that `read` gives.
    """

    # A checkpoint has a hundred thousand of them.
    __slots__ = ("dtype", "name", "shape")

    def __init__(self, name: str, shape: Sequence[int], dtype: DType) -> None:
        self.name = name
        self.shape = tuple(shape)
        self.dtype = dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def ne(self) -> tuple[int, ...]:
        """Lengths in GGUF order, in numbers: that of a row first."""
        reversed_ = self.shape[::-1]
        return (reversed_[0] * self.dtype.numbers, *reversed_[1:]) if reversed_ else ()

    @property
    def n_columns(self) -> int:
        """Length of a row, the last axis; tensors without axes are one row of one."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        """Rows: the product of all axes but the last."""
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.n_columns * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {list(self.shape)} {self.dtype.name}>"

    @abstractmethod
    def read(self, first: int, into: memoryview) -> None:
        """Fill ``into`` with elements from number ``first`` on, row-major, little-endian.

        Not rows: a row may be longer than anybody's buffer. Threads may call this at the same time.

        Parameters
        ----------
        first : int
            Index into the flattened tensor.
        into : memoryview
            Writable bytes (format ``B``), aligned for `dtype`, as long as the wanted elements.
        """

    def numpy(self) -> NDArray[Any]:
        """Return the whole tensor as stored (``dtype.storage``, ``shape``); meant for small ones."""
        return self.elements(0, self.size).reshape(self.shape)

    def values(self) -> NDArray[np.float32]:
        """Return the whole tensor as float32 of ``shape``; meant for small ones."""
        return to_float32(self.numpy(), self.dtype)

    def elements(self, first: int, count: int) -> NDArray[Any]:
        """Elements ``first`` to ``first + count - 1`` of the flattened tensor, as ``dtype.storage``."""
        array = np.empty(count, self.dtype.storage)
        if count:
            self.read(first, as_bytes(array))
        return array

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Rows ``first`` to ``first + count - 1`` as an array ``(count, n_columns)`` of ``dtype.storage``."""
        return self.elements(first * self.n_columns, count * self.n_columns).reshape(count, self.n_columns)


def as_array(buffer: memoryview, dtype: DType, shape: tuple[int, ...] = (-1,)) -> NDArray[Any]:
    """View a buffer as an array of ``dtype.storage``."""
    return np.frombuffer(buffer, dtype.storage).reshape(shape)


class Piece(NamedTuple):
    """A part of a range of elements that is some whole rows, or one part of a row.

    Attributes
    ----------
    row, n_rows, column, n_columns : int
        What it covers.
    place : slice
        Where it lies in the range.
    """

    row: int
    n_rows: int
    column: int
    n_columns: int
    place: slice

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.n_rows * self.n_columns


def row_pieces(first: int, count: int, width: int, limit: int) -> Iterator[Piece]:
    """Cut a range of elements at the ends of rows.

    Parameters
    ----------
    first, count : int
        The range.
    width : int
        Length of a row.
    limit : int
        Most elements in a piece.
    """
    done = 0
    while done < count:
        row, column = divmod(first + done, width)
        n_columns = min(width - column, count - done, limit)
        n_rows = min(count - done, limit) // width if n_columns == width else 1
        yield Piece(row, n_rows, column, n_columns, slice(done, done + n_rows * n_columns))
        done += n_rows * n_columns


def as_bytes(array: NDArray[Any]) -> memoryview:
    """View an array as plain bytes; copies only what is not contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


# --- Number formats ---------------------------------------------------------------------------------------


def _float8_values(mantissa_bits: int, bias: int) -> NDArray[np.float32]:
    """Values of the 256 codes of an 8-bit float, before its NaN and infinity codes are set."""
    code = np.arange(256)
    exponent = (code & 0x7F) >> mantissa_bits
    fraction = (code & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    magnitude = np.where(exponent == 0, np.ldexp(fraction, 1 - bias), np.ldexp(1 + fraction, exponent - bias))
    return np.where(code < 128, magnitude, -magnitude).astype(np.float32)


def _e4m3_values() -> NDArray[np.float32]:
    # OCP "E4M3FN": no infinity, and only the codes of all ones are NaN.
    table = _float8_values(3, 7)
    table[[0x7F, 0xFF]] = np.nan
    return table


def _e5m2_values() -> NDArray[np.float32]:
    table = _float8_values(2, 15)
    table[[0x7C, 0xFC]] = np.inf, -np.inf
    table[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return table


def _e8m0_values() -> NDArray[np.float32]:
    # OCP's scales of microscaling formats: powers of two, no sign, no zero; all ones are NaN.
    return np.append(np.ldexp(1.0, np.arange(255) - 127), np.nan).astype(np.float32)


FLOAT8_VALUES = {
    DType.F8_E4M3: _e4m3_values(),
    DType.F8_E5M2: _e5m2_values(),
    DType.F8_E8M0: _e8m0_values(),
}


def to_float32(
    array: NDArray[Any], dtype: DType, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Widen (or round: F64, large integers) numbers to float32, as PyTorch's ``float()``.

    Parameters
    ----------
    array : ndarray
        Numbers of ``dtype``, contiguous.
    out : ndarray, optional
        Where to put them, contiguous; a new array if not given.
    """
    values = np.empty(array.shape, np.float32) if out is None else out
    if dtype in FLOAT8_VALUES:
        FLOAT8_VALUES[dtype].take(array, out=values, mode="clip")
    elif dtype in (DType.BF16, DType.F16) and array.size:
        _core.dequantize(GGMLQuantizationType[dtype.name], array, values)
    else:
        # An F64 beyond float32 becomes infinity, which the engine reports with the tensor's name.
        with np.errstate(over="ignore"):
            np.copyto(values, array, casting="unsafe")
    return values


def round_to(dtype: DType, values: NDArray[np.float32], out: NDArray[Any]) -> None:
    """Round float32 to F32, F16 or BF16 (nearest, ties to even); both arrays contiguous and of one size."""
    status = 0
    if values.size:
        type_ = GGMLQuantizationType[dtype.name]
        status, _ = _core.recode(GGMLQuantizationType.F32, values, type_, out, values.size)
    if status:
        # The core stops at NaN or infinity. They must reach the engine, which reports their row: cutting bits
        # off keeps them.
        with np.errstate(all="ignore"):
            halves = values.view(np.uint32) >> np.uint32(16)
            np.copyto(out, halves if dtype is DType.BF16 else values, casting="unsafe")


# --- Leaves -----------------------------------------------------------------------------------------------


class StoredTensor(LazyTensor):
    """A contiguous tensor in a file.

    Parameters
    ----------
    file : ReadableFile
        The file; it stays open as long as a tensor of it lives.
    offset : int
        Where its bytes begin. That they lie inside the file has been checked.
    """

    __slots__ = ("file", "offset")

    def __init__(
        self, name: str, shape: Sequence[int], dtype: DType, file: ReadableFile, offset: int
    ) -> None:
        super().__init__(name, shape, dtype)
        self.file = file
        self.offset = offset

    def read(self, first: int, into: memoryview) -> None:
        """See `LazyTensor.read`."""
        self.file.read_into(self.offset + first * self.dtype.itemsize, into, f"tensor {quote(self.name)}")


class HeldTensor(LazyTensor):
    """A tensor in memory: something small that was computed.

    Parameters
    ----------
    array : ndarray
        Its elements, of ``dtype.storage``.
    """

    def __init__(self, name: str, array: NDArray[Any], dtype: DType) -> None:
        super().__init__(name, array.shape, dtype)
        self._bytes = as_bytes(array)

    def read(self, first: int, into: memoryview) -> None:
        """See `LazyTensor.read`."""
        start = first * self.dtype.itemsize
        into[:] = self._bytes[start : start + len(into)]


def from_array(name: str, array: NDArray[Any]) -> LazyTensor:
    """Make a tensor of computed values: a float32 or float16 array."""
    return HeldTensor(name, array, {"float32": DType.F32, "float16": DType.F16}[array.dtype.name])


def zeros(name: str, shape: Sequence[int]) -> LazyTensor:
    """Make a tensor of zeros, which takes no memory: it stands for one whose shape alone is known."""
    return _Zeros(name, shape, DType.F32)


# --- Combinators ------------------------------------------------------------------------------------------


class _Widened(LazyTensor):
    def __init__(self, tensor: LazyTensor) -> None:
        super().__init__(tensor.name, tensor.shape, DType.F32)
        self._tensor = tensor

    def read(self, first: int, into: memoryview) -> None:
        out = as_array(into, DType.F32)
        to_float32(self._tensor.elements(first, out.size), self._tensor.dtype, out)


class _Computed(LazyTensor):
    def __init__(self, tensor: LazyTensor, function: Elementwise) -> None:
        super().__init__(tensor.name, tensor.shape, DType.F16 if tensor.dtype is DType.F16 else DType.F32)
        self._tensor = tensor
        self._function = function

    def read(self, first: int, into: memoryview) -> None:
        out = as_array(into, self.dtype)
        values = self._function(to_float32(self._tensor.elements(first, out.size), self._tensor.dtype))
        round_to(self.dtype, values, out)


class _Window(LazyTensor):
    """The elements from ``start`` on, under another shape."""

    def __init__(self, tensor: LazyTensor, shape: Sequence[int], start: int) -> None:
        super().__init__(tensor.name, shape, tensor.dtype)
        self._tensor = tensor
        self._start = start

    def read(self, first: int, into: memoryview) -> None:
        self._tensor.read(self._start + first, into)


class _Retyped(LazyTensor):
    def __init__(self, tensor: LazyTensor, dtype: DType) -> None:
        super().__init__(tensor.name, tensor.shape, dtype)
        self._tensor = tensor

    def read(self, first: int, into: memoryview) -> None:
        self._tensor.read(first, into)


class _Bytes(LazyTensor):
    def __init__(self, tensor: LazyTensor) -> None:
        super().__init__(tensor.name, (tensor.size * tensor.dtype.itemsize,), DType.U8)
        self._tensor = tensor

    def read(self, first: int, into: memoryview) -> None:
        item = self._tensor.dtype.itemsize
        low, high = first // item, -(-(first + len(into)) // item)
        data = as_bytes(self._tensor.elements(low, high - low))
        into[:] = data[first - low * item :][: len(into)]


class _Concatenated(LazyTensor):
    def __init__(self, tensors: Sequence[LazyTensor], shape: Sequence[int]) -> None:
        super().__init__(tensors[0].name, shape, tensors[0].dtype)
        self._tensors = tensors
        self._ends = list(accumulate(tensor.size for tensor in tensors))

    def read(self, first: int, into: memoryview) -> None:
        done, item = 0, self.dtype.itemsize
        part = bisect_right(self._ends, first)
        while done < len(into):
            tensor, end = self._tensors[part], self._ends[part]
            place = into[done : done + (end - first) * item]
            if place:
                tensor.read(first - (end - tensor.size), place)
            done += len(place)
            first, part = end, part + 1


class _Zeros(LazyTensor):
    def read(self, first: int, into: memoryview) -> None:
        into[:] = bytes(len(into))


class _Gathered(LazyTensor):
    """Rows that lie anywhere among the elements of another tensor, evenly spaced inside each row.

    Parameters
    ----------
    width : int
        Elements of what is called a row here: a whole entry of the first axis, where those move.
    start_of : callable
        Where rows begin: numbers of rows to indices of elements.
    step : int
        Distance between the elements of a row.
    """

    def __init__(
        self,
        tensor: LazyTensor,
        shape: Sequence[int],
        width: int,
        start_of: Callable[[NDArray[np.int64]], NDArray[np.int64]],
        step: int,
    ) -> None:
        super().__init__(tensor.name, shape, tensor.dtype)
        self._tensor = tensor
        self._width = width
        self._start_of = start_of
        self._step = step

    def read(self, first: int, into: memoryview) -> None:
        out = as_array(into, self.dtype)
        for piece in row_pieces(first, out.size, self._width, out.size):
            starts = self._start_of(np.arange(piece.row, piece.row + piece.n_rows))
            box = out[piece.place].reshape(piece.n_rows, piece.n_columns)
            self._read_box(starts + piece.column * self._step, box)

    def _read_box(self, starts: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Read what a few rows span at once if most of it is wanted, else the halves of the box.

        This finds good pieces whatever the order: heads whose rows are interleaved are one read; a transposed
        matrix is read in bands. Memory is a few times the box.
        """
        height, width = out.shape
        low, high = int(starts.min()), int(starts.max())
        across = (width - 1) * self._step
        span = high - low + across + 1
        if span <= max(4 * out.size, _SMALL_READ):
            piece = self._tensor.elements(low, span)
            strides = (piece.itemsize, self._step * piece.itemsize)
            rows = np.lib.stride_tricks.as_strided(piece, (span - across, width), strides)
            out[:] = rows[starts - low]
        elif across > high - low:
            half = width // 2
            self._read_box(starts, out[:, :half])
            self._read_box(starts + half * self._step, out[:, half:])
        elif (np.diff(starts) >= 0).all():
            half = height // 2
            self._read_box(starts[:half], out[:half])
            self._read_box(starts[half:], out[half:])
        else:
            order = np.argsort(starts)
            box = np.empty_like(out)
            self._read_box(starts[order], box)
            out[order] = box


def widen(tensor: LazyTensor) -> LazyTensor:
    """Give the tensor as the engine can read it: F32, F16, BF16 and blocks unchanged, the others as F32."""
    return tensor if tensor.dtype.is_native else to_f32(tensor)


def to_f32(tensor: LazyTensor) -> LazyTensor:
    """Give the tensor as F32."""
    return tensor if tensor.dtype is DType.F32 else _Widened(tensor)


def view_bytes(tensor: LazyTensor) -> LazyTensor:
    """Give the bytes of a tensor, as a flat U8 one."""
    return tensor if tensor.dtype is DType.U8 and len(tensor.shape) == 1 else _Bytes(tensor)


def retype(tensor: LazyTensor, dtype: DType) -> LazyTensor:
    """Read the numbers of a tensor as those of another format with as many bytes."""
    return tensor if tensor.dtype is dtype else _Retyped(tensor, dtype)


def map_f32(tensor: LazyTensor, function: Elementwise) -> LazyTensor:
    """Apply an elementwise function: ``map_f32(norm, lambda w: w + 1)``.

    The result is F32, or F16 if the tensor is F16 (the reference computes in F16 there: the same rounding).
    """
    return _Computed(tensor, function)


def reshape(tensor: LazyTensor, shape: Sequence[int]) -> LazyTensor:
    """Give the same numbers in the same order under another shape.

    Raises
    ------
    FormatError
        The shapes differ in their number of elements.
    """
    if math.prod(shape) != tensor.size:
        raise FormatError(f"tensor {tensor.name}: shape {list(tensor.shape)} cannot be read as {list(shape)}")
    return tensor if tuple(shape) == tensor.shape else _Window(tensor, shape, 0)


def slice_rows(tensor: LazyTensor, start: int, stop: int) -> LazyTensor:
    """Take ``tensor[start:stop]`` (first axis; elements, for a 1-D tensor).

    Raises
    ------
    FormatError
        The first axis is shorter than ``stop``.
    """
    length = tensor.shape[0] if tensor.shape else 0
    if not 0 <= start <= stop <= length:
        raise FormatError(f"tensor {tensor.name}: shape {list(tensor.shape)} has no rows {start} to {stop}")
    rest = tensor.shape[1:]
    return _Window(tensor, (stop - start, *rest), start * math.prod(rest))


def permute_rows(tensor: LazyTensor, order: Sequence[int] | NDArray[np.intp]) -> LazyTensor:
    """Take ``tensor[order]`` (first axis; elements, for a 1-D tensor): index i of the result is ``order[i]``.

    Raises
    ------
    FormatError
        The first axis does not have ``len(order)`` entries.
    """
    index = np.asarray(order, np.int64)
    if not tensor.shape or tensor.shape[0] != len(index):
        raise FormatError(
            f"tensor {tensor.name}: shape {list(tensor.shape)}, expected {len(index)} along its first axis"
        )
    width = math.prod(tensor.shape[1:])
    return _Gathered(tensor, tensor.shape, width, lambda rows: index[rows] * width, 1)


def concat_rows(tensors: Sequence[LazyTensor]) -> LazyTensor:
    """Join tensors along their first axis; if their number formats differ, all become F32.

    Raises
    ------
    FormatError
        Their other axes differ.
    """
    first = tensors[0]
    for tensor in tensors[1:]:
        if len(tensor.shape) != len(first.shape) or tensor.shape[1:] != first.shape[1:]:
            raise _shapes_differ(first, tensor)
    length = sum(tensor.shape[0] for tensor in tensors)
    return _Concatenated(_same_dtype(tensors), (length, *first.shape[1:]))


def pad_rows(tensor: LazyTensor, count: int) -> LazyTensor:
    """Add zeros along the first axis until it has `count` entries; a longer one stays as it is."""
    missing = count - tensor.shape[0]
    if missing <= 0:
        return tensor
    return concat_rows([tensor, _Zeros(tensor.name, (missing, *tensor.shape[1:]), tensor.dtype)])


def stack(tensors: Sequence[LazyTensor]) -> LazyTensor:
    """Lay tensors of one shape side by side along a new first axis (experts); formats as in `concat_rows`.

    Raises
    ------
    FormatError
        Their shapes differ.
    """
    for tensor in tensors[1:]:
        if tensor.shape != tensors[0].shape:
            raise _shapes_differ(tensors[0], tensor)
    return _Concatenated(_same_dtype(tensors), (len(tensors), *tensors[0].shape))


def strided(tensor: LazyTensor, shape: Sequence[int], stride: Sequence[int], offset: int = 0) -> LazyTensor:
    """View the elements of a tensor with another stride for each axis, as PyTorch's ``as_strided``.

    That every index lies inside ``tensor`` has been checked by the caller; ``stride`` is in elements and not
    negative.
    """
    contiguous = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if all(n == 1 or step == dense for n, step, dense in zip(shape, stride, contiguous, strict=True)):
        return _Window(tensor, shape, offset)
    leading = shape[:-1]
    # Along an axis of one no step is ever taken: it may be any number.
    steps = [step if n > 1 else 0 for n, step in zip(shape, stride, strict=True)]

    def start_of(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if not leading:
            return rows + offset
        places = zip(np.unravel_index(rows, leading), steps, strict=False)
        return offset + sum((place * step for place, step in places), np.zeros_like(rows))

    return _Gathered(tensor, shape, shape[-1], start_of, steps[-1])


def transpose(tensor: LazyTensor) -> LazyTensor:
    """Swap the last two axes: transpose a matrix, or each matrix of a stack.

    Raises
    ------
    FormatError
        The tensor has fewer axes.
    """
    if len(tensor.shape) < 2:
        raise FormatError(f"tensor {tensor.name}: shape {list(tensor.shape)}, expected two axes to transpose")
    *leading, height, width = tensor.shape
    outer = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(leading))]
    return strided(tensor, (*leading, width, height), (*outer, 1, width))


def _same_dtype(tensors: Sequence[LazyTensor]) -> Sequence[LazyTensor]:
    alike = len({tensor.dtype for tensor in tensors}) == 1
    return tensors if alike else [to_f32(tensor) for tensor in tensors]


def _shapes_differ(first: LazyTensor, other: LazyTensor) -> FormatError:
    return FormatError(
        f"tensor {other.name}: shape {list(other.shape)} does not fit {list(first.shape)} of {first.name}"
    )


# --- For the engine ---------------------------------------------------------------------------------------


class NamedTensor(NamedTuple):
    """A lazy tensor under its GGUF name, as the engine takes it (`gguffast.sources.SourceTensor`)."""

    name: str
    ne: tuple[int, ...]
    type: GGMLQuantizationType
    n_rows: int
    row_bytes: int
    tensor: LazyTensor

    def read_into(self, offset: int, into: memoryview) -> None:
        """See `gguffast.sources.SourceTensor`."""
        self.tensor.read(offset // self.tensor.dtype.itemsize, into)


def as_source(name: str, tensor: LazyTensor) -> NamedTensor:
    """Name a tensor for the engine; formats that it does not read become F32."""
    tensor = widen(tensor)
    type_ = GGMLQuantizationType[tensor.dtype.name]
    return NamedTensor(name, tensor.ne, type_, tensor.n_rows, tensor.row_bytes, tensor)

"""Tensors that are shapes until somebody asks for rows, and the few ways to make one out of others.

A `LazyTensor` is read as the engine reads: a range of rows of its 2-D view (all axes but the last
flattened). Leaves hand out views of memory-mapped files; combinators map a row range of the result to row
ranges of their inputs, so a chain of them streams. Whole tensors are only ever in memory where rows mix
(`transpose`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gguffast import _core
from gguffast.errors import FormatError
from gguffast.types import GGMLQuantizationType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Elementwise = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class DType(Enum):
    """Number formats of checkpoints, by their names in safetensors files.

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
    I64 = "<i8"
    I32 = "<i4"
    I16 = "<i2"
    I8 = "i1"
    U8 = "u1"
    BOOL = "?"

    def __init__(self, storage: str, _distinct: str = "") -> None:
        self.storage = np.dtype(storage)

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return self.storage.itemsize

    @property
    def is_native(self) -> bool:
        """True for F32, F16 and BF16, which the engine reads as they are."""
        return self in (DType.F32, DType.F16, DType.BF16)


class LazyTensor(ABC):
    """A tensor whose bytes are read when asked for.

    Attributes
    ----------
    name : str
        Its name in the checkpoint (combinators keep that of their first input).
    shape : tuple of int
        Lengths in NumPy order: the last axis is the contiguous one.
    dtype : DType
        Number format of the bytes that `read_rows` gives.
    n_rows, n_columns : int
        The 2-D view: the last axis is a row. 0-D and 1-D tensors are one row.
    row_bytes : int
        Bytes of a row.
    """

    def __init__(self, name: str, shape: Sequence[int], dtype: DType) -> None:
        self.name = name
        self.shape = tuple(shape)
        self.dtype = dtype
        self.n_columns = self.shape[-1] if self.shape else 1
        self.n_rows = math.prod(self.shape[:-1])
        self.row_bytes = self.n_columns * dtype.itemsize

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {list(self.shape)} {self.dtype.name}>"

    @abstractmethod
    def read_rows(self, first: int, count: int, into: memoryview) -> memoryview:
        """Bytes of rows ``first`` to ``first + count - 1``, row-major, little-endian.

        Parameters
        ----------
        first, count : int
            A range inside ``n_rows``.
        into : memoryview
            Writable bytes, at least ``count * row_bytes`` of them, that may or may not be used.

        Returns
        -------
        memoryview
            Exactly ``count * row_bytes`` bytes (format ``B``): the start of ``into``, or memory of its own
            that stays valid as long as the view. Threads may call this at the same time.
        """

    def numpy(self) -> NDArray[Any]:
        """Return the whole tensor as stored (``dtype.storage``, ``shape``); meant for small ones."""
        return self.rows(0, self.n_rows).reshape(self.shape)

    def values(self) -> NDArray[np.float32]:
        """Return the whole tensor as float32 of ``shape``; meant for small ones."""
        return to_float32(self.numpy(), self.dtype)

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Rows ``first`` to ``first + count - 1`` as an array ``(count, n_columns)`` of ``dtype.storage``."""
        shape = (count, self.n_columns)
        if 0 in shape:
            return np.empty(shape, self.dtype.storage)
        # Untouched pages cost nothing, so the scratch is free where the answer is a view of the file.
        scratch = np.empty(count * self.row_bytes, np.uint8)
        return as_array(self.read_rows(first, count, scratch.data), self.dtype, shape)


def as_array(buffer: memoryview, dtype: DType, shape: tuple[int, ...]) -> NDArray[Any]:
    """View the start of ``buffer`` as an array of ``dtype.storage``."""
    return np.frombuffer(buffer, dtype.storage, math.prod(shape)).reshape(shape)


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


FLOAT8_VALUES = {DType.F8_E4M3: _e4m3_values(), DType.F8_E5M2: _e5m2_values()}


def to_float32(array: NDArray[Any], dtype: DType) -> NDArray[np.float32]:
    """Widen (or round: F64, large integers) numbers to float32, as PyTorch's ``float()``."""
    if dtype in FLOAT8_VALUES:
        return FLOAT8_VALUES[dtype].take(array)
    if dtype in (DType.BF16, DType.F16) and array.size:
        values = np.empty(array.shape, np.float32)
        _core.dequantize(GGMLQuantizationType[dtype.name], np.ascontiguousarray(array), values)
        return values
    # An F64 beyond float32 becomes infinity, which the engine reports with the tensor's name.
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


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
    """A contiguous tensor in memory that somebody else owns: a mapped file, or an array.

    Parameters
    ----------
    memory : memoryview
        Its bytes, all of them and no more.
    """

    def __init__(self, name: str, shape: Sequence[int], dtype: DType, memory: memoryview) -> None:
        super().__init__(name, shape, dtype)
        self.memory = memory

    def read_rows(self, first: int, count: int, into: memoryview) -> memoryview:
        """See `LazyTensor.read_rows`; always a view."""
        return self.memory[first * self.row_bytes : (first + count) * self.row_bytes]


def from_array(name: str, array: NDArray[Any]) -> StoredTensor:
    """Make a tensor of computed values: a float32 or float16 array."""
    dtype = {"float32": DType.F32, "float16": DType.F16}[array.dtype.name]
    return StoredTensor(name, array.shape, dtype, as_bytes(array))


# --- Combinators ------------------------------------------------------------------------------------------


class _Widened(LazyTensor):
    def __init__(self, tensor: LazyTensor) -> None:
        super().__init__(tensor.name, tensor.shape, DType.F32)
        self._tensor = tensor

    def read_rows(self, first: int, count: int, into: memoryview) -> memoryview:
        return as_bytes(to_float32(self._tensor.rows(first, count), self._tensor.dtype))


class _Mapped(LazyTensor):
    def __init__(self, tensor: LazyTensor, function: Elementwise) -> None:
        super().__init__(tensor.name, tensor.shape, DType.F16 if tensor.dtype is DType.F16 else DType.F32)
        self._tensor = tensor
        self._function = function

    def read_rows(self, first: int, count: int, into: memoryview) -> memoryview:
        values = self._function(to_float32(self._tensor.rows(first, count), self._tensor.dtype))
        out = as_array(into, self.dtype, values.shape)
        round_to(self.dtype, values, out)
        return into[: count * self.row_bytes]


class _Reshaped(LazyTensor):
    def __init__(self, tensor: LazyTensor, shape: Sequence[int]) -> None:
        super().__init__(tensor.name, shape, tensor.dtype)
        self._tensor = tensor

    def read_rows(self, first: int, count: int, into: memoryview) -> memoryview:
        start, stop = first * self.row_bytes, (first + count) * self.row_bytes
        inner = self._tensor.row_bytes
        skip = start % inner
        row, n = start // inner, -(-stop // inner) - start // inner
        if skip == 0 and stop % inner == 0:
            return self._tensor.read_rows(row, n, into)
        return as_bytes(self._tensor.rows(row, n))[skip : skip + stop - start]


class _Sliced(LazyTensor):
    def __init__(self, tensor: LazyTensor, start: int, stop: int) -> None:
        super().__init__(tensor.name, (stop - start, *tensor.shape[1:]), tensor.dtype)
        self._tensor = tensor
        self._offset = start * math.prod(tensor.shape[1:-1])

    def read_rows(self, first: int, count: int, into: memoryview) -> memoryview:
        return self._tensor.read_rows(self._offset + first, count, into)


class _Permuted(LazyTensor):
    def __init__(self, tensor: LazyTensor, order: NDArray[np.intp]) -> None:
        super().__init__(tensor.name, (len(order), *tensor.shape[1:]), tensor.dtype)
        self._tensor = tensor
        self._order = order
        self._unit = math.prod(tensor.shape[1:-1])

    def read_rows(self, first: int, count: int, into: memoryview) -> memoryview:
        row = np.arange(first, first + count)
        source = self._order[row // self._unit] * self._unit + row % self._unit
        out = as_array(into, self.dtype, (count, self.n_columns))
        low, high = int(source.min()), int(source.max()) + 1
        # Rows move inside a head, so the sources of a chunk are a range little longer than the chunk: one
        # read, one gather. An order that jumps further is read row by row, to keep the memory bounded.
        if high - low <= 2 * count + 1024:
            np.take(self._tensor.rows(low, high - low), source - low, axis=0, out=out, mode="clip")
        else:
            for i, r in enumerate(source.tolist()):
                out[i] = self._tensor.rows(r, 1)[0]
        return into[: count * self.row_bytes]


class _Concatenated(LazyTensor):
    def __init__(self, tensors: Sequence[LazyTensor], shape: Sequence[int]) -> None:
        super().__init__(tensors[0].name, shape, tensors[0].dtype)
        self._parts: list[tuple[int, LazyTensor]] = []
        start = 0
        for tensor in tensors:
            self._parts.append((start, tensor))
            start += tensor.n_rows

    def read_rows(self, first: int, count: int, into: memoryview) -> memoryview:
        for start, part in self._parts:
            low, high = max(first, start), min(first + count, start + part.n_rows)
            if high - low == count:
                return part.read_rows(low - start, count, into)
            if low < high:
                place = into[(low - first) * self.row_bytes : (high - first) * self.row_bytes]
                # Given exactly its place, a part that fills its buffer is already where it belongs.
                place[:] = part.read_rows(low - start, high - low, place)
        return into[: count * self.row_bytes]


class _Transposed(LazyTensor):
    def __init__(self, tensor: LazyTensor) -> None:
        super().__init__(tensor.name, tensor.shape[::-1], tensor.dtype)
        self._tensor = tensor

    def read_rows(self, first: int, count: int, into: memoryview) -> memoryview:
        out = as_array(into, self.dtype, (count, self.n_columns))
        np.copyto(out, self._tensor.rows(0, self._tensor.n_rows)[:, first : first + count].T)
        return into[: count * self.row_bytes]


def widen(tensor: LazyTensor) -> LazyTensor:
    """Give the tensor as the engine can read it: F32, F16 and BF16 unchanged, everything else as F32."""
    return tensor if tensor.dtype.is_native else to_f32(tensor)


def to_f32(tensor: LazyTensor) -> LazyTensor:
    """Give the tensor as F32."""
    return tensor if tensor.dtype is DType.F32 else _Widened(tensor)


def map_f32(tensor: LazyTensor, function: Elementwise) -> LazyTensor:
    """Apply an elementwise function: ``map_f32(norm, lambda w: w + 1)``.

    The result is F32, or F16 if the tensor is F16 (the reference computes in F16 there: the same rounding).
    """
    return _Mapped(tensor, function)


def reshape(tensor: LazyTensor, shape: Sequence[int]) -> LazyTensor:
    """Give the same numbers in the same order under another shape.

    Raises
    ------
    FormatError
        The shapes differ in their number of elements.
    """
    if math.prod(shape) != math.prod(tensor.shape):
        raise FormatError(f"tensor {tensor.name}: shape {list(tensor.shape)} cannot be read as {list(shape)}")
    return tensor if tuple(shape) == tensor.shape else _Reshaped(tensor, shape)


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
    if len(tensor.shape) == 1:
        return reshape(_Sliced(reshape(tensor, (length, 1)), start, stop), (stop - start,))
    return _Sliced(tensor, start, stop)


def permute_rows(tensor: LazyTensor, order: Sequence[int] | NDArray[np.intp]) -> LazyTensor:
    """Take ``tensor[order]`` (first axis; elements, for a 1-D tensor): index i of the result is ``order[i]``.

    Raises
    ------
    FormatError
        The first axis does not have ``len(order)`` entries.
    """
    index = np.asarray(order, np.intp)
    if not tensor.shape or tensor.shape[0] != len(index):
        raise FormatError(
            f"tensor {tensor.name}: shape {list(tensor.shape)}, expected {len(index)} along its first axis"
        )
    if len(tensor.shape) == 1:
        return reshape(_Permuted(reshape(tensor, (len(index), 1)), index), tensor.shape)
    return _Permuted(tensor, index)


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
    if len(first.shape) == 1:
        return reshape(concat_rows([reshape(t, (t.shape[0], 1)) for t in tensors]), (length,))
    return _Concatenated(_same_dtype(tensors), (length, *first.shape[1:]))


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


def transpose(tensor: LazyTensor) -> LazyTensor:
    """Swap the axes of a 2-D tensor. Every read walks the whole tensor: only a mapped file makes that cheap.

    Raises
    ------
    FormatError
        The tensor is not 2-D.
    """
    if len(tensor.shape) != 2:
        raise FormatError(f"tensor {tensor.name}: shape {list(tensor.shape)}, expected two axes to transpose")
    return _Transposed(tensor)


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
    read_rows: Callable[[int, int, memoryview], memoryview]


def as_source(name: str, tensor: LazyTensor) -> NamedTensor:
    """Name a tensor for the engine; formats that it does not read become F32."""
    tensor = widen(tensor)
    type_ = GGMLQuantizationType[tensor.dtype.name]
    return NamedTensor(name, tensor.shape[::-1], type_, tensor.n_rows, tensor.row_bytes, tensor.read_rows)

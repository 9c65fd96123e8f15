"""Codes of a few bits, packed, times a scale for each group of columns: what most quantized layouts share.

GPTQ, AWQ, compressed-tensors, MXFP4 and NVFP4 differ in how codes lie in memory and in what they mean; each
has a module that says so, and gives a `Grouped`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gguffast.errors import FormatError, quote
from gguffast.sources.lazy import (
    DType,
    LazyTensor,
    Piece,
    as_array,
    round_to,
    row_pieces,
    to_f32,
    view_bytes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


def unpack_bits(data: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Split bytes into codes: number i of a row is its bits from ``i * bits`` on, lowest first.

    Parameters
    ----------
    data : ndarray of uint8
        Rows of bytes.
    bits : int
        1 to 8.
    """
    mask = (1 << bits) - 1
    if 8 % bits == 0:
        # All codes of a byte are one item to look up.
        table = np.arange(256)[:, None] >> np.arange(0, 8, bits) & mask
        return table.astype(np.uint8).view(f"u{8 // bits}").reshape(-1).take(data).view(np.uint8)
    # Eight codes in as many bytes as a code has bits.
    units = -(-data.shape[1] // bits)
    words = np.zeros((len(data), units, 8), np.uint8)
    whole = np.zeros((len(data), units * bits), np.uint8)
    whole[:, : data.shape[1]] = data
    words[:, :, :bits] = whole.reshape(len(data), units, bits)
    wide = words.view("<u8") >> np.arange(0, 8 * bits, bits).astype(np.uint64)
    return (wide & np.uint64(mask)).astype(np.uint8).reshape(len(data), -1)


class Codes(ABC):
    """A matrix of small integers in some packing."""

    @abstractmethod
    def read(self, piece: Piece) -> NDArray[np.uint8]:
        """Codes of a piece, ``(n_rows, n_columns)``."""


class AlongColumns(Codes):
    """Rows are streams of bits.

    Parameters
    ----------
    tensor : LazyTensor
        Of any type, with the bytes of a row one after the other.
    row_bytes : int
        Bytes of a row.
    bits : int
        Bits of a code.
    """

    def __init__(self, tensor: LazyTensor, row_bytes: int, bits: int) -> None:
        self._bytes = view_bytes(tensor)
        self._row_bytes = row_bytes
        self._bits = bits

    def read(self, piece: Piece) -> NDArray[np.uint8]:
        """See `Codes.read`."""
        # Codes are found in units of eight, which begin and end with a byte.
        low = piece.column // 8
        high = -(-(piece.column + piece.n_columns) // 8)
        if piece.n_rows > 1:
            first, width = piece.row * self._row_bytes, self._row_bytes
            low = 0
        else:
            width = min(high * self._bits, self._row_bytes) - low * self._bits
            first = piece.row * self._row_bytes + low * self._bits
        data = self._bytes.elements(first, piece.n_rows * width).reshape(piece.n_rows, width)
        start = piece.column - low * 8
        return unpack_bits(data, self._bits)[:, start : start + piece.n_columns]


class Transposed(Codes):
    """The transpose of a small matrix of codes."""

    def __init__(self, codes: Codes, n_rows: int) -> None:
        self._codes = codes
        self._n_rows = n_rows

    def read(self, piece: Piece) -> NDArray[np.uint8]:
        """See `Codes.read`; columns are not cut."""
        whole = Piece(0, self._n_rows, piece.row, piece.n_rows, slice(0))
        return np.ascontiguousarray(self._codes.read(whole).T)


class Grouped(LazyTensor):
    """``(codes - zeros) * scales`` in float32; scales and zeros are those of a column's group.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.
    codes : Codes
        Of that shape.
    scales : LazyTensor
        ``(rows, groups)``, of any float type.
    group : LazyTensor or int
        The group of each column, or how many columns are one.
    zeros : Codes or int
        Zero points ``(rows, groups)``, or one for all.
    offset : int
        To add to zero points that are stored.
    levels : ndarray of float32, optional
        What codes stand for, if not for themselves.
    dtype : DType
        What products are rounded to.
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        codes: Codes,
        scales: LazyTensor,
        group: LazyTensor | int,
        *,
        zeros: Codes | int = 0,
        offset: int = 0,
        levels: NDArray[np.float32] | None = None,
        dtype: DType = DType.F32,
    ) -> None:
        super().__init__(name, shape, dtype)
        self._codes = codes
        self._scales = to_f32(scales)
        self._group = group
        self._zeros = zeros
        self._offset = offset
        self._levels = levels

    def read(self, first: int, into: memoryview) -> None:
        """See `LazyTensor.read`."""
        out = as_array(into, self.dtype)
        for piece in row_pieces(first, out.size, self.n_columns, out.size):
            if self.dtype is DType.F32:
                self._put_values(piece, out[piece.place])
            else:
                values = np.empty(piece.size, np.float32)
                self._put_values(piece, values)
                round_to(self.dtype, values, out[piece.place])

    def _put_values(self, piece: Piece, out: NDArray[np.float32]) -> None:
        values = out.reshape(piece.n_rows, piece.n_columns)
        codes = self._codes.read(piece)
        if self._levels is None:
            np.copyto(values, codes)
        else:
            np.take(self._levels, codes, out=values, mode="clip")
        scales, zeros = self._by_group(piece)
        groups = self._groups(piece)
        if isinstance(groups, slice):
            # Groups of neighbours, all of them whole.
            blocks: NDArray[np.float32] = values.reshape(piece.n_rows, groups.stop - groups.start, -1)
            scales, zeros = scales[:, groups, None], zeros[:, groups, None] if zeros.ndim else zeros
        else:
            blocks = values
            scales, zeros = scales[:, groups], zeros[:, groups] if zeros.ndim else zeros
        with np.errstate(all="ignore"):
            if self._levels is None:
                blocks -= zeros
            blocks *= scales

    def _groups(self, piece: Piece) -> slice | NDArray[Any]:
        """Group of each column of a piece, or the range of groups that it is made of."""
        listed = self._group
        size = -(-self.n_columns // self._scales.n_columns) if isinstance(listed, LazyTensor) else listed
        in_order = np.arange(piece.column, piece.column + piece.n_columns) // size
        if isinstance(listed, LazyTensor):
            groups = listed.elements(piece.column, piece.n_columns)
            if not np.array_equal(groups, in_order):
                return groups
        if piece.column % size == 0 and piece.n_columns % size == 0:
            return slice(piece.column // size, (piece.column + piece.n_columns) // size)
        return in_order

    def _by_group(self, piece: Piece) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scales and zero points of all groups, for the rows of a piece."""
        groups = self._scales.n_columns
        scales = self._scales.rows(piece.row, piece.n_rows)
        if isinstance(self._zeros, int):
            return scales, np.array(self._zeros, np.float32)
        part = Piece(piece.row, piece.n_rows, 0, groups, slice(0))
        zeros = self._zeros.read(part).astype(np.float32)
        zeros += self._offset
        return scales, zeros


def check_groups(path: Path, group: LazyTensor, groups: int) -> None:
    """Refuse a list of groups that names one that does not exist; it is read now, and again when needed."""
    index = group.numpy()
    if index.size and not 0 <= index.min() <= index.max() < groups:
        raise FormatError(f"{path}: tensor {quote(group.name)} names groups outside 0 to {groups - 1}")

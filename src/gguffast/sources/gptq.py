"""GPTQ weights: codes packed along the input axis, a scale and a zero point for each group of inputs.

Format: AutoGPTQ's ``QuantLinear``. ``L.qweight`` [in / n, out] holds n codes in an integer, the first in
its lowest bits; ``L.qzeros`` [groups, out / n] likewise, along the outputs; ``L.scales`` [groups, out];
``L.g_idx`` [in] is each input's group.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gguffast.errors import FormatError, quote
from gguffast.sources.lazy import DType, LazyTensor, as_array, row_pieces, to_f32, transpose

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INTEGERS: dict[DType, np.dtype[Any]] = {
    DType.I16: np.dtype("u2"),
    DType.I32: np.dtype("u4"),
    DType.I64: np.dtype("u8"),
}


def dequantize_gptq(
    path: Path, stored: Mapping[str, LazyTensor], bits: int, offset: int
) -> dict[str, LazyTensor]:
    """Replace packed weights by their values, as F32; they come last, as in the reference.

    Parameters
    ----------
    path : Path
        The checkpoint, for messages.
    stored : mapping of str to LazyTensor
        The tensors as they lie in the files.
    bits : int
        Bits of a code: 2, 4 or 8.
    offset : int
        To add to stored zero points.

    Raises
    ------
    FormatError
        A layer lacks one of its tensors, or their shapes do not fit.
    """
    tensors = dict(stored)
    for name in stored:
        if name.endswith(".qweight"):
            layer = name.removesuffix(".qweight")
            tensors[f"{layer}.weight"] = _layer(path, stored, layer, bits, offset)
            for suffix in (".qweight", ".qzeros", ".scales", ".g_idx"):
                del tensors[layer + suffix]
    return tensors


def _layer(path: Path, stored: Mapping[str, LazyTensor], layer: str, bits: int, offset: int) -> LazyTensor:
    parts = [stored.get(layer + suffix) for suffix in (".qweight", ".qzeros", ".scales", ".g_idx")]
    found = [part for part in parts if part is not None]
    if len(found) < 4:
        raise FormatError(f"{path}: layer {quote(layer)} lacks one of qweight, qzeros, scales and g_idx")
    weight, zeros, scales, group = found
    fits = (
        weight.dtype is zeros.dtype
        and weight.dtype in _INTEGERS
        and len(weight.shape) == len(scales.shape) == 2
    )
    if fits:
        per_item = weight.dtype.itemsize * 8 // bits
        (packed, n_out), groups = weight.shape, scales.shape[0]
        fits = (
            scales.shape[1] == n_out
            and zeros.shape == (groups, n_out // per_item)
            and n_out % per_item == 0
            and group.shape == (packed * per_item,)
            and group.dtype in (DType.I32, DType.I64)
        )
    if not fits:
        shapes = ", ".join(f"{part.dtype.name} {list(part.shape)}" for part in found)
        raise FormatError(
            f"{path}: layer {quote(layer)}: qweight, qzeros, scales, g_idx do not fit {bits} bits: {shapes}"
        )
    index = group.numpy()
    if index.size and not 0 <= index.min() <= index.max() < groups:
        raise FormatError(f"{path}: tensor {quote(group.name)} names groups outside 0 to {groups - 1}")
    return _Packed(f"{layer}.weight", weight, zeros, scales, index, bits, offset)


class _Packed(LazyTensor):
    def __init__(
        self,
        name: str,
        weight: LazyTensor,
        zeros: LazyTensor,
        scales: LazyTensor,
        group: NDArray[Any],
        bits: int,
        offset: int,
    ) -> None:
        super().__init__(name, (weight.shape[1], len(group)), DType.F32)
        # A row of the result is a column of everything stored.
        self._weight = transpose(weight)
        self._zeros = transpose(zeros)
        self._scales = to_f32(transpose(scales))
        self._per_item = weight.dtype.itemsize * 8 // bits
        self._group = group
        self._bits = bits
        self._offset = offset

    def read(self, first: int, into: memoryview) -> None:
        out = as_array(into, DType.F32)
        for piece in row_pieces(first, out.size, self.n_columns, out.size):
            table = out[piece.place].reshape(piece.n_rows, piece.n_columns)
            columns = slice(piece.column, piece.column + piece.n_columns)
            group = self._group[columns]
            codes = self._unpack(self._weight.rows(piece.row, piece.n_rows))[:, columns]
            zeros, scales = self._zeros_and_scales(piece.row, piece.n_rows)
            codes -= zeros[:, group]
            np.multiply(scales[:, group], codes, out=table, dtype=np.float32, casting="same_kind")

    def _zeros_and_scales(self, row: int, count: int) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """Zero points and scales of some rows, by group."""
        low, high = row // self._per_item, -(-(row + count) // self._per_item)
        zeros = self._unpack(self._zeros.rows(low, high - low).T)[:, row - low * self._per_item :][:, :count]
        return zeros.T + np.int16(self._offset), self._scales.rows(row, count)

    def _unpack(self, packed: NDArray[Any]) -> NDArray[np.int16]:
        """Codes along the second axis."""
        integer = _INTEGERS[self._weight.dtype]
        shifts = np.arange(0, integer.itemsize * 8, self._bits).astype(integer)
        mask = integer.type((1 << self._bits) - 1)
        items = np.ascontiguousarray(packed).view(integer)
        codes: NDArray[np.int16] = ((items[:, :, None] >> shifts) & mask).astype(np.int16)
        return codes.reshape(len(items), -1)

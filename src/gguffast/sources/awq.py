"""AWQ weights: 4-bit codes packed along the output axis, in an order of their own.

Format: AutoAWQ's ``WQLinear_GEMM``. ``L.qweight`` [in, out / 8] holds eight outputs in an integer; from the
lowest bits on they are numbers 0, 2, 4, 6, 1, 3, 5, 7. ``L.qzeros`` [groups, out / 8] likewise;
``L.scales`` [groups, out]; a group is ``in / groups`` neighbours. As in AutoAWQ's ``dequantize_gemm``,
products are rounded to the scales' type.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gguffast.errors import FormatError, quote
from gguffast.sources.lazy import DType, LazyTensor, Piece, transpose
from gguffast.sources.packed import Codes, Grouped

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PARTS = (".qweight", ".qzeros", ".scales")
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def dequantize_awq(path: Path, stored: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Replace packed weights by their values, of the scales' type.

    Parameters
    ----------
    path : Path
        The checkpoint, for messages.
    stored : mapping of str to LazyTensor
        The tensors as they lie in the files.

    Raises
    ------
    FormatError
        A layer lacks one of its tensors, or their shapes do not fit.
    """
    tensors = dict(stored)
    for name in stored:
        if name.endswith(".qweight"):
            layer = name.removesuffix(".qweight")
            tensors[f"{layer}.weight"] = _layer(path, stored, layer)
            for suffix in _PARTS:
                del tensors[layer + suffix]
    return tensors


def _layer(path: Path, stored: Mapping[str, LazyTensor], layer: str) -> LazyTensor:
    found = [part for part in (stored.get(layer + suffix) for suffix in _PARTS) if part is not None]
    if len(found) < 3:
        raise FormatError(f"{path}: layer {quote(layer)} lacks one of qweight, qzeros and scales")
    weight, zeros, scales = found
    fits = weight.dtype is zeros.dtype is DType.I32 and len(weight.shape) == len(scales.shape) == 2
    if fits:
        (n_in, packed), (n_groups, n_out) = weight.shape, scales.shape
        fits = (
            n_out == 8 * packed
            and zeros.shape == (n_groups, packed)
            and 0 < n_groups <= n_in
            and n_in % n_groups == 0
            and scales.dtype.is_native
        )
    if not fits:
        shapes = ", ".join(f"{part.dtype.name} {list(part.shape)}" for part in found)
        raise FormatError(
            f"{path}: layer {quote(layer)}: qweight, qzeros, scales do not fit 4 bits: {shapes}"
        )
    return Grouped(
        f"{layer}.weight",
        (n_out, n_in),
        _Eights(transpose(weight)),
        transpose(scales),
        n_in // n_groups,
        zeros=_Eights(transpose(zeros)),
        dtype=scales.dtype,
    )


class _Eights(Codes):
    """Each integer holds the codes of eight rows."""

    _SHIFTS = (4 * np.argsort(_ORDER)).astype("<u4")[None, :, None]

    def __init__(self, tensor: LazyTensor) -> None:
        self._tensor = tensor

    def read(self, piece: Piece) -> NDArray[np.uint8]:
        """See `Codes.read`."""
        low, high = piece.row // 8, -(-(piece.row + piece.n_rows) // 8)
        width = self._tensor.n_columns
        if high - low == 1:
            items = self._tensor.elements(low * width + piece.column, piece.n_columns)[None]
        else:
            items = self._tensor.rows(low, high - low)[:, piece.column :][:, : piece.n_columns]
        codes = np.ascontiguousarray(items).view("<u4")[:, None, :] >> self._SHIFTS & np.uint32(15)
        rows: NDArray[np.uint8] = codes.astype(np.uint8).reshape(-1, piece.n_columns)
        return rows[piece.row - 8 * low :][: piece.n_rows]

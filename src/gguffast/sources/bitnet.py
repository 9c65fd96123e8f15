"""BitNet weights: -1, 0 and 1 in two bits, divided by a scale.

Format: transformers' ``integrations/bitnet.py``. ``L.weight`` [out / 4, in], U8: the lowest two bits of row r
are row r of the matrix plus one, the next two row ``r + out / 4``, and so on; ``L.weight_scale`` is a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gguffast.errors import FormatError, quote
from gguffast.sources.lazy import DType, LazyTensor, as_array, row_pieces

_SCALE = ".weight_scale"


def dequantize_bitnet(path: Path, stored: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Replace packed weights by their values, as F32.

    Parameters
    ----------
    path : Path
        The checkpoint, for messages.
    stored : mapping of str to LazyTensor
        The tensors as they lie in the files.

    Raises
    ------
    FormatError
        A scale without its weight, or of another form.
    """
    tensors = dict(stored)
    for name, scale in stored.items():
        if name.endswith(_SCALE):
            weight = stored.get(name.removesuffix("_scale"))
            if weight is None or weight.dtype is not DType.U8 or len(weight.shape) != 2 or scale.size != 1:
                raise FormatError(f"{path}: tensor {quote(name)} is no scale of a matrix of 2-bit codes")
            tensors[weight.name] = _Ternary(weight, float(scale.values().reshape(-1)[0]))
            del tensors[name]
    return tensors


class _Ternary(LazyTensor):
    def __init__(self, weight: LazyTensor, scale: float) -> None:
        self._height, width = weight.shape
        super().__init__(weight.name, (4 * self._height, width), DType.F32)
        self._weight = weight
        with np.errstate(all="ignore"):
            self._values = np.array([-1, 0, 1, 2], np.float32) / np.float32(scale)

    def read(self, first: int, into: memoryview) -> None:
        out = as_array(into, DType.F32)
        # Four times the stored rows, each time other bits of them.
        quarter = self._height * self.n_columns
        for piece in row_pieces(first, out.size, quarter, out.size) if quarter else ():
            for row in range(piece.n_rows):
                codes = self._weight.elements(piece.column, piece.n_columns)
                start = piece.place.start + row * quarter
                place = slice(start, start + piece.n_columns)
                np.take(
                    self._values, codes >> np.uint8(2 * (piece.row + row)) & 3, out=out[place], mode="clip"
                )

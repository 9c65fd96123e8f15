"""Weights in a small number format (FP8, int8) times a scale for each tensor, row or block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gguffast.errors import FormatError, quote
from gguffast.sources.lazy import (
    DType,
    LazyTensor,
    Piece,
    as_array,
    reshape,
    row_pieces,
    to_f32,
    to_float32,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tensors = Mapping[str, LazyTensor]

# Numbers decoded at a time: what passes between NumPy's loops stays in the second-level cache.
_CHUNK = 1 << 16


class Suffixes(NamedTuple):
    """Names that a method uses: scales (suffix -> suffix of their weight), and what it leaves unused."""

    scales: dict[str, str]
    unused: tuple[str, ...] = ()


FP8 = Suffixes(
    {"_scale_inv": "", ".qscale_weight": ".weight"},
    (".activation_scale", "_activation_scale", ".qscale_act"),
)
FBGEMM = Suffixes({".weight_scale": ".weight"}, (".input_scale_ub",))
MODELOPT = Suffixes({".weight_scale": ".weight"}, (".input_scale", ".k_scale", ".v_scale"))


def scaled(suffixes: Suffixes, block: tuple[int, ...]) -> Callable[[Path, Tensors], dict[str, LazyTensor]]:
    """Make the dequantizer of a method that multiplies weights by one scale for each tensor, row or block."""

    def apply(path: Path, stored: Tensors) -> dict[str, LazyTensor]:
        tensors = {name: tensor for name, tensor in stored.items() if not name.endswith(suffixes.unused)}
        for name, scale in stored.items():
            for suffix, of in suffixes.scales.items():
                if name.endswith(suffix):
                    weight = name.removesuffix(suffix) + of
                    if weight not in stored:
                        raise FormatError(
                            f"{path}: tensor {quote(weight)} is missing; {quote(name)} is its scale"
                        )
                    tensors[weight] = Scaled(path, stored[weight], scale, block)
                    del tensors[name]
        return tensors

    return apply


class Scaled(LazyTensor):
    """Weight times scale in float32; the scale is repeated over blocks and broadcast from the left."""

    def __init__(self, path: Path, weight: LazyTensor, scale: LazyTensor, block: tuple[int, ...]) -> None:
        super().__init__(weight.name, weight.shape, DType.F32)
        self._weight = weight
        axes = len(weight.shape)
        # As in the reference: the axes of the block are the last ones of the scale, those of the scale the
        # first ones of the weight.
        blocks = (1,) * (len(scale.shape) - len(block)) + block
        repeated = tuple(n * size for n, size in zip(scale.shape, blocks, strict=False))
        fits = len(blocks) == len(scale.shape) <= axes and all(
            have == 1 or (have >= n if block else have == n)
            for have, n in zip(repeated, weight.shape, strict=False)
        )
        if not fits:
            raise FormatError(
                f"{path}: tensor {quote(scale.name)} of shape {list(scale.shape)} does not scale "
                f"{quote(weight.name)} of shape {list(weight.shape)}"
                + (f" in blocks of {list(block)}" if block else "")
            )
        padding = (1,) * (axes - len(scale.shape))
        self._scale = to_f32(reshape(scale, scale.shape + padding or (1,)))
        self._blocks = blocks + padding

    def read(self, first: int, into: memoryview) -> None:
        """See `LazyTensor.read`."""
        out = as_array(into, DType.F32)
        for piece in row_pieces(first, out.size, self.n_columns, _CHUNK):
            weight = self._weight.elements(first + piece.place.start, piece.size)
            values = to_float32(weight, self._weight.dtype, out[piece.place])
            table = values.reshape(piece.n_rows, piece.n_columns)
            scales, size = self._row_scales(piece), self._blocks[-1]
            with np.errstate(all="ignore"):
                if scales.shape[1] == 1:
                    table *= scales
                elif piece.column % size == 0 and piece.n_columns % size == 0:
                    low = piece.column // size
                    blocks = table.reshape(piece.n_rows, -1, size)
                    blocks *= scales[:, low : low + blocks.shape[1], None]
                else:
                    columns = np.arange(piece.column, piece.column + piece.n_columns)
                    table *= scales.take(columns // size, axis=1)

    def _row_scales(self, piece: Piece) -> NDArray[np.float32]:
        """Rows of the scale that serve the rows of a piece, one for each."""
        leading = self.shape[:-1]
        if not leading:
            return self._scale.rows(0, 1)
        rows = np.unravel_index(np.arange(piece.row, piece.row + piece.n_rows), leading)
        # The last entry of an axis of one serves the whole axis.
        places = [
            np.minimum(row // size, n - 1)
            for row, size, n in zip(rows, self._blocks, self._scale.shape, strict=False)
        ]
        index = np.ravel_multi_index(places, self._scale.shape[:-1])
        low = int(index.min())
        return self._scale.rows(low, int(index.max()) + 1 - low)[index - low]

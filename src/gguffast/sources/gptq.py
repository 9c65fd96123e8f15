"""GPTQ weights: codes packed along the input axis, a scale and a zero point for each group of inputs.

Format: AutoGPTQ's and GPTQModel's ``QuantLinear``. ``L.qweight`` [in * bits / 32, out] holds a column's codes
as a stream of bits, the first in the lowest (of 3 bits too, where some codes lie in two integers);
``L.qzeros`` [groups, out * bits / 32] likewise, along the outputs; ``L.scales`` [groups, out];
``L.g_idx`` [in] is each input's group, in any order ("act-order").
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gguffast.errors import FormatError, quote
from gguffast.sources.lazy import DType, LazyTensor, transpose
from gguffast.sources.packed import AlongColumns, Grouped, Transposed, check_groups

_INTEGERS = (DType.I16, DType.I32, DType.I64)
_PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")


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
        Bits of a code: 2, 3, 4 or 8.
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
            for suffix in _PARTS:
                del tensors[layer + suffix]
    return tensors


def _layer(path: Path, stored: Mapping[str, LazyTensor], layer: str, bits: int, offset: int) -> LazyTensor:
    found = [part for part in (stored.get(layer + suffix) for suffix in _PARTS) if part is not None]
    if len(found) < 4:
        raise FormatError(f"{path}: layer {quote(layer)} lacks one of qweight, qzeros, scales and g_idx")
    weight, zeros, scales, group = found
    fits = weight.dtype is zeros.dtype and weight.dtype in _INTEGERS and len(scales.shape) == 2
    if fits:
        width = weight.dtype.itemsize * 8
        (n_groups, n_out), n_in = scales.shape, group.size
        fits = (
            n_in * bits % width == 0 == n_out * bits % width
            and weight.shape == (n_in * bits // width, n_out)
            and zeros.shape == (n_groups, n_out * bits // width)
            and len(group.shape) == 1
            and group.dtype in (DType.I32, DType.I64)
        )
    if not fits:
        shapes = ", ".join(f"{part.dtype.name} {list(part.shape)}" for part in found)
        raise FormatError(
            f"{path}: layer {quote(layer)}: qweight, qzeros, scales, g_idx do not fit {bits} bits: {shapes}"
        )
    check_groups(path, group, n_groups)
    # A row of the result is a column of everything stored.
    codes = AlongColumns(transpose(weight), n_in * bits // 8, bits)
    points = Transposed(AlongColumns(zeros, n_out * bits // 8, bits), n_groups)
    return Grouped(
        f"{layer}.weight", (n_out, n_in), codes, transpose(scales), group, zeros=points, offset=offset
    )

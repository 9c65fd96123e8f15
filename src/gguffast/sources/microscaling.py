"""4-bit floats (E2M1), two in a byte, the first in the low half, with a scale for each few of a row.

MXFP4 (OCP Microscaling Formats): 32 numbers share a power of two (E8M0). NVFP4: 16 numbers share an E4M3, and
all of a matrix an F32: compressed-tensors divides by it, ModelOpt (``weight_scale_2``) multiplies.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gguffast.errors import FormatError, quote
from gguffast.sources.lazy import DType, LazyTensor, map_f32, reshape, retype
from gguffast.sources.packed import AlongColumns, Grouped

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Values of the codes.
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
_BLOCKS, _SCALES = "_blocks", "_scales"
_OUTER = ".weight_scale_2"
_UNUSED = (".input_scale", ".k_scale", ".v_scale")


def mxfp4(path: Path, name: str, packed: LazyTensor, scale: LazyTensor) -> LazyTensor:
    """Values of an MXFP4 matrix, or a stack of them, as F32.

    Parameters
    ----------
    path, name
        The checkpoint, for messages, and the result's name.
    packed : LazyTensor
        U8 [..., rows, columns / 2].
    scale : LazyTensor
        U8 or F8_E8M0 [..., rows, columns / 32].

    Raises
    ------
    FormatError
        They do not fit each other.
    """
    _check(path, packed, scale, 32, (DType.U8, DType.F8_E8M0))
    return _float4(name, packed, retype(scale, DType.F8_E8M0), 32)


def nvfp4(
    path: Path, name: str, packed: LazyTensor, scale: LazyTensor, outer: LazyTensor, *, divide: bool
) -> LazyTensor:
    """Values of an NVFP4 matrix as F32.

    Parameters
    ----------
    path, name, packed
        As for `mxfp4`.
    scale : LazyTensor
        F8_E4M3 [..., rows, columns / 16].
    outer : LazyTensor
        F32, one number.
    divide : bool
        Divide by `outer` instead of multiplying.

    Raises
    ------
    FormatError
        They do not fit each other.
    """
    _check(path, packed, scale, 16, (DType.F8_E4M3,))
    if outer.size != 1 or outer.dtype is not DType.F32:
        raise FormatError(
            f"{path}: tensor {quote(outer.name)} is {outer.dtype.name} {list(outer.shape)}, expected one F32"
        )
    factor = outer.values().reshape(-1)[0]

    def apply(scales: NDArray[np.float32]) -> NDArray[np.float32]:
        with np.errstate(all="ignore"):
            product: NDArray[np.float32] = scales / factor if divide else scales * factor
        return product

    return _float4(name, packed, map_f32(scale, apply), 16)


def _check(path: Path, packed: LazyTensor, scale: LazyTensor, size: int, dtypes: tuple[DType, ...]) -> None:
    fits = (
        packed.dtype is DType.U8
        and scale.dtype in dtypes
        and len(packed.shape) == len(scale.shape) >= 2
        and packed.shape[:-1] == scale.shape[:-1]
        and 2 * packed.shape[-1] == size * scale.shape[-1]
    )
    if not fits:
        raise FormatError(
            f"{path}: tensor {quote(scale.name)}, {scale.dtype.name} {list(scale.shape)}, does not scale "
            f"{quote(packed.name)}, {packed.dtype.name} {list(packed.shape)}, in groups of {size}"
        )


def _float4(name: str, packed: LazyTensor, scale: LazyTensor, size: int) -> LazyTensor:
    *leading, half = packed.shape
    codes = AlongColumns(packed, half, 4)
    matrix = Grouped(name, (packed.n_rows, 2 * half), codes, scale, size, levels=_E2M1)
    return reshape(matrix, (*leading, 2 * half))


_BLOCK = np.dtype([("scale", "u1"), ("codes", "V16")])
_PIECE = 1 << 13  # blocks: what passes between NumPy's loops stays in the second-level cache
_LOW, _FOUR = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(4)  # the low halves of eight bytes


class _Blocks(LazyTensor):
    """GGUF's blocks of MXFP4: a scale, then 16 bytes; numbers j and j + 16 are the low and high half of one.

    Parameters
    ----------
    packed : LazyTensor
        U8 [..., blocks, 16]: numbers 2 j and 2 j + 1 in byte j.
    scale : LazyTensor
        [..., blocks].
    """

    def __init__(self, packed: LazyTensor, scale: LazyTensor) -> None:
        super().__init__(packed.name, scale.shape, DType.MXFP4)
        self._packed = packed
        self._scale = scale

    def read(self, first: int, into: memoryview) -> None:
        """See `LazyTensor.read`."""
        blocks = np.frombuffer(into, _BLOCK)
        for start in range(0, len(blocks), _PIECE):
            piece = blocks[start : start + _PIECE]
            codes = self._packed.elements(16 * (first + start), 16 * len(piece)).view("<u8").reshape(-1, 2)
            low, high = codes[:, 0], codes[:, 1]
            even = (low & _LOW) | ((high & _LOW) << _FOUR)
            odd = ((low >> _FOUR) & _LOW) | (high & ~_LOW)
            pairs = odd.view(np.uint8).astype("<u2")
            pairs <<= 8
            pairs |= even.view(np.uint8)
            piece["scale"] = self._scale.elements(first + start, len(piece))
            piece["codes"] = pairs.view("V16")


def repack_mxfp4(path: Path, stored: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Turn gpt-oss' experts, ``X_blocks`` and ``X_scales``, into blocks of GGUF under the first name.

    No number changes.
    The codes are [experts, out, in / 32, 16], the result is MXFP4 [experts, out, in / 32].

    Raises
    ------
    FormatError
        Blocks without scales, scales without blocks, or that do not fit.
    """
    tensors = dict(stored)
    for name, packed in stored.items():
        if name.endswith(_BLOCKS):
            scale = tensors.pop(name.removesuffix(_BLOCKS) + _SCALES, None)
            if scale is None:
                missing = name.removesuffix(_BLOCKS) + _SCALES
                raise FormatError(f"{path}: tensor {quote(missing)} is missing; {quote(name)} needs it")
            if (packed.dtype, packed.shape) != (DType.U8, (*scale.shape, 16)) or scale.dtype is not DType.U8:
                raise FormatError(
                    f"{path}: tensor {quote(scale.name)}, {scale.dtype.name} {list(scale.shape)}, does not "
                    f"scale {quote(name)}, {packed.dtype.name} {list(packed.shape)}, in blocks of 16 bytes"
                )
            tensors[name] = _Blocks(packed, scale)
    return tensors


def dequantize_nvfp4(path: Path, stored: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Replace ModelOpt's NVFP4 weights by their values, as F32; its FP8 weights too, in mixed checkpoints.

    Raises
    ------
    FormatError
        A weight lacks one of its scales, or they do not fit.
    """
    tensors = {name: tensor for name, tensor in stored.items() if not name.endswith(_UNUSED)}
    for name, outer in stored.items():
        if name.endswith(_OUTER):
            layer = name.removesuffix(_OUTER)
            packed, scale = stored.get(f"{layer}.weight"), stored.get(f"{layer}.weight_scale")
            if packed is None or scale is None:
                raise FormatError(f"{path}: layer {quote(layer)} lacks one of weight and weight_scale")
            tensors[f"{layer}.weight"] = nvfp4(path, f"{layer}.weight", packed, scale, outer, divide=False)
            del tensors[name], tensors[f"{layer}.weight_scale"]
    return tensors

"""Quantize and dequantize NumPy arrays.

Names, shapes and dtypes are those of ``gguf.quants``, so that one changed import is enough. The bytes are
llama.cpp's, also for types that ``gguf.quants`` cannot quantize to, and an importance matrix can be given.
gguf-py's lazy tensors stay lazy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any, NoReturn, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from gguffast import _core
from gguffast.errors import DataError, OptionError
from gguffast.types import GGMLQuantizationType

QuantError = OptionError  # the name in gguf.quants of what a shape that fits no block raises


class UnsupportedTypeError(OptionError, NotImplementedError):
    """A tensor type that exists, but that cannot be computed here.

    Also a `NotImplementedError`, which is what ``gguf.quants`` raises and what its users catch.
    """


def quantize(data: ArrayLike, qtype: int | str, imatrix: ArrayLike | None = None) -> NDArray[Any]:
    """Quantize an array along its last axis.

    The GIL is released while it runs, so several threads can quantize at once.

    Parameters
    ----------
    data : array_like of float, shape (..., columns)
        Converted to float32 first, except float16, which is widened row by row. ``columns`` is a multiple of
        the type's block size (32 to 256).
    qtype : GGMLQuantizationType, int or str
        The type, its number in GGUF files or its name; the enumeration of ``gguf`` serves too.
    imatrix : array_like of float32, shape (columns,) or (experts, columns), optional
        Importance of each column: mean squared activations. With two axes, ``imatrix[e]`` serves ``data[e]``.

    Returns
    -------
    numpy.ndarray
        uint8 of shape (..., bytes of a row); float16 or float32 of the shape of `data` for F16 and F32.

    Raises
    ------
    DataError
        NaN or infinity in `data` or `imatrix`, or weights too large (MXFP4: too small) for the type's scale.
    OptionError
        An unknown type, shapes that do not fit, or no `imatrix` for a type that needs one, such as IQ2_XS.
    UnsupportedTypeError
        A type without a codec here, such as Q8_K. An `OptionError` and a `NotImplementedError`.
    """
    type_ = _with_codec(qtype, "quantize to")
    if _is_lazy(data):
        dtype = _PLAIN.get(type_)
        shape = data.shape if dtype else quant_shape_to_byte_shape(data.shape, type_)
        return _later(data, lambda now: quantize(now, type_, imatrix), dtype or np.uint8, shape)
    x = np.asarray(data)
    if x.dtype != np.float16:
        x = np.asarray(x, np.float32)
    if type_ is GGMLQuantizationType.F32:
        return x.astype(np.float32, copy=False)
    if type_.info.needs_imatrix and imatrix is None:
        raise OptionError(f"{type_.name} needs an importance matrix: give one as imatrix")
    out = np.empty(quant_shape_to_byte_shape(x.shape, type_), np.uint8)
    x = np.ascontiguousarray(x)
    source = GGMLQuantizationType.F16 if x.dtype == np.float16 else GGMLQuantizationType.F32
    for part, weights in _parts(x.shape, imatrix):
        if x.size:
            result = _core.recode(source, x[part], type_, out[part], x.shape[-1], weights)
            if result.status:
                _refuse(x, part, result.row, type_)
    return out.view(np.float16) if type_ is GGMLQuantizationType.F16 else out


def dequantize(data: NDArray[Any], qtype: int | str) -> NDArray[np.float32]:
    """Undo `quantize`, as far as that goes.

    Parameters
    ----------
    data : numpy.ndarray of uint8, shape (..., bytes of a row)
        Other dtypes are taken as bytes, so that a float16 array serves for F16.
    qtype : GGMLQuantizationType, int or str
        As in `quantize`.

    Returns
    -------
    numpy.ndarray of float32, shape (..., columns)

    Raises
    ------
    OptionError
        An unknown type, or rows that are no whole number of blocks.
    UnsupportedTypeError
        A type without a codec here.
    """
    type_ = _with_codec(qtype, "dequantize from")
    if _is_lazy(data):
        stored_shape = (*data.shape[:-1], data.shape[-1] * data.dtype.itemsize)
        shape = quant_shape_from_byte_shape(stored_shape, type_)
        return _later(data, lambda now: dequantize(now, type_), np.float32, shape)
    stored = np.ascontiguousarray(data).view(np.uint8)
    out = np.empty(quant_shape_from_byte_shape(stored.shape, type_), np.float32)
    if out.size:
        _core.dequantize(type_, stored, out)
    return out


def quant_shape_to_byte_shape(shape: Sequence[int], quant_type: int | str) -> tuple[int, ...]:
    """Shape in bytes of an array of `shape` weights once it is quantized.

    >>> quant_shape_to_byte_shape((2, 512), "Q4_K")
    (2, 288)
    """
    type_ = _type(quant_type)
    if not shape or shape[-1] % type_.info.block_size:
        raise OptionError(
            f"rows of {shape[-1] if shape else 'no'} weights do not divide into the {type_.name} block size "
            f"{type_.info.block_size}: pad them or choose another type"
        )
    return (*shape[:-1], type_.nbytes(shape[-1]))


def quant_shape_from_byte_shape(shape: Sequence[int], quant_type: int | str) -> tuple[int, ...]:
    """Shape in weights of an array of `shape` quantized bytes.

    >>> quant_shape_from_byte_shape((2, 288), "Q4_K")
    (2, 512)
    """
    type_ = _type(quant_type)
    if not shape or shape[-1] % type_.info.block_bytes:
        raise OptionError(
            f"rows of {shape[-1] if shape else 'no'} bytes do not divide into the {type_.name} blocks of "
            f"{type_.info.block_bytes} bytes: these are not rows of {type_.name}"
        )
    return (*shape[:-1], shape[-1] // type_.info.block_bytes * type_.info.block_size)


#: Types whose arrays have a dtype, and the shape of the weights.
_PLAIN = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}


def _is_lazy(data: object) -> TypeGuard[Any]:
    """Tell one of gguf-py's lazy tensors, of which there is none before that is imported."""
    gguf_lazy = sys.modules.get("gguf.lazy")
    return gguf_lazy is not None and isinstance(data, gguf_lazy.LazyNumpyTensor)


def _later(
    data: Any, function: Callable[[Any], Any], dtype: DTypeLike, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Give a lazy tensor that is computed when gguf-py computes those it comes from."""
    later: NDArray[Any] = type(data)._wrap_fn(function, meta_noop=(dtype, lambda _: shape))(data)
    return later


def _type(qtype: int | str) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType[qtype.upper()] if isinstance(qtype, str) else GGMLQuantizationType(qtype)
    except (KeyError, ValueError):
        names = ", ".join(t.name for t in GGMLQuantizationType if t.info.has_codec)
        raise OptionError(f"unknown tensor type {qtype!r}: use one of {names}") from None


def _with_codec(qtype: int | str, verb: str) -> GGMLQuantizationType:
    type_ = _type(qtype)
    if not type_.info.has_codec:
        names = ", ".join(t.name for t in GGMLQuantizationType if t.info.has_codec)
        raise UnsupportedTypeError(f"cannot {verb} {type_.name}: the types that can be computed are {names}")
    return type_


def _parts(
    shape: tuple[int, ...], imatrix: ArrayLike | None
) -> list[tuple[int | EllipsisType, NDArray[np.float32] | None]]:
    """Pair indices of the first axis (or all of it) with the importance that serves there."""
    if imatrix is None:
        return [(..., None)]
    weights = np.ascontiguousarray(imatrix, np.float32)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise DataError("the importance matrix holds NaN, infinite or negative values: make it anew")
    if weights.shape == shape[-1:]:
        return [(..., weights)]
    if len(shape) == 3 and weights.shape == (shape[0], shape[2]):
        return list(enumerate(weights))
    wanted = f"{shape[-1:]}" + (f" or {(shape[0], shape[2])}" if len(shape) == 3 else "")
    raise OptionError(
        f"the importance matrix has shape {weights.shape}, an array of shape {shape} needs {wanted}"
    )


def _refuse(x: NDArray[Any], part: int | EllipsisType, row: int, type_: GGMLQuantizationType) -> NoReturn:
    """Raise for a row that `_core.recode` refused; `row` counts from the start of the part."""
    if isinstance(part, int):
        row += part * x.shape[1]
    index = tuple(int(i) for i in np.unravel_index(row, x.shape[:-1])) if x.ndim > 1 else ()
    values = x[index]
    bad = np.flatnonzero(~np.isfinite(values))
    place = f"row {list(index)}" if index else "the row"
    if bad.size:
        raise DataError(
            f"{place} holds {values[bad[0]]} in column {bad[0]}: only finite weights can be quantized"
        )
    raise DataError(
        f"{place} holds weights {type_.misfit} (the largest is {np.abs(values).max():g}): scale them or "
        "keep them in F32"
    )

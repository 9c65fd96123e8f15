"""Weights that bitsandbytes quantized: 4-bit (NF4, FP4; plain or nested scales) and LLM.int8.

Format: ``bitsandbytes/functional.py`` (``QuantState``) and ``nn/modules.py`` (``Linear8bitLt``). A 4-bit
weight X is a flat run of nibbles, the first in the high half of its byte, with ``X.quant_map`` (the 16
values), ``X.absmax`` (a scale per block; nested: codes into ``X.nested_quant_map``, scaled by
``X.nested_absmax``) and the JSON ``X.quant_state.bitsandbytes__nf4`` or ``__fp4``. An int8 weight
``L.weight`` has a scale per row, ``L.SCB``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gguffast.documents import json_object, short
from gguffast.errors import FormatError, quote
from gguffast.sources.lazy import (
    DType,
    LazyTensor,
    as_array,
    as_bytes,
    round_to,
    row_pieces,
    view_bytes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STATES = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")
_SCALES = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_DTYPES = {"float32": DType.F32, "float16": DType.F16, "bfloat16": DType.BF16}
# Numbers decoded at a time: what passes between NumPy's loops stays in the second-level cache.
_CHUNK = 1 << 16
_MAX_RECORD = 1 << 16
_MAX_AXES = 8


def dequantize_bitsandbytes(path: Path, stored: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Replace what bitsandbytes quantized by its values, and drop the scales.

    Parameters
    ----------
    path : Path
        The checkpoint, for messages.
    stored : mapping of str to LazyTensor
        The tensors as they lie in the files.

    Raises
    ------
    FormatError
        Scales are missing or do not fit their weight.
    """
    replaced: dict[str, LazyTensor] = {}
    dropped: set[str] = set()
    for name in stored:
        for suffix in _STATES:
            if name.endswith(suffix):
                weight = name.removesuffix(suffix)
                replaced[weight] = _four_bit(path, stored, weight, name)
                dropped |= {name, *(weight + scale for scale in _SCALES)}
        if name.endswith(".SCB"):
            layer = name.removesuffix(".SCB")
            replaced[f"{layer}.weight"] = _int8(path, stored, layer)
            dropped |= {name, f"{layer}.weight_format"}
    return {name: replaced.get(name, tensor) for name, tensor in stored.items() if name not in dropped}


def _get(path: Path, stored: Mapping[str, LazyTensor], name: str, dtype: DType, size: int) -> LazyTensor:
    """Find a tensor that must exist."""
    tensor = stored.get(name)
    if tensor is None:
        raise FormatError(f"{path}: tensor {quote(name)} is missing; bitsandbytes weights need it")
    if tensor.dtype is not dtype or tensor.size != size:
        raise FormatError(
            f"{path}: tensor {quote(name)} is {tensor.dtype.name} {list(tensor.shape)}, "
            f"expected {dtype.name} of {size} elements"
        )
    return tensor


# --- 4 bits -----------------------------------------------------------------------------------------------


class _State(NamedTuple):
    """The checked content of a ``quant_state`` record."""

    shape: tuple[int, ...]
    dtype: DType
    block: int
    nested_block: int | None
    nested_offset: float


def _read_state(path: Path, tensor: LazyTensor) -> _State:
    place = f"{path}: tensor {quote(tensor.name)}"
    if tensor.size * tensor.dtype.itemsize > _MAX_RECORD:
        raise FormatError(f"{place} is not a valid record: {tensor.size} numbers are too many for one")
    record = json_object(bytes(as_bytes(tensor.numpy())), place)
    try:
        shape = tuple(record["shape"])
        nested_block = record.get("nested_blocksize")
        lengths = (*shape, record["blocksize"], 1 if nested_block is None else nested_block)
        if not all(type(n) is int and 0 < n < 1 << 40 for n in lengths) or record["blocksize"] % 2:
            raise ValueError("lengths must be positive, and the block size even")
        if len(shape) > _MAX_AXES:
            raise ValueError(f"a shape of {len(shape)} axes")
        offset = float(record.get("nested_offset") or 0.0)
        return _State(shape, _DTYPES[record["dtype"]], record["blocksize"], nested_block, offset)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise FormatError(f"{place} is not a valid record: {short(repr(error))}") from error


def _four_bit(path: Path, stored: Mapping[str, LazyTensor], name: str, state_name: str) -> LazyTensor:
    state = _read_state(path, stored[state_name])
    numel = math.prod(state.shape)
    weight = stored.get(name)
    # The nibbles may be stored as any type (bnb_4bit_quant_storage): only their bytes count.
    if weight is None or math.prod(weight.shape) * weight.dtype.itemsize != (numel + 1) // 2:
        found = "missing" if weight is None else f"{weight.dtype.name} {list(weight.shape)}"
        raise FormatError(
            f"{path}: tensor {quote(name)} is {found}, expected 4-bit codes of {list(state.shape)}"
        )
    blocks = -(-numel // state.block)
    levels = _get(path, stored, f"{name}.quant_map", DType.F32, 16).values().reshape(-1)
    if state.nested_block is None:
        return _FourBit(name, state, weight, levels, _get(path, stored, f"{name}.absmax", DType.F32, blocks))
    codes = _get(path, stored, f"{name}.absmax", DType.U8, blocks)
    values = _get(path, stored, f"{name}.nested_quant_map", DType.F32, 256).values().reshape(-1)
    outer = _get(path, stored, f"{name}.nested_absmax", DType.F32, -(-blocks // state.nested_block))
    scales = _NestedScales(codes, values, outer, state.nested_block, state.nested_offset)
    return _FourBit(name, state, weight, levels, scales)


class _NestedScales(LazyTensor):
    """Block scales that were quantized in their turn: codes to look up, with a scale for each block."""

    def __init__(
        self, codes: LazyTensor, levels: NDArray[np.float32], outer: LazyTensor, block: int, offset: float
    ) -> None:
        super().__init__(codes.name, codes.shape, DType.F32)
        self._codes = codes
        self._levels = levels
        self._outer = outer
        self._block = block
        self._offset = np.float32(offset)

    def read(self, first: int, into: memoryview) -> None:
        out = as_array(into, DType.F32)
        low, high = first // self._block, (first + out.size - 1) // self._block
        outer = self._outer.elements(low, high - low + 1)
        np.take(self._levels, self._codes.elements(first, out.size), out=out, mode="clip")
        with np.errstate(all="ignore"):
            out *= outer[np.arange(first, first + out.size) // self._block - low]
            out += self._offset


class _FourBit(LazyTensor):
    def __init__(
        self, name: str, state: _State, weight: LazyTensor, levels: NDArray[np.float32], scales: LazyTensor
    ) -> None:
        super().__init__(name, state.shape, state.dtype)
        self._block = state.block
        self._codes = view_bytes(weight)
        byte = np.arange(256)
        # A byte's two values, as one item to look up.
        self._pairs = np.stack([levels[byte >> 4], levels[byte & 15]], axis=1).view(np.uint64).reshape(-1)
        self._scales = scales

    def read(self, first: int, into: memoryview) -> None:
        out = as_array(into, self.dtype)
        end = first + out.size
        low, high = first // self._block, -(-end // self._block)
        scales = self._scales.elements(low, high - low)
        first_code = first // 2
        codes = self._codes.elements(first_code, (end + 1) // 2 - first_code)
        start = first
        while start < end:
            stop = min(end, self._next_stop(start))
            pairs = self._pairs.take(codes[start // 2 - first_code : (stop + 1) // 2 - first_code])
            values = pairs.view(np.float32)[start % 2 :][: stop - start]
            with np.errstate(all="ignore"):
                self._scale(values, scales[start // self._block - low :])
            round_to(self.dtype, values, out[start - first : stop - first])
            start = stop

    def _next_stop(self, start: int) -> int:
        """Where a piece ends: after some whole blocks, or inside the block in which it begins."""
        inside = start % self._block
        if inside or self._block > _CHUNK:
            return start + min(_CHUNK, self._block - inside)
        return start + _CHUNK // self._block * self._block

    def _scale(self, values: NDArray[np.float32], scales: NDArray[np.float32]) -> None:
        """Multiply by block scales, the first of which is that of the first value."""
        whole = len(values) // self._block * self._block
        if whole:
            blocks = values[:whole].reshape(-1, self._block)
            blocks *= scales[: len(blocks), None]
        if whole < len(values):
            values[whole:] *= scales[whole // self._block]


# --- 8 bits -----------------------------------------------------------------------------------------------


def _int8(path: Path, stored: Mapping[str, LazyTensor], layer: str) -> LazyTensor:
    name = f"{layer}.weight"
    weight = stored.get(name)
    if weight is None or weight.dtype is not DType.I8 or len(weight.shape) != 2:
        found = "missing" if weight is None else f"{weight.dtype.name} {list(weight.shape)}"
        raise FormatError(f"{path}: tensor {quote(name)} is {found}, expected an I8 matrix for its SCB")
    scales = _get(path, stored, f"{layer}.SCB", DType.F32, weight.n_rows)
    form = stored.get(f"{layer}.weight_format")
    if form is not None and form.size != 1:
        raise FormatError(
            f"{path}: tensor {quote(form.name)} has shape {list(form.shape)}, expected one number"
        )
    # 0 is row-major; the others are tilings for GPUs that old versions could save.
    if form is not None and form.numpy().any():
        raise FormatError(f"{path}: tensor {quote(name)} is in a GPU's tiled layout; save it again in rows")
    # The format of the model is recorded nowhere but in its other weights.
    others = (t.dtype for t in stored.values() if t.dtype.is_native and len(t.shape) >= 2)
    return _Int8(name, weight, scales, next(others, DType.F16))


class _Int8(LazyTensor):
    def __init__(self, name: str, weight: LazyTensor, scales: LazyTensor, dtype: DType) -> None:
        super().__init__(name, weight.shape, dtype)
        self._weight = weight
        self._scales = scales

    def read(self, first: int, into: memoryview) -> None:
        out = as_array(into, self.dtype)
        for piece in row_pieces(first, out.size, self.n_columns, _CHUNK):
            values = self._weight.elements(first + piece.place.start, piece.size).astype(np.float32)
            table = values.reshape(piece.n_rows, piece.n_columns)
            with np.errstate(all="ignore"):
                # In this order, and by a constant that is rounded: as bitsandbytes' int8_vectorwise_dequant.
                table *= self._scales.elements(piece.row, piece.n_rows)[:, None]
                table *= np.float32(1 / 127)
            round_to(self.dtype, values, out[piece.place])

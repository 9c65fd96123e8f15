"""Weights that bitsandbytes quantized: 4-bit (NF4, FP4; plain or nested scales) and LLM.int8.

Format: ``bitsandbytes/functional.py`` (``QuantState``) and ``nn/modules.py`` (``Linear8bitLt``). A 4-bit
weight X is a flat run of nibbles, the first in the high half of its byte, with ``X.quant_map`` (the 16
values), ``X.absmax`` (a scale per block; nested: codes into ``X.nested_quant_map``, scaled by
``X.nested_absmax``) and the JSON ``X.quant_state.bitsandbytes__nf4`` or ``__fp4``. An int8 weight
``L.weight`` has a scale per row, ``L.SCB``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gguffast.errors import FormatError
from gguffast.sources.lazy import DType, LazyTensor, as_array, as_bytes, round_to
from gguffast.sources.mapped import quote

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STATES = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")
_SCALES = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_DTYPES = {"float32": DType.F32, "float16": DType.F16, "bfloat16": DType.BF16}
# Numbers decoded at a time: what passes between NumPy's loops stays in the second-level cache.
_CHUNK = 1 << 16


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


def _get(path: Path, stored: Mapping[str, LazyTensor], name: str, dtype: DType, numel: int) -> NDArray[Any]:
    """Read a small tensor that must exist, flat."""
    tensor = stored.get(name)
    if tensor is None:
        raise FormatError(f"{path}: tensor {quote(name)} is missing; bitsandbytes weights need it")
    if tensor.dtype is not dtype or math.prod(tensor.shape) != numel:
        raise FormatError(
            f"{path}: tensor {quote(name)} is {tensor.dtype.name} {list(tensor.shape)}, "
            f"expected {dtype.name} of {numel} elements"
        )
    return tensor.numpy().reshape(-1)


# --- 4 bits -----------------------------------------------------------------------------------------------


class _State(NamedTuple):
    """The checked content of a ``quant_state`` record."""

    shape: tuple[int, ...]
    dtype: DType
    block: int
    nested_block: int | None
    nested_offset: float


def _read_state(path: Path, tensor: LazyTensor) -> _State:
    try:
        record = json.loads(bytes(as_bytes(tensor.numpy())))
        shape = tuple(record["shape"])
        nested_block = record.get("nested_blocksize")
        lengths = (*shape, record["blocksize"], 1 if nested_block is None else nested_block)
        if not all(type(n) is int and 0 < n < 1 << 40 for n in lengths) or record["blocksize"] % 2:
            raise ValueError("lengths must be positive, and the block size even")
        offset = float(record.get("nested_offset") or 0.0)
        return _State(shape, _DTYPES[record["dtype"]], record["blocksize"], nested_block, offset)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise FormatError(f"{path}: tensor {quote(tensor.name)} is not a valid record: {error!r}") from error


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
    levels = _get(path, stored, f"{name}.quant_map", DType.F32, 16)
    if state.nested_block is None:
        absmax = _get(path, stored, f"{name}.absmax", DType.F32, blocks)
        scales = _Scales(absmax, None, None, 1, 0.0)
    else:
        codes = _get(path, stored, f"{name}.absmax", DType.U8, blocks)
        values = _get(path, stored, f"{name}.nested_quant_map", DType.F32, 256)
        outer = _get(path, stored, f"{name}.nested_absmax", DType.F32, -(-blocks // state.nested_block))
        scales = _Scales(codes, values, outer, state.nested_block, state.nested_offset)
    return _FourBit(name, state, weight, levels, scales)


class _Scales(NamedTuple):
    """Block scales: as they are, or codes to look up and scale in their turn."""

    stored: NDArray[Any]
    levels: NDArray[np.float32] | None
    outer: NDArray[np.float32] | None
    block: int
    offset: float

    def read(self, first: int, stop: int) -> NDArray[np.float32]:
        """Scales of blocks ``first`` to ``stop - 1``, a column."""
        if self.levels is None or self.outer is None:
            scales = self.stored[first:stop].astype(np.float32)
        else:
            outer = self.outer[np.arange(first, stop) // self.block]
            scales = self.levels[self.stored[first:stop]] * outer + np.float32(self.offset)
        return scales[:, None]


class _FourBit(LazyTensor):
    def __init__(
        self, name: str, state: _State, weight: LazyTensor, levels: NDArray[np.float32], scales: _Scales
    ) -> None:
        super().__init__(name, state.shape, state.dtype)
        self._block = state.block
        self._codes = np.frombuffer(as_bytes(weight.numpy()), np.uint8)
        byte = np.arange(256)
        # A byte's two values, as one item to look up.
        self._pairs = np.stack([levels[byte >> 4], levels[byte & 15]], axis=1).view(np.uint64).reshape(-1)
        self._scales = scales

    def read_rows(self, first: int, count: int, into: memoryview) -> memoryview:
        start, stop = first * self.n_columns, (first + count) * self.n_columns
        low, high = start // self._block, -(-stop // self._block)
        if start % self._block == 0 and stop % self._block == 0:
            out = as_array(into, self.dtype, (high - low, self._block))
        else:
            out = np.empty((high - low, self._block), self.dtype.storage)
        step = max(1, _CHUNK // self._block)
        for block in range(low, high, step):
            end = min(block + step, high)
            self._decode(block, end, out[block - low : end - low])
        skip = (start - low * self._block) * self.dtype.itemsize
        return as_bytes(out)[skip : skip + count * self.row_bytes]

    def _decode(self, first: int, stop: int, out: NDArray[Any]) -> None:
        half = self._block // 2
        codes = self._codes[first * half : stop * half]
        if len(codes) < (stop - first) * half:
            codes = np.pad(codes, (0, (stop - first) * half - len(codes)))
        values = self._pairs.take(codes).view(np.float32).reshape(out.shape)
        with np.errstate(all="ignore"):
            values *= self._scales.read(first, stop)
        round_to(self.dtype, values, out)


# --- 8 bits -----------------------------------------------------------------------------------------------


def _int8(path: Path, stored: Mapping[str, LazyTensor], layer: str) -> LazyTensor:
    name = f"{layer}.weight"
    weight = stored.get(name)
    if weight is None or weight.dtype is not DType.I8 or len(weight.shape) != 2:
        found = "missing" if weight is None else f"{weight.dtype.name} {list(weight.shape)}"
        raise FormatError(f"{path}: tensor {quote(name)} is {found}, expected an I8 matrix for its SCB")
    scales = _get(path, stored, f"{layer}.SCB", DType.F32, weight.n_rows)
    form = stored.get(f"{layer}.weight_format")
    # 0 is row-major; the others are tilings for GPUs that old versions could save.
    if form is not None and form.numpy().any():
        raise FormatError(f"{path}: tensor {quote(name)} is in a GPU's tiled layout; save it again in rows")
    # The format of the model is recorded nowhere but in its other weights.
    others = (t.dtype for t in stored.values() if t.dtype.is_native and len(t.shape) >= 2)
    return _Int8(name, weight, scales, next(others, DType.F16))


class _Int8(LazyTensor):
    def __init__(self, name: str, weight: LazyTensor, scales: NDArray[np.float32], dtype: DType) -> None:
        super().__init__(name, weight.shape, dtype)
        self._weight = weight
        self._scales = scales

    def read_rows(self, first: int, count: int, into: memoryview) -> memoryview:
        out = as_array(into, self.dtype, (count, self.n_columns))
        step = max(1, _CHUNK // self.n_columns)
        for row in range(0, count, step):
            n = min(step, count - row)
            values = self._weight.rows(first + row, n).astype(np.float32)
            scales = self._scales[first + row : first + row + n, None]
            with np.errstate(all="ignore"):
                # In this order, and by a constant that is rounded: as bitsandbytes' int8_vectorwise_dequant.
                values *= scales
                values *= np.float32(1 / 127)
            round_to(self.dtype, values, out[row : row + n])
        return into[: count * self.row_bytes]

"""compressed-tensors checkpoints (llm-compressor's): integers of any width, FP8, MXFP4, NVFP4.

Format: ``compressed_tensors/compressors``. What a layer L is shows in its names. ``L.weight`` with
``L.weight_scale``: plain numbers times a scale for each tensor, row, block or group. ``L.weight_packed`` with
``L.weight_shape``: integers plus half their range as a stream of bits along each row, the first in the
lowest (``pack-quantized``), a scale for each row or group, perhaps zero points, packed along the rows, and
the group of each input (``weight_g_idx``). ``L.weight_packed`` without a shape: 4-bit floats
(`microscaling`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gguffast.documents import shown
from gguffast.errors import FormatError, quote
from gguffast.sources.common import naturals
from gguffast.sources.lazy import DType, LazyTensor, reshape, transpose
from gguffast.sources.microscaling import mxfp4, nvfp4
from gguffast.sources.packed import AlongColumns, Grouped, Transposed, check_groups
from gguffast.sources.scaled import Scaled

_PACKED, _SCALE = ".weight_packed", ".weight_scale"
# What a layer has besides its weight; of activations and caches, nothing is needed.
_PARTS = (_PACKED, _SCALE, ".weight_shape", ".weight_zero_point", ".weight_g_idx", ".weight_global_scale")
_UNUSED = (
    ".input_scale",
    ".input_zero_point",
    ".input_global_scale",
    ".output_scale",
    ".k_scale",
    ".v_scale",
)
_WIDTHS = range(1, 9)


def _read_block(path: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Rows and columns that share a scale where numbers are not packed; empty if its shape says it all."""
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise FormatError(f"{path}: quantization_config: config_groups is {shown(groups)}, expected groups")
    blocks = {_group_block(path, group) for group in groups.values()}
    if len(blocks) > 1:
        raise FormatError(
            f"{path}: quantization_config: groups whose scales have different blocks; convert the original"
        )
    return blocks.pop()


def _group_block(path: Path, group: object) -> tuple[int, ...]:
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(weights, dict):
        raise FormatError(
            f"{path}: quantization_config: a group of {shown(group)}, expected one with weights"
        )
    match weights.get("strategy"):
        case "tensor" | "channel":
            return ()
        case "block":
            return block_shape(path, weights.get("block_structure"))
        case "group" | "tensor_group":
            return block_shape(path, [1, weights.get("group_size")])
    raise FormatError(
        f"{path}: quantization_config: the strategy {shown(weights.get('strategy'))}; "
        "readable are tensor, channel, block, group"
    )


def block_shape(path: Path, value: object) -> tuple[int, ...]:
    """Check the rows and columns of a block; empty if ``value`` is None.

    Raises
    ------
    FormatError
        It is not a pair of lengths.
    """
    if value is None:
        return ()
    block = naturals(value)
    if block is None or len(block) != 2 or 0 in block:
        raise FormatError(f"{path}: quantization_config: a block of {shown(value)}, expected [rows, columns]")
    return block


def dequantize_compressed(
    path: Path, stored: Mapping[str, LazyTensor], config: Mapping[str, Any]
) -> dict[str, LazyTensor]:
    """Replace quantized weights by their values, as F32; packed ones come last, as in the reference.

    Parameters
    ----------
    path : Path
        The checkpoint, for messages.
    stored : mapping of str to LazyTensor
        The tensors as they lie in the files.
    config : mapping
        ``quantization_config``.

    Raises
    ------
    FormatError
        A layer lacks one of its tensors, or their shapes do not fit; ``config_groups`` are not what they have
        to be.
    """
    block = cache(lambda: _read_block(path, config))
    tensors = {name: tensor for name, tensor in stored.items() if not name.endswith(_UNUSED)}
    for name, tensor in stored.items():
        if name.endswith(_SCALE):
            layer = name.removesuffix(_SCALE)
            weight = stored.get(f"{layer}.weight")
            if f"{layer}{_PACKED}" in stored:
                continue
            if weight is None:
                raise FormatError(
                    f"{path}: tensor {quote(f'{layer}.weight')} is missing; {quote(name)} is its scale"
                )
            tensors[f"{layer}.weight"] = Scaled(
                path, weight, tensor, block() if len(tensor.shape) > 1 else ()
            )
            del tensors[name]
        elif name.endswith(_PACKED):
            layer = name.removesuffix(_PACKED)
            tensors[f"{layer}.weight"] = _layer(path, stored, layer)
            for part in _PARTS:
                tensors.pop(layer + part, None)
    return tensors


def _layer(path: Path, stored: Mapping[str, LazyTensor], layer: str) -> LazyTensor:
    packed, scale, shape, zeros, group, outer = (stored.get(layer + part) for part in _PARTS)
    if packed is None or scale is None:
        raise FormatError(f"{path}: layer {quote(layer)} has weight_packed, but no weight_scale")
    if shape is not None:
        return _integers(path, layer, packed, scale, shape, zeros, group)
    if outer is not None:
        return nvfp4(path, f"{layer}.weight", packed, scale, outer, divide=True)
    return mxfp4(path, f"{layer}.weight", packed, scale)


def _integers(
    path: Path,
    layer: str,
    packed: LazyTensor,
    scale: LazyTensor,
    shape: LazyTensor,
    zeros: LazyTensor | None,
    group: LazyTensor | None,
) -> LazyTensor:
    n_out, n_in = _read_shape(path, shape)
    words = packed.shape[1] if len(packed.shape) == 2 else 0
    bits = next((bits for bits in _WIDTHS if -(-n_in * bits // 32) == words), 0)
    columns = scale.size // n_out
    fits = (
        packed.dtype is DType.I32
        and packed.shape == (n_out, words)
        and bits > 0
        and columns > 0
        and scale.size == n_out * columns
        and (group is not None or n_in % columns == 0)
        and (zeros is None or (zeros.dtype, zeros.shape) == (DType.I32, (-(-n_out * bits // 32), columns)))
        and (group is None or (group.shape == (n_in,) and group.dtype in (DType.I32, DType.I64)))
    )
    if not fits:
        parts = (packed, scale, zeros, group)
        shapes = ", ".join(f"{p.name.rpartition('.')[2]} {p.dtype.name} {list(p.shape)}" for p in parts if p)
        raise FormatError(f"{path}: layer {quote(layer)}: no integers of the shape {[n_out, n_in]}: {shapes}")
    by_index: LazyTensor | int = n_in // columns
    if group is not None:
        check_groups(path, group, columns)
        by_index = group
    points: Transposed | int = 1 << (bits - 1)
    if zeros is not None:
        points = Transposed(AlongColumns(transpose(zeros), 4 * zeros.shape[0], bits), columns)
    return Grouped(
        f"{layer}.weight",
        (n_out, n_in),
        AlongColumns(packed, 4 * words, bits),
        reshape(scale, (n_out, columns)),
        by_index,
        zeros=points,
    )


def _read_shape(path: Path, tensor: LazyTensor) -> tuple[int, int]:
    if tensor.size == 2 and tensor.dtype in (DType.I32, DType.I64):
        rows, columns = (int(n) for n in tensor.numpy().reshape(-1))
        if 0 < rows < 1 << 40 and 0 < columns < 1 << 40:
            return rows, columns
    raise FormatError(f"{path}: tensor {quote(tensor.name)} is no shape of a matrix")

"""Hugging Face checkpoints as lazy tensors, in the order in which the reference converter meets them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguffast.sources.lazy import DType, LazyTensor


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint. Files are mapped, not held open; the last tensor to go unmaps its file.

    Attributes
    ----------
    path : Path
        The folder.
    parts : tuple of Path
        The weight files, in reading order.
    tensors : dict of str to LazyTensor
        What the model is made of: quantized weights (bitsandbytes, FP8, ...) appear dequantized, without their
        scales. Part by part; names sorted inside a safetensors file, dict order inside a ``.bin`` file.
    stored : dict of str to LazyTensor
        Every tensor as it lies in the files, scales included, in the same order.
    """

    path: Path
    parts: tuple[Path, ...]
    tensors: dict[str, LazyTensor]
    stored: dict[str, LazyTensor]


def open_checkpoint(directory: str | Path, quantization: Mapping[str, Any] | None = None) -> Checkpoint:
    """Open the weight files of a folder.

    Parameters
    ----------
    directory : str or Path
        The folder with the weight files.
    quantization : mapping, optional
        ``quantization_config`` of config.json. (bitsandbytes weights describe themselves and need none.)

    Raises
    ------
    FormatError
        No weights, a damaged file, an index that disagrees with its shards, an unknown quantization method.
    FileError
        A file cannot be read.
    """
    raise NotImplementedError


def guess_dtype(tensors: Iterable[LazyTensor]) -> DType:
    """Output type for ``auto``: that of the first BF16 or F16 tensor of two or more axes; F16 without one."""
    for tensor in tensors:
        if len(tensor.shape) >= 2 and tensor.dtype in (DType.BF16, DType.F16):
            return tensor.dtype
    return DType.F16

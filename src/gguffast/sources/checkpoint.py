"""Hugging Face checkpoints as lazy tensors, in the order in which the reference converter meets them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguffast.documents import parse_json, read_bytes
from gguffast.errors import FileError, FormatError, quote, quote_some
from gguffast.reading import ReadableFile
from gguffast.sources.common import longest_description, open_weights
from gguffast.sources.dequantize import dequantizer
from gguffast.sources.lazy import DType, LazyTensor


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint. The last tensor to go closes its file.

    Attributes
    ----------
    path : Path
        The folder.
    files : tuple of ReadableFile
        The weight files, in reading order.
    tensors : dict of str to LazyTensor
        What the model is made of: quantized weights (bitsandbytes, FP8, ...) appear dequantized, their scales
        not at all. Part by part; names sorted inside a safetensors file, dict order inside a ``.bin`` file.
    stored : dict of str to LazyTensor
        Every tensor as it lies in the files, scales included, in the same order.
    """

    path: Path
    files: tuple[ReadableFile, ...]
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
    path = Path(directory)
    dequantize = dequantizer(path, quantization or {})
    kind, index = _find_weights(path)
    names = sorted(set(index.values())) if index else _part_names(path, kind)
    _check_parts(path, kind, names, index)
    owner: dict[str, str] = {}
    stored: dict[str, LazyTensor] = {}
    files = [open_weights(path / part) for part in names]
    for part, file in zip(names, files, strict=True):
        for name, tensor in kind.read(file).items():
            if name in stored:
                raise FormatError(f"{path}: tensor {quote(name)} is both in {owner[name]} and in {part}")
            stored[name], owner[name] = tensor, part
    if index:
        _check_index(path / kind.index, index, owner)
    if not stored:
        raise FormatError(f"{path}: the weight files hold no tensors")
    return Checkpoint(path, tuple(files), dequantize(path, stored), stored)


def guess_dtype(tensors: Iterable[LazyTensor]) -> DType:
    """Output type for ``auto``: that of the first BF16 or F16 tensor of two or more axes; F16 without one."""
    for tensor in tensors:
        if len(tensor.shape) >= 2 and tensor.dtype in (DType.BF16, DType.F16):
            return tensor.dtype
    return DType.F16


@dataclass(frozen=True)
class _Kind:
    """A way to store weights: file names, and who reads them."""

    prefix: str
    suffix: str

    @property
    def index(self) -> str:
        return f"{self.prefix}{self.suffix}.index.json"

    def read(self, file: ReadableFile) -> Mapping[str, LazyTensor]:
        if self is _SAFETENSORS:
            from gguffast.sources.safetensors import read_safetensors

            return read_safetensors(file)
        from gguffast.sources.torch_pickle import read_torch

        return read_torch(file)


_SAFETENSORS = _Kind("model", ".safetensors")
_TORCH = _Kind("pytorch_model", ".bin")


def _find_weights(path: Path) -> tuple[_Kind, dict[str, str]]:
    """Kind of the weights, safetensors first, and their index (empty without one)."""
    for kind in (_SAFETENSORS, _TORCH):
        if (path / kind.index).is_file():
            return kind, _read_index(path, kind)
        if _part_names(path, kind):
            return kind, {}
    raise FormatError(
        f"{path}: no weights; expected model*.safetensors or pytorch_model*.bin, or their index"
    )


def _part_names(path: Path, kind: _Kind) -> list[str]:
    try:
        names = os.listdir(path)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    return sorted(name for name in names if name.startswith(kind.prefix) and name.endswith(kind.suffix))


def _read_index(folder: Path, kind: _Kind) -> dict[str, str]:
    """Which file holds which tensor."""
    path = folder / kind.index
    weights = sum((folder / name).stat().st_size for name in _part_names(folder, kind))
    content = parse_json(read_bytes(path, longest_description(weights)), path, unique=True)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(part, str) for part in weight_map.values()):
        raise FormatError(f'{path}: no "weight_map" from tensor names to file names')
    if not weight_map:
        raise FormatError(f'{path}: "weight_map" is empty')
    for part in set(weight_map.values()):
        if part in ("", ".", "..") or re.search(r"[/\\\0]", part):
            raise FormatError(f"{path}: {quote(part)} is not the name of a file in this folder")
    return weight_map


def _check_parts(path: Path, kind: _Kind, names: list[str], index: Mapping[str, str]) -> None:
    """All shards, and no shard of another set: files that are numbered say how many there are."""
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise FormatError(f"{path / kind.index}: names files that are missing: {quote_some(missing)}")
    numbered = re.compile(re.escape(kind.prefix) + r"-\d{5}-of-(\d{5})" + re.escape(kind.suffix))
    shards = {name: match[1] for name in _part_names(path, kind) if (match := numbered.fullmatch(name))}
    if index:
        surplus = sorted(shards.keys() - set(names))
        if surplus:
            raise FormatError(f"{path}: shards that {kind.index} does not name: {quote_some(surplus)}")
        return
    for total in sorted(set(shards.values())):
        wanted = (f"{kind.prefix}-{i:05d}-of-{total}{kind.suffix}" for i in range(1, int(total) + 1))
        missing = [name for name in wanted if name not in shards]
        if missing:
            raise FormatError(f"{path}: shards are missing: {quote_some(missing)}")


def _check_index(path: Path, index: Mapping[str, str], owner: Mapping[str, str]) -> None:
    """Index and shards must name the same tensors, in the same files."""
    missing = sorted(index.keys() - owner.keys())
    if missing:
        parts = quote_some(sorted({index[name] for name in missing}))
        raise FormatError(
            f"{path}: tensors that are not in the shards: {quote_some(missing)} (expected in {parts})"
        )
    surplus = sorted(owner.keys() - index.keys())
    if surplus:
        raise FormatError(
            f"{path}: the shards hold tensors that the index does not name: {quote_some(surplus)}"
        )
    moved = sorted(name for name in index if index[name] != owner[name])
    if moved:
        name = moved[0]
        raise FormatError(f"{path}: puts {quote(name)} in {index[name]}, it is in {owner[name]}")

"""Safetensors files. The `safetensors` package checks the header; the numbers are read where they lie."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from gguffast.errors import FileError, FormatError
from gguffast.sources.lazy import DType, LazyTensor, StoredTensor
from gguffast.sources.mapped import map_file, quote

# Limit of the format: 8 bytes of length, then at most this much JSON.
_MAX_HEADER = 100_000_000


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Tensors of a safetensors file, sorted by name, as views of the mapped file.

    Raises
    ------
    FormatError
        The header lies, the file is truncated, or a tensor has a number format that models are not stored in.
    FileError
        The file cannot be read.
    """
    memory = map_file(path)
    length = _header_length(path, memory)
    _vouch(path, memory, length)
    header = json.loads(bytes(memory[8 : 8 + length]), object_pairs_hook=lambda pairs: _unique(path, pairs))
    header.pop("__metadata__", None)
    data = memory[8 + length :]
    return {name: _tensor(path, name, header[name], data) for name in sorted(header)}


def _header_length(path: Path, memory: memoryview) -> int:
    length = int.from_bytes(memory[:8], "little")
    if len(memory) < 8 or length > len(memory) - 8:
        raise FormatError(
            f"{path}: the header should end at byte {8 + length}, the file has {len(memory)}; "
            "truncated, or not a safetensors file"
        )
    if length > _MAX_HEADER:
        raise FormatError(f"{path}: a header of {length} bytes; the format allows {_MAX_HEADER}")
    return length


def _vouch(path: Path, memory: memoryview, length: int) -> None:
    """Let the format's own package check names, types, shapes and that the offsets cover the file exactly."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        if "not fully covered" in reason:
            reason += f" (data of {len(memory) - 8 - length} bytes: truncated, or something was appended)"
        raise FormatError(f"{path}: not a valid safetensors file: {_one_line(reason)}") from error
    except OSError as error:
        raise FileError(f"{path}: {error}") from error


def _one_line(text: str) -> str:
    # The package quotes names and values from the file as they are.
    line = "".join(c if c.isprintable() else "?" for c in text)
    return line if len(line) <= 400 else f"{line[:400]}..."


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what JSON parsers settle silently, and each in its own way: the same key twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise FormatError(f"{path}: the header names {quote(twice)} twice")
    return result


def _tensor(path: Path, name: str, info: dict[str, Any], data: memoryview) -> LazyTensor:
    if info["dtype"] not in DType.__members__:
        known = ", ".join(DType.__members__)
        raise FormatError(f"{path}: tensor {quote(name)} has dtype {info['dtype']}; readable are {known}")
    dtype = DType[info["dtype"]]
    begin, end = info["data_offsets"]
    if not 0 <= begin <= end <= len(data) or end - begin != math.prod(info["shape"]) * dtype.itemsize:
        raise FormatError(f"{path}: tensor {quote(name)}: bytes {begin} to {end} do not fit its shape")
    return StoredTensor(name, info["shape"], dtype, data[begin:end])

"""Safetensors files: 8 bytes of length, a JSON header of names, types, shapes and places, the numbers.

The header is checked as the format's own package checks it (the tests compare the two): every tensor has the
bytes that its type and shape make, and the tensors cover the file exactly, without holes or overlaps. It is
not asked to do it: it would map the file, and take 20 times a header's length in memory before it says no.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from gguffast.documents import parse_json, shown
from gguffast.errors import FormatError, quote
from gguffast.reading import ReadableFile
from gguffast.sources.common import check_proportion, is_shape, naturals
from gguffast.sources.lazy import DType, StoredTensor

# Limit of the format.
_MAX_HEADER = 100_000_000
_FIELDS = {"dtype", "shape", "data_offsets"}
_DTYPES = {dtype.name: dtype for dtype in DType if dtype.numbers == 1}


def read_safetensors(file: ReadableFile) -> dict[str, StoredTensor]:
    """Tensors of a safetensors file, sorted by name.

    Raises
    ------
    FormatError
        The header lies, the file is truncated, or a tensor has a number format that models are not stored in.
    FileError
        The file cannot be read.
    """
    length = _header_length(file)
    header = _parse(file, length)
    tensors = [_tensor(file, name, header[name], 8 + length) for name in sorted(header)]
    _check_cover(file, tensors, 8 + length)
    return {tensor.name: tensor for tensor in tensors}


def _header_length(file: ReadableFile) -> int:
    length = int.from_bytes(file.read(0, min(8, file.size)), "little")
    if length > file.size - 8:
        raise FormatError(
            f"{file.name}: the header should end at byte {8 + length}, the file has {file.size}; "
            "truncated, or not a safetensors file"
        )
    if length > _MAX_HEADER:
        raise FormatError(f"{file.name}: a header of {length} bytes; the format allows {_MAX_HEADER}")
    check_proportion(file.name, "a header", length, file.size)
    return length


def _parse(file: ReadableFile, length: int) -> dict[str, Any]:
    text = file.read(8, length)
    if text[:1] != b"{":
        raise FormatError(f"{file.name}: not a safetensors file: the header does not begin with a brace")
    header: dict[str, Any] = parse_json(bytes(text), file.name, unique=True)
    if not isinstance(header.pop("__metadata__", {}), dict):
        raise FormatError(f"{file.name}: the header's __metadata__ is no object")
    return header


def _tensor(file: ReadableFile, name: str, entry: object, start: int) -> StoredTensor:
    place = f"{file.name}: tensor {quote(name)}"
    if not isinstance(entry, dict) or entry.keys() != _FIELDS or not isinstance(entry["dtype"], str):
        raise FormatError(f"{place} is not described by dtype, shape and data_offsets; the file is damaged")
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise FormatError(f"{place} has dtype {quote(entry['dtype'])}; readable are {', '.join(_DTYPES)}")
    shape, offsets = naturals(entry["shape"]), naturals(entry["data_offsets"])
    if shape is None or not is_shape(shape):
        raise FormatError(f"{place} has the shape {shown(entry['shape'])}, expected a list of lengths")
    if offsets is None or len(offsets) != 2 or not offsets[0] <= offsets[1] <= file.size - start:
        raise FormatError(
            f"{place} has the data_offsets {shown(entry['data_offsets'])}, expected where it begins and ends "
            f"in data of {file.size - start} bytes; the file is truncated or damaged"
        )
    nbytes = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != nbytes:
        raise FormatError(
            f"{place}: shape {shown(list(shape))} of {dtype.name} is {nbytes} bytes, "
            f"its data_offsets are {offsets[1] - offsets[0]} apart; the file is damaged"
        )
    return StoredTensor(name, shape, dtype, file, start + offsets[0])


def _check_cover(file: ReadableFile, tensors: Iterable[StoredTensor], start: int) -> None:
    """Nothing overlaps, nothing is left over: no byte has two meanings, or none."""
    end, last = start, None
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.size)):
        if tensor.offset != end:
            fault = "overlaps" if tensor.offset < end else "leaves a hole behind"
            before = quote(last) if last else "the header"
            raise FormatError(
                f"{file.name}: tensor {quote(tensor.name)} {fault} {before}; the file is damaged"
            )
        end, last = tensor.offset + tensor.size * tensor.dtype.itemsize, tensor.name
    if end != file.size:
        raise FormatError(
            f"{file.name}: the tensors take {end - start} bytes of {file.size - start}; "
            "something was appended"
        )

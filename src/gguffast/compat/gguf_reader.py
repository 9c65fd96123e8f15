"""``gguf.GGUFReader`` that opens a model in milliseconds: what takes time is made when it is asked for."""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf.gguf_reader import ReaderField, ReaderTensor

from gguffast import _core

_Bytes = npt.NDArray[np.uint8]
_Value = gguf.GGUFValueType
_Type = gguf.GGMLQuantizationType

_SCALARS = gguf.GGUFReader.gguf_scalar_to_np
_DTYPES = {
    _Type.F16: np.float16,
    _Type.F32: np.float32,
    _Type.F64: np.float64,
    _Type.I8: np.int8,
    _Type.I16: np.int16,
    _Type.I32: np.int32,
    _Type.I64: np.int64,
}


class Reader(gguf.GGUFReader):
    """What ``gguf.GGUFReader`` is to its callers: the same attributes, of the same values.

    A file that our parser refuses, or one of the other byte order, is read by gguf-py's own code.
    """

    def __init__(self, path: Any, mode: Any = "r") -> None:
        self.data = np.memmap(path, mode=mode)
        try:
            header = _core.parse_gguf(self.data, self.data.size)
        except _core.HeaderError:
            super().__init__(path, mode)
            return
        self.endianess = gguf.GGUFEndian.LITTLE
        self.alignment = header.alignment
        self.data_offset = header.data_offset
        self.fields: OrderedDict[str, ReaderField] = OrderedDict()
        self.tensors: list[ReaderTensor] = []
        data = self.data.view(np.ndarray)
        self._add_counts(data)
        end = 24
        for pair in header.pairs:
            field = _key_field(data, end, pair, cached=mode == "r")
            self.fields[field.name] = field
            end = pair.offset + pair.size
        for tensor in header.tensors:
            self.tensors.append(self._tensor(data, tensor, end))
            end += 8 + len(tensor.name) + 4 + 8 * len(tensor.ne) + 4 + 8

    def _add_counts(self, data: _Bytes) -> None:
        counts = data[8:24].view(np.uint64)
        for offset, name, part, kind in (
            (4, "GGUF.version", data[4:8].view(np.uint32), _Value.UINT32),
            (8, "GGUF.tensor_count", counts[:1], _Value.UINT64),
            (16, "GGUF.kv_count", counts[1:], _Value.UINT64),
        ):
            self.fields[name] = ReaderField(offset, name, [part], [0], [kind])

    def _tensor(self, data: _Bytes, found: _core.HeaderTensor, offset: int) -> ReaderTensor:
        kind = _Type(found.type)
        stored = self.data[found.offset : found.offset + found.nbytes]
        shape = found.ne[::-1]
        if kind in _DTYPES:
            stored = stored.view(_DTYPES[kind])
        else:
            shape = gguf.quant_shape_to_byte_shape(shape, kind)
        field = _tensor_field(data, offset, found)
        dims = offset + 8 + len(found.name) + 4
        return ReaderTensor(
            name=field.name,
            tensor_type=kind,
            shape=data[dims : dims + 8 * len(found.ne)].view(np.uint64),
            n_elements=math.prod(found.ne),
            n_bytes=found.nbytes,
            data_offset=found.offset,
            data=stored.reshape(shape),
            field=field,
        )


class _Field(ReaderField):
    """A field whose `parts` and `data` are made when they are first asked for."""

    _views: Callable[[], tuple[list[npt.NDArray[Any]], list[int]]]
    _seen: tuple[list[npt.NDArray[Any]], list[int]] | None = None

    @property
    def parts(self) -> list[npt.NDArray[Any]]:
        """Views of the file: the key, its type, the value."""
        return self._both()[0]

    @property
    def data(self) -> list[int]:
        """Which of the parts are the value."""
        return self._both()[1]

    def _both(self) -> tuple[list[npt.NDArray[Any]], list[int]]:
        if self._seen is None:
            self._seen = self._views()
        return self._seen

    def __getitem__(self, which: Any) -> Any:
        return tuple(self)[which]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.offset, self.name, self.parts, self.data, self.types))

    def __reduce__(self) -> tuple[Any, ...]:
        return ReaderField, tuple(self)

    def _replace(self, **values: Any) -> ReaderField:  # type: ignore[override]
        return ReaderField(*self)._replace(**values)


class _ArrayField(_Field):
    """An array, whose contents need no parts."""

    _items: _Bytes
    _texts: list[str] | None = None
    _cached: bool

    def contents(self, index_or_slice: int | slice = slice(None)) -> Any:
        """Give the value, or some items of it."""
        item = self.types[-1]
        if item != _Value.STRING:
            return self._items.view(_SCALARS[item])[index_or_slice].tolist()
        if not self._cached:  # it may be written to
            return super().contents(index_or_slice)
        if self._texts is None:
            count = int(self._items[4:12].view(np.uint64)[0])
            self._texts = _core.decode_strings(self._items[12:].tobytes(), count)
        return self._texts[index_or_slice]


def _key_field(data: _Bytes, start: int, pair: _core.HeaderPair, *, cached: bool) -> _Field:
    value = data[pair.offset : pair.offset + pair.size]
    head = _key_parts(data, start, pair)
    types = [_Value(pair.type)]
    kind = _Field
    if types[0] == _Value.ARRAY and value[4:12].any():
        types.append(_Value(int(value[:4].view(np.uint32)[0])))
        kind = _ArrayField
    field = kind(start, pair.key.decode("utf-8", "surrogateescape"), [], [], types)
    field._views = lambda: _add_value(head(), value, types)
    if isinstance(field, _ArrayField):
        field._cached = cached
        field._items = value if types[-1] == _Value.STRING else value[12:]
    return field


def _key_parts(data: _Bytes, start: int, pair: _core.HeaderPair) -> Callable[[], list[npt.NDArray[Any]]]:
    name = start + 8
    end = name + len(pair.key)
    return lambda: [
        data[start:name].view(np.uint64),
        data[name:end],
        data[end : end + 4].view(np.uint32),
    ]


def _add_value(
    parts: list[npt.NDArray[Any]], value: _Bytes, types: list[Any]
) -> tuple[list[npt.NDArray[Any]], list[int]]:
    """Add the views of a value to those of its key; say which of all are the value itself."""
    if types[0] == _Value.STRING:
        return [*parts, value[:8].view(np.uint64), value[8:]], [4]
    if types[0] != _Value.ARRAY:
        return [*parts, value.view(_SCALARS[types[0]])], [3]
    parts += [value[:4].view(np.uint32), value[4:12].view(np.uint64)]
    count = int(parts[-1][0])
    if types[-1] == _Value.STRING:
        _add_strings(parts, value, count)
        return parts, list(range(6, 6 + 2 * count, 2))
    if count:
        items = value[12:].view(_SCALARS[types[-1]])
        parts += [items[i : i + 1] for i in range(count)]
    return parts, list(range(5, 5 + count))


def _add_strings(parts: list[npt.NDArray[Any]], value: _Bytes, count: int) -> None:
    length = struct.Struct("<Q").unpack_from
    raw = value.data
    start = 12
    for _ in range(count):
        text = start + 8
        end = text + length(raw, start)[0]
        parts += [value[start:text].view(np.uint64), value[text:end]]
        start = end


def _tensor_field(data: _Bytes, start: int, found: _core.HeaderTensor) -> _Field:
    def views() -> tuple[list[npt.NDArray[Any]], list[int]]:
        parts = []
        at = start
        for nbytes, kind in (
            (8, np.uint64),
            (len(found.name), np.uint8),
            (4, np.uint32),
            (8 * len(found.ne), np.uint64),
            (4, np.uint32),
            (8, np.uint64),
        ):
            parts.append(data[at : at + nbytes].view(kind))
            at += nbytes
        return parts, [1, 3, 4, 5]

    field = _Field(start, found.name.decode("utf-8", "surrogateescape"), [], [])
    field._views = views
    return field

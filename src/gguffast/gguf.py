"""GGUF files: what they say about themselves, their tensors, and how to write their header.

The format is described in ``docs/gguf.md`` of ggml. Reading trusts nothing: every count, length and offset is
checked against the file by the C core before it is used, so a damaged file is an error and never a crash.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, overload

from gguffast import _core
from gguffast.errors import FormatError, OptionError
from gguffast.reading import LocalFile
from gguffast.types import GGMLQuantizationType

if TYPE_CHECKING:
    import numpy.typing as npt

DEFAULT_ALIGNMENT = _core.DEFAULT_ALIGNMENT
MAX_ALIGNMENT = _core.MAX_ALIGNMENT
MAX_NAME_BYTES = _core.MAX_NAME_BYTES
MAX_DIMS = _core.MAX_DIMS


class GGUFValueType(IntEnum):
    """Types of metadata values, by their number in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_STRUCT_CODES = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}

_FLOATS = {GGUFValueType.FLOAT32, GGUFValueType.FLOAT64}
_INTEGERS = set(_STRUCT_CODES) - _FLOATS - {GGUFValueType.BOOL}

_ARRAY_HEAD = struct.Struct("<IQ")

_NUMPY_DTYPES = {
    GGMLQuantizationType.F32: "<f4",
    GGMLQuantizationType.F16: "<f2",
    GGMLQuantizationType.F64: "<f8",
    GGMLQuantizationType.I8: "<i1",
    GGMLQuantizationType.I16: "<i2",
    GGMLQuantizationType.I32: "<i4",
    GGMLQuantizationType.I64: "<i8",
}


class KV(NamedTuple):
    """A key-value pair of the metadata.

    Attributes
    ----------
    key : str
        Its name.
    type : GGUFValueType
        Type of the value.
    raw : bytes
        The value as it stands in the file, after the number of its type.
    """

    key: str
    type: GGUFValueType
    raw: bytes

    @property
    def value(self) -> Any:
        """The value: bool, int, float, str, list of str, or a NumPy array for an array of numbers or bools.

        Bytes of a string that are not UTF-8 become lone surrogates (``errors="surrogateescape"``).
        """
        if self.type is GGUFValueType.STRING:
            return _to_text(self.raw[8:])
        if self.type is GGUFValueType.ARRAY:
            return _decode_array(self.raw)
        return struct.unpack("<" + _STRUCT_CODES[self.type], self.raw)[0]

    @property
    def n_items(self) -> int:
        """Number of items of an array, without decoding them; 1 for any other value."""
        return int(_ARRAY_HEAD.unpack_from(self.raw)[1]) if self.type is GGUFValueType.ARRAY else 1

    @property
    def item_type(self) -> GGUFValueType:
        """Type of the items of an array; the value's own type for any other."""
        if self.type is not GGUFValueType.ARRAY:
            return self.type
        return GGUFValueType(_ARRAY_HEAD.unpack_from(self.raw)[0])


def _decode_array(raw: bytes) -> list[str] | npt.NDArray[Any]:
    number, count = _ARRAY_HEAD.unpack_from(raw)
    items = raw[_ARRAY_HEAD.size :]
    if number == GGUFValueType.STRING:
        return _core.decode_strings(items, count)

    import numpy as np

    return np.frombuffer(items, "<" + _STRUCT_CODES[GGUFValueType(number)], count).copy()


# ---- writing -----------------------------------------------------------------------------------------------


def kv(key: str, value: Any, type: GGUFValueType, item_type: GGUFValueType | None = None) -> KV:
    """Encode a metadata value.

    Parameters
    ----------
    key : str
        Name of the pair.
    value : bool, int, float, str, bytes, sequence or NumPy array
        What fits ``type``. ``bytes`` stand for a string that need not be UTF-8.
    type : GGUFValueType
        Type of the value.
    item_type : GGUFValueType, optional
        For an array, the type of its items. By default that of a NumPy array, else as gguf-py has it: INT32
        for int, FLOAT32 for float, BOOL for bool, STRING for str.

    Returns
    -------
    KV
        The encoded pair.

    Raises
    ------
    OptionError
        If the value does not fit the type.
    """
    try:
        return KV(key, GGUFValueType(type), _encode(value, type, item_type))
    except (struct.error, OverflowError, TypeError, ValueError) as error:
        shown = f"{value!r:.60}"
        raise OptionError(f"key {key!r}: {shown} does not fit the type {type.name} ({error})") from None


def _encode(value: Any, type: GGUFValueType, item_type: GGUFValueType | None = None) -> bytes:
    if type is GGUFValueType.ARRAY:
        item_type = _infer_item_type(value) if item_type is None else item_type
        items = value.tolist() if hasattr(value, "tolist") else list(value)
        return _ARRAY_HEAD.pack(item_type, len(items)) + _encode_items(items, item_type)
    return _encode_items([value], type)


def _encode_items(items: list[Any], type: GGUFValueType) -> bytes:
    if type is GGUFValueType.STRING:
        return b"".join(map(_encode_string, items))
    if type is GGUFValueType.ARRAY:
        raise ValueError("GGUF has no arrays of arrays")
    # struct takes any object for a bool by its truth, so that the string "false" would be true.
    if type is GGUFValueType.BOOL and any(item not in (0, 1) for item in items):
        raise ValueError("a bool is True or False")
    return struct.pack(f"<{len(items)}{_STRUCT_CODES[type]}", *items)


def _encode_string(text: str | bytes) -> bytes:
    encoded = _to_bytes(text) if isinstance(text, str) else bytes(memoryview(text))
    return struct.pack("<Q", len(encoded)) + encoded


def _infer_item_type(value: Any) -> GGUFValueType:
    dtype = getattr(value, "dtype", None)
    if dtype is not None:
        if dtype.name.upper() not in GGUFValueType.__members__:
            raise ValueError(f"GGUF has no arrays of {dtype.name}")
        return GGUFValueType[dtype.name.upper()]
    if isinstance(value, bytes):
        return GGUFValueType.UINT8
    if len(value) == 0:
        raise ValueError("an empty array needs an item type")
    for python_type, item_type in (
        (bool, GGUFValueType.BOOL),
        (int, GGUFValueType.INT32),
        (float, GGUFValueType.FLOAT32),
        ((str, bytes), GGUFValueType.STRING),
    ):
        if isinstance(value[0], python_type):
            return item_type
    raise ValueError(f"GGUF has no arrays of {value[0].__class__.__name__}")


def serialize_header(
    kvs: Sequence[KV],
    tensors: Sequence[tuple[str, Sequence[int], GGMLQuantizationType, int]],
    alignment: int = DEFAULT_ALIGNMENT,
    version: int = 3,
) -> bytes:
    """Write the header of a GGUF file.

    Parameters
    ----------
    kvs : sequence of KV
        The metadata, in the order of the file.
    tensors : sequence of (name, ne, type, offset)
        ``ne`` has the fastest dimension first, four at most; ``offset`` is in bytes from the header's end.
    alignment : int
        Of the data, in bytes; the same as ``general.alignment`` if the metadata has that key.
    version : int
        2 or 3; they differ in nothing but this number.

    Returns
    -------
    bytes
        The header, padded with zeros to the alignment.

    Raises
    ------
    OptionError
        If no reader would accept such a header: a name too long or there twice, an offset not aligned, ...
    """
    _check_alignment(alignment, kvs)
    _check_names("key", [pair.key for pair in kvs])
    _check_names("tensor", [name for name, *_ in tensors])
    for tensor in tensors:
        _check_tensor(tensor, alignment)
    return _core.write_gguf(
        version,
        [(_to_bytes(pair.key), int(pair.type), bytes(pair.raw)) for pair in kvs],
        [(_to_bytes(name), tuple(ne), int(type), offset) for name, ne, type, offset in tensors],
        alignment,
    )


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _to_text(encoded: bytes) -> str:
    return encoded.decode("utf-8", "surrogateescape")


def _check_alignment(alignment: int, kvs: Sequence[KV]) -> None:
    if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise OptionError(
            f"alignment {alignment} is not a power of two up to {MAX_ALIGNMENT}; use {DEFAULT_ALIGNMENT}"
        )
    for pair in kvs:
        if pair.key == "general.alignment" and (pair.type, pair.value) != (GGUFValueType.UINT32, alignment):
            raise OptionError(
                f"general.alignment is {pair.value} ({pair.type.name}), but the data's alignment {alignment}"
            )


def _check_names(what: str, names: list[str]) -> None:
    if what == "key" and "" in names:
        raise OptionError("a key is empty; every key needs a name")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise OptionError(f"{what} {twice!r} is there twice; names must differ")


def _check_tensor(tensor: tuple[str, Sequence[int], GGMLQuantizationType, int], alignment: int) -> None:
    name, ne, _, offset = tensor
    size = len(_to_bytes(name))
    if size > MAX_NAME_BYTES:
        raise OptionError(f"tensor {name!r} has a name of {size} bytes; {MAX_NAME_BYTES} are allowed")
    if len(ne) > MAX_DIMS:
        raise OptionError(f"tensor {name!r} has {len(ne)} dimensions; GGUF has {MAX_DIMS} at most")
    if offset % alignment:
        raise OptionError(f"tensor {name!r} starts at {offset}, which is not a multiple of {alignment}")


# ---- reading -----------------------------------------------------------------------------------------------


class Metadata(Mapping[str, Any]):
    """Key-value pairs in their order; a value is decoded when it is first asked for.

    A file may hold any type under any key. ``metadata[key]`` gives what is there; the named accessors give
    what a key has to be, or None where it is missing, and refuse everything else in words.

    Parameters
    ----------
    pairs : iterable of KV
        The pairs; keys differ.
    origin : str or path-like
        Where they come from, for messages.
    """

    def __init__(self, pairs: Iterable[KV], origin: str | os.PathLike[str]) -> None:
        self._pairs: dict[str, KV | _core.HeaderPair] = {pair.key: pair for pair in pairs}
        self._origin = os.fspath(origin)
        self._values: dict[str, Any] = {}
        self._header = bytearray()

    @classmethod
    def _of_file(cls, header: _core.Header, start: bytearray, origin: Path) -> Metadata:
        """Take a file's header; its values are copied out of it when they are asked for."""
        metadata = cls((), origin)
        metadata._pairs = {_to_text(pair.key): pair for pair in header.pairs}
        metadata._header = start
        return metadata

    def raw(self, key: str) -> KV:
        """Give the pair as it stands in the file; KeyError if there is none."""
        pair = self._pairs[key]
        if isinstance(pair, KV):
            return pair
        value = memoryview(self._header)[pair.offset : pair.offset + pair.size]
        return KV(key, GGUFValueType(pair.type), bytes(value))

    def uint(self, key: str) -> int | None:
        """Give a whole number from 0 up, of any integer type; FormatError for anything else."""
        value = self._checked(key, _INTEGERS, "a whole number")
        if value is not None and value < 0:
            raise self._unexpected(key, "a whole number from 0 up")
        return value  # type: ignore[no-any-return]

    def number(self, key: str) -> float | None:
        """Give a number of any type; FormatError for anything else."""
        return self._checked(key, _INTEGERS | _FLOATS, "a number")  # type: ignore[no-any-return]

    def flag(self, key: str) -> bool | None:
        """Give a truth value; FormatError for anything else."""
        return self._checked(key, {GGUFValueType.BOOL}, "true or false")  # type: ignore[no-any-return]

    def text(self, key: str) -> str | None:
        """Give a string; FormatError for anything else."""
        return self._checked(key, {GGUFValueType.STRING}, "a string")  # type: ignore[no-any-return]

    def texts(self, key: str) -> list[str] | None:
        """Give an array of strings; FormatError for anything else."""
        return self._checked(key, {GGUFValueType.STRING}, "an array of strings", array=True)  # type: ignore[no-any-return]

    def uints(self, key: str) -> list[int] | None:
        """Give an array of whole numbers from 0 up, or one such number; FormatError for anything else."""
        if key in self._pairs and self._pairs[key].type is not GGUFValueType.ARRAY:
            value = self.uint(key)
            return None if value is None else [value]
        values = self._checked(key, _INTEGERS, "whole numbers", array=True)
        if values is None:
            return None
        if values.size and values.min() < 0:
            raise self._unexpected(key, "whole numbers from 0 up")
        return values.tolist()  # type: ignore[no-any-return]

    def _checked(self, key: str, types: set[GGUFValueType], expected: str, *, array: bool = False) -> Any:
        if key not in self._pairs:
            return None
        pair = self.raw(key)
        if pair.item_type not in types or (pair.type is GGUFValueType.ARRAY) != array:
            raise self._unexpected(key, expected)
        return self[key]

    def _unexpected(self, key: str, expected: str) -> FormatError:
        pair = self.raw(key)
        found = f"an array of {pair.item_type.name}" if pair.type is GGUFValueType.ARRAY else pair.type.name
        if pair.type in _INTEGERS:
            found = f"{pair.value} ({found})"
        return FormatError(
            f"{self._origin}: the key {key!r} is {found}, expected {expected}; the file is damaged or was "
            "made by a faulty program: convert the model again"
        )

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            self._values[key] = self.raw(key).value
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._pairs

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __repr__(self) -> str:
        return f"Metadata({list(self._pairs)})"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor in a file.

    Attributes
    ----------
    name : str
        Its name.
    ne : tuple of int
        Dimensions as stored: the fastest first.
    type : GGMLQuantizationType
        How its weights are stored.
    offset : int
        Of its data, in bytes from the start of the file.
    nbytes : int
        Size of its data.
    """

    name: str
    ne: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    nbytes: int
    _file: _TensorFile = field(repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions as NumPy has them: the fastest last."""
        return self.ne[::-1]

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return math.prod(self.ne)

    @property
    def n_rows(self) -> int:
        """Number of rows, a row being what the fastest dimension runs over."""
        return math.prod(self.ne[1:])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.type.nbytes(self.ne[0] if self.ne else 1)

    @property
    def data(self) -> npt.NDArray[Any]:
        """The weights where they lie in the file: a read-only view, nothing is copied.

        F32, F16, F64 and the integers have their dtype and ``shape``; every other type is uint8, with the
        bytes of a row as the last dimension (as gguf-py has it). The view may outlive the file object. It is
        a memory map, so that the operating system ends the process if the file is cut short while it is in
        use; `read` tells of it instead.
        """
        import numpy as np

        # frombuffer, not ndarray(buffer=...): the latter lets the mapping be closed while the array lives.
        return self._shaped(
            np.frombuffer(self._file.map(), np.uint8)[self.offset : self.offset + self.nbytes]
        )

    def read(self) -> npt.NDArray[Any]:
        """Read the weights into memory; dtype and shape are those of `data`.

        Raises
        ------
        FormatError
            The file was cut short meanwhile.
        FileError
            The file system said no.
        """
        import numpy as np

        found = np.empty(self.nbytes, np.uint8)
        self.read_into(0, found.data)
        return self._shaped(found)

    def read_into(self, offset: int, into: memoryview) -> None:
        """Fill `into` with the bytes from byte `offset` of the data on; errors as in `read`."""
        self._file.read_into(self.offset + offset, into, f"tensor '{self.name}'")

    def _shaped(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        dtype = _NUMPY_DTYPES.get(self.type)
        if dtype is not None:
            return data.view(dtype).reshape(self.shape)
        return data.reshape(*self.shape[:-1], self.row_bytes)


class _TensorFile(LocalFile):
    """A file and, once somebody wants a view of a tensor, its memory map."""

    _map: mmap.mmap | None = None

    def map(self) -> mmap.mmap:
        if self._map is None:
            if self._fd < 0:
                raise ValueError(f"{self.name} is closed")
            self._map = mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)
        return self._map

    def close(self) -> None:
        if self._map is not None:
            # Views hold the mapping; it goes when the last of them goes.
            with contextlib.suppress(BufferError):
                self._map.close()
        super().close()


class Tensors(Sequence[TensorInfo]):
    """The tensors of a file, in its order; by position or by name."""

    def __init__(self, tensors: list[TensorInfo]) -> None:
        self._list = tensors
        self._by_name = {tensor.name: tensor for tensor in tensors}

    @overload
    def __getitem__(self, which: int | str) -> TensorInfo: ...
    @overload
    def __getitem__(self, which: slice) -> list[TensorInfo]: ...
    def __getitem__(self, which: int | str | slice) -> TensorInfo | list[TensorInfo]:
        return self._by_name[which] if isinstance(which, str) else self._list[which]

    def __contains__(self, which: object) -> bool:
        return which in self._by_name if isinstance(which, str) else which in self._list

    def __iter__(self) -> Iterator[TensorInfo]:
        return iter(self._list)

    def __len__(self) -> int:
        return len(self._list)

    def __repr__(self) -> str:
        return f"Tensors({list(self._by_name)})"


class GGUFFile:
    """An open GGUF file (version 2 or 3, little-endian).

    Parameters
    ----------
    path : str or path-like
        The file.

    Attributes
    ----------
    path : Path
        The file.
    version : int
        GGUF version, 2 or 3.
    alignment : int
        Of tensor data, in bytes.
    data_offset : int
        Where the header ends and the data section starts, in bytes.
    byte_size : int
        Size of the file.
    metadata : Metadata
        The key-value pairs as a mapping. It outlives the file object.
    tensors : Tensors
        The tensors in the order of the file; ``tensors["name"]`` works too.

    Raises
    ------
    FileError
        If the file cannot be opened.
    FormatError
        If it is not a sound GGUF file. The message names the place.

    Examples
    --------
    >>> with GGUFFile("model.gguf") as gguf:  # doctest: +SKIP
    ...     print(gguf.metadata["general.architecture"], gguf.tensors["output.weight"].data.shape)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = _TensorFile(self.path)
        try:
            header, start = _read_header(self._file)
        except BaseException:
            self.close()
            raise
        self.version, self.alignment, self.data_offset = header.version, header.alignment, header.data_offset
        self.byte_size = self._file.size
        # The header is kept, so that the metadata needs no open file: some MB at most.
        del start[self.data_offset :]
        self.metadata = Metadata._of_file(header, start, self.path)
        self.tensors = Tensors([self._tensor(tensor) for tensor in header.tensors])

    def _tensor(self, found: _core.HeaderTensor) -> TensorInfo:
        type = GGMLQuantizationType(found.type)
        return TensorInfo(_to_text(found.name), found.ne, type, found.offset, found.nbytes, self._file)

    @property
    def kvs(self) -> list[KV]:
        """The key-value pairs in the order of the file, not decoded."""
        return [self.metadata.raw(key) for key in self.metadata]

    def close(self) -> None:
        """Close the file. Views of tensors that are still in use keep their data until they are gone."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"GGUFFile({str(self.path)!r}, {len(self.metadata)} keys, {len(self.tensors)} tensors)"


# Most headers of models with their vocabulary fit, and reading it takes some 0.1 ms.
_FIRST_READ = 1 << 20


def _read_header(file: LocalFile) -> tuple[_core.Header, bytearray]:
    """Parse a header, and give the bytes that it was found in."""
    if not file.size:
        raise FormatError(f"{file.name}: the file is empty (0 bytes); download or convert it again")
    wanted = _FIRST_READ
    while True:
        start = file.read(0, min(wanted, file.size), "the header")
        try:
            return _core.parse_gguf(start, file.size), start
        except _core.HeaderError as error:
            if error.status != "INCOMPLETE":
                raise FormatError(f"{file.name}: {_describe(error, bytes(start[:24]))}") from None
            # Reading and parsing start anew, so each piece is a multiple of the one before.
            wanted = max(error.limit, 8 * len(start))
        del start


# ---- words for errors --------------------------------------------------------------------------------------

_LONGEST_SHOWN = 100
_AGAIN = "the file is damaged or incomplete: download or convert it again"
_REFUSED = "llama.cpp refuses such files too: convert it again"

# By gf_gguf_status. {found} and {limit} are what csrc/gguffast.h says for each.
_PROBLEMS = {
    "NO_MEMORY": "there is not enough memory to read the header; close other programs",
    "BIG_ENDIAN": "this is a big-endian GGUF file; make it little-endian with gguf-py's gguf-convert-endian",
    "TRUNCATED": "{where}needs {limit} bytes from byte {offset} on, but the file ends after {found}; {again}",
    "HUGE_HEADER": "{where}has more than {limit} bytes, which no model needs; {again}",
    "TOO_MANY_KVS": "the header counts {found} key-value pairs; more than {limit} are not read; {again}",
    "TOO_MANY_TENSORS": "the header counts {found} tensors; more than {limit} are not read; {again}",
    "BAD_KV_COUNT": "the header counts {found} key-value pairs, but the file has room for {limit}; {again}",
    "BAD_TENSOR_COUNT": "the header counts {found} tensors, but the file has room for {limit}; {again}",
    "BAD_ARRAY_COUNT": "{where}counts {found} items, but the file has room for {limit}; {again}",
    "EMPTY_KEY": "{where}has an empty key; {refused}",
    "DUPLICATE_KEY": "{where}is there twice (key-value pairs {found} and {index}); {refused}",
    "BAD_VALUE_TYPE": "{where}has the unknown value type {found} (known: 0 to 12); {again}",
    "NESTED_ARRAY": "{where}is an array of arrays; {refused}",
    "ALIGNMENT_NOT_U32": "{where}has value type {found}, not 4 (UINT32); {refused}",
    "BAD_ALIGNMENT": "{where}is {found}, which is not a power of two up to {limit}; {refused}",
    "LONG_TENSOR_NAME": "{where}has a name of {found} bytes, more than {limit}; {again}",
    "DUPLICATE_TENSOR": "{where}is there twice (tensors {found} and {index}); {refused}",
    "TOO_MANY_DIMS": "{where}has {found} dimensions, more than {limit}; {again}",
    "NEGATIVE_DIM": "{where}has the negative size {signed} in dimension {limit}; {again}",
    "SHAPE_OVERFLOW": "{where}has a shape of more bytes than 63 bits can count; {again}",
    "UNKNOWN_TENSOR_TYPE": "{where}has the unknown type id {found}; a newer gguffast may know it, or {again}",
    "PARTIAL_BLOCK": "{where}has rows of {found} weights, but blocks of {limit}; {again}",
    "MISALIGNED_TENSOR": "{where}has the data offset {found}, not a multiple of {limit}; {again}",
    "TENSOR_PAST_END": "{where}has data up to byte {found}, but the file has {limit} bytes; {again}",
    "TENSOR_OVERLAP": "{where}shares bytes with tensor number {found}; {again}",
}


def _describe(error: _core.HeaderError, start: bytes) -> str:
    if error.status == "NOT_GGUF":
        return _describe_foreign(start)
    if error.status == "BAD_VERSION":
        return _describe_version(error.found)
    return _PROBLEMS[error.status].format(
        where=_place(error),
        again=_AGAIN,
        refused=_REFUSED,
        index=error.index,
        offset=error.offset,
        found=error.found,
        limit=error.limit,
        signed=error.found - 2**64,
    )


def _place(error: _core.HeaderError) -> str:
    if error.part == "header":
        return "the header "
    if error.name:
        # repr and a limit: one line of a sane length whatever the bytes are.
        shown = error.name if len(error.name) <= _LONGEST_SHOWN else error.name[:_LONGEST_SHOWN] + b"..."
        return f"{error.part} {shown.decode('utf-8', 'backslashreplace')!r} "
    kind = "key-value pair" if error.part == "key" else error.part
    return f"{kind} {error.index} (byte {error.offset}) "


def _describe_foreign(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the model itself; run `git lfs pull` to fetch it"
    return f"not a GGUF file: it begins with {start[:4]!r}, not with b'GGUF'; give the path of a .gguf file"


def _describe_version(version: int) -> str:
    if version == 1:
        return "GGUF version 1, which llama.cpp gave up in 2023; convert the original model again"
    return f"GGUF version {version} is unknown (known: 2 and 3); a newer version of gguffast may read it"

"""PyTorch's ``pytorch_model.bin``: a zip archive, or (before PyTorch 1.6) pickles followed by the numbers.

A pickle is a program. The one here is read by a machine of our own that knows the few instructions of a
dictionary of tensors, and nothing that could import, call or build anything else: there is no path from a
file to code. Tensors are located, not loaded.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gguffast.errors import FormatError, quote
from gguffast.reading import ReadableFile
from gguffast.sources.common import is_shape
from gguffast.sources.lazy import DType, LazyTensor, StoredTensor, strided
from gguffast.sources.stored_zip import Member, read_members

# A tensor takes about 200 bytes of pickle, and 40 instructions. One instruction can take 180 bytes of memory:
# how many there may be goes by the size of the file.
_MAX_PICKLE = 16 << 20
_FREE_INSTRUCTIONS = 300_000
_BYTES_AN_INSTRUCTION = 256
_MAX_AXES = 8
_LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


def read_torch(file: ReadableFile) -> dict[str, LazyTensor]:
    """Tensors of a PyTorch file, in the order of its dictionary.

    Raises
    ------
    FormatError
        The file is damaged, of another kind, or its pickle does anything but rebuild tensors (it is named).
    FileError
        The file cannot be read.
    """
    start = file.read(0, min(file.size, len(_LEGACY_START)))
    if start[:4] == b"PK\x03\x04":
        return _read_zip(file)
    if start == _LEGACY_START:
        return _read_legacy(file)
    raise FormatError(f"{file.name}: neither of PyTorch's file formats (zip archive, legacy pickle)")


class _Storage(NamedTuple):
    """A run of numbers somewhere in the file; ``dtype`` is None for untyped bytes, counted in bytes then."""

    key: str
    dtype: DType | None
    numel: int
    offset: int


class _View(NamedTuple):
    """A tensor: a strided view of a storage; offset and strides in elements."""

    storage: _Storage
    dtype: DType
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


# --- Allowed names ----------------------------------------------------------------------------------------

_STORAGES: dict[str, DType | None] = {
    "FloatStorage": DType.F32,
    "HalfStorage": DType.F16,
    "BFloat16Storage": DType.BF16,
    "DoubleStorage": DType.F64,
    "ByteStorage": DType.U8,
    "CharStorage": DType.I8,
    "ShortStorage": DType.I16,
    "IntStorage": DType.I32,
    "LongStorage": DType.I64,
    "BoolStorage": DType.BOOL,
    "UntypedStorage": None,
}
_DTYPES = {
    "float32": DType.F32,
    "float16": DType.F16,
    "bfloat16": DType.BF16,
    "float64": DType.F64,
    "float8_e4m3fn": DType.F8_E4M3,
    "float8_e5m2": DType.F8_E5M2,
    "uint8": DType.U8,
    "int8": DType.I8,
    "int16": DType.I16,
    "int32": DType.I32,
    "int64": DType.I64,
    "bool": DType.BOOL,
}


class _StorageType(NamedTuple):
    dtype: DType | None


class _Function(NamedTuple):
    call: Callable[..., Any]


def _rebuild_tensor(
    storage: object, offset: object, size: object, stride: object, _grad: object, _hooks: object, *_: object
) -> _View:
    if not isinstance(storage, _Storage) or storage.dtype is None:
        raise ValueError("a tensor without typed storage")
    return _view(storage, storage.dtype, offset, size, stride)


def _rebuild_untyped(
    storage: object,
    offset: object,
    size: object,
    stride: object,
    _grad: object,
    _hooks: object,
    dtype: object,
    *_: object,
) -> _View:
    if not isinstance(storage, _Storage) or storage.dtype is not None or not isinstance(dtype, DType):
        raise ValueError("a tensor without untyped storage or dtype")
    return _view(storage, dtype, offset, size, stride)


def _rebuild_parameter(tensor: object, _grad: object, _hooks: object) -> _View:
    if not isinstance(tensor, _View):
        raise ValueError("a parameter that is no tensor")
    return tensor


def _ordered_dict() -> dict[Any, Any]:
    # Without items, as Python 3 writes it: from a list, a few bytes of pickle could copy it again and again.
    return {}


_ALLOWED: dict[str, object] = {
    "collections.OrderedDict": _Function(_ordered_dict),
    "torch._utils._rebuild_tensor_v2": _Function(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v3": _Function(_rebuild_untyped),
    "torch._utils._rebuild_parameter": _Function(_rebuild_parameter),
    "torch.storage.UntypedStorage": _StorageType(None),
    **{f"torch.{name}": _StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{f"torch.{name}": dtype for name, dtype in _DTYPES.items()},
}


def _view(storage: _Storage, dtype: DType, offset: object, size: object, stride: object) -> _View:
    size, stride = _naturals(size), _naturals(stride)
    if len(size) != len(stride):
        raise ValueError(f"a tensor of {len(size)} axes with {len(stride)} strides")
    if not is_shape(size):
        raise ValueError(f"a tensor of the shape {list(size)}")
    return _View(storage, dtype, _natural(offset), size, stride)


def _natural(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("a length or offset that is not a natural number")
    return value


def _naturals(values: object) -> tuple[int, ...]:
    # One long list can be recalled as the shape of any number of tensors.
    if not isinstance(values, list | tuple) or len(values) > _MAX_AXES:
        raise ValueError(f"a shape that is not a tuple of at most {_MAX_AXES} lengths")
    return tuple(_natural(value) for value in values)


def _key(key: object) -> str | int:
    # Hashing is code too: a tuple of tuples of tuples ... takes for ever, or the C stack.
    if not isinstance(key, str | int):
        raise ValueError(f"a dictionary key that is a {type(key).__name__}")
    return key


# --- The machine ------------------------------------------------------------------------------------------

_MARK = object()

_STUMBLES: dict[type[Exception], str] = {
    IndexError: "it takes from an empty stack",
    KeyError: "it recalls what it never stored",
    TypeError: "a call with other arguments than PyTorch's",
    UnicodeDecodeError: "text that is not UTF-8",
}


class _Machine:
    """Runs the pickles in a part of a file, one after the other; `at` is where the next one starts."""

    def __init__(self, file: ReadableFile, part: Member) -> None:
        self.file = file
        self.data = memoryview(file.read(part.offset, min(part.size, _MAX_PICKLE)))
        self.is_cut = part.size > _MAX_PICKLE
        self.at = 0
        self.left = _FREE_INSTRUCTIONS + file.size // _BYTES_AN_INSTRUCTION
        self.storages: dict[str, _Storage] = {}

    def load(self) -> Any:
        """Value of the pickle at `at`."""
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        try:
            while self.left:
                self.left -= 1
                opcode = self.take(1)[0]
                if opcode == 0x2E:  # STOP
                    return self.stack.pop()
                operation = _OPERATIONS.get(opcode)
                if operation is None:
                    raise FormatError(
                        f"{self.file.name}: the pickle uses {_opcode_name(opcode)} at byte {self.at - 1}, "
                        "which a dictionary of tensors does not need; nothing was run"
                    )
                operation(self)
            raise ValueError("more instructions than the tensors of so small a file need")
        except FormatError:
            raise
        # Whatever a hostile pickle makes these few lines stumble over, it is a damaged pickle.
        except (IndexError, KeyError, TypeError, ValueError) as error:
            reason = _STUMBLES.get(type(error)) or error
            raise FormatError(f"{self.file.name}: damaged pickle at byte {self.at}: {reason}") from error

    # Reading

    def take(self, n: int) -> memoryview:
        piece = self.data[self.at : self.at + n]
        if len(piece) != n:
            raise ValueError(f"longer than {_MAX_PICKLE} bytes" if self.is_cut else "it is cut short")
        self.at += n
        return piece

    def number(self, n: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(n), "little", signed=signed)

    def text(self, n: int) -> str:
        return str(self.take(n), "utf-8")

    def line(self) -> str:
        end = bytes(self.data[self.at : self.at + 1024]).find(b"\n")
        if end < 0:
            raise ValueError("a name that does not end")
        name = self.text(end)
        self.take(1)
        return name

    # The stack

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                items = self.stack[i + 1 :]
                del self.stack[i:]
                return items
        raise ValueError("no mark on the stack")

    def pop_tuple(self, n: int) -> None:
        if len(self.stack) < n:
            raise IndexError
        items = tuple(self.stack[-n:])
        self.stack[-n:] = [items]

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError("appends to what is no list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("sets items of what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    # What might have been code

    def find(self, name: str) -> None:
        if name not in _ALLOWED:
            raise FormatError(
                f"{self.file.name}: the pickle names {quote(name)}; only tensors are read and nothing was "
                "run. If you trust the file, save its state dict as safetensors"
            )
        self.push(_ALLOWED[name])

    def find_from_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a global whose name is no string")
        self.find(f"{module}.{name}")

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Function) or not isinstance(arguments, tuple):
            raise ValueError(f"calls a {type(function).__name__.strip('_')}")
        self.push(function.call(*arguments))

    def build(self) -> None:
        # state_dict() hangs a "_metadata" attribute on its OrderedDict; nobody needs it.
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise ValueError("sets the state of what is no dictionary")

    def persistent(self) -> None:
        match self.stack.pop():
            case ("storage", _StorageType(dtype), str(key), str(), numel):
                self.push(self.storage(key, dtype, _natural(numel)))
            case ("storage", _StorageType(dtype), str(key), str(), numel, view):
                self.push(_storage_view(self.storage(key, dtype, _natural(numel)), view))
            case _:
                raise ValueError("a persistent id that is no storage")

    def storage(self, key: str, dtype: DType | None, numel: int) -> _Storage:
        storage = _Storage(key, dtype, numel, 0)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {quote(key)} is described in two ways")
        return storage


def _storage_view(storage: _Storage, view: object) -> _Storage:
    match view:
        case None:
            return storage
        case (str(), offset, size):
            offset, size = _natural(offset), _natural(size)
            if offset + size > storage.numel:
                raise ValueError("a storage view outside its storage")
            return storage._replace(offset=offset, numel=size)
    raise ValueError("a storage view that is none")


def _opcode_name(code: int) -> str:
    import pickletools

    for opcode in pickletools.opcodes:
        if opcode.code == chr(code):
            return f"opcode {opcode.name}"
    return f"unknown opcode 0x{code:02x}"


def _global(machine: _Machine) -> None:
    module, name = machine.line(), machine.line()
    machine.find(f"{module}.{name}")


def _instance(machine: _Machine) -> None:
    _global(machine)
    raise ValueError("makes an instance of what is no class")


def _fetch(width: int) -> Callable[[_Machine], None]:
    return lambda m: m.push(m.memo[m.number(width)])


def _store(width: int) -> Callable[[_Machine], None]:
    def store(m: _Machine) -> None:
        m.memo[m.number(width)] = m.stack[-1]

    return store


def _memoize(m: _Machine) -> None:
    m.memo[len(m.memo)] = m.stack[-1]


def _pop_last(m: _Machine) -> list[Any]:
    return [m.stack.pop()]


def _pop_pair(m: _Machine) -> list[Any]:
    value, key = m.stack.pop(), m.stack.pop()
    return [key, value]


_OPERATIONS: dict[int, Callable[[_Machine], object]] = {
    ord(code): operation
    for code, operation in {
        "\x80": lambda m: m.take(1),  # PROTO
        "\x95": lambda m: m.take(8),  # FRAME
        "c": _global,  # GLOBAL
        "i": _instance,  # INST
        "\x93": _Machine.find_from_stack,  # STACK_GLOBAL
        "R": _Machine.reduce,  # REDUCE
        "b": _Machine.build,  # BUILD
        "Q": _Machine.persistent,  # BINPERSID
        "(": lambda m: m.push(_MARK),  # MARK
        "N": lambda m: m.push(None),  # NONE
        "\x88": lambda m: m.push(True),  # NEWTRUE
        "\x89": lambda m: m.push(False),  # NEWFALSE
        "J": lambda m: m.push(m.number(4, signed=True)),  # BININT
        "K": lambda m: m.push(m.number(1)),  # BININT1
        "M": lambda m: m.push(m.number(2)),  # BININT2
        "\x8a": lambda m: m.push(m.number(m.number(1), signed=True)),  # LONG1
        "G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),  # BINFLOAT
        "X": lambda m: m.push(m.text(m.number(4))),  # BINUNICODE
        "\x8c": lambda m: m.push(m.text(m.number(1))),  # SHORT_BINUNICODE
        "U": lambda m: m.push(m.text(m.number(1))),  # SHORT_BINSTRING: text, from Python 2
        "T": lambda m: m.push(m.text(m.number(4))),  # BINSTRING
        "]": lambda m: m.push([]),  # EMPTY_LIST
        "}": lambda m: m.push({}),  # EMPTY_DICT
        ")": lambda m: m.push(()),  # EMPTY_TUPLE
        "t": lambda m: m.push(tuple(m.pop_mark())),  # TUPLE
        "\x85": lambda m: m.pop_tuple(1),  # TUPLE1
        "\x86": lambda m: m.pop_tuple(2),  # TUPLE2
        "\x87": lambda m: m.pop_tuple(3),  # TUPLE3
        "a": lambda m: m.append(_pop_last(m)),  # APPEND
        "e": lambda m: m.append(m.pop_mark()),  # APPENDS
        "s": lambda m: m.set_items(_pop_pair(m)),  # SETITEM
        "u": lambda m: m.set_items(m.pop_mark()),  # SETITEMS
        "q": _store(1),  # BINPUT
        "r": _store(4),  # LONG_BINPUT
        "\x94": _memoize,  # MEMOIZE
        "h": _fetch(1),  # BINGET
        "j": _fetch(4),  # LONG_BINGET
    }.items()
}


# --- The two containers -----------------------------------------------------------------------------------


def _read_zip(file: ReadableFile) -> dict[str, LazyTensor]:
    members = read_members(file)
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise FormatError(f"{file.name}: a zip archive with {len(pickles)} data.pkl; a PyTorch file has one")
    folder = pickles[0].removesuffix("data.pkl")
    if order := members.get(f"{folder}byteorder"):
        text = str(file.read(order.offset, min(order.size, 16)), "latin-1")
        if text != "little":
            raise FormatError(f"{file.name}: byte order {quote(text)}; expected 'little'")
    machine = _Machine(file, members[pickles[0]])
    state = machine.load()
    located: dict[str, int] = {}
    for key, storage in machine.storages.items():
        data = members.get(f"{folder}data/{key}")
        if data is None or data.size < _storage_bytes(storage):
            found = "is missing" if data is None else f"has {data.size} bytes of {_storage_bytes(storage)}"
            raise FormatError(f"{file.name}: storage {quote(key)} {found}; the file is damaged")
        located[key] = data.offset
    return _tensors(file, state, located)


def _read_legacy(file: ReadableFile) -> dict[str, LazyTensor]:
    machine = _Machine(file, Member(0, file.size))
    machine.load()
    version, system = machine.load(), machine.load()
    if version != 1001:
        raise FormatError(f"{file.name}: legacy PyTorch file of another version than 1001")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise FormatError(
            f"{file.name}: written on a big-endian machine; only little-endian files can be read"
        )
    state, keys = machine.load(), machine.load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise FormatError(f"{file.name}: damaged: no list of storages after the dictionary")
    located: dict[str, int] = {}
    at = machine.at
    for key in keys:
        storage = machine.storages.get(key)
        end = at + 8 + (0 if storage is None else _storage_bytes(storage))
        if storage is None or end > file.size or int.from_bytes(file.read(at, 8), "little") != storage.numel:
            raise FormatError(
                f"{file.name}: storage {quote(key)} is cut short or not as described; it is damaged"
            )
        located[key] = at + 8
        at = end
    return _tensors(file, state, located)


def _storage_bytes(storage: _Storage) -> int:
    return storage.numel * (storage.dtype.itemsize if storage.dtype else 1)


# --- Tensors ----------------------------------------------------------------------------------------------


def _tensors(file: ReadableFile, state: object, located: Mapping[str, int]) -> dict[str, LazyTensor]:
    if not isinstance(state, dict):
        raise FormatError(f"{file.name}: holds {_kind(state)}, expected a dictionary of tensors")
    tensors: dict[str, LazyTensor] = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, _View):
            raise FormatError(
                f"{file.name}: entry {quote(str(name))} is {_kind(value)}, expected tensors by name; "
                "save the model's state dict alone"
            )
        tensors[name] = _tensor(file, name, value, located)
    return tensors


def _kind(value: object) -> str:
    return "a tensor" if isinstance(value, _View) else f"a value of type {type(value).__name__}"


def _tensor(file: ReadableFile, name: str, view: _View, located: Mapping[str, int]) -> LazyTensor:
    storage, dtype = view.storage, view.dtype
    if storage.key not in located:
        raise FormatError(f"{file.name}: tensor {quote(name)}: storage {quote(storage.key)} is missing")
    width = dtype.itemsize if storage.dtype is None else 1
    capacity, numel = storage.numel // width, math.prod(view.size)
    last = view.offset + sum((n - 1) * step for n, step in zip(view.size, view.stride, strict=True))
    # An expanded view (stride 0) makes a few bytes claim any size: models do not hold one.
    if numel > capacity or (numel and last >= capacity):
        raise FormatError(
            f"{file.name}: tensor {quote(name)} of shape {list(view.size)} and strides {list(view.stride)} "
            f"does not fit its storage of {capacity}"
        )
    start = located[storage.key] + storage.offset * (storage.dtype or DType.U8).itemsize
    if not numel:
        return StoredTensor(name, view.size, dtype, file, start)
    return strided(StoredTensor(name, (capacity,), dtype, file, start), view.size, view.stride, view.offset)

"""The C core."""

from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

from numpy.typing import NDArray
from typing_extensions import Buffer

# NumPy's stubs declare the buffer protocol from Python 3.12 on.
_Buffer: TypeAlias = Buffer | NDArray[Any]

class TypeRow(NamedTuple):
    number: int
    name: str
    block_size: int
    block_bytes: int
    quantized: bool
    has_codec: bool
    needs_importance: bool

def type_table() -> list[TypeRow]: ...
def targets() -> tuple[str, ...]: ...
def target() -> str: ...
def set_target(name: str) -> None: ...
def quantize(
    type: int, src: _Buffer, ncols: int, dst: _Buffer, importance: _Buffer | None = None
) -> None: ...
def dequantize(type: int, src: _Buffer, dst: _Buffer) -> None: ...

class RecodeStatus(IntEnum):
    OK = 0
    BAD_INPUT = 1
    BAD_OUTPUT = 2

class RecodeResult(NamedTuple):
    status: RecodeStatus
    row: int

def recode(
    src_type: int, src: _Buffer, dst_type: int, dst: _Buffer, ncols: int, importance: _Buffer | None = None
) -> RecodeResult: ...

DEFAULT_ALIGNMENT: int
MAX_ALIGNMENT: int
MAX_DIMS: int
MAX_NAME_BYTES: int

class HeaderPair(NamedTuple):
    key: bytes
    type: int
    offset: int
    size: int

class HeaderTensor(NamedTuple):
    name: bytes
    ne: tuple[int, ...]
    type: int
    offset: int
    nbytes: int

class Header(NamedTuple):
    version: int
    alignment: int
    data_offset: int
    pairs: list[HeaderPair]
    tensors: list[HeaderTensor]

class HeaderError(Exception):
    status: str
    part: str
    index: int
    name: bytes
    offset: int
    found: int
    limit: int

def header_statuses() -> tuple[str, ...]: ...
def parse_gguf(data: _Buffer, file_size: int) -> Header: ...
def decode_strings(items: bytes, count: int) -> list[str]: ...
def write_gguf(
    version: int,
    kvs: list[tuple[bytes, int, bytes]],
    tensors: list[tuple[bytes, tuple[int, ...], int, int]],
    alignment: int,
) -> bytes: ...

"""The C core."""

from typing import Any, TypeAlias

from numpy.typing import NDArray
from typing_extensions import Buffer

# NumPy's stubs declare the buffer protocol from Python 3.12 on.
_Buffer: TypeAlias = Buffer | NDArray[Any]

def type_table() -> list[tuple[int, str, int, int, bool, bool]]: ...
def targets() -> tuple[str, ...]: ...
def target() -> str: ...
def set_target(name: str) -> None: ...
def quantize(
    type: int, src: _Buffer, ncols: int, dst: _Buffer, importance: _Buffer | None = None
) -> None: ...
def dequantize(type: int, src: _Buffer, dst: _Buffer) -> None: ...
def recode(
    src_type: int, src: _Buffer, dst_type: int, dst: _Buffer, ncols: int, importance: _Buffer | None = None
) -> tuple[int, int]: ...

class HeaderError(Exception):
    args: tuple[str, str, int, bytes, int, int, int]

def parse_gguf(
    data: _Buffer,
) -> tuple[
    int, int, int, list[tuple[bytes, int, int, int]], list[tuple[bytes, tuple[int, ...], int, int, int]]
]: ...
def decode_strings(items: bytes, count: int) -> list[str]: ...
def write_gguf(
    version: int,
    kvs: list[tuple[bytes, int, bytes]],
    tensors: list[tuple[bytes, tuple[int, ...], int, int]],
    alignment: int,
) -> bytes: ...

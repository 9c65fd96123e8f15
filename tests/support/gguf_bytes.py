"""GGUF files put together byte by byte, sound or not."""

from __future__ import annotations

import struct
from collections.abc import Sequence

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


def string(text: str | bytes, length: int | None = None) -> bytes:
    encoded = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded


def scalar(key: str | bytes, kind: int, value: float) -> bytes:
    return string(key) + struct.pack("<I" + SCALARS[kind], kind, value)


def text(key: str | bytes, value: str | bytes) -> bytes:
    return string(key) + struct.pack("<I", STRING) + string(value)


def array(key: str | bytes, kind: int, items: Sequence[bytes], count: int | None = None) -> bytes:
    head = struct.pack("<IIQ", ARRAY, kind, len(items) if count is None else count)
    return string(key) + head + b"".join(items)


def tensor(
    name: str | bytes, ne: Sequence[int], kind: int = 0, offset: int = 0, n_dims: int | None = None
) -> bytes:
    """An entry of the table of tensors; negative dimensions are stored as two's complement."""
    dims = b"".join(struct.pack("<Q", n % 2**64) for n in ne)
    n_dims = len(ne) if n_dims is None else n_dims
    return string(name) + struct.pack("<I", n_dims) + dims + struct.pack("<IQ", kind, offset)


def header(
    pairs: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    *,
    version: int = 3,
    n_pairs: int | None = None,
    n_tensors: int | None = None,
) -> bytes:
    n_pairs = len(pairs) if n_pairs is None else n_pairs
    n_tensors = len(tensors) if n_tensors is None else n_tensors
    return b"".join([b"GGUF", struct.pack("<IQQ", version, n_tensors, n_pairs), *pairs, *tensors])


def with_data(head: bytes, size: int, alignment: int = 32) -> bytes:
    """Pad a header and add ``size`` bytes of data."""
    return head + bytes(-len(head) % alignment) + bytes(i % 251 for i in range(size))


def small_file() -> bytes:
    """A sound file with every kind of value and a few tensors; its last byte is the last one of a tensor."""
    pairs = [
        text("general.architecture", "llama"),
        text("empty", ""),
        *(scalar(f"scalar.{kind}", kind, 1) for kind in SCALARS),
        *(array(f"array.{kind}", kind, [struct.pack("<" + c, 1)] * 3) for kind, c in SCALARS.items()),
        array("strings", STRING, [string("a"), string(""), string("ü")]),
        array("nothing", STRING, []),
        scalar("general.alignment", 4, 64),
    ]
    tensors = [
        tensor("a", (32, 2), kind=2, offset=0),
        tensor("b", (5,), kind=1, offset=64),
        tensor("c", (3, 2, 2, 1), kind=0, offset=128),
    ]
    return with_data(header(pairs, tensors), 128 + 48, alignment=64)

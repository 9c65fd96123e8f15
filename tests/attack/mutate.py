"""Damage: what is done to a sound file."""

from __future__ import annotations

import copy
import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]

# What a length, count, dimension or offset is most likely to be mishandled at.
_NUMBERS = [
    0,
    1,
    2,
    7,
    31,
    32,
    255,
    2**15,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**61,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
]
# The same in JSON, and what else its readers are known to stumble over.
_LITERALS = [
    *map(str, _NUMBERS),
    *("-1", "-9223372036854775809", "1e308", "1e999", "-1e999", "1e-400", "0.1", "NaN", "Infinity"),
    *(
        "9" * 400,
        "9" * 5000,
        "null",
        "true",
        "false",
        '""',
        '"x"',
        '"\\ud800"',
        '"\\u0000"',
        '"../../x"',
        "[]",
        "{}",
    ),
    *("[" * 2000, '{"a":' * 500, '[[], {}, ""]', '"' + "a{99999999999}" + '"', '"' + "(" * 300 + '"'),
]
_VALUES: list[Any] = [
    *(0, 1, -1, 2**31, 2**62, 2**63, 10**400, 0.5, 1e308, float("inf"), None, True, False),
    *("", "x", "\ud800", "a\0b", "9" * 5000, "(" * 300, "a{99999999999}", "x" * 100_000),
    *([], {}, [[]], [None] * 1000, {"": {"": []}}, list(range(1000))),
]
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Change bits, bytes and numbers, move pieces, cut: anywhere, but more towards the beginning."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if not data:
            break
        at = int(len(data) * rng.random() ** rng.choice((1, 3, 8)))
        match rng.randrange(8):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case 2 | 3:
                number = rng.choice(_NUMBERS)
                piece = struct.pack("<Q", number) if rng.random() < 0.5 else struct.pack("<I", number % 2**32)
                data[at : at + len(piece)] = piece
            case 4:
                source = rng.randrange(len(data))
                data[at:at] = data[source : source + rng.randrange(64)]
            case 5:
                del data[at : at + rng.randrange(1, 64)]
            case 6:
                del data[at:]
            case _:
                data[at:at] = data[at : at + rng.randrange(1, 16)] * rng.choice((2, 100, 5000))
    return bytes(data)


def damaged_text(content: bytes, rng: random.Random) -> bytes:
    """The same for text with numbers and brackets in it."""
    data = content
    for _ in range(rng.choice((1, 1, 2))):
        literal = rng.choice(_LITERALS).encode()
        numbers = list(_NUMBER.finditer(data))
        if numbers and rng.random() < 0.5:
            found = rng.choice(numbers)
            data = data[: found.start()] + literal + data[found.end() :]
        elif data and rng.random() < 0.5:
            at = rng.randrange(len(data))
            data = data[:at] + literal + data[at + rng.randrange(8) :]
        else:
            data = damaged(data, rng)
    return data


def damaged_json(content: bytes, rng: random.Random) -> bytes:
    """Mostly sound JSON with another value somewhere; else damaged text."""
    if rng.random() < 0.3:
        return damaged_text(content, rng)
    value = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _replace_somewhere(value, rng)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _replace_somewhere(value: Any, rng: random.Random) -> None:
    while isinstance(value, (dict, list)) and value:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key: Any = rng.choice(keys)
        if not isinstance(value[key], (dict, list)) or not value[key] or rng.random() < 0.2:
            if isinstance(value, dict) and rng.random() < 0.15:
                del value[key]
            elif isinstance(value, dict) and rng.random() < 0.1:
                value[rng.choice(["", "x" * 1000, "\0", str(key) + "_"])] = value.pop(key)
            else:
                value[key] = copy.deepcopy(rng.choice(_VALUES))
            return
        value = value[key]


def damaged_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Half of the time the header alone, with its length put right."""
    if rng.random() < 0.5:
        return damaged(content, rng)
    size = int.from_bytes(content[:8], "little")
    header = damaged_json(content[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def damaged_zip(content: bytes, rng: random.Random) -> bytes:
    """Half of the time one member of a PyTorch file, packed anew."""
    if rng.random() < 0.5:
        return damaged(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([n for n in members if n.endswith(".pkl")] or list(members))
    members[name] = damaged(members[name], rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return out.getvalue()

"""Zip archives whose members are merely stored, as PyTorch writes them: where the bytes of each member lie.

Format: PKWARE's APPNOTE, 4.3 (structure) and 4.5.3 (ZIP64). Everything is checked before it is used, and
what an archive may claim is bounded by its size: members lie one after the other, none inside another.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from gguffast.errors import FormatError, quote
from gguffast.reading import ReadableFile
from gguffast.sources.common import check_proportion

_LOCAL = struct.Struct("<4s22xHH")
_CENTRAL = struct.Struct("<4s4xHH8xIIHHH8xI")
_END = struct.Struct("<4s8xIIH")
_END64_LOCATOR = struct.Struct("<4s4xQ4x")
_END64 = struct.Struct("<4s36xQQ")
_MAX_COMMENT = 0xFFFF
_IN_ZIP64 = 0xFFFFFFFF
_ZIP64_FIELD = 1


class Member(NamedTuple):
    """The bytes of a member."""

    offset: int
    size: int


class _Listed(NamedTuple):
    """A member as the directory has it: its encoded name, and where its local header begins."""

    name: bytes
    header: int
    size: int


def read_members(file: ReadableFile) -> dict[str, Member]:
    """Find the members of an archive, by name.

    Raises
    ------
    FormatError
        It is damaged, cut short, compressed or encrypted, has a name twice, or members overlap.
    """
    begin, end = _find_directory(file)
    check_proportion(file.name, "an archive's directory", end - begin, file.size)
    directory = file.read(begin, end - begin)
    members: dict[str, Member] = {}
    free = 0
    for listed in sorted(_entries(file, directory), key=lambda listed: listed.header):
        name = str(listed.name, "utf-8", "surrogateescape")
        if name in members:
            raise FormatError(f"{file.name}: the archive has {quote(name)} twice")
        members[name] = member = _locate(file, name, listed, free, begin)
        free = member.offset + member.size
    return members


def _find_directory(file: ReadableFile) -> tuple[int, int]:
    """Find where the central directory begins and ends."""
    start = max(0, file.size - _MAX_COMMENT - _END.size)
    tail = file.read(start, file.size - start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise _damaged(file)
    _, size, begin, comment = _END.unpack_from(tail, at)
    end = start + at
    if comment != len(tail) - at - _END.size:
        raise _damaged(file)
    if end >= _END64_LOCATOR.size:
        magic, place = _END64_LOCATOR.unpack(file.read(end - _END64_LOCATOR.size, _END64_LOCATOR.size))
        if magic == b"PK\x06\x07":
            if place > end - _END64.size:
                raise _damaged(file)
            magic, size, begin = _END64.unpack(file.read(place, _END64.size))
            end = place if magic == b"PK\x06\x06" else -1
    if begin + size > end:
        raise _damaged(file)
    return begin, begin + size


def _entries(file: ReadableFile, directory: bytearray) -> Iterator[_Listed]:
    at = 0
    while at < len(directory):
        if len(directory) - at < _CENTRAL.size:
            raise _damaged(file)
        magic, flags, method, packed, size, n_name, n_extra, n_comment, header = _CENTRAL.unpack_from(
            directory, at
        )
        at += _CENTRAL.size
        name = bytes(directory[at : at + n_name])
        extra = bytes(directory[at + n_name : at + n_name + n_extra])
        at += n_name + n_extra + n_comment
        if magic != b"PK\x01\x02" or at > len(directory):
            raise _damaged(file)
        if method or flags & 1:
            shown = quote(str(name, "utf-8", "replace"))
            raise FormatError(f"{file.name}: {shown} is compressed or encrypted; PyTorch only stores")
        size, packed, header = _widen(extra, size, packed, header)
        if size != packed:
            raise _damaged(file)
        yield _Listed(name, header, size)


def _widen(extra: bytes, *fields: int) -> Iterator[int]:
    """Give the fields, those that did not fit their 32 bits from the extra field that holds them."""
    wide = b""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == _ZIP64_FIELD:
            wide = extra[at + 4 : at + 4 + length]
        at += 4 + length
    for field in fields:
        if field == _IN_ZIP64 and len(wide) >= 8:
            yield int.from_bytes(wide[:8], "little")
            wide = wide[8:]
        else:
            yield field


def _locate(file: ReadableFile, name: str, listed: _Listed, free: int, end: int) -> Member:
    """Check a member's own header, which lies before its bytes, against the directory."""
    if free <= listed.header <= end - _LOCAL.size:
        # Only this header says how long it is: PyTorch pads it, so that the data is aligned.
        magic, n_name, n_extra = _LOCAL.unpack(file.read(listed.header, _LOCAL.size))
        offset = listed.header + _LOCAL.size + n_name + n_extra
        if magic == b"PK\x03\x04" and n_name == len(listed.name) and offset + listed.size <= end:
            return Member(offset, listed.size)
    raise FormatError(
        f"{file.name}: {quote(name)} does not lie where the archive says; it is damaged, download it again"
    )


def _damaged(file: ReadableFile) -> FormatError:
    return FormatError(f"{file.name}: a damaged or truncated zip archive; download it again")

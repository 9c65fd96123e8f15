"""Small things about files: reading little ones, where the cache is, sizes in words."""

from __future__ import annotations

import os
from pathlib import Path

from gguffast.errors import FormatError, OptionError, quote


def read_file(path: str | os.PathLike[str], what: str, limit: int = 64 << 20) -> bytes:
    """Read a small file whole: options, configuration, templates.

    Parameters
    ----------
    path : path-like
        A regular file: a pipe would block, a device never ends.
    what : str
        What it should be, for messages: ``"the Modelfile"``.
    limit : int
        Most bytes that such a file may have.

    Raises
    ------
    FileError
        It is missing, no regular file, or cannot be read.
    FormatError
        It is too large to be what it should be.
    """
    from gguffast.reading import LocalFile

    file = LocalFile(path)
    try:
        if file.size > limit:
            raise FormatError(
                f"{path}: {format_bytes(file.size)} are more than {what} can have "
                f"({format_bytes(limit)}); is it the right file?"
            )
        return bytes(file.read(0, file.size, what))
    finally:
        file.close()


def cache_folder() -> Path:
    """Folder for downloads and unfinished work: ``$GGUFFAST_CACHE``, or ``~/.cache/gguffast``."""
    return Path(os.environ.get("GGUFFAST_CACHE") or Path.home() / ".cache" / "gguffast")


def format_bytes(n: float) -> str:
    """Bytes for people: ``93.1 MB`` (decimal units, as disks and downloads are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 999.95:
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def parse_size(size: str | int) -> int:
    """Read a number of bytes: ``"4G"``, ``"500M"``, ``"64K"`` (decimal units) or a plain number.

    Raises
    ------
    OptionError
        If it is something else.
    """
    text = str(size).strip()
    digits, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNITS else (text, "")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 18):
        raise OptionError(
            f"size {quote(str(size))}: expected a number of bytes, or one with K, M or G as in 4G"
        )
    return int(digits) * _UNITS.get(unit, 1)


_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}

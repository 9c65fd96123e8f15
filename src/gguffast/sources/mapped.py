"""What the readers of checkpoint files share: mapping a file, and naming things from it in a message."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from gguffast.errors import FileError, FormatError

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def map_file(path: Path) -> memoryview:
    """Map a file read-only; the mapping lives as long as a view of it does.

    Raises
    ------
    FileError
        The file cannot be opened.
    FormatError
        It is empty, or the stand-in that git leaves for a file kept in Git LFS.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FormatError(f"{path}: the file is empty; download it again")
            memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    if bytes(memory[: len(_LFS_POINTER)]) == _LFS_POINTER:
        raise FormatError(f"{path}: a Git LFS pointer, not the weights; run 'git lfs pull' in its folder")
    return memory


def quote(name: str) -> str:
    """Show a name that a file chose: in quotes, on one line, not too long."""
    text = repr(name)
    return text if len(text) <= 120 else f"{text[:100]}...{text[-1]}"


def quote_some(names: list[str]) -> str:
    """Show the first few of many names."""
    shown = ", ".join(quote(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"

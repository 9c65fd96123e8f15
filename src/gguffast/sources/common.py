"""What the readers of checkpoint files share: opening one, and bounds on what it may cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from gguffast.errors import FormatError
from gguffast.reading import LocalFile

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

# Descriptions of tensors (a header, an index, a pickle) take up to 25 times their length as objects. Those of
# real models are a thousandth of the weights; what is more than an eighth of them, and large, is no model.
_FREE_DESCRIPTION = 2 << 20
_LEAST_WEIGHTS = 8

_MAX_AXES = 32


def longest_description(weights: int) -> int:
    """Most bytes that may describe the tensors in so many bytes of files."""
    return max(_FREE_DESCRIPTION, weights // _LEAST_WEIGHTS)


def open_weights(path: Path) -> LocalFile:
    """Open a file of weights.

    Raises
    ------
    FileError
        The file cannot be opened.
    FormatError
        It is empty, or the stand-in that git leaves for a file kept in Git LFS.
    """
    file = LocalFile(path)
    if file.size == 0:
        raise FormatError(f"{path}: the file is empty; download it again")
    if file.size > len(_LFS_POINTER) and file.read(0, len(_LFS_POINTER)) == _LFS_POINTER:
        raise FormatError(f"{path}: a Git LFS pointer, not the weights; run 'git lfs pull' in its folder")
    return file


def check_proportion(file: str, what: str, length: int, weights: int) -> None:
    """Refuse a description of tensors that is out of proportion to the tensors.

    Parameters
    ----------
    file, what : str
        For the message.
    length : int
        Bytes of the description.
    weights : int
        Bytes of all files that it may describe.

    Raises
    ------
    FormatError
        It is longer than 2 MiB and than an eighth of ``weights``.
    """
    if length > longest_description(weights):
        raise FormatError(
            f"{file}: {what} of {length} bytes for {weights} bytes of files; "
            "no model has so many tensors in so little: the file is damaged, download it again"
        )


def naturals(value: object) -> tuple[int, ...] | None:
    """Lengths or offsets that a file states: a list of integers from 0 to 2^62, or None if it is not."""
    if isinstance(value, list) and all(type(n) is int and 0 <= n <= 1 << 62 for n in value):
        return tuple(value)
    return None


def is_shape(lengths: Sequence[int]) -> bool:
    """Whether an array can have this shape: empty ones too, if only one axis were of another length."""
    return len(lengths) <= _MAX_AXES and math.prod(n or 1 for n in lengths) < 1 << 59

"""The files of a checkpoint that describe its tokenizer, each parsed once and checked for its outer shape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...documents import read_bytes, read_json, read_text
from ...errors import FormatError

MAX_TOKENS = 1 << 24
"""Ids above this are a damaged file: the largest real vocabularies are a hundred times smaller."""


class Files:
    """The tokenizer's files in one folder.

    Parameters
    ----------
    directory : Path
        The checkpoint's folder.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._parsed: dict[str, dict[str, Any]] = {}

    def has(self, name: str) -> bool:
        """Whether the folder holds the file `name`."""
        return (self.directory / name).is_file()

    def path(self, name: str) -> Path:
        """Where the file `name` is, or would be."""
        return self.directory / name

    def bytes(self, name: str) -> bytes:
        """Contents of the file `name`."""
        return read_bytes(self.path(name))

    def text(self, name: str) -> str:
        """Contents of the UTF-8 file `name`, every line end as a newline."""
        return read_text(self.path(name))

    def json(self, name: str) -> dict[str, Any]:
        """Read the JSON object in the file `name`; an empty one when there is no such file."""
        if name not in self._parsed:
            self._parsed[name] = read_json(self.path(name)) if self.has(name) else {}
        return self._parsed[name]

    def damaged(self, name: str, what: str) -> FormatError:
        """Build the error for a file that does not say what it should."""
        return FormatError(f"{self.path(name)}: {what}")


def dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Those elements of a JSON list that are objects; nothing when it is no list."""
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def as_dict(value: Any) -> dict[str, Any]:
    """Give a JSON object as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def content(token: Any) -> str | None:
    """Text of a token that is written as a string or as an object with its ``content``."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def is_id(value: Any) -> bool:
    """Whether a JSON value can be the id of a token."""
    return type(value) is int and 0 <= value < MAX_TOKENS


def as_id(key: Any) -> Any:
    """Give the number that a JSON key spells; anything else as it is."""
    return int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10 else key

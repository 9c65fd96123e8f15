"""Documents from strangers (JSON, YAML, text), read within bounds, and their values, asked for by kind.

What a model says about itself is input like its weights: it may be cut short, made by a program with other
ideas, or made to hurt. A document costs little memory and time for its length, and whatever is wrong with it
becomes one line that names the file and the key. Nothing else in the package parses JSON or YAML.
"""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Mapping
from enum import Enum, auto
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from gguffast.errors import FormatError, OptionError
from gguffast.reading import LocalFile

T = TypeVar("T")
K = TypeVar("K")


class _Required(Enum):
    """The type of `REQUIRED`."""

    REQUIRED = auto()


REQUIRED = _Required.REQUIRED
"""Default of a value that has to be there."""

MAX_BYTES = 256 << 20
"""Longest file that is read as a document: several times the largest real tokenizer."""

MAX_DEPTH = 64
"""Deepest nesting of a document; real ones have a dozen levels, and whoever walks one may recurse."""

INT32_MAX = 2**31 - 1
UINT32_MAX = 2**32 - 1
FLOAT32_MAX = 3.4028234e38

_MEMORY = 64 << 20
_MAX_YAML = 1 << 20
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# Python's objects for one element of a list, one list or object, one key with its value, roughly.
_ITEM_BYTES, _CONTAINER_BYTES, _PAIR_BYTES = 64, 80, 100
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Read a whole regular file.

    Parameters
    ----------
    path : Path
        The file.
    limit : int
        Most bytes it may have.

    Raises
    ------
    FileError
        It cannot be read, or is no regular file: a pipe would wait for a writer, a device never ends.
    FormatError
        It is longer than ``limit``, or the stand-in that git leaves for a file kept in Git LFS.
    """
    file = LocalFile(path)
    try:
        if file.size > limit:
            raise FormatError(f"{path}: {file.size} bytes, more than the {limit} that such a file may have")
        data = bytes(file.read(0, file.size))
    finally:
        file.close()
    if data.startswith(_LFS_POINTER):
        raise FormatError(f"{path}: a Git LFS pointer, not the file; run 'git lfs pull' in its folder")
    return data


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """Read a UTF-8 file, every line end as a newline; errors as in `read_bytes` and `decode`."""
    return decode(read_bytes(path, limit), path).replace("\r\n", "\n").replace("\r", "\n")


def decode(data: bytes, source: str | Path) -> str:
    """Decode UTF-8, with or without a byte order mark; `source` names the text in the message.

    Raises
    ------
    FormatError
        It is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{source}: not UTF-8 text (byte {error.start}); fetch the file again") from error


def read_json(path: Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    """Read a JSON file whose root is an object.

    Raises
    ------
    FileError
        If the file cannot be read.
    FormatError
        If it is not JSON, not within bounds, or its root is not an object; the message names the line.
    """
    return json_object(read_bytes(path, limit), path)


def json_object(data: bytes, source: str | Path) -> dict[str, Any]:
    """Parse JSON whose root is an object; see `parse_json`."""
    value = parse_json(data, source)
    if not isinstance(value, dict):
        raise FormatError(f"{source}: expected a JSON object at the root, found {kind_of(value)}")
    return value


def parse_json(data: bytes, source: str | Path, *, unique: bool = False) -> Any:
    """Parse JSON within bounds.

    Parameters
    ----------
    data : bytes
        UTF-8 text.
    source : str or Path
        What messages call it.
    unique : bool
        Refuse a key that an object has twice, which parsers settle silently, and each in its own way.

    Raises
    ------
    FormatError
        It is not JSON, nested more than `MAX_DEPTH` deep, has a number of thousands of digits, half a
        surrogate pair, or more values than text of its length has in earnest.
    """
    text = decode(data, source)
    _check_values(data, text, source)
    if b"\\ud" in data or b"\\uD" in data:
        for escape in _ESCAPE.finditer(data):
            if escape[1]:
                raise FormatError(f"{source}: half a surrogate pair at byte {escape.start()}: no text")
    # Half a million merges are half a million lists, which the cyclic collector would walk again and again:
    # off, the largest files parse twice as fast.
    collecting = gc.isenabled()
    gc.disable()
    try:
        value = json.loads(text, object_pairs_hook=partial(_unique, source) if unique else None)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise FormatError(
            f"{source}: not valid JSON at {place}: {error.msg}; fetch the file again"
        ) from error
    except RecursionError as error:
        raise _too_deep(source) from error
    except FormatError:
        raise
    except ValueError as error:  # a number of more digits than Python converts
        raise FormatError(f"{source}: not usable JSON: a number of thousands of digits") from error
    finally:
        if collecting:
            gc.enable()
    _check_depth(value, source)
    return value


def _unique(source: str | Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise FormatError(f"{source}: has {shown(twice)} twice in one object; fetch the file again")
    return result


def _check_values(data: bytes, text: str, source: str | Path) -> None:
    """Bound the objects before they are made: ``[],[],[]`` takes thirty times its length.

    64 MiB and four times the length are allowed. Large tokenizers without spaces, the
    densest real files, take fourteen times theirs.
    """
    containers = data.count(b"[") + data.count(b"{")
    needed = _CONTAINER_BYTES * containers + _ITEM_BYTES * data.count(b",") + _PAIR_BYTES * data.count(b":")
    needed += len(data) + sys.getsizeof(text)
    if needed > max(_MEMORY + 4 * len(data), 18 * len(data)):
        raise FormatError(f"{source}: {len(data)} bytes with more values than such a file has in earnest")


def _check_depth(value: Any, source: str | Path, *, shared: bool = False) -> None:
    """Refuse deep nesting; `shared` where a value may hold another many times (YAML's aliases)."""
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        children = chain.from_iterable(v.values() if isinstance(v, dict) else v for v in level)
        level = [child for child in children if type(child) is dict or type(child) is list]
        if shared:
            level = list({id(child): child for child in level}.values())
        if not level:
            return
    raise _too_deep(source)


def _too_deep(source: str | Path) -> FormatError:
    return FormatError(f"{source}: nested more than {MAX_DEPTH} levels deep; no such file is")


def parse_yaml(text: str, source: str | Path, first_line: int = 1) -> Any:
    """Parse YAML within bounds: every scalar is its text as written, and only nothing is None.

    No tag makes an object, and no merge key copies: what is meant as ``1.10`` or ``no`` stays so.

    Parameters
    ----------
    text : str
        The document.
    source : str or Path
        What messages call it.
    first_line : int
        Number of its first line in the file.

    Raises
    ------
    FormatError
        It is not YAML, too long, or nested too deeply.
    OptionError
        PyYAML is not installed.
    """
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise missing_extra(error, "convert") from error
    if len(text) > _MAX_YAML:
        raise FormatError(
            f"{source}: {len(text)} characters of YAML, more than the {_MAX_YAML} that are read"
        )
    base: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # fifty times as fast, where it was built
    loader: Any = type("Loader", (base,), {})
    loader.add_implicit_resolver("null", re.compile("(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
    loader.add_constructor("null", lambda loader, node: None)
    try:
        value = yaml.load(text, loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + first_line}" if mark else ""
        raise FormatError(f"{source}{place}: not valid YAML; mend it") from error
    except RecursionError as error:
        raise _too_deep(source) from error
    except ValueError as error:  # half a surrogate pair
        raise FormatError(f"{source}: not valid YAML: not Unicode text; mend it") from error
    _check_depth(value, source, shared=True)
    return value


def missing_extra(error: ImportError, extra: str) -> OptionError:
    """Build the error for a package of an extra that is not installed."""
    return OptionError(f"this needs the package {error.name!r}: pip install 'gguffast[{extra}]'")


def shown(value: Any) -> str:
    """Show a value from a file: as Python writes it, on one line, not too long."""
    return short(repr(value), 60)


def short(text: str, length: int = 120) -> str:
    """Show a name from a file: on one line, not too long."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: length + 1])
    return line if len(line) <= length else f"{line[: length - 3]}..."


def kind_of(value: Any) -> str:
    """Name the kind of a value in the words of its format."""
    names: dict[type, str] = {
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def _is_float32(value: Any) -> bool:
    # Compared as it is: a whole number of 400 digits is no float.
    return type(value) in (int, float) and -FLOAT32_MAX <= value <= FLOAT32_MAX


class Values:
    """Named values of a file, checked as they are asked for.

    A value that is missing, or null, is the ``default`` where one is given, and an error otherwise.

    Parameters
    ----------
    values : mapping
        The values; the attribute of this name.
    source : str or Path
        The file, for messages.
    within : str
        Where in the file: ``"rope_scaling."``.
    """

    def __init__(self, values: Mapping[str, Any], source: str | Path, within: str = "") -> None:
        self.values = values
        self._source = source
        self._within = within

    def __bool__(self) -> bool:
        return bool(self.values)

    def over(self, others: Mapping[str, Any]) -> Values:
        """Return these values, and those of `others` for keys that are not here."""
        return Values({**others, **self.values}, self._source, self._within)

    def get(self, key: str) -> Any:
        """Return the value as it is, or None if it is missing."""
        return self.values.get(key)

    def integer(
        self, key: str, minimum: int = 0, maximum: int = INT32_MAX, *, default: T | _Required = REQUIRED
    ) -> int | T:
        """Return a whole number within bounds; neither true nor 2.0 is one."""
        value = self.get(key)
        if value is None and not isinstance(default, _Required):
            return default
        if type(value) is not int or not minimum <= value <= maximum:
            bounds = f"of at least {minimum}" if maximum == INT32_MAX else f"from {minimum} to {maximum}"
            self.refuse(key, f"a whole number {bounds}")
        return value

    def number(self, key: str, *, default: T | _Required = REQUIRED) -> float | T:
        """Return a number that float32, the type of every number in a GGUF file, can hold."""
        value = self.get(key)
        if value is None and not isinstance(default, _Required):
            return default
        if not _is_float32(value):
            self.refuse(key, "a number")
        return float(value)

    def text(self, key: str, *, default: T | _Required = REQUIRED) -> str | T:
        """Return text."""
        return self._of(str, "text", key, default)

    def flag(self, key: str, *, default: T | _Required = REQUIRED) -> bool | T:
        """Return true or false."""
        return self._of(bool, "true or false", key, default)

    def items(self, key: str, *, default: T | _Required = REQUIRED) -> list[Any] | T:
        """Return a list, whose elements are not checked."""
        return self._of(list, "a list", key, default)

    def integers(self, key: str, count: int, minimum: int = 0, maximum: int = INT32_MAX) -> list[int]:
        """Return a list of `count` whole numbers within bounds."""
        value = self.get(key)
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(type(x) is int and minimum <= x <= maximum for x in value)
        ):
            self.refuse(key, f"a list of {count} whole numbers of at least {minimum}")
        return value

    def numbers(self, key: str, count: int) -> list[float]:
        """Return a list of `count` numbers that float32 can hold."""
        value = self.get(key)
        if not isinstance(value, list) or len(value) != count or not all(map(_is_float32, value)):
            self.refuse(key, f"a list of {count} numbers")
        return [float(x) for x in value]

    def within(self, key: str) -> Values:
        """Return the values of an object; of an empty one if it is missing or null."""
        return Values(self._of(dict, "an object", key, {}), self._source, f"{self._within}{key}.")

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raise the error for a value: what was found, what is expected."""
        found = "is missing" if self.get(key) is None else f"is {shown(self.get(key))}"
        raise FormatError(f'{self._source}: "{self._within}{key}" {found}; expected {expected}')

    def _of(self, kind: type[K], name: str, key: str, default: T | _Required) -> K | T:
        value = self.get(key)
        if value is None and not isinstance(default, _Required):
            return default
        if not isinstance(value, kind):
            self.refuse(key, name)
        return value

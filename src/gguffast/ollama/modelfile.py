"""Modelfiles: parse, edit, print. The grammar is that of Ollama's parser, up to its version 0.33."""

from __future__ import annotations

import codecs
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from gguffast.errors import FormatError, OptionError
from gguffast.files import read_file

ROLES = ("system", "user", "assistant")

_SINGLE = ("template", "system", "adapter", "draft", "renderer", "parser", "requires")
_COMMANDS = ("from", "license", *_SINGLE, "parameter", "message")
_WITH_KEY = ("parameter", "message")
_MAY_BE_EMPTY = ("system", "template", "license")

# Enough for every licence there is and a long conversation; a text that lies in wait costs little.
_MOST_BYTES = 1 << 20
# Of a mistake, what is shown of the text.
_MOST_SHOWN = 60

# Ollama's parser knows no other spaces: a form feed or a no-break space is part of the text.
# Possessive repeats (*+) give nothing back, so that no text takes more than one pass.
_SKIPPED = re.compile(r"[ \t\r\n]*+(?:#[^\r\n]*+[ \t\r\n]*+)*+")
_WORD = re.compile(r"[^ \t\r\n]*+")
_SPACES = re.compile(r"[ \t]*+")
_LINE = re.compile(r"[^\r\n]*+")
# A quoted text ends where its quotes end a line.
_CLOSING = {quote: re.compile(rf"{quote}[ \t]*+(?=[\r\n]|\Z)") for quote in ('"""', '"')}

_VERSION = re.compile(r"v?[0-9]{1,9}(\.[0-9]{1,9}){0,2}([-+][0-9A-Za-z.-]{1,99})?")

Value = int | float | bool | str


def _boolean(text: str) -> bool:
    # The spellings of Go's strconv.ParseBool.
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError(text)


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text) or not -(2**63) <= int(text) < 2**63:
        raise ValueError(text)
    return int(text)


def _float(text: str) -> float:
    if not re.fullmatch(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        raise ValueError(text)
    if abs(float(text)) > 3.4028235e38:  # the server holds it in 32 bits, and JSON knows no infinity
        raise ValueError(text)
    return float(text)


_INTEGERS = (
    *("num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch", "num_gpu"),
    *("main_gpu", "num_thread", "draft_num_predict"),
)
_FLOATS = (
    *("top_p", "min_p", "typical_p", "temperature"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty"),
)
_TYPES: Final[dict[str, tuple[Callable[[str], Value], str]]] = {
    **dict.fromkeys(_INTEGERS, (_integer, "a whole number")),
    **dict.fromkeys(_FLOATS, (_float, "a number")),
    "use_mmap": (_boolean, "true or false"),
    "stop": (str, "a text"),
}
_DEPRECATED = (
    *("penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock"),
    *("mirostat", "mirostat_tau", "mirostat_eta"),
)


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a Modelfile.

    Attributes
    ----------
    name : str
        In lower case: ``from``, ``parameter``.
    value : str
        Its text, without quotes.
    key : str
        The name of a ``parameter``, the role of a ``message``; else empty.
    line : int
        Where it stood, from 1; 0 if it was not read from a text. Does not count in comparisons.
    """

    name: str
    value: str
    key: str = ""
    line: int = field(default=0, compare=False)

    def __str__(self) -> str:
        words = [self.name.upper(), self.key, _quote(self.value)]
        return " ".join(word for word in words if word)


class Modelfile:
    """What a model is made of, as Ollama has it written down.

    Printing gives a text that parses to the same commands; comments are not kept.

    Parameters
    ----------
    commands : iterable of Command
        They are checked as those of a text are, but ``FROM`` may still be missing.

    Raises
    ------
    OptionError
        A command, parameter, role or value that does not exist.
    """

    def __init__(self, commands: Iterable[Command] = ()) -> None:
        self.commands = list(commands)
        for command in self.commands:
            _check_own(command)

    @classmethod
    def parse(cls, text: str, name: str = "Modelfile") -> Modelfile:
        """Read a Modelfile.

        Parameters
        ----------
        text : str
        name : str
            What errors call it.

        Raises
        ------
        FormatError
            The first mistake, by line and column; or a text of more than 1 MiB.
        """
        if len(text) > _MOST_BYTES:
            raise FormatError(f"{name}: more than {_MOST_BYTES >> 20} MiB of text; this is no Modelfile")
        parser = _Parser(text, name)
        self = cls()
        self.commands = list(parser.commands())
        if not self.sources:
            raise FormatError(f"{name}: no FROM line; say what the model is made of: FROM ./model.gguf")
        return self

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Modelfile:
        """Read a Modelfile from a file, in UTF-8 or with the byte order mark of UTF-16.

        Raises
        ------
        FileError
            It cannot be read, or is no regular file.
        FormatError
            It is not text, or see :meth:`parse`.
        """
        raw = read_file(path, "a Modelfile", _MOST_BYTES)
        utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        try:
            text = raw.decode("utf-16" if utf16 else "utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise FormatError(
                f"{path}:{line}: not UTF-8 text (byte {error.start}); save it as UTF-8, "
                "or was a model given where a Modelfile belongs?"
            ) from None
        return cls.parse(text, str(path))

    def __str__(self) -> str:
        return "".join(f"{command}\n" for command in self.commands)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Modelfile) and self.commands == other.commands

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Modelfile({self.commands!r})"

    @property
    def sources(self) -> list[str]:
        """Values of ``FROM``."""
        return self._values("from")

    @property
    def licenses(self) -> list[str]:
        """Values of ``LICENSE``."""
        return self._values("license")

    @property
    def messages(self) -> list[tuple[str, str]]:
        """Role and text of each ``MESSAGE``."""
        return [(c.key, c.value) for c in self.commands if c.name == "message"]

    @property
    def parameters(self) -> dict[str, Value | list[str]]:
        """Parameters in their types: of ``stop`` all, of others the last; deprecated ones are left out."""
        found: dict[str, Value | list[str]] = {}
        for command in self.commands:
            if command.name != "parameter" or command.key in _DEPRECATED:
                continue
            if command.key == "stop":
                stops = found.setdefault("stop", [])
                assert isinstance(stops, list)
                stops.append(command.value)
            else:
                found[command.key] = _TYPES[command.key][0](command.value)
        return found

    @property
    def warnings(self) -> list[str]:
        """What is allowed but has no effect."""
        found = [c for c in self.commands if c.name == "parameter" and c.key in _DEPRECATED]
        first = {command.key: command.line for command in reversed(found)}
        return [
            f"{f'line {line}: ' if line else ''}the parameter {key} is deprecated and has no effect"
            for key, line in sorted(first.items(), key=lambda item: item[1])
        ]

    def get(self, name: str) -> str | None:
        """Give the value of a command of which the last counts, such as ``system``; None without one."""
        found = self._values(name.lower())
        return found[-1] if found else None

    def add(self, name: str, value: object, key: str = "") -> None:
        """Append a command.

        Parameters
        ----------
        name : str
            In any case.
        value : object
            A text, number or truth value.
        key : str
            Name of a parameter or role of a message.

        Raises
        ------
        OptionError
            As for the constructor.
        """
        text = str(value).lower() if isinstance(value, bool) else str(value)
        command = Command(name.lower(), text, key)
        _check_own(command)
        self.commands.append(command)

    def set(self, name: str, value: object, key: str = "") -> None:
        """Put a command in the place of those of the same name (and key), or append it."""
        before = self.commands
        places = [i for i, c in enumerate(before) if (c.name, c.key) == (name.lower(), key)]
        self.add(name, value, key)
        if places:
            new = before.pop()
            before[places[0]] = new
            for i in reversed(places[1:]):
                del before[i]

    def remove(self, name: str, key: str = "") -> None:
        """Remove the commands of a name (and key), if there are any."""
        self.commands = [c for c in self.commands if (c.name, c.key) != (name.lower(), key)]

    def _values(self, name: str) -> list[str]:
        return [command.value for command in self.commands if command.name == name]


def parse_parameter(text: str) -> tuple[str, str]:
    """Split ``KEY=VALUE`` and check both.

    Raises
    ------
    OptionError
        There is no such parameter, or it has another type.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise OptionError(f"parameter {_shown(text)}: write KEY=VALUE, as in temperature=0.7")
    _check_own(Command("parameter", value, key))
    return key, value


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._at = 0

    def commands(self) -> Iterator[Command]:
        line, counted = 1, 0
        while self._skip(_SKIPPED) < len(self._text):
            start = self._at
            line += _newlines(self._text, counted, start)
            counted = start
            yield self._command(start, line)

    def _command(self, start: int, line: int) -> Command:
        word = self._word()
        name = word.lower()
        if name not in _COMMANDS:
            raise self._error(start, _unknown("command", word.upper(), [c.upper() for c in _COMMANDS]))
        key_at, key = self._at, ""
        if name in _WITH_KEY:
            key_at = self._skip(_SPACES)
            key = self._word()
        value_at = self._skip(_SPACES)
        found = _value(self._text, value_at)
        if found is None:
            quote = _quote_at(self._text, value_at)
            message = f"the text of {word.upper()} begins with {quote}, but no line ends with {quote}"
            raise self._error(value_at, message)
        value, self._at = found
        command = Command(sys.intern(name), value, sys.intern(key), line)
        problem = _problem(command)
        if problem:
            raise self._error(key_at if problem.at_key else value_at, problem.text)
        return command

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        assert match
        self._at = match.end()
        return self._at

    def _word(self) -> str:
        start = self._at
        return self._text[start : self._skip(_WORD)]

    def _error(self, at: int, message: str) -> FormatError:
        line = _newlines(self._text, 0, at) + 1
        column = at - max(self._text.rfind("\n", 0, at), self._text.rfind("\r", 0, at))
        return FormatError(f"{self._name}:{line}:{column}: {message}")


def _newlines(text: str, begin: int, end: int) -> int:
    """Count line ends: a CR, a LF, or both as one."""
    returns = text.count("\r", begin, end)
    return text.count("\n", begin, end) + (returns and returns - text.count("\r\n", begin, end))


def _quote_at(text: str, at: int) -> str:
    return next((quote for quote in _CLOSING if text.startswith(quote, at)), "")


def _value(text: str, begin: int) -> tuple[str, int] | None:
    """Read the value that begins there: its text and where it ends; None if its quotes are not closed."""
    quote = _quote_at(text, begin)
    if not quote:
        line = _LINE.match(text, begin)
        assert line
        return line[0].rstrip(" \t"), line.end()
    begin += len(quote)
    closing = _CLOSING[quote].search(text, begin)
    return closing and (text[begin : closing.start()], closing.end())


@dataclass(frozen=True, slots=True)
class _Problem:
    text: str
    at_key: bool = False


def _problem(command: Command) -> _Problem | None:
    """Say what is wrong with a command of a known name."""
    name, key, value = command.name, command.key, command.value
    if name == "message":
        if key not in ROLES:
            return _Problem(
                f"the role of a MESSAGE is {', '.join(ROLES[:-1])} or {ROLES[-1]}, not {_shown(key)}", True
            )
    elif name == "parameter":
        if not key:
            return _Problem("PARAMETER needs a name and a value: PARAMETER temperature 0.7", True)
        if key in _DEPRECATED:
            return None
        if key not in _TYPES:
            return _Problem(_unknown("parameter", key, list(_TYPES)), True)
        convert, kind = _TYPES[key]
        try:
            convert(value)
        except ValueError:
            return _Problem(f"parameter {key} is {kind}, not {_shown(value)}")
    elif name == "requires" and not _VERSION.fullmatch(value):
        return _Problem(f"REQUIRES is a version of Ollama, as 0.14.0, not {_shown(value)}")
    elif not value and name not in _MAY_BE_EMPTY:
        return _Problem(f"{name.upper()} needs a value")
    return None


def _unknown(what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name[:_MOST_SHOWN], known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
    return f"unknown {what} {_shown(name)}; {hint}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…")


def _check_own(command: Command) -> None:
    """Check a command that was not parsed."""
    if command.name not in _COMMANDS:
        raise OptionError(_unknown("command", command.name, list(_COMMANDS)))
    if command.key and command.name not in _WITH_KEY:
        raise OptionError(f"{command.name.upper()} has no key, but {_shown(command.key)} was given")
    problem = _problem(command)
    if problem:
        raise OptionError(problem.text)
    _quote(command.value)


def _quote(text: str) -> str:
    """Write a value so that it is read as it is.

    There are no escapes: a value ends with the first line that ends in its closing quotes, so that a few
    texts of several lines cannot be written at all.
    """
    for quoted in (text, f'"{text}"', f'"""{text}"""'):
        if quoted and _value(quoted, len(quoted) - len(quoted.lstrip(" \t"))) == (text, len(quoted)):
            return quoted
    line = next(line for line in re.split(r"[\r\n]", text) if line.rstrip(" \t").endswith('"'))
    raise OptionError(
        "a Modelfile cannot hold a text of several lines in which one ends in quotation marks: "
        f"{_shown(line)}"
    )

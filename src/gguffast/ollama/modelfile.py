"""Modelfiles: parse, edit, print. The grammar is that of Ollama's parser, up to its version 0.33."""

from __future__ import annotations

import codecs
import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gguffast.errors import FileError, FormatError, OptionError

ROLES = ("system", "user", "assistant")

_SINGLE = ("template", "system", "adapter", "draft", "renderer", "parser", "requires")
_COMMANDS = ("from", "license", *_SINGLE, "parameter", "message")

# Ollama's parser knows no others: a form feed or a no-break space is part of the text.
_SPACES = " \t"
_NEWLINES = "\r\n"
_WORD = re.compile(r"[^ \t\r\n]*")

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
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
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
            The first mistake, by line and column.
        """
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
            It cannot be read.
        FormatError
            It is not text, or see :meth:`parse`.
        """
        try:
            raw = Path(path).read_bytes()
        except OSError as error:
            raise FileError(f"cannot read the Modelfile {path}: {error.strerror}") from error
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
        return [
            f"{f'line {c.line}: ' if c.line else ''}the parameter {c.key} is deprecated and has no effect"
            for c in self.commands
            if c.name == "parameter" and c.key in _DEPRECATED
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
        raise OptionError(f"parameter {text!r}: write KEY=VALUE, as in temperature=0.7")
    _check_own(Command("parameter", value, key))
    return key, value


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._at = 0

    def commands(self) -> Iterator[Command]:
        while self._skip_to_command():
            start = self._at
            name = self._word().lower()
            if name not in _COMMANDS:
                raise self._error(start, _unknown("command", name.upper(), [c.upper() for c in _COMMANDS]))
            key_at, key = self._key(name)
            value_at, value = self._value(start)
            command = Command(name, value, key, self._line(start))
            problem = _problem(command)
            if problem:
                raise self._error(key_at if problem.at_key else value_at, problem.text)
            yield command

    def _skip_to_command(self) -> bool:
        text = self._text
        while self._at < len(text):
            if text[self._at] == "#":
                while self._at < len(text) and text[self._at] not in _NEWLINES:
                    self._at += 1
            elif text[self._at] in _SPACES + _NEWLINES:
                self._at += 1
            else:
                return True
        return False

    def _word(self) -> str:
        match = _WORD.match(self._text, self._at)
        assert match
        self._at = match.end()
        return match[0]

    def _skip_spaces(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in _SPACES:
            self._at += 1

    def _key(self, command: str) -> tuple[int, str]:
        if command not in ("parameter", "message"):
            return self._at, ""
        self._skip_spaces()
        start = self._at
        return start, self._word()

    def _value(self, start: int) -> tuple[int, str]:
        text = self._text
        end = self._at
        self._skip_spaces()
        begin = self._at
        if begin == end and begin < len(text):  # not a space: the line ends with the word
            return begin, ""
        while True:
            while self._at < len(text) and text[self._at] not in _NEWLINES:
                self._at += 1
            value = _unquote(text[begin : self._at].strip())
            if value is not None:
                return begin, value
            if self._at == len(text):
                quote = '"""' if text.startswith('"""', begin) else '"'
                what = text[start:begin].split()[0].upper()
                raise self._error(
                    begin, f"the text of {what} begins with {quote}, but no line ends with {quote}"
                )
            self._at += 1

    def _line(self, at: int) -> int:
        return len(re.findall(r"\r\n|\r|\n", self._text[:at])) + 1

    def _error(self, at: int, message: str) -> FormatError:
        column = at - max(self._text.rfind("\n", 0, at), self._text.rfind("\r", 0, at))
        return FormatError(f"{self._name}:{self._line(at)}:{column}: {message}")


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
                f"the role of a MESSAGE is {', '.join(ROLES[:-1])} or {ROLES[-1]}, not {key!r}", True
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
            return _Problem(f"parameter {key} is {kind}, not {value!r}")
    elif not value and name not in ("system", "template", "license"):
        return _Problem(f"{name.upper()} needs a value")
    return None


def _unknown(what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
    return f"unknown {what} {name!r}; {hint}"


def _check_own(command: Command) -> None:
    """Check a command that was not parsed."""
    if command.name not in _COMMANDS:
        raise OptionError(_unknown("command", command.name, list(_COMMANDS)))
    if command.key and command.name not in ("parameter", "message"):
        raise OptionError(f"{command.name.upper()} has no key, but {command.key!r} was given")
    problem = _problem(command)
    if problem:
        raise OptionError(problem.text)
    _quote(command.value)


def _unquote(text: str) -> str | None:
    """Take the quotes off a value; None if it goes on in the next line."""
    for quote in ('"""', '"'):
        if text.startswith(quote):
            if len(text) >= 2 * len(quote) and text.endswith(quote):
                return text[len(quote) : -len(quote)]
            return None
    return text


def _quote(text: str) -> str:
    """Write a value so that it is read as it is.

    There are no escapes: a value ends with the first line that ends in its closing quotes, so that a few
    texts of several lines cannot be written at all.
    """
    for quoted in (text, f'"{text}"', f'"""{text}"""'):
        if quoted and _reads_back(quoted, text):
            return quoted
    line = next(line for line in text.splitlines() if line.rstrip().endswith('"'))
    raise OptionError(
        f"a Modelfile cannot hold a text of several lines in which one ends in quotation marks: {line!r}"
    )


def _reads_back(quoted: str, text: str) -> bool:
    if _unquote(quoted.strip()) != text:
        return False
    ends = (i for i, c in enumerate(quoted) if c in _NEWLINES)
    return all(_unquote(quoted[:i].strip()) is None for i in ends)

"""Options that several commands have, made of the lists in which they are stated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    """Declare the options of a list such as :class:`gguffast.recipe.options.RecipeOptions`.

    ``tensor_type`` is spelled ``--tensor-type``, and a file that stands for such ``--tensor-type-file``.
    """
    from gguffast.recipe.options import options_in

    for name, option in options_in(kind).items():
        flag = f"--{name.replace('_', '-')}"
        rest: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
        if not option.metavar:
            parser.add_argument(flag, action="store_true", help=option.help, **rest)
            continue
        again = " (repeatable)" if option.repeatable else ""
        if option.repeatable:
            rest["action"] = "append"
        if option.from_file:
            # The same list: what stands first on the command line comes first.
            parser.add_argument(f"{flag}-file", metavar="FILE", type=Path, help=option.from_file, **rest)
        if option.read is int:  # what is no number is a malformed command line; all else is read later
            rest["type"] = int
        parser.add_argument(flag, metavar=option.metavar, help=option.help + again, **rest)


def add_make_options(parser: argparse.ArgumentParser) -> None:
    """Declare what can be said where a GGUF file is made on the way."""
    from gguffast.job import MakeOptions

    add_options(parser, MakeOptions)


def options_of(args: argparse.Namespace, kind: type) -> dict[str, Any]:
    """Give what was said of the options that :func:`add_options` declared, as keyword arguments."""
    from gguffast.recipe.options import options_in

    given = {}
    for name, option in options_in(kind).items():
        if hasattr(args, name):
            value = getattr(args, name)
            if isinstance(value, list):
                value = [item if isinstance(item, Path) else option.read(item) for item in value]
            given[name] = option.read(value) if isinstance(value, str) else value
    return given


def words_of(args: argparse.Namespace, kind: type) -> list[str]:
    """Say the options again that :func:`add_options` declared, as words of a command line."""
    from gguffast.recipe.options import options_in

    words = []
    for name in options_in(kind):
        flag = f"--{name.replace('_', '-')}"
        given = getattr(args, name, [])
        for value in given if isinstance(given, list) else [given]:
            if value is True:
                words.append(flag)
            else:
                words += [f"{flag}-file" if isinstance(value, Path) else flag, str(value)]
    return words


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Declare what is printed."""
    add = parser.add_argument
    add("--quiet", action="store_true", help="print nothing but errors")
    add("--json", action="store_true", help="print one JSON object as the summary")


def add_host(parser: argparse.ArgumentParser) -> None:
    """Declare where the Ollama server is."""
    parser.add_argument(
        "--host", metavar="URL", help="the Ollama server (default: OLLAMA_HOST, then 127.0.0.1:11434)"
    )


def list_types() -> str:
    """Name the file types, for the end of a help text."""
    from gguffast.filetypes import ALIASES, FILE_TYPES

    aliases = ", ".join(f"{alias} is {name}" for alias, name in ALIASES.items())
    return f"Types, in any case or by llama.cpp's number: {', '.join(FILE_TYPES)}; {aliases}."

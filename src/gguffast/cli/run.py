"""``gguffast run``: talk to a model in Ollama."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING

from gguffast.cli.options import add_host
from gguffast.errors import OptionError

if TYPE_CHECKING:
    from gguffast.cli import CommandParser
    from gguffast.ollama import Client


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "run",
        help="talk to a model in Ollama",
        description="Ask a model in Ollama; or, on a terminal and without a PROMPT, talk with it.",
    )
    parser.add_argument("name", metavar="NAME", help="the model's name")
    parser.add_argument("prompt", metavar="PROMPT", nargs="*", help="the question (default: standard input)")
    add_host(parser)


def run(args: argparse.Namespace) -> int:
    """Print answers as they come."""
    from gguffast.ollama import Client

    prompt = " ".join(args.prompt)
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
    with Client(args.host) as client:
        if prompt or piped:
            _answer(
                client, args.name, [{"role": "user", "content": "\n\n".join(filter(None, (prompt, piped)))}]
            )
        elif sys.stdin is not None and sys.stdin.isatty():
            _talk(client, args.name)
        else:
            raise OptionError("no PROMPT was given, and there is nothing on standard input")
    return 0


def _talk(client: Client, name: str) -> None:
    """Ask and answer until the input ends; the model sees the whole conversation."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() then has a history and can be edited
    client.show(name)  # before the first question is typed: is there such a model?
    print("Ctrl-D or /bye ends, /clear forgets the conversation.")
    messages: list[dict[str, str]] = []
    while True:
        try:
            line = input(">>> ").strip()
        except EOFError:
            print()
            return
        if line == "/bye":
            return
        if line == "/clear":
            messages.clear()
        elif line:
            messages.append({"role": "user", "content": line})
            messages.append({"role": "assistant", "content": _answer(client, name, messages)})


def _answer(client: Client, name: str, messages: list[dict[str, str]]) -> str:
    pieces = []
    for piece in client.chat(name, messages):
        print(_safe(piece), end="", flush=True)
        pieces.append(piece)
    print()
    return "".join(pieces)


def _safe(text: str) -> str:
    """Leave out control codes, with which a model could write to the terminal's title or clipboard."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))

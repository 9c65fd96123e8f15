"""``gguffast run``: talk to a model in Ollama."""

from __future__ import annotations

import argparse
import contextlib
import functools
import signal
import sys
from collections.abc import Callable, Generator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from gguffast.cli.options import add_host
from gguffast.errors import Interrupted, OptionError

if TYPE_CHECKING:
    from gguffast.cli import CommandParser

    Answer = Generator[str, None, None]


# More than the longest context holds.
_MOST_PROMPT = 16 << 20


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "run",
        help="talk to a model in Ollama",
        description="Ask a model in Ollama; or, on a terminal and without a PROMPT, talk with it. "
        "Ctrl-C stops an answer.",
    )
    parser.add_argument("name", metavar="NAME", help="the model's name")
    parser.add_argument("prompt", metavar="PROMPT", nargs="*", help="the question (default: standard input)")
    parser.add_argument(
        "--num-predict",
        metavar="N",
        type=int,
        help="the most tokens of an answer (default: what the model's parameters say, which may be no limit)",
    )
    add_host(parser)


def run(args: argparse.Namespace) -> int:
    """Print answers as they come."""
    from gguffast.ollama import Client

    if args.num_predict is not None and not 0 < args.num_predict < 2**31:
        raise OptionError(f"--num-predict {args.num_predict}: it must be at least 1, and a number of tokens")
    terminal = sys.stdin is not None and sys.stdin.isatty()
    prompt = "\n\n".join(filter(None, (" ".join(args.prompt), "" if terminal else _piped())))
    ask = functools.partial(Client(args.host).chat, args.name, num_predict=args.num_predict)
    if prompt:
        try:
            _answer(ask([{"role": "user", "content": prompt}]), [])
        except KeyboardInterrupt:
            raise Interrupted("interrupted; the answer is not complete") from None
    elif terminal:
        Client(args.host).show(args.name)  # before the first question is typed: is there such a model?
        _talk(ask)
    else:
        raise OptionError("no PROMPT was given, and there is nothing on standard input")
    return 0


def _piped() -> str:
    if sys.stdin is None:
        return ""
    data = sys.stdin.buffer.read(_MOST_PROMPT + 1)
    if len(data) > _MOST_PROMPT:
        raise OptionError(
            f"standard input holds more than {_MOST_PROMPT >> 20} MiB; no model reads that much"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise OptionError(f"standard input is not UTF-8 text (byte {error.start})") from None


class _CtrlC(KeyboardInterrupt):
    """In a conversation Ctrl-C ends an answer or a line, and no more than that."""


def _talk(ask: Callable[[list[dict[str, str]]], Answer]) -> None:
    """Ask and answer until the input ends; the model sees the whole conversation."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() then has a history and can be edited
    signal.signal(signal.SIGINT, _raise_ctrl_c)
    print(_ENDS)
    messages: list[dict[str, str]] = []
    while True:
        try:
            line = input(">>> ").strip()
        except EOFError:
            print()
            return
        except _CtrlC:
            print(f"\n{_ENDS}")
            continue
        if line == "/bye":
            return
        if line == "/clear":
            messages.clear()
        elif line:
            question = {"role": "user", "content": line}
            said: list[str] = []
            with contextlib.suppress(_CtrlC):
                _answer(ask([*messages, question]), said)
            if said:
                messages += [question, {"role": "assistant", "content": "".join(said)}]


_ENDS = "Ctrl-D or /bye ends, /clear forgets the conversation."


def _raise_ctrl_c(number: int, frame: FrameType | None) -> NoReturn:
    raise _CtrlC


def _answer(pieces: Answer, said: list[str]) -> None:
    """Print an answer as it comes, and keep what was said of it even if it is interrupted."""
    try:
        with contextlib.closing(pieces):  # which makes the server stop
            for piece in pieces:
                said.append(piece)
                print(_safe(piece), end="", flush=True)
    finally:
        if said:
            print(flush=True)


def _safe(text: str) -> str:
    """Leave out control codes, with which a model could write to the terminal's title or clipboard."""
    seen = "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))
    encoding = sys.stdout.encoding or "utf-8"
    return seen.encode(encoding, "replace").decode(encoding)

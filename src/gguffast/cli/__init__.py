"""The command line: parsing, printing and exit codes. The work is done elsewhere.

A command is a module of this package (``import_`` for a name that Python keeps to itself) with
``add_parser(commands)`` and ``run(args) -> int``. Importing it must be quick (``--help`` answers at once), so
what is heavy is imported when it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

from gguffast import __version__
from gguffast.errors import GGUFFastError, Interrupted

COMMANDS = (
    *("quantize", "convert", "inspect", "import", "download", "upload"),
    *("create", "run", "list", "show", "rm"),
    "demo",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; by default those of the process.

    Returns
    -------
    int
        Exit code: 0 done, 1 failed (one line on stderr says why), 2 a malformed command line.
    """
    try:
        args = _parse(sys.argv[1:] if argv is None else list(argv))
    except SystemExit as stop:  # argparse has printed the help or what is wrong
        return int(stop.code or 0)
    with _signals_as_interrupts():
        return _run(args)


class CommandParser(argparse.ArgumentParser):
    """A parser whose epilog is made when the help is printed, because making it takes imports."""

    make_epilog: Callable[[], str] | None = None

    def format_help(self) -> str:
        """Give the text of ``--help``."""
        if self.make_epilog:
            self.epilog = self.make_epilog()
        return super().format_help()


def one_line(text: object) -> str:
    """Escape line breaks and terminal control codes, which a file's name or metadata may hold."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gguffast",
        description="Quantize language models on the CPU: llama.cpp's bytes, many times sooner.",
        epilog="`gguffast COMMAND --help` explains a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gguffast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for name in COMMANDS:
        # `import` is no name for a module, and one called `list` would hide list() from this package.
        module = importlib.import_module(f"gguffast.cli.{name}{'_' if name in ('import', 'list') else ''}")
        module.add_parser(commands)
        command = commands.choices[name]
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=module.run)
    if argv and argv[0] in commands.choices:
        # Intermixed: options may stand before, between and after the file names.
        return commands.choices[argv[0]].parse_intermixed_args(argv[1:])
    return parser.parse_args(argv)


def _run(args: argparse.Namespace) -> int:
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except BaseException as error:
        if args.debug:
            import traceback

            traceback.print_exc()
        return _fail(error)


def _fail(error: BaseException) -> int:
    if isinstance(error, BrokenPipeError):  # as in `gguffast inspect FILE | head`
        _drop_stdout()
        return 1
    if isinstance(error, Interrupted):
        message = str(error)
    elif isinstance(error, KeyboardInterrupt):
        message = "interrupted"
    elif isinstance(error, GGUFFastError):
        message = f"error: {error}"
    elif isinstance(error, MemoryError):
        message = "error: out of memory; fewer threads need less (--threads)"
    elif isinstance(error, OSError):
        message = f"error: {error}"
        _drop_stdout()
    elif isinstance(error, Exception):
        message = (
            f"error: {type(error).__name__}: {error}; this should not happen: "
            "please run the command again with --debug and report what it prints"
        )
    else:
        raise error
    with contextlib.suppress(OSError):
        print(f"gguffast: {one_line(message)}", file=sys.stderr, flush=True)
    return 1


def _drop_stdout() -> None:
    """Keep the interpreter from failing a second time when it flushes what could not be written."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextlib.contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """Make SIGTERM and SIGHUP what Ctrl-C is: an exception, so that everything is cleaned up."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    caught = [
        s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN
    ]

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        # Only once: a second signal must not cut the cleaning up short.
        for s in caught:
            signal.signal(s, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(s, interrupt) for s in caught]
    try:
        yield
    finally:
        for s, handler in zip(caught, before, strict=True):
            signal.signal(s, handler)

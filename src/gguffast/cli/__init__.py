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
import re
import sys
from collections.abc import Callable, Sequence

from gguffast import __version__
from gguffast.console import is_interrupt, one_line, signals_as_interrupts
from gguffast.errors import GGUFFastError, Interrupted

COMMANDS = (
    *("quantize", "convert", "convert-lora", "split", "merge", "inspect", "import", "download", "upload"),
    *("create", "run", "list", "show", "rm"),
    *("demo", "link-llama-quantize"),
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
    words = sys.argv[1:] if argv is None else list(argv)
    parser: argparse.ArgumentParser | None = None
    with signals_as_interrupts():
        try:
            parser, args = _parse(words)
            code: int = args.run(args)
            sys.stdout.flush()
            return code
        except SystemExit as stop:  # argparse has printed the help or what is wrong
            return int(stop.code or 0)
        except BaseException as error:
            if "--debug" in words:
                import traceback

                traceback.print_exc()
            return _fail(error, parser)


class CommandParser(argparse.ArgumentParser):
    """A parser that leaves for later what takes imports.

    Attributes
    ----------
    add_options : callable, optional
        Declares options when this is the command that is run.
    make_epilog : callable, optional
        Makes the epilog when the help is printed.
    """

    add_options: Callable[[CommandParser], None] | None = None
    make_epilog: Callable[[], str] | None = None

    def format_help(self) -> str:
        """Give the text of ``--help``."""
        if self.make_epilog:
            self.epilog = self.make_epilog()
        return super().format_help()


def _parse(words: list[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Read the command line; give the parser of its command too."""
    parser = argparse.ArgumentParser(
        prog="gguffast",
        description="Quantize language models on the CPU: llama.cpp's bytes, many times sooner.",
        epilog="`gguffast COMMAND --help` explains a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gguffast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    known = words and words[0] in COMMANDS
    for name in words[:1] if known else COMMANDS:
        # `import` is no name for a module, and one called `list` would hide list() from this package.
        stem = name.replace("-", "_") + ("_" if name in ("import", "list") else "")
        module = importlib.import_module(f"gguffast.cli.{stem}")
        module.add_parser(commands)
        command = commands.choices[name]
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=module.run)
    if not known:
        return parser, parser.parse_args(words)  # prints the help, or what is wrong
    command = commands.choices[words[0]]
    if command.add_options:
        command.add_options(command)
    # The command's own parser, intermixed: options may stand before, between and after the file names.
    return command, _unmark(command.parse_intermixed_args(_mark(words[1:])))


def _mark(words: list[str]) -> list[str]:
    """Mark what stands after ``--``, which an intermixed parser forgets: no argument can hold a zero byte."""
    i = words.index("--") if "--" in words else len(words)
    return words[:i] + [f"\0{word}" for word in words[i + 1 :]]


def _unmark(args: argparse.Namespace) -> argparse.Namespace:
    for name, value in vars(args).items():
        if isinstance(value, str):
            setattr(args, name, value.removeprefix("\0"))
        elif isinstance(value, list):
            setattr(args, name, [v.removeprefix("\0") if isinstance(v, str) else v for v in value])
    return args


def _fail(error: BaseException, parser: argparse.ArgumentParser | None) -> int:
    if isinstance(error, BrokenPipeError):  # as in `gguffast inspect FILE | head`
        _drop_stdout()
        return 1
    if isinstance(error, Interrupted):
        message = str(error)
    elif is_interrupt(error):
        message = "; ".join(["interrupted", *getattr(error, "__notes__", ())])
    elif isinstance(error, GGUFFastError):
        message = f"error: {spelled(str(error), parser)}"
    elif isinstance(error, ModuleNotFoundError) and not f"{error.name}".startswith("gguffast"):
        message = f"error: the package {error.name!r} is missing: pip install 'gguffast[convert,hub]'"
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


def spelled(message: str, parser: argparse.ArgumentParser | None) -> str:
    """Put the command line's names into a message that names arguments of a function.

    Libraries write ``allow_requantize=True`` or ``imatrix`` in backquotes; on the command line these are
    ``--allow-requantize`` and ``--imatrix``.
    """
    actions = parser._actions if parser else []
    names = {action.dest: [action.metavar, *action.option_strings][-1] for action in actions}
    return re.sub(r"`(\w+)(?:=True)?`", lambda found: str(names.get(found[1], found[0])), message)


def _drop_stdout() -> None:
    """Keep the interpreter from failing a second time when it flushes what could not be written."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)

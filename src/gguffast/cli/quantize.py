"""``gguffast quantize``: the command line of llama-quantize."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, NamedTuple

from gguffast.cli.options import add_options, add_report_options, list_types, options_of
from gguffast.errors import OptionError, quote

if TYPE_CHECKING:
    from gguffast.cli import CommandParser
    from gguffast.filetypes import FileType

_LIKE_A_TYPE = re.compile(r"(i?q|b?f|tq|mxfp)\d[a-z0-9_-]*$", re.IGNORECASE)

_USAGE = "gguffast quantize [options] INPUT.gguf [OUTPUT.gguf] TYPE [THREADS]"


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "quantize",
        help="quantize a GGUF file",
        description="Quantize a GGUF file. The output equals llama-quantize's, byte for byte.",
        usage=_USAGE,
        allow_abbrev=False,
    )
    parser.make_epilog = list_types
    add = parser.add_argument
    add("src", metavar="INPUT.gguf", help="the model; of a split one the first shard")
    add(
        "rest",
        metavar="[OUTPUT.gguf] TYPE [THREADS]",
        nargs="+",
        help="OUTPUT lies by default beside the input and is named after TYPE",
    )
    add_report_options(parser)
    parser.add_options = _add_options


def _add_options(parser: CommandParser) -> None:
    from gguffast.job import JobOptions

    add_options(parser, JobOptions)


def run(args: argparse.Namespace) -> int:
    """Quantize and print the summary."""
    from gguffast.cli.report import report
    from gguffast.cli.terminal import show_progress
    from gguffast.job import JobOptions
    from gguffast.quantizer import quantize

    what = _read_positionals(args)
    options = options_of(args, JobOptions) | {"threads": what.threads}
    with show_progress(hidden=args.quiet or "dry_run" in options) as progress:
        result = quantize(args.src, what.dst, what.file_type, progress=progress, **options)
    report(result, args)
    return 0


class _Positionals(NamedTuple):
    dst: str | None
    file_type: FileType
    threads: int | None


def _read_positionals(args: argparse.Namespace) -> _Positionals:
    """Tell ``TYPE [THREADS]`` from ``OUTPUT TYPE [THREADS]``: what is a type's name or number is the type."""
    from gguffast.filetypes import parse_file_type

    rest = args.rest
    try:
        output, type_, rest = None, parse_file_type(rest[0]), rest[1:]
    except OptionError:
        # `IN Q4KM 8` is a mistyped type and a number of threads, not a file "Q4KM" of the type number 8.
        if len(rest) == 1 and rest[0].lower().endswith(".gguf"):
            raise OptionError(f"no TYPE after OUTPUT {rest[0]}; usage: {_USAGE}") from None
        if len(rest) == 1 or (len(rest) == 2 and rest[1].isdecimal() and _LIKE_A_TYPE.match(rest[0])):
            raise
        output, type_, rest = rest[0], parse_file_type(rest[1]), rest[2:]
    if len(rest) > 1:
        raise OptionError(f"unexpected argument '{rest[1]}'; usage: {_USAGE}")
    return _Positionals(output, type_, _threads(getattr(args, "threads", None), rest))


def _threads(option: int | None, positional: list[str]) -> int | None:
    if not positional:
        return option
    if option is not None:
        raise OptionError("the number of threads is given twice, as THREADS and as --threads")
    try:
        threads = int(positional[0])
    except ValueError:
        raise OptionError(
            f"THREADS must be a number, found {quote(positional[0])}; usage: {_USAGE}"
        ) from None
    return threads if threads > 0 else None  # llama-quantize: 0 means all

"""``gguffast split``: one GGUF file into several."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gguffast.cli.options import add_options, add_report_options, options_of

if TYPE_CHECKING:
    from gguffast.cli import CommandParser


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "split",
        help="split a GGUF file",
        description="Split a GGUF file into several, as llama.cpp's gguf-split does, byte for byte; "
        "by default into files of 128 tensors.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("src", metavar="INPUT.gguf", help="the model; of a split one the first shard")
    add("dst", metavar="PREFIX", help="what the names begin with: PREFIX-00001-of-00003.gguf")
    add_report_options(parser)
    parser.add_options = _add_options


def _add_options(parser: CommandParser) -> None:
    from gguffast.splitter import SplitOptions

    add_options(parser, SplitOptions)


def run(args: argparse.Namespace) -> int:
    """Split and print the summary."""
    from gguffast.cli.report import report
    from gguffast.cli.terminal import show_progress
    from gguffast.splitter import SplitOptions, split

    options = options_of(args, SplitOptions)
    with show_progress(hidden=args.quiet or "dry_run" in options) as progress:
        result = split(args.src, args.dst, progress=progress, **options)
    report(result, args)
    return 0

"""``gguffast merge``: the shards of a GGUF model into one file."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gguffast.cli.options import add_options, add_report_options, options_of

if TYPE_CHECKING:
    from gguffast.cli import CommandParser


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "merge",
        help="make one GGUF file of a split one",
        description="Make one GGUF file of shards, as llama.cpp's gguf-split does, byte for byte.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("src", metavar="FIRST.gguf", help="the first shard, NAME-00001-of-00003.gguf")
    add("dst", metavar="OUTPUT.gguf", help="the whole model")
    add_report_options(parser)
    parser.add_options = _add_options


def _add_options(parser: CommandParser) -> None:
    from gguffast.job import WorkOptions

    add_options(parser, WorkOptions)


def run(args: argparse.Namespace) -> int:
    """Merge and print the summary."""
    from gguffast.cli.report import report
    from gguffast.cli.terminal import show_progress
    from gguffast.job import WorkOptions
    from gguffast.splitter import merge

    options = options_of(args, WorkOptions)
    with show_progress(hidden=args.quiet or "dry_run" in options) as progress:
        result = merge(args.src, args.dst, progress=progress, **options)
    report(result, args)
    return 0

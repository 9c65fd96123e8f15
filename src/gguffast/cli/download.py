"""``gguffast download``: a model from the Hugging Face Hub."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gguffast.cli.transfer import add_token_option, ending_at_once

if TYPE_CHECKING:
    from gguffast.cli import CommandParser


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "download",
        help="download a model from the Hugging Face Hub",
        description="Download what a conversion needs of a model on the Hugging Face Hub, or a GGUF file, "
        "and print where it lies. An interrupted download is continued.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("repo", metavar="REPO", help="owner/name, or owner/name:Q8_0 for one of its GGUF models")
    add("--revision", metavar="R", help="branch, tag or commit (default: main)")
    add(
        "--include",
        metavar="GLOB",
        action="append",
        default=[],
        help="download the files that fit, and no others, as in '*Q4_K_M*' (repeatable)",
    )
    add("--exclude", metavar="GLOB", action="append", default=[], help="leave out files (repeatable)")
    add("--local-dir", metavar="DIR", help="folder for the files (default: the Hub client's cache)")
    add_token_option(parser)
    add("--quiet", action="store_true", help="print nothing but the path, and errors")


def run(args: argparse.Namespace) -> int:
    """Download and print the path."""
    from gguffast.cli.terminal import show_progress
    from gguffast.hub import download

    with (
        ending_at_once("what has come is kept; the same command continues"),
        show_progress(hidden=args.quiet) as progress,
    ):
        path = download(
            args.repo,
            revision=args.revision,
            include=args.include,
            exclude=args.exclude,
            local_dir=args.local_dir,
            token=args.token,
            quiet=args.quiet,
            progress=progress,
        )
    print(path)
    return 0

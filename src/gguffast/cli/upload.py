"""``gguffast upload``: GGUF files to the Hugging Face Hub."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from gguffast.cli.transfer import add_token_option, ending_at_once

if TYPE_CHECKING:
    from gguffast.cli import CommandParser


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "upload",
        help="upload GGUF files to the Hugging Face Hub",
        description="Upload GGUF files to a repo on the Hugging Face Hub, with a model card if it has none, "
        "and print its address.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("files", metavar="FILE", nargs="+", help="GGUF file")
    add("repo", metavar="REPO", help="owner/name")
    add("--create", action="store_true", help="create the repo if it does not exist")
    add("--private", action="store_true", help="create it as a private one")
    add("--revision", metavar="R", help="branch to upload to (default: main)")
    add("--message", metavar="TEXT", help="commit message")
    add_token_option(parser)
    add("--quiet", action="store_true", help="print nothing but the address, and errors")


def run(args: argparse.Namespace) -> int:
    """Upload and print the address."""
    from gguffast.hub import upload

    with ending_at_once("what was transferred is kept; the same command continues"):
        url = upload(
            args.files,
            args.repo,
            private=args.private,
            create=args.create,
            revision=args.revision,
            message=args.message,
            token=args.token,
            quiet=args.quiet or not sys.stderr.isatty(),
        )
    print(url)
    return 0

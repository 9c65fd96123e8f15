"""``gguffast link-llama-quantize``: another program calls gguffast from now on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguffast.cli import CommandParser


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "link-llama-quantize",
        help="let another program quantize with gguffast",
        description="Put gguffast's llama-quantize where a program has its own, as in Ollama's lib/ollama.",
    )
    parser.add_argument("folder", metavar="DIR", help="the folder that holds llama-quantize")
    parser.add_argument("--undo", action="store_true", help="put the program's own one back")


def run(args: argparse.Namespace) -> int:
    """Link, or undo it."""
    from gguffast.compat.link import link_llama_quantize, unlink_llama_quantize

    if args.undo:
        print(f"{unlink_llama_quantize(args.folder)} is the program's own one again")
        return 0
    aside = link_llama_quantize(args.folder)
    print(f"{aside.with_name('llama-quantize')} is gguffast's now; the program's own one is {aside}")
    return 0

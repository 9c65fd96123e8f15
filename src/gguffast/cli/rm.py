"""``gguffast rm``: remove models from Ollama."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gguffast.cli.options import add_host

if TYPE_CHECKING:
    from gguffast.cli import CommandParser


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "rm", help="remove a model from Ollama", description="Remove models from the Ollama server."
    )
    parser.add_argument("names", metavar="NAME", nargs="+", help="the model's name")
    add_host(parser)


def run(args: argparse.Namespace) -> int:
    """Remove them, one after the other."""
    from gguffast.ollama import Client

    with Client(args.host) as client:
        for name in args.names:
            client.delete(name)
            print(f"removed {name}")
    return 0

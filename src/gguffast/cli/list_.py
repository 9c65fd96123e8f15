"""``gguffast list``: the models that the Ollama server has."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gguffast.cli.options import add_host

if TYPE_CHECKING:
    from gguffast.cli import CommandParser


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "list", help="list the models in Ollama", description="List the models that the Ollama server has."
    )
    add_host(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line for each."""
    from gguffast.console import one_line
    from gguffast.files import format_bytes
    from gguffast.ollama import Client

    with Client(args.host) as client:
        models = client.list()
    rows = [("name", "size", "type", "modified")]
    for model in models:
        modified = f"{model.modified:%Y-%m-%d %H:%M}" if model.modified else "-"
        rows.append((model.name or "-", format_bytes(model.size), model.type or "-", modified))
    width = [max(len(row[i]) for row in rows) for i in range(3)]
    for name, size, type_, modified in rows:
        print(one_line(f"{name:{width[0]}}  {size:>{width[1]}}  {type_:{width[2]}}  {modified}"))
    return 0

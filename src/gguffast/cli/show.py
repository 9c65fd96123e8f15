"""``gguffast show``: what the Ollama server knows of a model."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from gguffast.cli.options import add_host

if TYPE_CHECKING:
    from gguffast.cli import CommandParser


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "show", help="show a model in Ollama", description="Show what the Ollama server knows of a model."
    )
    parser.add_argument("name", metavar="NAME", help="the model's name")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--modelfile", action="store_true", help="print its Modelfile alone")
    kind.add_argument("--json", action="store_true", help="print everything as one JSON object")
    add_host(parser)


def run(args: argparse.Namespace) -> int:
    """Print the model's facts."""
    from gguffast.ollama import Client

    with Client(args.host) as client:
        model = client.show(args.name)
    if args.json:
        print(json.dumps(model.answer))
    elif args.modelfile:
        print(_printable(model.modelfile))
    else:
        _section("model", args.name)
        _section("family", model.family)
        _section("weights", model.weights)
        _section("type", model.type)
        _section("context", f"{model.context} tokens" if model.context else "")
        _section("can", ", ".join(model.capabilities))
        _section("parameters", model.parameters)
        _section("template", model.template)
        _section("system", model.system)
        _section("license", model.license.strip().partition("\n")[0])
    return 0


def _section(name: str, text: str) -> None:
    if text:
        lines = _printable(text).splitlines() or [""]
        print(f"{name:12}{lines[0]}", *(f"{'':12}{line}" for line in lines[1:]), sep="\n")


def _printable(text: str) -> str:
    from gguffast.console import one_line

    return "\n".join(one_line(line) for line in text.splitlines())

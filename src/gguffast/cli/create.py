"""``gguffast create``: what ``ollama create`` does, in every quantization type and without a second copy."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gguffast.cli.options import add_host, add_make_options, list_types, options_of
from gguffast.cli.transfer import ending_at_once
from gguffast.errors import FileError

if TYPE_CHECKING:
    from gguffast.cli import CommandParser
    from gguffast.ollama import Created


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "create",
        help="register a model with Ollama",
        description="Register a model with Ollama from a Modelfile. FROM may be a GGUF file, split or not, "
        "a Hugging Face checkpoint folder, a repository of the Hub (hf.co/OWNER/NAME), or a model that the "
        "server has.",
        allow_abbrev=False,
    )
    parser.make_epilog = list_types
    add = parser.add_argument
    add("name", metavar="NAME", help="the model's name: my-model or my-model:tag")
    add("-f", "--file", metavar="FILE", default="Modelfile", help="the Modelfile (default: ./Modelfile)")
    add("-q", "--quantize", dest="file_type", metavar="TYPE", help="quantize to this type, any of the list")
    add(
        "--no-link",
        action="store_true",
        help="send a copy even to a server on this machine; without this, file and server share the disk "
        "space where they can, and nothing should write into the file afterwards (replacing it is fine)",
    )
    add_host(parser)
    add("--quiet", action="store_true", help="print nothing but errors")
    parser.add_options = add_make_options


def run(args: argparse.Namespace) -> int:
    """Create the model and say what was done."""
    from gguffast.cli.terminal import show_progress
    from gguffast.importer import create
    from gguffast.job import MakeOptions
    from gguffast.ollama import Client, Modelfile

    path = Path(args.file)
    if path.is_dir():
        path = path / "Modelfile"
    if not path.exists():
        raise FileError(f"there is no {path}; write one (FROM ./model.gguf), or say where it is with -f")
    modelfile = Modelfile.read(path)
    with (
        ending_at_once(f"{args.name} was not registered; what was downloaded is kept"),
        Client(args.host) as client,
        show_progress(hidden=args.quiet) as progress,
    ):
        created = create(
            args.name,
            modelfile,
            client,
            folder=path.parent,
            file_type=args.file_type,
            link=not args.no_link,
            progress=progress,
            **options_of(args, MakeOptions),
        )
    if not args.quiet:
        report(created)
    return 0


def report(created: Created) -> None:
    """Print what was done, and warnings."""
    from gguffast.console import one_line
    from gguffast.files import format_bytes

    for text in created.warnings:
        print(f"gguffast: warning: {one_line(text)}", file=sys.stderr)
    ways = [
        f"{format_bytes(n)} {way}"
        for n, way in (
            (created.linked, "linked into the server's store"),
            (created.uploaded, "sent to the server"),
            (created.size - created.linked - created.uploaded, "was there already"),
        )
        if n
    ]
    print(f"{created.name}{': ' if ways else ''}{', '.join(ways)}")
    if created.template:
        print(f"  chat template  {created.template}")
    print(f"  run it with    gguffast run {created.name}")

"""``gguffast convert``: the command line of convert_hf_to_gguf.py, and quantization in the same pass."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gguffast.cli.options import add_options, add_report_options, list_types, options_of

if TYPE_CHECKING:
    from gguffast.cli import CommandParser


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "convert",
        help="convert a Hugging Face checkpoint to GGUF, quantized or not",
        description="Convert a Hugging Face checkpoint to GGUF in one pass: convert_hf_to_gguf.py's file, "
        "or what llama-quantize would make of it, byte for byte.",
        allow_abbrev=False,
    )
    parser.make_epilog = list_types
    add = parser.add_argument
    add("src", metavar="CHECKPOINT_DIR", help="folder with config.json, weights and tokenizer")
    add(
        "--outfile",
        dest="dst",
        metavar="FILE",
        help="the output, or a folder for it; {ftype} becomes the type (default: named in CHECKPOINT_DIR)",
    )
    add(
        "--outtype",
        dest="file_type",
        metavar="TYPE",
        default="auto",
        help="f32, f16, bf16, q8_0, auto (the 16-bit type that the weights have), or a type of the list",
    )
    add_report_options(parser)
    parser.add_options = _add_options


def _add_options(parser: CommandParser) -> None:
    from gguffast.conversion.options import ConvertOptions

    add_options(parser, ConvertOptions)


def run(args: argparse.Namespace) -> int:
    """Convert and print the summary."""
    from gguffast.cli.report import report
    from gguffast.cli.terminal import show_progress
    from gguffast.conversion.converter import convert
    from gguffast.conversion.options import ConvertOptions

    options = options_of(args, ConvertOptions)
    with show_progress(hidden=args.quiet or "dry_run" in options) as progress:
        result = convert(args.src, args.dst, args.file_type, progress=progress, **options)
    report(result, args)
    return 0

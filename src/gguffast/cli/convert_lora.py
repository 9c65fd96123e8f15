"""``gguffast convert-lora``: the command line of convert_lora_to_gguf.py."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gguffast.cli.options import add_options, add_report_options, options_of

if TYPE_CHECKING:
    from gguffast.cli import CommandParser


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "convert-lora",
        help="convert a LoRA adapter to GGUF",
        description="Convert a PEFT LoRA adapter to GGUF: convert_lora_to_gguf.py's file, byte for byte.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("src", metavar="ADAPTER_DIR", help="folder with adapter_config.json and adapter_model.safetensors")
    add("--base", metavar="DIR", required=True, help="folder of the base model; its config.json is enough")
    add(
        "--outfile",
        dest="dst",
        metavar="FILE",
        help="the output, or a folder for it; {ftype} becomes the type (default: named in ADAPTER_DIR)",
    )
    add(
        "--outtype",
        dest="file_type",
        metavar="TYPE",
        default="f32",
        help="f32 (the default), f16, bf16, q8_0, auto (the 16-bit type that the weights have)",
    )
    add_report_options(parser)
    parser.add_options = _add_options


def _add_options(parser: CommandParser) -> None:
    from gguffast.conversion.lora import LoraOptions

    add_options(parser, LoraOptions)


def run(args: argparse.Namespace) -> int:
    """Convert and print the summary."""
    from gguffast.cli.report import report
    from gguffast.cli.terminal import show_progress
    from gguffast.conversion.lora import LoraOptions, convert_lora

    options = options_of(args, LoraOptions)
    with show_progress(hidden=args.quiet or "dry_run" in options) as progress:
        result = convert_lora(
            args.src, args.dst, args.file_type, base=args.base, progress=progress, **options
        )
    report(result, args)
    return 0

"""``gguffast convert``: the command line of convert_hf_to_gguf.py, and quantization in the same pass."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gguffast.cli.options import add_common_options, add_recipe_options, list_types, recipe_arguments
from gguffast.errors import Interrupted

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
    add("checkpoint", metavar="CHECKPOINT_DIR", help="folder with config.json, weights and tokenizer")
    add(
        "--outfile",
        metavar="FILE",
        help="the output, or a folder for it; {ftype} becomes the type (default: named in CHECKPOINT_DIR)",
    )
    add(
        "--outtype",
        metavar="TYPE",
        default="auto",
        help="f32, f16, bf16, q8_0, auto (the 16-bit type that the weights have), or a type of the list",
    )
    add("--model-name", metavar="NAME", help="name of the model in the metadata")
    add(
        "--metadata", metavar="FILE.json", help="general.* keys that count more than what the checkpoint says"
    )
    add("--vocab-only", action="store_true", help="write metadata and tokenizer alone")
    add("--pre", metavar="NAME", help="pre-tokenizer, if it is not recognised")
    add("--split-max-size", metavar="N(M|G)", default="0", help="most bytes of tensors in a file")
    add("--split-max-tensors", metavar="N", type=int, default=0, help="most tensors in a file")
    add_recipe_options(parser)
    add_common_options(parser)


def run(args: argparse.Namespace) -> int:
    """Convert and print the summary."""
    from gguffast.cli.report import report
    from gguffast.cli.terminal import show_progress
    from gguffast.conversion.converter import convert

    try:
        with show_progress(hidden=args.quiet or args.dry_run) as progress:
            result = convert(
                args.checkpoint,
                args.outfile,
                args.outtype,
                model_name=args.model_name,
                metadata=args.metadata,
                vocab_only=args.vocab_only,
                pre=args.pre,
                split_max_size=args.split_max_size,
                split_max_tensors=args.split_max_tensors,
                threads=args.threads,
                progress=progress,
                force=args.force,
                dry_run=args.dry_run,
                **recipe_arguments(args),
            )
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; nothing was written of {args.checkpoint}") from None
    report(result, args)
    return 0

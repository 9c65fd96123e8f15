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
import statistics
import sys
import tempfile
from pathlib import Path

from bench_file import digest, run
from make_checkpoint import make
from race import machine

Steps = list[list[str]]


def contenders(checkpoint: Path, out: Path, options: argparse.Namespace) -> dict[str, dict[str, Steps]]:
    """Commands of everybody, by type and label; the last of each writes `out`."""
    ours = [sys.executable, "-m", "gguffast", "convert", str(checkpoint), "--outfile", str(out), "--quiet"]
    ours += ["--model-name", "Benchmark", "--force"]
    races = {type_: {"gguffast": [[*ours, "--outtype", type_]]} for type_ in ("f16", "q4_k_m")}
    if options.convert_hf:
        theirs = [*shlex.split(options.convert_hf), str(checkpoint), "--model-name", "Benchmark"]
        races["f16"]["convert_hf_to_gguf.py"] = [[*theirs, "--outtype", "f16", "--outfile", str(out)]]
        if options.llama_quantize:
            between = str(out.with_suffix(".auto"))
            races["q4_k_m"]["convert_hf_to_gguf.py, llama-quantize"] = [
                [*theirs, "--outtype", "auto", "--outfile", between],
                [options.llama_quantize, between, str(out), "Q4_K_M", str(len(os.sched_getaffinity(0)))],
            ]
    return races


def measure(commands: dict[str, Steps], out: Path, rounds: int) -> dict[str, dict]:
    """Interleaved runs: label -> seconds, peak bytes."""
    runs: dict[str, list[tuple[float, int]]] = {label: [] for label in commands}
    digests = {}
    for _ in range(rounds):
        for label, steps in commands.items():
            out.unlink(missing_ok=True)
            done = [run(step) for step in steps]
            runs[label].append((sum(seconds for seconds, _ in done), max(peak for _, peak in done)))
            if label not in digests:
                digests[label] = digest(out)
    if len(set(digests.values())) > 1:
        sys.exit(f"the files differ, so their times mean nothing: {digests}")
    return {
        label: {
            "seconds": statistics.median(seconds for seconds, _ in done),
            "all_seconds": [seconds for seconds, _ in done],
            "peak_anonymous_bytes": max(peak for _, peak in done),
        }
        for label, done in runs.items()
    }


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
            document[type_] = measure(commands, out, options.runs)
            for label, figures in document[type_].items():
                print(
                    f"{type_:<7} {label:<40} {figures['seconds']:6.2f} s, "
                    f"{figures['peak_anonymous_bytes'] / 2**20:5.0f} MiB of its own memory"
                )
    options.results.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

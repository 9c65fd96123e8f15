"""Whole files: time and memory of `gguffast quantize` and llama-quantize on the same model, all cores.

    python benchmarks/bench_file.py [--llama-quantize PATH] [--model PATH] [--type Q4_K_M] [--runs 5]

Runs take turns, the model is in the page cache, and times are only reported if both wrote the same bytes.
The time is that of the whole process, from its start to its end. Peak memory is the process's own
(anonymous) memory: mapped file pages belong to the page cache and can be dropped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from make_model import make
from race import machine, race


def run(command: list[str]) -> tuple[float, int]:
    """Seconds and peak anonymous memory in bytes of a command that must succeed."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, anonymous_memory(process.pid))
            time.sleep(0.005)
        seconds = time.perf_counter() - start
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed: {process.stderr.read().decode().strip()}")
    return seconds, peak


def anonymous_memory(pid: int) -> int:
    """RssAnon of a process, 0 once it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Commands, one after the other, the last of which writes the file.
Steps = tuple[list[list[str]], Path]


def measure(contenders: dict[str, Steps], rounds: int) -> dict[str, dict]:
    """Interleaved runs: label -> seconds, peak bytes; only if everybody writes the same file."""
    runs: dict[str, list[tuple[float, int]]] = {label: [] for label in contenders}
    digests = {}
    for _ in range(rounds):
        for label, (steps, path) in contenders.items():
            path.unlink(missing_ok=True)
            done = [run(step) for step in steps]
            runs[label].append((sum(seconds for seconds, _ in done), max(peak for _, peak in done)))
            if label not in digests:
                digests[label] = digest(path)
    if len(set(digests.values())) > 1:
        sys.exit(f"the files differ, so their times mean nothing: {digests}")
    return {
        label: {
            "seconds": statistics.median(seconds for seconds, _ in done),
            "all_seconds": [seconds for seconds, _ in done],
            "peak_anonymous_bytes": max(peak for _, peak in done),
            "sha256": digests[label],
        }
        for label, done in runs.items()
    }


def contenders(model: Path, out: Path, options: argparse.Namespace) -> dict[str, Steps]:
    """Give everybody's command."""
    ours, theirs = out / "gguffast.gguf", out / "llama.gguf"
    rest = [options.type, str(options.threads)]
    command = [
        sys.executable,
        "-m",
        "gguffast",
        "quantize",
        "--quiet",
        "--force",
        str(model),
        str(ours),
        *rest,
    ]
    found: dict[str, Steps] = {"gguffast": ([command], ours)}
    if options.llama_quantize:
        found["llama-quantize"] = ([[options.llama_quantize, str(model), str(theirs), *rest]], theirs)
    return found


def open_times(model: Path) -> dict[str, float]:
    """Median seconds to open the file and list its tensors."""
    import gguf

    from gguffast import GGUFFile

    def ours() -> list:
        with GGUFFile(model) as file:
            return [(tensor.name, tensor.shape) for tensor in file.tensors]

    def theirs() -> list:
        return [
            (tensor.name, tuple(tensor.shape.tolist()[::-1])) for tensor in gguf.GGUFReader(model).tensors
        ]

    assert ours() == theirs()
    times = race({"gguffast": ours, "gguf-py": theirs}, rounds=20, patience=5.0)
    return {label: statistics.median(seconds) for label, seconds in times.items()}


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--llama-quantize", default=os.environ.get("LLAMA_QUANTIZE"), help="or LLAMA_QUANTIZE"
    )
    parser.add_argument("--model", type=Path, help="an F16 GGUF; one of 1.24 GB is made if none is given")
    parser.add_argument("--type", default="Q4_K_M")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results-file.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.model and arguments.model.parent) as folder:
        model = arguments.model or Path(folder) / "benchmark-F16.gguf"
        if not model.exists():
            make(model)
        digest(model)  # into the page cache
        quantized = measure(contenders(model, Path(folder), arguments), arguments.runs)
        opened = open_times(model)
        size = model.stat().st_size
    for label, figures in quantized.items():
        print(
            f"{label:<15} {figures['seconds']:6.2f} s, {size / figures['seconds'] / 1e9:5.2f} GB/s read, "
            f"{figures['peak_anonymous_bytes'] / 2**20:5.0f} MiB of its own memory"
        )
    for label, seconds in opened.items():
        print(f"{label:<15} {seconds * 1e3:8.1f} ms to open and list the tensors")
    document = {
        "machine": machine(),
        "model_bytes": size,
        "type": arguments.type,
        "threads": arguments.threads,
        "quantize": quantized,
        "open": opened,
    }
    arguments.results.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

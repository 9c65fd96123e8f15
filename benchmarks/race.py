"""Contenders, interleaved races between them, and the table of the results.

The machine changes its speed while a benchmark runs (other tenants, clock, temperature). So contenders
take turns, round by round, and every figure is a median over the reference's median: never a number from
one minute against one from the next.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

import gguffast
from gguffast import _core

# The oracle and the Numba statement live with the tests, which hold them to the same bytes.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support import oracle, statement

REFERENCE = "llama.cpp"
ROWS, COLUMNS = 512, 4096  # 2 M weights

# (weights, type name, importance or None, room for the bytes) -> bytes
Contender = Callable[[np.ndarray, str, np.ndarray | None, np.ndarray], np.ndarray]


def weights() -> np.ndarray:
    """N(0, 0.02^2), as trained weights roughly are."""
    return np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32) * np.float32(0.02)


def importance() -> np.ndarray:
    """Mean squares of activations: a few columns matter much more than the others."""
    return np.random.default_rng(1).exponential(size=COLUMNS).astype(np.float32) ** 2


def contenders(name: str, *, weighted: bool) -> dict[str, Contender]:
    """Who can quantize to the type, by their labels."""
    found: dict[str, Contender] = {REFERENCE: oracle.quantize}
    for target in gguffast.targets():
        found[f"gguffast {target}"] = _on_target(target)
    if name in statement.ROWS:
        found["numba"] = statement.quantize
    if not weighted and name in ("BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        found["gguf-py"] = _gguf_py
    return found


def _on_target(target: str) -> Contender:
    def quantize(x: np.ndarray, name: str, importance: np.ndarray | None, out: np.ndarray) -> np.ndarray:
        gguffast.set_target(target)
        _core.quantize(oracle.BLOCKS[name][0], x, x.shape[1], out, importance)
        return out

    return quantize


def _gguf_py(x: np.ndarray, name: str, importance: np.ndarray | None, out: np.ndarray) -> np.ndarray:
    return gguf.quants.quantize(x, gguf.GGMLQuantizationType[name])


def race(
    runners: dict[str, Callable[[], Any]], *, rounds: int, patience: float = 2.0
) -> dict[str, list[float]]:
    """Time the runners in turns; one that has used up `patience` seconds sits out the remaining rounds."""
    times: dict[str, list[float]] = {label: [] for label in runners}
    for _ in range(rounds):
        for label, run in runners.items():
            if sum(times[label]) > patience and len(times[label]) >= 3:
                continue
            start = time.perf_counter()
            run()
            times[label].append(time.perf_counter() - start)
    return times


def measure(name: str, *, weighted: bool, rounds: int = 15) -> dict[str, dict[str, float]]:
    """Race all contenders for a type: label -> Mweights/s, ratio to llama.cpp, share of bytes that differ.

    Raises
    ------
    AssertionError
        If gguffast or the statement gives other bytes than llama.cpp: such a time would mean nothing.
    """
    x, w = weights(), importance() if weighted else None
    who = contenders(name, weighted=weighted)
    expected = oracle.quantize(x, name, w)
    differing = {}
    for label, quantize in who.items():
        got = quantize(x, name, w, np.empty_like(expected))  # also the warm-up
        differing[label] = float(np.mean(got != expected))
        assert differing[label] == 0 or label == "gguf-py", f"{label} gives other {name} bytes than llama.cpp"
    # Everybody writes into the same memory, so that nobody's time holds the first touch of fresh pages.
    room = np.empty_like(expected)
    runners = {label: lambda f=f: f(x, name, w, room) for label, f in who.items()}
    medians = {label: statistics.median(t) for label, t in race(runners, rounds=rounds).items()}
    return {
        label: {
            "mweights_per_second": x.size / seconds / 1e6,
            "ratio": medians[REFERENCE] / seconds,
            "differing": differing[label],
        }
        for label, seconds in medians.items()
    }


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].split(":", 1)[1].strip() if models else cpu
    return {
        "cpu": cpu,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "targets": " ".join(gguffast.targets()),
    }

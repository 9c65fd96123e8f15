"""One thread, 2 M weights, rows of 4096: every type, plain and with importance matrix, against llama.cpp.

    pytest benchmarks/bench_kernels.py [-k Q4_K]

pytest-benchmark times the best target by itself; the figures that count are the interleaved ones of
`race`, in the table at the end.
"""

from __future__ import annotations

import pytest

import gguffast
import race
from support import oracle

CASES = [
    (name, mode)
    for name in oracle.BLOCKS
    if name != "F32"
    for mode in ("plain", "imatrix")
    if mode == "plain" or name not in ("F16", "BF16")  # an importance matrix changes nothing for these
]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_quantize(name, mode, benchmark, record):
    weighted = mode == "imatrix"
    figures = race.measure(name, weighted=weighted)
    record(mode, name, figures)
    benchmark.extra_info.update(figures)
    x, importance = race.weights(), race.importance() if weighted else None
    room = oracle.quantize(x, name, importance)
    quantize = race.contenders(name, weighted=weighted)[f"gguffast {gguffast.targets()[0]}"]
    benchmark.pedantic(quantize, (x, name, importance, room), rounds=5, warmup_rounds=1)

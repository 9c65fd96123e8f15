"""One thread, 2 M weights, rows of 4096: every type, plain and with importance matrix, against llama.cpp.

    pytest benchmarks/bench_kernels.py [-k Q4_K]

pytest-benchmark times the best target by itself; the figures that count are the interleaved ones of
`race`, in the table at the end.
"""

from __future__ import annotations

import pytest

import gguffast
import oracle
import race

TYPES = tuple(name for name in oracle.BLOCKS if name != "F32")


@pytest.mark.parametrize("mode", ["plain", "imatrix"])
@pytest.mark.parametrize("name", TYPES)
def test_quantize(name, mode, benchmark, record):
    weighted = mode == "imatrix"
    if weighted and name in ("F16", "BF16"):
        pytest.skip("an importance matrix changes nothing for plain formats")
    figures = race.measure(name, weighted=weighted)
    record(mode, name, figures)
    benchmark.extra_info.update(figures)
    best = gguffast.targets()[0]
    quantize = race.contenders(name, weighted=weighted)[f"gguffast {best}"]
    benchmark.pedantic(
        quantize, (race.weights(), name, race.importance() if weighted else None), rounds=5, warmup_rounds=1
    )

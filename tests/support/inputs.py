"""Weights that a quantizer meets, and weights that it hopefully never meets: rows for the kernel tests."""

from __future__ import annotations

import platform
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from support import oracle

Rows = NDArray[np.float32]
FLT_MAX = np.finfo(np.float32).max


def _sub_blocks(rng: np.random.Generator, rows: int, columns: int, magnitudes: list[float]) -> Rows:
    """Normal weights whose magnitude is drawn anew for every 16 weights."""
    scale = rng.choice(np.array(magnitudes), (rows, columns // 16))
    return rng.standard_normal((rows, columns)) * np.repeat(scale, 16, axis=1)


def _one_outlier(rng: np.random.Generator, rows: int, columns: int) -> Rows:
    x = rng.standard_normal((rows, columns)) * 0.02
    x[np.arange(rows), rng.integers(columns, size=rows)] = 40.0
    return x


def _one_large_sub_block(rng: np.random.Generator, rows: int, columns: int) -> Rows:
    """One sub-block in 256 weights is so large that the others' scales round to zero."""
    x = rng.standard_normal((rows, columns)) * 1e-4
    where = rng.integers(16, size=(rows, -(-columns // 256)))
    for row, blocks in zip(x, where, strict=True):
        for block, sub in enumerate(blocks):
            row[256 * block + 16 * sub : 256 * block + 16 * (sub + 1)] *= 1e6
    return x


WEIGHTS: dict[str, Callable[[np.random.Generator, int, int], Rows]] = {
    "normal": lambda rng, r, c: rng.standard_normal((r, c)) * 0.02,
    "heavy-tailed": lambda rng, r, c: rng.standard_t(2, (r, c)) * 0.02,
    "constant": lambda rng, r, c: np.repeat(rng.standard_normal((r, 1)), c, axis=1),
    "zero": lambda rng, r, c: np.zeros((r, c)),
    "negative zero": lambda rng, r, c: np.copysign(0.0, rng.standard_normal((r, c))),
    "zero sub-blocks": lambda rng, r, c: _sub_blocks(rng, r, c, [0.0, 0.02]),
    "constant sub-blocks": lambda rng, r, c: np.repeat(rng.standard_normal((r, c // 16)), 16, axis=1),
    "one large sub-block": _one_large_sub_block,
    "sub-blocks from tiny to large": lambda rng, r, c: _sub_blocks(rng, r, c, [1e-12, 1e-6, 1e-3, 1.0, 1e3]),
    "tiny": lambda rng, r, c: rng.standard_normal((r, c)) * 1e-20,
    "about 1e-15": lambda rng, r, c: rng.standard_normal((r, c)) * 1e-15,
    "about 1e-7": lambda rng, r, c: rng.standard_normal((r, c)) * 1e-7,
    "denormal": lambda rng, r, c: rng.integers(-4000, 4001, (r, c)) * 1.4e-45,
    "largest denormals": lambda rng, r, c: rng.standard_normal((r, c)) * 1e-38,
    "half-precision overflow": lambda rng, r, c: rng.standard_normal((r, c)) * 1e8,
    "huge": lambda rng, r, c: rng.standard_normal((r, c)) * 1e30,
    "largest": lambda rng, r, c: rng.uniform(-1.0, 1.0, (r, c)) * FLT_MAX,
    "one outlier": _one_outlier,
    "negative": lambda rng, r, c: -np.abs(rng.standard_normal((r, c))),
    "positive": lambda rng, r, c: np.abs(rng.standard_normal((r, c))),
    "far from zero": lambda rng, r, c: 5.0 + rng.standard_normal((r, c)) * 0.01,
    "sparse": lambda rng, r, c: rng.standard_normal((r, c)) * (rng.random((r, c)) < 0.05),
    "grid of 1/8": lambda rng, r, c: rng.integers(-8, 8, (r, c)) / 8,
    "grid of 1/2": lambda rng, r, c: rng.integers(-31, 32, (r, c)) / 2,
    "two values": lambda rng, r, c: rng.choice(np.array([-0.5, 1.0]), (r, c)),
    "exponents": lambda rng, r, c: rng.choice([-1.0, 1.0], (r, c)) * 2.0 ** rng.integers(-140, 120, (r, c)),
}

IMPORTANCES: dict[str, Callable[[np.random.Generator, int], NDArray[np.float32]]] = {
    "exponential": lambda rng, c: rng.exponential(size=c),
    "constant": lambda rng, c: np.full(c, 0.5),
    "zeros among": lambda rng, c: rng.exponential(size=c) * (rng.random(c) < 0.5),
    "all zero": lambda rng, c: np.zeros(c),
    "wide": lambda rng, c: 10.0 ** rng.uniform(-12, 12, c),
    "huge": lambda rng, c: rng.exponential(size=c) * 1e36,
    "denormal": lambda rng, c: rng.exponential(size=c) * 1e-40,
}


def weights(kind: str, rows: int, columns: int, seed: int = 0) -> Rows:
    """Make float32 rows of a kind in `WEIGHTS`."""
    x = WEIGHTS[kind](np.random.default_rng(seed), rows, columns)
    return np.ascontiguousarray(x, dtype=np.float32)


def importance(kind: str, columns: int, seed: int = 1) -> NDArray[np.float32]:
    """Make a float32 importance row of a kind in `IMPORTANCES`."""
    return IMPORTANCES[kind](np.random.default_rng(seed), columns).astype(np.float32)


def importance_kinds(name: str) -> tuple[str | None, ...]:
    """What to quantize to a type with: every kind of importance, and none if the type can do without."""
    return (*IMPORTANCES,) if name in oracle.NEED_IMPORTANCE else (None, *IMPORTANCES)


def least_importance(name: str) -> str | None:
    """Choose no importance, or the plainest kind for a type that needs some."""
    return "constant" if name in oracle.NEED_IMPORTANCE else None


def check(got: NDArray[np.uint8], expected: NDArray[np.uint8] | None, name: str, what: str = "") -> None:
    """Compare bytes with llama.cpp's; where it aborted (None), ours must be such as nobody accepts."""
    if expected is None:
        assert not oracle.valid(got, name), what
    elif comparable(expected, name):
        np.testing.assert_array_equal(got, expected, what)


def comparable(quantized: NDArray[np.uint8], name: str) -> bool:
    """Whether two machines agree on these bytes of llama.cpp's.

    Weights near the largest float overflow in the searches, and what becomes of the NaN then is up to the
    instruction set. Such a file is refused anyway; on x86-64 the bytes are still those of llama.cpp.
    """
    return platform.machine() in ("x86_64", "AMD64") or oracle.valid(quantized, name)

"""The Numba statement of the algorithms says what llama.cpp does, bit for bit, garbage included."""

from __future__ import annotations

import numpy as np
import pytest

from support import inputs, oracle, statement


@pytest.mark.parametrize("name", statement.ROWS)
def test_equals_llama_cpp(name):
    for kind in inputs.WEIGHTS:
        x = inputs.weights(kind, 2, 1024)
        for importance_kind in inputs.importance_kinds(name):
            importance = importance_kind and inputs.importance(importance_kind, 1024)
            expected = oracle.quantize_or_abort(x, name, importance)
            if expected is None:
                with pytest.raises(OverflowError):
                    statement.quantize(x, name, importance)
            elif inputs.comparable(expected, name):
                got = statement.quantize(x, name, importance)
                np.testing.assert_array_equal(got, expected, f"{kind}, importance {importance_kind}")


def test_half_precision_rounding():
    """Every half-precision value, every midpoint, and the floats next to them."""
    half = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    midpoints = (half[:-1] + half[1:]) / 2
    near = np.concatenate([half, midpoints, [np.float32(65520), np.float32(np.inf)]]).astype(np.float32)
    near = np.concatenate([near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))])
    x = np.concatenate([near, -near, [np.float32(np.nan)]])
    got = np.array([statement.half_bits(v) for v in x], np.uint16)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    np.testing.assert_array_equal(got, expected.view(np.uint16))


def test_half_precision_values():
    bits = np.arange(0x10000, dtype=np.uint16)
    got = np.array([statement.half_value(int(b)) for b in bits], np.float32)
    np.testing.assert_array_equal(got, bits.view(np.float16).astype(np.float32))

"""The kernels, on every target of this machine, against llama.cpp, the Numba statement and gguf-py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import gguf
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import gguffast
from gguffast import DataError, GGMLQuantizationType, OptionError, _core, quants
from support import inputs, oracle, statement

NAMES = tuple(oracle.BLOCKS)
TARGETS = tuple(gguffast.targets())
WIDTH = 1024
NOT_IN_GGUF_PY = {"Q1_0", "Q2_0"}  # it computes neither, and knows of the first alone


def kernel(x: np.ndarray, name: str, importance: np.ndarray | None = None) -> np.ndarray:
    """Run the bare kernel: no check for NaN, none for overflow."""
    number, block, nbytes = oracle.BLOCKS[name]
    out = np.empty((x.shape[0], x.shape[1] // block * nbytes), np.uint8)
    _core.quantize(number, x, x.shape[1], out, importance)
    return out


@cache
def case(
    name: str, kind: str, importance_kind: str | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    x = inputs.weights(kind, 2, WIDTH)
    importance = importance_kind and inputs.importance(importance_kind, WIDTH)
    return x, importance, oracle.quantize_or_abort(x, name, importance)


# --- quantize: bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_equals_llama_cpp(name, target):
    for kind in inputs.WEIGHTS:
        for importance_kind in inputs.importance_kinds(name):
            x, importance, expected = case(name, kind, importance_kind)
            got = kernel(x, name, importance)
            inputs.check(got, expected, name, f"{kind}, importance {importance_kind}")


@cache
def row_of_blocks(
    name: str, blocks: int, importance_kind: str | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    columns, rows = blocks * oracle.BLOCKS[name][1], 1 + blocks % 3
    x = inputs.weights("normal", rows, columns, seed=blocks)
    importance = importance_kind and inputs.importance(importance_kind, columns, seed=blocks)
    return x, importance, oracle.quantize(x, name, importance)


@pytest.mark.parametrize("name", NAMES)
def test_equals_llama_cpp_for_every_number_of_blocks(name, target):
    """One to forty blocks in a row and one to three rows: every tail that a group of lanes can have."""
    for blocks in (*range(1, 41), 4096 // oracle.BLOCKS[name][1]):
        for importance_kind in {inputs.least_importance(name), "exponential"}:
            x, importance, expected = row_of_blocks(name, blocks, importance_kind)
            np.testing.assert_array_equal(kernel(x, name, importance), expected, f"{blocks} blocks")


@pytest.mark.parametrize("name", statement.ROWS)
def test_equals_statement(name, target):
    for kind in ("normal", "heavy-tailed", "sub-blocks from tiny to large", "grid of 1/8"):
        x = inputs.weights(kind, 3, WIDTH, seed=5)
        for importance_kind in {inputs.least_importance(name), "exponential"}:
            importance = importance_kind and inputs.importance(importance_kind, WIDTH)
            expected = statement.quantize(x, name, importance)
            np.testing.assert_array_equal(kernel(x, name, importance), expected, kind)


def palette(values: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    """A few float32 values: what a row is mixed from. (Drawing each weight by itself takes seconds a row.)"""
    return st.lists(values, min_size=1, max_size=9).map(lambda drawn: np.array(drawn, np.float32))


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
special = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0**-149, 2.0**-126, 1e-15, 65504.0, 3e38, -3e38])


def in_range(values: np.ndarray, importances: np.ndarray | None) -> bool:
    """Whether llama.cpp's rounding stays within its range (it asserts |v| < 2**22 where assertions are on).

    Weights that do not count, beside others that are millions of times smaller, take it out of it; then
    builds of llama.cpp disagree: the sdist, built by GCC 12, gave our bytes for Q4_K, the wheel others.
    """
    sizes = np.abs(values[values != 0].astype(np.float64))
    if importances is None or importances.all() or not sizes.size:
        return True
    return bool(sizes.max() / sizes.min() < 2**22)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    values=palette(finite | special | st.floats(-1, 1, width=32)),
    importances=st.none() | palette(st.floats(0, 2.0**100, width=32)),
    rows=st.integers(1, 3),
    blocks=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_llama_cpp_on_odd_weights(name, values, importances, rows, blocks, seed):
    assume(in_range(values, importances))
    rng = np.random.default_rng(seed)
    columns = oracle.BLOCKS[name][1] * blocks
    x = rng.choice(values, (rows, columns))
    importance = None if importances is None else rng.choice(importances, columns)
    if importance is None and name in oracle.NEED_IMPORTANCE:
        importance = np.ones(columns, np.float32)
    expected = oracle.quantize_or_abort(x, name, importance)
    before = gguffast.target()
    try:
        for target in TARGETS:
            gguffast.set_target(target)
            inputs.check(kernel(x, name, importance), expected, name, target)
    finally:
        gguffast.set_target(before)


@pytest.mark.parametrize("name", NAMES)
def test_importance_is_used_from_any_address(name, target):
    """Neither weights, importance nor output need an alignment beyond their own."""
    x, importance, expected = case(name, "heavy-tailed", "exponential")
    shifted_x = np.empty(x.size + 1, np.float32)[1:].reshape(x.shape)
    shifted_x[:] = x
    shifted_importance = np.empty(importance.size + 1, np.float32)[1:]
    shifted_importance[:] = importance
    out = np.empty(expected.size + 1, np.uint8)[1:]
    _core.quantize(oracle.BLOCKS[name][0], shifted_x, WIDTH, out, shifted_importance)
    np.testing.assert_array_equal(out, expected.ravel())


def test_four_threads_give_the_same_bytes():
    names = [name for name in NAMES if name != "F32"]
    x = inputs.weights("normal", 16, 2048)
    importance = inputs.importance("exponential", 2048)
    expected = {name: oracle.quantize(x, name, importance) for name in names}
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda name: quants.quantize(x, name, importance), names * 4))
    for name, got in zip(names * 4, results, strict=True):
        np.testing.assert_array_equal(got.view(np.uint8), expected[name])


# --- dequantize: bits ---------------------------------------------------------------------------------------


def same_bits(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal bits, any NaN equal to any other."""
    assert got.dtype == expected.dtype == np.float32
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


@pytest.mark.parametrize("name", sorted({*NAMES} - NOT_IN_GGUF_PY))
def test_dequantize_equals_gguf(name, target):
    for kind in ("normal", "heavy-tailed", "zero sub-blocks", "grid of 1/8", "denormal", "one outlier"):
        stored = case(name, kind, inputs.least_importance(name))[2]
        expected = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[name])
        got = quants.dequantize(stored, name)
        assert got.shape == expected.shape
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32), kind)


@pytest.mark.parametrize("name", NAMES)
def test_dequantize_any_bytes(name, target):
    nbytes = oracle.BLOCKS[name][2]
    for blocks in (1, 2, 3, 7, 40, 500):
        stored = np.random.default_rng(blocks).integers(256, size=(2, blocks * nbytes), dtype=np.uint8)
        got = quants.dequantize(stored, name)
        if name not in NOT_IN_GGUF_PY:
            with np.errstate(invalid="ignore", over="ignore"):
                expected = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[name])
            same_bits(got, expected)
        if name != "F32":
            same_bits(got, oracle.dequantize(stored, name))


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_dequantize_every_16_bit_value(name, target):
    stored = np.arange(0x10000, dtype=np.uint16).view(np.uint8)
    expected = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[name])
    same_bits(quants.dequantize(stored, name), expected)


# --- the Python interface -----------------------------------------------------------------------------------

GGUF_QUANTIZES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


@pytest.mark.parametrize("shape", [(512,), (3, 512), (2, 3, 512), (0, 512), (2, 1, 3, 256)])
@pytest.mark.parametrize("name", GGUF_QUANTIZES)
def test_shapes_and_dtypes_are_those_of_gguf(name, shape):
    x = inputs.weights("normal", 1, int(np.prod(shape)) or 512)[0][: np.prod(shape)].reshape(shape)
    qtype = gguf.GGMLQuantizationType[name]
    got = quants.quantize(x, qtype)
    if x.size:  # gguf-py cannot quantize an empty array
        expected = gguf.quants.quantize(x, qtype)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    back = quants.dequantize(got, qtype)
    assert (back.shape, back.dtype) == (shape, np.float32)


@pytest.mark.parametrize("name", sorted({*NAMES} - {"Q2_0"}))
def test_shape_helpers_are_those_of_gguf(name):
    qtype = gguf.GGMLQuantizationType[name]
    stored = gguf.quants.quant_shape_to_byte_shape((2, 3, 512), qtype)
    assert quants.quant_shape_to_byte_shape((2, 3, 512), qtype) == stored
    assert quants.quant_shape_from_byte_shape(stored, qtype) == (2, 3, 512)


def test_type_by_name_number_and_either_enumeration():
    x, _, expected = case("Q4_K", "normal", None)
    for qtype in ("Q4_K", "q4_k", 12, GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q4_K):
        np.testing.assert_array_equal(quants.quantize(x, qtype), expected)


def test_any_memory_layout():
    x, importance, expected = case("Q4_K", "normal", "exponential")
    wide = np.zeros((2, 2 * WIDTH), np.float32)
    wide[:, ::2] = x
    for same in (wide[:, ::2], np.asfortranarray(x), x[::-1].copy()[::-1], x.tolist(), x.astype(">f4")):
        np.testing.assert_array_equal(quants.quantize(same, "Q4_K", importance), expected)
    np.testing.assert_array_equal(
        quants.dequantize(np.asfortranarray(expected), "Q4_K"), quants.dequantize(expected, "Q4_K")
    )


def test_importance_of_any_dtype_and_layout():
    x, importance, expected = case("Q4_K", "normal", "exponential")
    for same in (importance.tolist(), importance.astype(np.float64), np.repeat(importance, 2)[::2]):
        np.testing.assert_array_equal(quants.quantize(x, "Q4_K", same), expected)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_weights_are_widened(name):
    x = inputs.weights("normal", 3, WIDTH).astype(np.float16)
    importance = inputs.importance("exponential", WIDTH)
    for weights in (importance,) if name in oracle.NEED_IMPORTANCE else (None, importance):
        got = quants.quantize(x, name, weights)
        expected = oracle.quantize(x.astype(np.float32), name, weights)
        np.testing.assert_array_equal(got.view(np.uint8), expected)


def test_double_precision_weights_are_rounded():
    x = inputs.weights("normal", 2, WIDTH)
    np.testing.assert_array_equal(
        quants.quantize(x.astype(np.float64), "Q6_K"), case("Q6_K", "normal", None)[2]
    )


def test_each_expert_has_its_importance():
    x = inputs.weights("normal", 6, WIDTH).reshape(3, 2, WIDTH)
    importance = np.stack([inputs.importance("exponential", WIDTH, seed) for seed in range(3)])
    got = quants.quantize(x, "Q4_K", importance)
    for expert, weights, part in zip(x, importance, got, strict=True):
        np.testing.assert_array_equal(part, oracle.quantize(expert, "Q4_K", weights))
    x[1, 1, 7] = np.nan
    with pytest.raises(DataError, match=r"row \[1, 1\] holds nan in column 7"):
        quants.quantize(x, "Q4_K", importance)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "F32"])
def test_refuses_what_llama_cpp_finds_invalid(name):
    """Weights that overflow the half-precision scale would load as infinity or NaN."""
    refused = set()
    misfit = "about 1e-38, too small" if name == "MXFP4" else "too large"
    for kind in inputs.WEIGHTS:
        for importance_kind in {inputs.least_importance(name), "exponential"}:
            x, importance, expected = case(name, kind, importance_kind)
            if expected is not None and oracle.valid(expected, name):
                np.testing.assert_array_equal(quants.quantize(x, name, importance).view(np.uint8), expected)
            else:
                refused.add(kind)
                with pytest.raises(
                    DataError, match=rf"row \[\d\] holds weights {misfit} .*{name} \(the largest"
                ):
                    quants.quantize(x, name, importance)
    if name == "MXFP4":
        assert "largest denormals" in refused
    else:
        assert ("half-precision overflow" in refused) == (name not in ("BF16", "NVFP4"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "F32"])
def test_refuses_nan_and_infinity(name, value, target):
    importance = np.ones(WIDTH) if name in oracle.NEED_IMPORTANCE else None
    for dtype in (np.float32, np.float16):
        for row, column in ((0, 0), (2, 77), (4, WIDTH - 1)):
            x = inputs.weights("normal", 5, WIDTH).astype(dtype)
            x[row, column] = value
            with pytest.raises(DataError, match=rf"row \[{row}\] holds {value} in column {column}:"):
                quants.quantize(x, name, importance)


@pytest.mark.parametrize("name", oracle.NEED_IMPORTANCE)
def test_refuses_to_do_without_importance_what_needs_it(name):
    x = inputs.weights("normal", 2, WIDTH)
    with pytest.raises(OptionError, match=f"^{name} needs an importance matrix: give one as imatrix$"):
        quants.quantize(x, name)
    with pytest.raises(ValueError, match="no importance"):
        kernel(x, name)


def test_needs_importance_where_llama_cpp_does():
    for name in NAMES:
        needed = oracle.library().ggml_quantize_requires_imatrix(oracle.BLOCKS[name][0])
        assert GGMLQuantizationType[name].info.needs_imatrix == needed == (name in oracle.NEED_IMPORTANCE)


def test_refuses_nan_in_a_single_row():
    x = np.zeros(256, np.float32)
    x[3] = np.nan
    with pytest.raises(DataError, match=r"^the row holds nan in column 3: "):
        quants.quantize(x, "Q4_K")


@pytest.mark.parametrize("qtype", ["Q4_X", "", 999, -1])
def test_refuses_an_unknown_type(qtype):
    with pytest.raises(OptionError, match=r"unknown tensor type .*: use one of F32, F16, Q4_0"):
        quants.quantize(np.zeros(256, np.float32), qtype)
    with pytest.raises(OptionError, match="unknown tensor type"):
        quants.dequantize(np.zeros(144, np.uint8), qtype)


@pytest.mark.parametrize("error", [NotImplementedError, OptionError, quants.UnsupportedTypeError])
def test_refuses_a_type_without_codec(error):
    with pytest.raises(error, match="cannot quantize to Q8_K: the types that can be computed are F32, "):
        quants.quantize(np.zeros(256, np.float32), "Q8_K")
    with pytest.raises(error, match="cannot dequantize from Q8_K: "):
        quants.dequantize(np.zeros(292, np.uint8), "Q8_K")


@pytest.mark.parametrize("shape", [(), (255,), (2, 128), (3, 257)])
def test_refuses_rows_that_no_block_fits(shape):
    with pytest.raises(quants.QuantError, match=r"rows of \w+ weights do not divide .*Q4_K block size 256"):
        quants.quantize(np.zeros(shape, np.float32), "Q4_K")


def test_refuses_bytes_that_are_no_blocks():
    with pytest.raises(ValueError, match="rows of 143 bytes do not divide into the Q4_K blocks of 144 bytes"):
        quants.dequantize(np.zeros((2, 143), np.uint8), "Q4_K")


@pytest.mark.parametrize("shape", [(255,), (1, 256), (3, 2, 256), ()])
def test_refuses_importance_of_another_shape(shape):
    with pytest.raises(OptionError, match=r"importance matrix has shape .* needs \(256,\) or \(2, 256\)"):
        quants.quantize(np.zeros((2, 3, 256), np.float32), "Q4_K", np.ones(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_refuses_importance_that_is_none(value):
    importance = np.ones(256)
    importance[9] = value
    with pytest.raises(DataError, match="importance matrix holds NaN, infinite or negative values"):
        quants.quantize(np.zeros((2, 256), np.float32), "Q4_K", importance)


def test_input_is_left_alone():
    x = inputs.weights("normal", 2, WIDTH)
    x.flags.writeable = False
    before = x.copy()
    quants.quantize(x, "Q4_K")
    np.testing.assert_array_equal(x, before)

"""llama.cpp's own kernels, called in this process: the package xllamacpp's shared object exports them."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BLOCKS = {  # name: (number in GGUF files, weights a block, bytes a block)
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "IQ4_NL": (20, 32, 18),
    "IQ4_XS": (23, 256, 136),
    "BF16": (30, 1, 2),
    "TQ1_0": (34, 256, 54),
    "TQ2_0": (35, 256, 66),
    "MXFP4": (39, 32, 17),
    "NVFP4": (40, 64, 36),
    "Q1_0": (41, 128, 18),
    "Q2_0": (42, 64, 18),
}


@cache
def library() -> ctypes.CDLL:
    """Load the shared object and declare what is used of it."""
    spec = find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise RuntimeError("llama.cpp's kernels are missing: pip install '.[test]' brings xllamacpp")
    path = next(Path(spec.origin).parent.glob("*.so"))
    lib = ctypes.CDLL(str(path))
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    lib.ggml_validate_row_data.restype = ctypes.c_bool
    lib.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    for name in ("ggml_fp16_to_fp32_row", "ggml_bf16_to_fp32_row", *map(_dequantizer, BLOCKS)):
        function = getattr(lib, name)
        function.restype = None
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    return lib


def _dequantizer(name: str) -> str:
    rows = {"F32": "ggml_fp16_to_fp32_row", "F16": "ggml_fp16_to_fp32_row", "BF16": "ggml_bf16_to_fp32_row"}
    symbol = name.lower().replace("_k", "_K")
    return rows.get(name, f"dequantize_row_{symbol}")


def quantize(
    x: NDArray[np.float32],
    name: str,
    importance: NDArray[np.float32] | None = None,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Quantize float32 rows [rows, columns] with llama.cpp; importance is float32 [columns]."""
    number, block, nbytes = BLOCKS[name]
    rows, columns = x.shape
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    assert columns % block == 0
    if out is None:
        out = np.empty((rows, columns // block * nbytes), np.uint8)
    if importance is not None:
        assert importance.dtype == np.float32
        assert importance.shape == (columns,)
        assert importance.flags.c_contiguous
    weights = None if importance is None else importance.ctypes.data
    written = library().ggml_quantize_chunk(number, x.ctypes.data, out.ctypes.data, 0, rows, columns, weights)
    assert written == out.nbytes
    return out


def dequantize(data: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
    """Dequantize uint8 rows [rows, bytes of a row] with llama.cpp."""
    _, block, nbytes = BLOCKS[name]
    rows, row_bytes = data.shape
    assert data.flags.c_contiguous
    out = np.empty((rows, row_bytes // nbytes * block), np.float32)
    getattr(library(), _dequantizer(name))(data.ctypes.data, out.ctypes.data, out.size)
    return out


def valid(data: NDArray[np.uint8], name: str) -> bool:
    """Whether llama.cpp accepts quantized data: no NaN, no infinity among values or scales."""
    number, _, _ = BLOCKS[name]
    return bool(library().ggml_validate_row_data(number, data.ctypes.data, data.nbytes))

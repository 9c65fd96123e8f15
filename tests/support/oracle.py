"""llama.cpp's own kernels: the package xllamacpp's shared object exports them.

They are called in this process, but for weights that might make them abort it: those, in a child.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
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
    "IQ1_S": (19, 256, 50),
    "IQ1_M": (29, 256, 56),
    "IQ2_XXS": (16, 256, 66),
    "IQ2_XS": (17, 256, 74),
    "IQ3_XXS": (18, 256, 98),
    "IQ4_NL": (20, 32, 18),
    "IQ3_S": (21, 256, 110),
    "IQ2_S": (22, 256, 82),
    "IQ4_XS": (23, 256, 136),
    "BF16": (30, 1, 2),
    "TQ1_0": (34, 256, 54),
    "TQ2_0": (35, 256, 66),
    "MXFP4": (39, 32, 17),
    "NVFP4": (40, 64, 36),
    "Q1_0": (41, 128, 18),
    "Q2_0": (42, 64, 18),
}

# To these it quantizes only with an importance matrix, and aborts without.
NEED_IMPORTANCE = ("IQ1_S", "IQ2_XXS", "IQ2_XS")
# To these it aborts when a search overflows.
MAY_ABORT = (*NEED_IMPORTANCE, "IQ1_M", "IQ2_S", "IQ3_XXS", "IQ3_S")


class AbortError(Exception):
    """llama.cpp aborted the process."""


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
    lib.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
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
    """Quantize float32 rows [rows, columns] with llama.cpp; importance is float32 [columns].

    Raises
    ------
    AbortError
        llama.cpp aborted, as it does where a search of a type in `MAY_ABORT` overflows.
    """
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
    if name in MAY_ABORT and not _tame(x, importance):
        _quantize_in_child(x, number, importance, out)
    else:
        _quantize_chunk(x, number, importance, out.ctypes.data)
    return out


def _quantize_chunk(
    x: NDArray[np.float32], number: int, importance: NDArray[np.float32] | None, address: int
) -> None:
    weights = None if importance is None else importance.ctypes.data
    rows, columns = x.shape
    library().ggml_quantize_chunk(number, x.ctypes.data, address, 0, rows, columns, weights)


def _tame(x: NDArray[np.float32], importance: NDArray[np.float32] | None) -> bool:
    """Whether nothing in a search can overflow: for sure below these bounds, and perhaps above."""
    return bool(np.abs(x).max() < 1e6) and (importance is None or bool(importance.max() < 1e12))


def _quantize_in_child(
    x: NDArray[np.float32], number: int, importance: NDArray[np.float32] | None, out: NDArray[np.uint8]
) -> None:
    library()
    with mmap.mmap(-1, max(out.nbytes, 1)) as shared:
        child = os.fork()
        if child == 0:
            faulthandler.disable()
            os.environ["GGML_NO_BACKTRACE"] = "1"  # else a debugger would be started
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            _quantize_chunk(x, number, importance, ctypes.addressof(ctypes.c_char.from_buffer(shared)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            raise AbortError(f"llama.cpp ended with {os.waitstatus_to_exitcode(status)}")
        np.copyto(out, np.frombuffer(shared[: out.nbytes], np.uint8).reshape(out.shape))


def quantize_or_abort(
    x: NDArray[np.float32], name: str, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8] | None:
    """Quantize with llama.cpp; None if that aborts."""
    try:
        return quantize(x, name, importance)
    except AbortError:
        return None


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

"""Tensor types and file types: their names and numbers, and the sizes of their blocks."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from gguffast import _core


class TypeInfo(NamedTuple):
    """What is fixed for a tensor type.

    Attributes
    ----------
    block_size : int
        Weights in a block.
    block_bytes : int
        Bytes of a block.
    quantized : bool
        False for plain number formats (F32, F16, BF16, F64, integers).
    has_codec : bool
        True if gguffast can quantize to it and dequantize from it.
    needs_imatrix : bool
        True if quantizing to it needs an importance matrix.
    """

    block_size: int
    block_bytes: int
    quantized: bool
    has_codec: bool
    needs_imatrix: bool


class GGMLQuantizationType(IntEnum):
    """Tensor types, by their number in GGUF files (``enum ggml_type`` of llama.cpp)."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42

    @property
    def info(self) -> TypeInfo:
        """Block size, bytes, and what can be done with the type."""
        return _INFO[self]

    @property
    def misfit(self) -> str:
        """What is wrong with finite weights that the type's scales cannot represent."""
        if self is GGMLQuantizationType.MXFP4:
            return "about 1e-38, too small for the scale of MXFP4"
        return f"too large for the half-precision numbers of {self.name}"

    def nbytes(self, n: int) -> int:
        """Bytes that ``n`` weights take; ``n`` is a multiple of the block size."""
        size, nbytes, *_ = _INFO[self]
        return n // size * nbytes

    def weights(self, nbytes: int) -> int:
        """Weights that stand in ``nbytes`` bytes, a multiple of those of a block."""
        return nbytes // self.info.block_bytes * self.info.block_size


_INFO = {
    GGMLQuantizationType(row.number): TypeInfo(
        row.block_size, row.block_bytes, row.quantized, row.has_codec, row.needs_importance
    )
    for row in _core.type_table()
}

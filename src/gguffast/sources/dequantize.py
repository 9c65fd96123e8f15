"""Quantized checkpoints: which method made them, and who knows the values that their codes stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gguffast.errors import FormatError, quote
from gguffast.sources.awq import dequantize_awq
from gguffast.sources.bitnet import dequantize_bitnet
from gguffast.sources.bitsandbytes import dequantize_bitsandbytes
from gguffast.sources.compressed_tensors import block_shape, dequantize_compressed
from gguffast.sources.gptq import dequantize_gptq
from gguffast.sources.lazy import LazyTensor
from gguffast.sources.microscaling import dequantize_nvfp4, repack_mxfp4
from gguffast.sources.scaled import FBGEMM, FP8, MODELOPT, scaled

Dequantizer = Callable[[Path, Mapping[str, LazyTensor]], dict[str, LazyTensor]]

# The first version of GPTQ's format stores zero points less one.
_GPTQ_OFFSETS = {"gptq": 1, "gptq_v2": 0}


def dequantizer(path: Path, config: Mapping[str, Any]) -> Dequantizer:
    """Find what turns the stored tensors of a checkpoint into its weights.

    Parameters
    ----------
    path : Path
        The checkpoint, for messages.
    config : mapping
        ``quantization_config``; empty for a checkpoint that has none.

    Raises
    ------
    FormatError
        Its ``quant_method``, or the variant of it, is not supported.
    """
    match config.get("quant_method"):
        # bitsandbytes weights describe themselves, and their configuration is often lost or stale.
        case None | "bitsandbytes":
            return dequantize_bitsandbytes
        case "fp8":
            return scaled(FP8, block_shape(path, config.get("weight_block_size")))
        case "fbgemm_fp8":
            return scaled(FBGEMM, ())
        case "modelopt" if "4" not in str(config.get("quant_algo")):
            return scaled(MODELOPT, ())
        case "modelopt" if "NVFP4" in str(config.get("quant_algo")):
            # What is not NVFP4 in a mixed checkpoint is FP8.
            return lambda path, stored: scaled(MODELOPT, ())(path, dequantize_nvfp4(path, stored))
        case "bitnet":
            return dequantize_bitnet
        case "mxfp4":
            return repack_mxfp4
        case "compressed-tensors":
            return lambda path, stored: dequantize_compressed(path, stored, config)
        case "awq" if config.get("bits") == 4 and config.get("version", "gemm") in ("gemm", "GEMM"):
            return dequantize_awq
        case "gptq":
            offset = _GPTQ_OFFSETS.get(str(config.get("checkpoint_format", "gptq")))
            bits = config.get("bits")
            if type(bits) is int and bits in (2, 3, 4, 8) and offset is not None:
                return lambda path, stored: dequantize_gptq(path, stored, bits, offset)
    raise FormatError(
        f"{path}: the weights are quantized by {_describe(config)}, which cannot be read; "
        "convert the original (readable: AWQ, bitsandbytes, BitNet, compressed-tensors, FP8, GPTQ, MXFP4)"
    )


def _describe(config: Mapping[str, Any]) -> str:
    keys = ("format", "quant_algo", "bits", "version", "checkpoint_format")
    facts = [f"{key} {quote(str(config[key]))}" for key in keys if key in config]
    return ", ".join([quote(str(config["quant_method"])), *facts])

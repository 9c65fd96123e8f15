"""Make packed_layers/: layers quantized by compressed-tensors, with the digest of what it makes of them.

    python tests/data/make_packed_layers.py      (with compressed-tensors 0.20.0, torch 2.15.0)

A file is one layer, ``l``. Its metadata hold the ``quantization_config``, and the SHA-256 of the values that
the package's own decompressor gives, with their type. Scales are F32, so that its products are not rounded.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, QuantizationStrategy
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file

FOLDER = Path(__file__).parent / "packed_layers"
ROWS, COLUMNS = 40, 128

CASES = {
    "int4-group": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32}),
    "int4-group-asymmetric": (
        "pack-quantized",
        {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False},
    ),
    "int4-channel": ("pack-quantized", {"num_bits": 4, "strategy": "channel"}),
    "int3-group": ("pack-quantized", {"num_bits": 3, "strategy": "group", "group_size": 64}),
    "int8-packed": ("pack-quantized", {"num_bits": 8, "strategy": "channel"}),
    "int8-channel": ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
    "fp8-tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    "fp8-channel": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "fp8-block": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [8, 64]},
    ),
    "nvfp4": (
        "nvfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
    ),
    "mxfp4": (
        "mxfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32},
    ),
}


def blocks(weight: torch.Tensor, args: QuantizationArgs) -> torch.Tensor:
    """The weight with what shares a scale along the last axis."""
    match args.strategy:
        case QuantizationStrategy.TENSOR:
            return weight.reshape(1, -1)
        case QuantizationStrategy.BLOCK:
            height, width = args.block_structure
            tiled = weight.unflatten(1, (-1, width)).unflatten(0, (-1, height)).transpose(1, 2)
            return tiled.flatten(2)
        case QuantizationStrategy.CHANNEL:
            return weight[:, None, :]
    return weight.unflatten(1, (-1, args.group_size))


def layer(args: QuantizationArgs) -> dict[str, torch.Tensor]:
    """A weight, and the scales that its largest numbers ask for."""
    weight = torch.randn(ROWS, COLUMNS)
    parts = blocks(weight, args)
    state = {"weight": weight}
    outer = None
    if args.strategy == QuantizationStrategy.TENSOR_GROUP:
        outer = torch.tensor([448.0 * 6.0 / weight.abs().max()])
        state["weight_global_scale"] = outer
    scale, zero = calculate_qparams(parts.amin(-1), parts.amax(-1), args, global_scale=outer)
    if args.strategy == QuantizationStrategy.TENSOR:
        scale, zero = scale.reshape(1), zero.reshape(1)
    return state | {"weight_scale": scale.float(), "weight_zero_point": zero}


def main() -> None:
    """Write a file for each case."""
    FOLDER.mkdir(exist_ok=True)
    for name, (form, weights) in CASES.items():
        torch.manual_seed(len(name))
        args = QuantizationArgs(**weights)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        compressor = BaseCompressor.get_value_from_registry(form)
        compressed = compressor.compress(layer(args), scheme)
        values = compressor.decompress(dict(compressed), scheme)["weight"].contiguous()
        config = {
            "quant_method": "compressed-tensors",
            "format": form,
            "config_groups": {"group_0": json.loads(scheme.model_dump_json())},
        }
        metadata = {
            "config": json.dumps(config),
            "dtype": str(values.dtype).removeprefix("torch."),
            "sha256": hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest(),
        }
        tensors = {f"l.{key}": value.contiguous() for key, value in compressed.items()}
        save_file(tensors, FOLDER / f"{name}.safetensors", metadata)
        print(
            name,
            {key: (value.dtype, tuple(value.shape)) for key, value in tensors.items()},
            metadata["dtype"],
        )


if __name__ == "__main__":
    main()

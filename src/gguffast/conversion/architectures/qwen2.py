"""Qwen 1.5, 2 and 2.5, dense and with experts."""

from __future__ import annotations

from typing import Any

from gguffast.conversion.architecture import HIDDEN, Architecture, Rule, one, size
from gguffast.conversion.blocks import (
    ATTENTION,
    EMBEDDING,
    FEED_FORWARD_BLOCK,
    NORMS,
    biased,
    gated_feed_forward,
    linear,
    stacked_experts,
)
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import BASE, EXPERT_FEED_FORWARD_LENGTH, uint

EXPERTS = size("num_experts")
EXPERT_WIDTH = size("moe_intermediate_size")
EXPERT_TENSORS: dict[str, Rule | None] = {
    "model.layers.{i}.mlp.gate": linear("blk.{i}.ffn_gate_inp", EXPERTS, HIDDEN),
    **stacked_experts("model.layers.{i}.mlp.experts", EXPERTS, EXPERT_WIDTH),
}
_SHARED_WIDTH = size("shared_expert_intermediate_size")
SHARED_EXPERT: dict[str, Rule | None] = {
    **gated_feed_forward("model.layers.{i}.mlp.shared_expert", "_shexp", _SHARED_WIDTH),
    "model.layers.{i}.mlp.shared_expert_gate": linear("blk.{i}.ffn_gate_inp_shexp", one, HIDDEN),
}
EXPERT_KEYS = (
    EXPERT_FEED_FORWARD_LENGTH,
    uint("{arch}.expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
)


def qwen_vocabulary(h: Hparams) -> dict[str, Any]:
    """Look for a SentencePiece file too: a few of the first models came with one."""
    return {"kinds": ("sentencepiece", "bpe")}


BIASED_ATTENTION = biased(ATTENTION, "q_proj", "k_proj", "v_proj")

DENSE = Architecture(
    hf_class="Qwen2ForCausalLM",
    name="qwen2",
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    },
    tensors={**EMBEDDING, **NORMS, **BIASED_ATTENTION, **FEED_FORWARD_BLOCK},
    keys=BASE,
    vocabulary=qwen_vocabulary,
)
SPARSE = Architecture(
    hf_class="Qwen2MoeForCausalLM",
    name="qwen2moe",
    defaults={
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts_per_tok": 4,
        "num_experts": 60,
        "tie_word_embeddings": False,
    },
    tensors={
        **EMBEDDING,
        **NORMS,
        **BIASED_ATTENTION,
        **EXPERT_TENSORS,
        **SHARED_EXPERT,
    },
    experts=EXPERTS,
    keys=(*BASE, *EXPERT_KEYS),
)

ARCHITECTURES = (DENSE, SPARSE)

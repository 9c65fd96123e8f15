"""Llama 4 (text): every so manyth layer has experts, and one that all tokens share."""

from __future__ import annotations

from gguffast.conversion.architecture import FEED_FORWARD, HIDDEN, Architecture, Rule, classes, size
from gguffast.conversion.architectures import llama
from gguffast.conversion.architectures.mistral import EXPERTS
from gguffast.conversion.blocks import (
    ATTENTION,
    EMBEDDING,
    NORMS,
    gated_feed_forward,
    linear,
    only,
    stacked_experts,
    without,
)
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import llama3_rope, uint

_MOE = "model.layers.{i}.feed_forward"


def _is_sparse(h: Hparams) -> bool:
    layer, step = h.layer or 0, h.integer("interleave_moe_layer_step", 1)
    chosen = h.items("moe_layers", default=None)
    return (layer + 1) % step == 0 if chosen is None else layer in chosen


def _no_windows(h: Hparams) -> int | None:
    """Say 0 where every layer sees everything, as in MobileLLM: llama.cpp takes chunks for granted."""
    kinds = h.items("layer_types", default=None)
    return 0 if kinds and all(kind == "full_attention" for kind in kinds) else None


_EXPERT_TENSORS: dict[str, Rule | None] = {
    f"{_MOE}.router": linear("blk.{i}.ffn_gate_inp", EXPERTS, HIDDEN),
    **stacked_experts(f"{_MOE}.experts", EXPERTS, FEED_FORWARD, columns_first=True),
    **gated_feed_forward(f"{_MOE}.shared_expert", "_shexp"),
}

_LLAMA4 = Architecture(
    hf_class="Llama4ForCausalLM",
    name="llama4",
    defaults={
        "vocab_size": 202048,
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "num_local_experts": 16,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 1,
        "tie_word_embeddings": False,
    },
    tensors={
        **EMBEDDING,
        **NORMS,
        **ATTENTION,
        **only(_is_sparse, _EXPERT_TENSORS),
        **without(_is_sparse, gated_feed_forward(_MOE, width=size("intermediate_size_mlp"))),
    },
    experts=EXPERTS,
    keys=(
        *llama.KEYS,
        uint("{arch}.feed_forward_length", "intermediate_size_mlp"),
        uint("{arch}.interleave_moe_layer_step", "interleave_moe_layer_step"),
        uint("{arch}.expert_feed_forward_length", FEED_FORWARD),
        uint("{arch}.attention.sliding_window", _no_windows),
    ),
    generated=llama3_rope,
)

ARCHITECTURES = classes(_LLAMA4, "Llama4ForCausalLM", "Llama4ForConditionalGeneration")

"""Baidu ERNIE 4.5, dense and with experts (text)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gguffast.conversion.architecture import (
    FEED_FORWARD,
    HIDDEN,
    Architecture,
    Rule,
    classes,
    kv_heads,
    kv_width,
    one,
    query_width,
    size,
)
from gguffast.conversion.blocks import (
    ATTENTION,
    EMBEDDING,
    FEED_FORWARD_BLOCK,
    NORMS,
    gated_feed_forward,
    joined,
    linear,
    only,
    without,
)
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import BASE, EXPERT_FEED_FORWARD_LENGTH, uint
from gguffast.conversion.vocab.files import Files

_MLP = "model.layers.{i}.mlp"
_EXPERTS = size("moe_num_experts")
_EXPERT_WIDTH = size("moe_intermediate_size")


def _renamed(name: str, h: Hparams) -> str | None:
    """Leave out multi-token prediction, as the reference does; the first checkpoints have another prefix."""
    return None if name.startswith("model.mtp_") else name.replace("ernie.", "model.")


def _vocabulary(h: Hparams) -> dict[str, Any]:
    prefix = Files(h.path.parent).json("tokenizer_config.json").get("add_prefix_space")
    return {"kinds": ("sentencepiece",), "space_prefix": prefix if isinstance(prefix, bool) else None}


def _is_sparse(h: Hparams) -> bool:
    layer = h.layer or 0
    first, last = h.integer("moe_layer_start_index"), h.integer("moe_layer_end_index", -1, default=-1)
    within = first <= layer and (last < 0 or layer <= last)
    return within and (layer + 1) % h.integer("moe_layer_interval", 1) == 0


def _shared_width(h: Hparams) -> int:
    return h.integer("moe_num_shared_experts", default=0) * _EXPERT_WIDTH(h)


def _has_shared(h: Hparams) -> bool:
    return _shared_width(h) > 0


def _shared_length(h: Hparams) -> int | None:
    """Divide as the reference does: by heads that have nothing to do with it. The published models agree."""
    return FEED_FORWARD(h) // kv_heads(h) if _has_shared(h) else None


_DENSE = Architecture(
    hf_class="Ernie4_5ForCausalLM",
    name="ernie4_5",
    defaults={
        "vocab_size": 103424,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 18,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
    },
    tensors={
        **EMBEDDING,
        **NORMS,
        **ATTENTION,
        **FEED_FORWARD_BLOCK,
        "model.layers.{i}.self_attn.qkv_proj": joined(
            ("blk.{i}.attn_q", "blk.{i}.attn_k", "blk.{i}.attn_v"), (query_width, kv_width, kv_width), HIDDEN
        )._replace(optional=True),
        f"{_MLP}.up_gate_proj": joined(
            ("blk.{i}.ffn_gate", "blk.{i}.ffn_up"), (FEED_FORWARD, FEED_FORWARD), HIDDEN
        )._replace(optional=True),
    },
    keys=BASE,
    rename=_renamed,
    vocabulary=_vocabulary,
)

_EXPERT_TENSORS: dict[str, Rule | None] = {
    f"{_MLP}.gate": linear("blk.{i}.ffn_gate_inp", _EXPERTS, HIDDEN),
    f"{_MLP}.moe_statics.e_score_correction_bias": Rule(
        "blk.{i}.exp_probs_b", (one, _EXPERTS), ending=".bias", optional=True
    ),
    f"{_MLP}.experts.{{e}}.gate_proj": linear("blk.{i}.ffn_gate_exps", _EXPERT_WIDTH, HIDDEN),
    f"{_MLP}.experts.{{e}}.up_proj": linear("blk.{i}.ffn_up_exps", _EXPERT_WIDTH, HIDDEN),
    f"{_MLP}.experts.{{e}}.down_proj": linear("blk.{i}.ffn_down_exps", HIDDEN, _EXPERT_WIDTH),
    **only(_has_shared, gated_feed_forward(f"{_MLP}.shared_experts", "_shexp", _shared_width)),
}
_SPARSE = replace(
    _DENSE,
    hf_class="Ernie4_5_MoeForCausalLM",
    name="ernie4_5-moe",
    defaults={
        **{key: value for key, value in _DENSE.defaults.items() if key != "head_dim"},
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "num_hidden_layers": 28,
        "num_attention_heads": 20,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 1536,
        "moe_k": 6,
        "moe_num_experts": 64,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_interval": 1,
    },
    tensors={
        **EMBEDDING,
        **NORMS,
        **ATTENTION,
        **without(_is_sparse, FEED_FORWARD_BLOCK),
        **only(_is_sparse, _EXPERT_TENSORS),
    },
    experts=_EXPERTS,
    keys=(
        *BASE,
        uint("{arch}.expert_count", "moe_num_experts"),
        uint("{arch}.expert_used_count", "moe_k"),
        uint("{arch}.interleave_moe_layer_step", "moe_layer_interval"),
        uint("{arch}.leading_dense_block_count", "moe_layer_start_index"),
        EXPERT_FEED_FORWARD_LENGTH,
        uint("{arch}.expert_shared_count", "moe_num_shared_experts"),
        uint("{arch}.expert_shared_feed_forward_length", _shared_length),
    ),
)

ARCHITECTURES = (*classes(_DENSE, "Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"), _SPARSE)

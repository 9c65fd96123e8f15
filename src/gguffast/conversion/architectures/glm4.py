"""GLM-4, and GLM-4.5 with experts: half of each head is rotated."""

from __future__ import annotations

from typing import Any

from gguffast.conversion.architecture import FEED_FORWARD, HIDDEN, Architecture, head_dim
from gguffast.conversion.architectures.deepseek import (
    FEED_FORWARD_TENSORS,
    configured_nextn,
    dense_layers,
    experts,
    glm_vocabulary,
    shared_experts,
)
from gguffast.conversion.blocks import ATTENTION, EMBEDDING, HEAD_NORMS, NEXTN, linear, norm, only
from gguffast.conversion.hparams import Hparams, Mtp
from gguffast.conversion.keys import BASE, EXPERT_FEED_FORWARD_LENGTH, flag, real, uint

_ROLES = (
    *(("eos", "<|endoftext|>"), ("eot", "<|user|>")),
    *(("unk", "<|endoftext|>"), ("bos", "<|endoftext|>")),
)


def _vocabulary(h: Hparams) -> dict[str, Any]:
    return {"kinds": ("bpe",), "special_texts": _ROLES}


def _rotated(h: Hparams) -> int:
    return int(head_dim(h) * h.rope.number("partial_rotary_factor", default=0.5))


def _nextn_layers(h: Hparams) -> int | None:
    return None if h.mtp is Mtp.WITHOUT else h.integer("num_nextn_predict_layers", default=None)


_DEFAULTS = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "num_key_value_heads": 2,
    "max_position_embeddings": 131072,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "tie_word_embeddings": False,
}
_ROPE_DIMENSIONS = uint("{arch}.rope.dimension_count", _rotated)

ARCHITECTURES = (
    Architecture(
        hf_class="Glm4ForCausalLM",
        name="glm4",
        defaults={
            **_DEFAULTS,
            "intermediate_size": 13696,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "head_dim": 128,
            "rms_norm_eps": 1.5625e-07,
        },
        tensors={
            **EMBEDDING,
            **ATTENTION,
            "model.layers.{i}.mlp.gate_up_proj": linear(
                "blk.{i}.ffn_up", lambda h: 2 * FEED_FORWARD(h), HIDDEN
            ),
            "model.layers.{i}.mlp.down_proj": linear("blk.{i}.ffn_down", HIDDEN, FEED_FORWARD),
            "model.layers.{i}.input_layernorm": norm("blk.{i}.attn_norm"),
            "model.layers.{i}.post_self_attn_layernorm": norm("blk.{i}.post_attention_norm"),
            "model.layers.{i}.post_attention_layernorm": norm("blk.{i}.ffn_norm"),
            "model.layers.{i}.post_mlp_layernorm": norm("blk.{i}.post_ffw_norm"),
        },
        keys=(*BASE, _ROPE_DIMENSIONS),
        vocabulary=_vocabulary,
    ),
    Architecture(
        hf_class="Glm4MoeForCausalLM",
        name="glm4moe",
        defaults={
            **_DEFAULTS,
            "intermediate_size": 10944,
            "num_hidden_layers": 46,
            "num_attention_heads": 96,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "n_routed_experts": 128,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 1408,
            "routed_scaling_factor": 1.0,
            "norm_topk_prob": True,
        },
        tensors={
            **EMBEDDING,
            **ATTENTION,
            **only(lambda h: h.flag("use_qk_norm", default=False), HEAD_NORMS),
            **FEED_FORWARD_TENSORS,
            **NEXTN,
            "model.layers.{i}.input_layernorm": norm("blk.{i}.attn_norm"),
            "model.layers.{i}.post_attention_layernorm": norm("blk.{i}.post_attention_norm"),
        },
        experts=experts,
        keys=(
            *BASE,
            _ROPE_DIMENSIONS,
            EXPERT_FEED_FORWARD_LENGTH,
            uint("{arch}.expert_shared_count", shared_experts),
            uint("{arch}.leading_dense_block_count", dense_layers),
            uint("{arch}.expert_gating_func", lambda h: 2),  # sigmoid
            real("{arch}.expert_weights_scale", "routed_scaling_factor"),
            flag("{arch}.expert_weights_norm", "norm_topk_prob"),
            uint("{arch}.nextn_predict_layers", _nextn_layers),
        ),
        nextn=configured_nextn,
        vocabulary=glm_vocabulary,
    ),
)

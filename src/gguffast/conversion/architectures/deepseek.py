"""DeepSeek V2 and V3, and what is built like them: latent attention, and experts beside shared ones.

llama.cpp multiplies queries with the latent keys themselves, so that there is one head of keys: the matrix
that makes keys and values of the latent ones becomes two stacks, a matrix a head, the keys transposed.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from gguffast.conversion.architecture import (
    HEADS,
    HIDDEN,
    Architecture,
    Rule,
    classes,
    kv_heads,
    layers,
    one,
    size,
)
from gguffast.conversion.blocks import (
    EMBEDDING,
    FEED_FORWARD_BLOCK,
    NEXTN,
    NORMS,
    gated_feed_forward,
    linear,
    norm,
    only,
    stacked_experts,
    without,
)
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import BASE, NEXTN_LAYERS, VOCABULARY_SIZE, any_of, flag, real, uint
from gguffast.conversion.steps import per_head, share_rows
from gguffast.sources.lazy import LazyTensor, transpose

# --- Experts ------------------------------------------------------------------------------------------------

EXPERT_WIDTH = size("moe_intermediate_size")


def experts(h: Hparams) -> int:
    """Count the experts that tokens are sent to; 0 if the model is dense."""
    return h.integer("n_routed_experts", 1, default=0)


def dense_layers(h: Hparams) -> int:
    """Count the leading layers without experts."""
    return h.integer("first_k_dense_replace", 0, default=0 if experts(h) else layers(h))


def is_sparse(h: Hparams) -> bool:
    """Tell whether the layer has experts."""
    return (h.layer or 0) >= dense_layers(h)


def shared_experts(h: Hparams) -> int:
    """Count the experts that see every token."""
    return h.integer("n_shared_experts", 0, default=0)


def _shared_width(h: Hparams) -> int:
    return shared_experts(h) * EXPERT_WIDTH(h)


_MLP = "model.layers.{i}.mlp"
FEED_FORWARD_TENSORS: dict[str, Rule | None] = {
    **without(is_sparse, FEED_FORWARD_BLOCK),
    **only(
        is_sparse,
        {
            f"{_MLP}.gate": linear("blk.{i}.ffn_gate_inp", experts, HIDDEN),
            f"{_MLP}.gate.e_score_correction_bias": Rule(
                "blk.{i}.exp_probs_b", (experts,), ending=".bias", optional=True
            ),
            **stacked_experts(f"{_MLP}.experts", experts, EXPERT_WIDTH),
        },
    ),
    **only(
        lambda h: is_sparse(h) and shared_experts(h) > 0,
        gated_feed_forward(f"{_MLP}.shared_experts", "_shexp", _shared_width),
    ),
}

# --- Attention ----------------------------------------------------------------------------------------------

_NOPE, _ROPE, _VALUE = size("qk_nope_head_dim"), size("qk_rope_head_dim"), size("v_head_dim")
_RANK, _QUERY_RANK = size("kv_lora_rank"), size("q_lora_rank")


def _has_query_rank(h: Hparams) -> bool:
    return h.get("q_lora_rank") is not None


def _key(h: Hparams) -> int:
    return _NOPE(h) + _ROPE(h)


def _queries(h: Hparams) -> int:
    return HEADS(h) * _key(h)


def _latent(h: Hparams) -> int:
    return _RANK(h) + _ROPE(h)


def _keys_and_values(h: Hparams) -> int:
    return kv_heads(h) * (_NOPE(h) + _VALUE(h))


def _absorbed(tensor: LazyTensor, heights: list[int]) -> list[LazyTensor]:
    keys, values = share_rows(tensor, heights)
    return [transpose(keys), values]


_ATTENTION = "model.layers.{i}.self_attn"
_ATTENTION_TENSORS: dict[str, Rule | None] = {
    **without(_has_query_rank, {f"{_ATTENTION}.q_proj": linear("blk.{i}.attn_q", _queries, HIDDEN)}),
    **only(
        _has_query_rank,
        {
            f"{_ATTENTION}.q_a_proj": linear("blk.{i}.attn_q_a", _QUERY_RANK, HIDDEN),
            f"{_ATTENTION}.q_a_layernorm": norm("blk.{i}.attn_q_a_norm", _QUERY_RANK),
            f"{_ATTENTION}.q_b_proj": linear("blk.{i}.attn_q_b", _queries, _QUERY_RANK),
        },
    ),
    f"{_ATTENTION}.kv_a_proj_with_mqa": linear("blk.{i}.attn_kv_a_mqa", _latent, HIDDEN),
    f"{_ATTENTION}.kv_a_layernorm": norm("blk.{i}.attn_kv_a_norm", _RANK),
    f"{_ATTENTION}.kv_b_proj": Rule(
        ("blk.{i}.attn_k_b", "blk.{i}.attn_v_b"),
        (_keys_and_values, _RANK),
        (per_head(kv_heads),),
        parts=(_NOPE, _VALUE),
        share=_absorbed,
    ),
    f"{_ATTENTION}.o_proj": linear("blk.{i}.attn_output", HIDDEN, lambda h: HEADS(h) * _VALUE(h)),
}

# --- The classes --------------------------------------------------------------------------------------------

_LAYER = re.compile(r"model\.layers\.([0-9]{1,9})\.")


def _without_tied_head(name: str, h: Hparams) -> str | None:
    return None if name == "lm_head.weight" and h.get("tie_word_embeddings") else name


def _without_nextn(name: str, h: Hparams) -> str | None:
    match = _LAYER.match(name)
    return None if match and int(match[1]) >= layers(h) else _without_tied_head(name, h)


def _of_transformers(h: Hparams) -> int | None:
    # The classes of transformers set it, and then it is written early; other configurations have none.
    return _ROPE(h) if h.get("model_type") in ("deepseek_v2", "deepseek_v3") else None


def _log_multiplier(h: Hparams) -> float | None:
    # Ten times smaller than for other models: so llama.cpp expects it of this one.
    scale = h.rope.number("mscale_all_dim", default=None)
    return None if scale is None else 0.1 * scale


_DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": HEADS,
    "kv_lora_rank": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}

_DEEPSEEK2 = Architecture(
    hf_class="DeepseekV2ForCausalLM",
    name="deepseek2",
    defaults={
        **_DEFAULTS,
        "head_dim": _of_transformers,
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "first_k_dense_replace": 0,
        "moe_intermediate_size": 1407,
        "routed_scaling_factor": 1.0,
    },
    tensors={**EMBEDDING, **NORMS, **_ATTENTION_TENSORS, **FEED_FORWARD_TENSORS},
    experts=experts,
    keys=(
        *BASE,
        uint("{arch}.attention.head_count_kv", one),
        uint("{arch}.leading_dense_block_count", dense_layers),
        VOCABULARY_SIZE,
        uint("{arch}.attention.q_lora_rank", "q_lora_rank"),
        uint("{arch}.attention.kv_lora_rank", _RANK),
        uint("{arch}.attention.key_length", _latent),
        uint("{arch}.attention.value_length", _RANK),
        uint("{arch}.attention.key_length_mla", _key),
        uint("{arch}.attention.value_length_mla", _VALUE),
        uint("{arch}.expert_feed_forward_length", any_of("moe_intermediate_size", "intermediate_size")),
        uint("{arch}.expert_shared_count", shared_experts),
        real("{arch}.expert_weights_scale", "routed_scaling_factor"),
        flag("{arch}.expert_weights_norm", lambda h: h.flag("norm_topk_prob", default=False) or None),
        uint("{arch}.rope.dimension_count", _ROPE),
        real("{arch}.rope.scaling.yarn_log_multiplier", _log_multiplier),
    ),
    # The layers for multi-token prediction are of no use to llama.cpp here.
    rename=_without_nextn,
)
_DEEPSEEK3 = replace(
    _DEEPSEEK2,
    hf_class="DeepseekV3ForCausalLM",
    defaults={
        **_DEEPSEEK2.defaults,
        "vocab_size": 129280,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "max_position_embeddings": 4096,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
        "first_k_dense_replace": 3,
        "moe_intermediate_size": 2048,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
    },
)


def configured_nextn(h: Hparams) -> int:
    """Count the layers for multi-token prediction as the configuration does."""
    return h.integer("num_nextn_predict_layers", 0, 16, default=0)


# Special tokens that GLM's files do not name.
GLM_ROLES = (("bos", "[gMASK]"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"), ("eom", "<|observation|>"))


def glm_vocabulary(h: Hparams) -> dict[str, Any]:
    """How GLM's models with experts read their tokenizer."""
    return {"kinds": ("bpe",), "special_texts": GLM_ROLES}


_GLM = replace(
    _DEEPSEEK2,
    hf_class="Glm4MoeLiteForCausalLM",
    defaults=_DEFAULTS,
    tensors={**_DEEPSEEK2.tensors, **NEXTN},
    keys=(*_DEEPSEEK2.keys, NEXTN_LAYERS),
    nextn=configured_nextn,
    rename=_without_tied_head,
    vocabulary=glm_vocabulary,
)

# Models on this architecture whose classes transformers does not have.
_OTHERS = classes(
    replace(_DEEPSEEK2, defaults=_DEFAULTS),
    *("KimiVLForConditionalGeneration", "KimiK25ForConditionalGeneration"),
    *("YoutuForCausalLM", "YoutuVLForConditionalGeneration"),
)

ARCHITECTURES = (_DEEPSEEK2, _DEEPSEEK3, _GLM, *_OTHERS)

"""Gemma 4 (text): layers that see all and layers with a window, with heads of another width each.

The small models embed each token once more for every layer, and let the last layers use the keys and values
of earlier ones; the sparse ones have experts beside the feed-forward block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gguffast.conversion.architecture import (
    FEED_FORWARD,
    HEADS,
    HIDDEN,
    MAX_WIDTH,
    Architecture,
    Generated,
    Rule,
    classes,
    head_dim,
    kv_heads,
    layer_kind,
    layers,
    size,
)
from gguffast.conversion.architectures.gemma import FINAL_SOFTCAP
from gguffast.conversion.blocks import EMBEDDING, gated_feed_forward, linear, norm, only
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import (
    BASE,
    EXPERT_FEED_FORWARD_LENGTH,
    SLIDING_WINDOW,
    array,
    by_layer,
    rope_scaling,
    uint,
)
from gguffast.gguf import GGUFValueType

_EXPERTS, _EXPERT_WIDTH = size("num_experts"), size("moe_intermediate_size")
_PER_LAYER = size("hidden_size_per_layer_input")


def is_sliding(h: Hparams) -> bool:
    """Tell whether the layer has a window."""
    return layer_kind(h) == "sliding_attention"


def _has_values(h: Hparams) -> bool:
    return is_sliding(h) or not h.flag("attention_k_eq_v", default=False)


def _full_width(h: Hparams) -> int:
    return h.integer("global_head_dim", 1, MAX_WIDTH)


def _width(h: Hparams) -> int:
    return head_dim(h) if is_sliding(h) else _full_width(h)


def _queries(h: Hparams) -> int:
    return HEADS(h) * _width(h)


def _keys(h: Hparams) -> int:
    # Heads of their own for the layers that see everything go with keys that are the values.
    few = not _has_values(h) and h.get("num_global_key_value_heads") is not None
    return (h.integer("num_global_key_value_heads", 1) if few else kv_heads(h)) * _width(h)


def shared_layers(h: Hparams) -> int:
    """Count the last layers, which take keys and values from earlier ones."""
    return h.integer("num_kv_shared_layers", 0, layers(h), default=0)


def _shares_keys(h: Hparams) -> bool:
    """Tell whether the layer is one of those."""
    return (h.layer or 0) >= layers(h) - shared_layers(h)


def _feed_forward(h: Hparams) -> int:
    return FEED_FORWARD(h) * (2 if _is_wide(h) and _shares_keys(h) else 1)


def _is_wide(h: Hparams) -> bool:
    return h.flag("use_double_wide_mlp", default=False)


def per_layer_width(h: Hparams) -> int:
    """Width of the embedding that each layer has of its own; 0 without."""
    return h.integer("hidden_size_per_layer_input", 0, default=0)


def _is_sparse(h: Hparams) -> bool:
    return h.get("num_experts") is not None


def _all_layers(h: Hparams) -> int:
    return layers(h) * _PER_LAYER(h)


PER_LAYER_TENSORS: dict[str, Rule | None] = {
    "model.embed_tokens_per_layer": linear(
        "per_layer_token_embd", size("vocab_size_per_layer_input"), _all_layers
    ),
    "model.per_layer_model_projection": linear("per_layer_model_proj", _all_layers, HIDDEN),
    "model.per_layer_projection_norm": norm("per_layer_proj_norm", _PER_LAYER),
    "model.layers.{i}.per_layer_input_gate": linear("blk.{i}.inp_gate", _PER_LAYER, HIDDEN),
    "model.layers.{i}.per_layer_projection": linear("blk.{i}.proj", HIDDEN, _PER_LAYER),
    "model.layers.{i}.post_per_layer_input_norm": norm("blk.{i}.post_norm"),
}
_SPARSE: dict[str, Rule | None] = {
    "model.layers.{i}.experts.down_proj": Rule("blk.{i}.ffn_down_exps", (_EXPERTS, HIDDEN, _EXPERT_WIDTH)),
    "model.layers.{i}.experts.gate_up_proj": Rule(
        "blk.{i}.ffn_gate_up_exps", (_EXPERTS, lambda h: 2 * _EXPERT_WIDTH(h), HIDDEN)
    ),
    "model.layers.{i}.router.proj": linear("blk.{i}.ffn_gate_inp", _EXPERTS, HIDDEN),
    "model.layers.{i}.router.scale": Rule("blk.{i}.ffn_gate_inp", (HIDDEN,), ending=".scale"),
    "model.layers.{i}.router.per_expert_scale": Rule("blk.{i}.ffn_down_exps", (_EXPERTS,), ending=".scale"),
    "model.layers.{i}.post_feedforward_layernorm_1": norm("blk.{i}.post_ffw_norm_1"),
    "model.layers.{i}.post_feedforward_layernorm_2": norm("blk.{i}.post_ffw_norm_2"),
    "model.layers.{i}.pre_feedforward_layernorm_2": norm("blk.{i}.pre_ffw_norm_2"),
}
_ATTENTION = "model.layers.{i}.self_attn"
_TENSORS: dict[str, Rule | None] = {
    **EMBEDDING,
    f"{_ATTENTION}.q_proj": linear("blk.{i}.attn_q", _queries, HIDDEN),
    f"{_ATTENTION}.k_proj": Rule("blk.{i}.attn_k", (_keys, HIDDEN), optional=_shares_keys),
    f"{_ATTENTION}.v_proj": Rule("blk.{i}.attn_v", (_keys, HIDDEN), optional=_shares_keys, when=_has_values),
    f"{_ATTENTION}.o_proj": linear("blk.{i}.attn_output", HIDDEN, _queries),
    f"{_ATTENTION}.q_norm": norm("blk.{i}.attn_q_norm", _width),
    f"{_ATTENTION}.k_norm": Rule("blk.{i}.attn_k_norm", (_width,), optional=_shares_keys),
    "model.layers.{i}.input_layernorm": norm("blk.{i}.attn_norm"),
    "model.layers.{i}.post_attention_layernorm": norm("blk.{i}.post_attention_norm"),
    "model.layers.{i}.pre_feedforward_layernorm": norm("blk.{i}.ffn_norm"),
    "model.layers.{i}.post_feedforward_layernorm": norm("blk.{i}.post_ffw_norm"),
    "model.layers.{i}.layer_scalar": Rule("blk.{i}.layer_output_scale", (lambda h: 1,)),
    **gated_feed_forward("model.layers.{i}.mlp", width=_feed_forward),
    **only(lambda h: per_layer_width(h) > 0, PER_LAYER_TENSORS),
    **only(_is_sparse, _SPARSE),
}


def _rope_factors(h: Hparams) -> Iterator[Generated]:
    """Make the factors that leave the end of each half of a head as it is: 1e30 stops its rotation."""
    if h.rope.get("rope_type") != "proportional":
        h.refuse("rope_parameters", 'a "full_attention" of rope_type "proportional"')
    half = _full_width(h) // 2
    share = h.rope.number("partial_rotary_factor")
    if not 0 <= share <= 1:
        h.refuse("rope_parameters", "a partial_rotary_factor from 0 to 1")
    rotated = int(_full_width(h) * share / 2)
    factors = np.ones(half, np.float32)
    factors[rotated:] = 1e30
    yield Generated("rope_freqs.weight", factors)


def _feed_forward_lengths(h: Hparams) -> list[int] | None:
    return by_layer(_feed_forward)(h) if _is_wide(h) else None


def _kv_head_counts(h: Hparams) -> list[int] | None:
    if h.get("num_global_key_value_heads") is None:
        return None
    few = h.integer("num_global_key_value_heads", 1)
    return by_layer(lambda view: kv_heads(view) if is_sliding(view) else few)(h)


def _sliding_rotated(h: Hparams) -> int:
    return int(head_dim(h) * h.rope_groups.number("partial_rotary_factor", default=1.0))


def _vocabulary(h: Hparams) -> dict[str, Any]:
    return {"kinds": ("gemma4",), "space_prefix": False, "add_bos": True}


_GEMMA4 = Architecture(
    hf_class="Gemma4ForCausalLM",
    name="gemma4",
    defaults={"tie_word_embeddings": True},
    tensors=_TENSORS,
    keys=(
        # The "proportional" way to stretch positions lives in a tensor.
        *(key for key in BASE if key is not rope_scaling),
        FINAL_SOFTCAP,
        SLIDING_WINDOW,
        uint("{arch}.attention.shared_kv_layers", shared_layers),
        uint("{arch}.embedding_length_per_layer_input", per_layer_width),
        array("{arch}.attention.sliding_window_pattern", GGUFValueType.BOOL, by_layer(is_sliding)),
        uint("{arch}.attention.key_length", _full_width),
        uint("{arch}.attention.value_length", _full_width),
        uint("{arch}.attention.key_length_swa", head_dim),
        uint("{arch}.attention.value_length_swa", head_dim),
        EXPERT_FEED_FORWARD_LENGTH,
        array("{arch}.feed_forward_length", GGUFValueType.INT32, _feed_forward_lengths),
        array("{arch}.attention.head_count_kv", GGUFValueType.INT32, _kv_head_counts),
        uint("{arch}.rope.dimension_count", _full_width),
        uint("{arch}.rope.dimension_count_swa", _sliding_rotated),
    ),
    generated=_rope_factors,
    vocabulary=_vocabulary,
)

ARCHITECTURES = classes(_GEMMA4, "Gemma4ForCausalLM", "Gemma4ForConditionalGeneration")

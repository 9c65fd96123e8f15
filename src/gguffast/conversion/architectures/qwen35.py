"""Qwen3-Next and Qwen 3.5: gated delta-net layers between those with attention, and multi-token prediction.

Norms are stored as offsets from 1, but for the one inside the delta net.
"""

from __future__ import annotations

import re
from dataclasses import replace

from gguffast.conversion.architecture import (
    HEADS,
    HIDDEN,
    Architecture,
    Rule,
    classes,
    head_dim,
    is_nextn,
    layer_kind,
    layers,
    one,
    size,
)
from gguffast.conversion.architectures.qwen2 import EXPERT_KEYS, EXPERT_TENSORS, EXPERTS, SHARED_EXPERT
from gguffast.conversion.blocks import (
    ATTENTION,
    EMBEDDING,
    FEED_FORWARD_BLOCK,
    HEAD_NORMS,
    NEXTN,
    linear,
    norm,
    offset_norms,
    only,
    without,
)
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import BASE, NEXTN_LAYERS, array, by_layer, uint
from gguffast.conversion.steps import minus_exp, squeeze, tiled, tiled_columns, ungrouped
from gguffast.gguf import GGUFValueType

_K_HEADS, _K_WIDTH = size("linear_num_key_heads"), size("linear_key_head_dim")
_V_HEADS, _V_WIDTH = size("linear_num_value_heads"), size("linear_value_head_dim")


def _keys(h: Hparams) -> int:
    return _K_HEADS(h) * _K_WIDTH(h)


def _values(h: Hparams) -> int:
    return _V_HEADS(h) * _V_WIDTH(h)


def _per_key(h: Hparams) -> int:
    """Heads of values for each head of keys."""
    if _V_HEADS(h) % _K_HEADS(h):
        h.refuse("linear_num_value_heads", f"a multiple of {_K_HEADS(h)}, the heads of keys")
    return _V_HEADS(h) // _K_HEADS(h)


def _values_per_key(h: Hparams) -> int:
    return _per_key(h) * _V_WIDTH(h)


def _queries_and_keys(h: Hparams) -> int:
    return 2 * _keys(h)


def _mixed(h: Hparams) -> int:
    return 2 * _keys(h) + _values(h)


def _gated_queries(h: Hparams) -> int:
    return 2 * HEADS(h) * head_dim(h)


def _is_linear(h: Hparams) -> bool:
    if h.get("layer_types") is not None:
        return layer_kind(h) == "linear_attention"
    return not is_nextn(h) and ((h.layer or 0) + 1) % _interval(h) != 0


def _interval(h: Hparams) -> int:
    return h.integer("full_attention_interval", 1, default=4)


# --- Multi-token prediction: the checkpoint's mtp.* become layers behind the others -------------------------

_MTP = re.compile(r"(?:model\.)?mtp\.(?:layers\.([0-9]{1,2})\.(.+)|(\w+)(\.\w+))")
_MTP_NAMES = {
    "fc": "eh_proj",
    "pre_fc_norm_embedding": "enorm",
    "pre_fc_norm_hidden": "hnorm",
    "norm": "shared_head.norm",
}


def _rename(name: str, h: Hparams) -> str:
    match = _MTP.fullmatch(name)
    if match and match[1]:
        return f"model.layers.{layers(h) + int(match[1])}.{match[2]}"
    if match and match[3] in _MTP_NAMES:
        return f"model.layers.{layers(h)}.{_MTP_NAMES[match[3]]}{match[4]}"
    return name


def _nextn(h: Hparams) -> int:
    # What is there counts: fine-tunes leave these layers out, and keep the number in their configuration.
    if not h.tensors:
        return h.integer("mtp_num_hidden_layers", 0, 16, default=0)
    found = [int(match[1]) for name in h.tensors if (match := _MTP.fullmatch(name)) and match[1]]
    return 1 + max(found, default=-1)


# --- Tensors and keys ---------------------------------------------------------------------------------------

_LINEAR = "model.layers.{i}.linear_attn"
_DELTA_NET: dict[str, Rule | None] = {
    f"{_LINEAR}.A_log": Rule("blk.{i}.ssm_a", (_V_HEADS,), (minus_exp,), ending=""),
    f"{_LINEAR}.dt_bias": Rule("blk.{i}.ssm_dt", (_V_HEADS,), ending=".bias"),
    f"{_LINEAR}.conv1d": Rule(
        "blk.{i}.ssm_conv1d", (_mixed, one, size("linear_conv_kernel_dim")), (squeeze,)
    ),
    f"{_LINEAR}.norm": norm("blk.{i}.ssm_norm", _V_WIDTH),
    f"{_LINEAR}.out_proj": linear("blk.{i}.ssm_out", HIDDEN, _values),
}
_ALL = offset_norms(
    {
        **EMBEDDING,
        **NEXTN,
        "model.layers.{i}.input_layernorm": norm("blk.{i}.attn_norm"),
        "model.layers.{i}.post_attention_layernorm": norm("blk.{i}.post_attention_norm"),
        **without(
            _is_linear,
            {
                **ATTENTION,
                **HEAD_NORMS,
                "model.layers.{i}.self_attn.q_proj": linear("blk.{i}.attn_q", _gated_queries, HIDDEN),
            },
        ),
    }
)
_MOE = {**EXPERT_TENSORS, **SHARED_EXPERT}

_QWEN3_NEXT: dict[str, Rule | None] = {
    **_DELTA_NET,
    # Query, key, value and gate lie side by side for each head of keys.
    f"{_LINEAR}.in_proj_qkvz": Rule(
        ("blk.{i}.attn_qkv", "blk.{i}.attn_gate"),
        (lambda h: _mixed(h) + _values(h), HIDDEN),
        (ungrouped(_K_HEADS, _K_WIDTH, _K_WIDTH, _values_per_key, _values_per_key),),
        (_mixed, _values),
    ),
    f"{_LINEAR}.in_proj_ba": linear("blk.{i}.ssm_ba", lambda h: 2 * _V_HEADS(h), HIDDEN),
}

# ggml repeats the heads of keys one after the other: the value heads of one key lie apart there.
_HEADS = tiled(_K_HEADS, _per_key, one)
_ROWS = tiled(_K_HEADS, _per_key, _V_WIDTH)
_LAST_ROWS = tiled(_K_HEADS, _per_key, _V_WIDTH, start=_queries_and_keys)
_QWEN35: dict[str, Rule | None] = {
    **_DELTA_NET,
    f"{_LINEAR}.A_log": Rule("blk.{i}.ssm_a", (_V_HEADS,), (_HEADS, minus_exp), ending=""),
    f"{_LINEAR}.dt_bias": Rule("blk.{i}.ssm_dt", (_V_HEADS,), (_HEADS,), ending=".bias"),
    f"{_LINEAR}.conv1d": Rule(
        "blk.{i}.ssm_conv1d", (_mixed, one, size("linear_conv_kernel_dim")), (squeeze, _LAST_ROWS)
    ),
    f"{_LINEAR}.out_proj": Rule(
        "blk.{i}.ssm_out", (HIDDEN, _values), (tiled_columns(_K_HEADS, _per_key, _V_WIDTH),)
    ),
    f"{_LINEAR}.in_proj_qkv": Rule("blk.{i}.attn_qkv", (_mixed, HIDDEN), (_LAST_ROWS,)),
    f"{_LINEAR}.in_proj_z": Rule("blk.{i}.attn_gate", (_values, HIDDEN), (_ROWS,)),
    f"{_LINEAR}.in_proj_a": Rule("blk.{i}.ssm_alpha", (_V_HEADS, HIDDEN), (_HEADS,)),
    f"{_LINEAR}.in_proj_b": Rule("blk.{i}.ssm_beta", (_V_HEADS, HIDDEN), (_HEADS,)),
}


def _recurrent(h: Hparams) -> list[bool] | None:
    return by_layer(_is_linear)(h) if h.get("layer_types") is not None else None


def _rope_dimensions(h: Hparams) -> int:
    return int(head_dim(h) * h.rope.number("partial_rotary_factor", default=0.25))


_KEYS = (
    *BASE,
    *EXPERT_KEYS,
    NEXTN_LAYERS,
    uint("{arch}.ssm.conv_kernel", "linear_conv_kernel_dim"),
    uint("{arch}.ssm.state_size", _K_WIDTH),
    uint("{arch}.ssm.group_count", _K_HEADS),
    uint("{arch}.ssm.time_step_rank", _V_HEADS),
    uint("{arch}.ssm.inner_size", _values),
    array("{arch}.attention.recurrent_layers", GGUFValueType.BOOL, _recurrent),
    uint("{arch}.full_attention_interval", _interval),
    uint("{arch}.rope.dimension_count", _rope_dimensions),
)


def _default_sections(h: Hparams) -> list[int] | None:
    return None if h.rope_groups.get("mrope_section") else [11, 11, 10, 0]


_SECTIONS = array("{arch}.rope.dimension_sections", GGUFValueType.INT32, _default_sections)

_NEXT = Architecture(
    hf_class="Qwen3NextForCausalLM",
    name="qwen3next",
    tensors={**_ALL, **only(_is_linear, _QWEN3_NEXT), **_MOE},
    experts=EXPERTS,
    keys=_KEYS,
    nextn=_nextn,
    rename=_rename,
)
_DENSE = replace(
    _NEXT,
    hf_class="Qwen3_5ForCausalLM",
    name="qwen35",
    tensors={**_ALL, **only(_is_linear, _QWEN35), **FEED_FORWARD_BLOCK},
    experts=None,
    keys=(*_KEYS, _SECTIONS),
)
_SPARSE = replace(
    _DENSE,
    hf_class="Qwen3_5MoeForCausalLM",
    name="qwen35moe",
    tensors={**_ALL, **only(_is_linear, _QWEN35), **_MOE},
    experts=EXPERTS,
)

ARCHITECTURES = (
    _NEXT,
    *classes(_DENSE, "Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    *classes(_SPARSE, "Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
)

"""Nemotron-H: each layer is one thing, a Mamba 2 mixer, attention, a feed-forward block, or experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gguffast.conversion.architecture import (
    FEED_FORWARD,
    HEADS,
    HIDDEN,
    VOCABULARY,
    Architecture,
    Rule,
    Size,
    When,
    head_dim,
    kv_heads,
    kv_width,
    layers,
    query_width,
    size,
)
from gguffast.conversion.architectures.mamba import UNLIMITED, Mixer
from gguffast.conversion.blocks import linear, norm, only, permuted
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import (
    BASE,
    EXPERT_FEED_FORWARD_LENGTH,
    KEY_LENGTH,
    VALUE_LENGTH,
    VOCABULARY_SIZE,
    array,
    by_layer,
    flag,
    real,
    uint,
)
from gguffast.gguf import GGUFValueType

_MIXER_NAME = "backbone.layers.{i}.mixer"
_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def _kind(h: Hparams) -> str:
    """Name the kind of the layer, by its letter in the pattern or its entry in the list."""
    key = "hybrid_override_pattern" if h.get("hybrid_override_pattern") else "layers_block_type"
    found = h.get(key)
    kinds = [_LETTERS.get(k) for k in found] if isinstance(found, str) else h.items(key)
    if len(kinds) != layers(h) or not all(isinstance(kind, str) for kind in kinds):
        h.refuse(key, f"{layers(h)} kinds of layers, of {', '.join(_LETTERS)}")
    return str(kinds[h.layer or 0])


def _is(*kinds: str) -> When:
    return lambda h: _kind(h) in kinds


_MIXER_HEADS = size("mamba_num_heads")
_MIXER = Mixer(
    lambda h: _MIXER_HEADS(h) * h.integer("mamba_head_dim", 1),
    _MIXER_HEADS,
    size("n_groups"),
    size("ssm_state_size"),
    size("conv_kernel"),
)
_MAMBA, _ATTENTION = _is("mamba", "linear_attention"), _is("attention", "full_attention")
_EXPERTS, _WIDTH = size("n_routed_experts"), size("moe_intermediate_size")
_SHARED_WIDTH = size("moe_shared_expert_intermediate_size")


def _squared_relu(suffix: str, width: Size) -> tuple[Rule, Rule]:
    up = linear(f"blk.{{i}}.ffn_up{suffix}", width, HIDDEN)
    return up, linear(f"blk.{{i}}.ffn_down{suffix}", HIDDEN, width)


_UP, _DOWN = _squared_relu("", FEED_FORWARD)
_SHARED_UP, _SHARED_DOWN = _squared_relu("_shexp", _SHARED_WIDTH)
_COMMON: dict[str, Rule | None] = {
    "backbone.embeddings": linear("token_embd", VOCABULARY, HIDDEN),
    "backbone.norm_f": norm("output_norm"),
    "lm_head": Rule("output", (VOCABULARY, HIDDEN), optional=True),
    "backbone.layers.{i}.norm": norm("blk.{i}.attn_norm"),
    **only(_MAMBA, _MIXER.tensors(_MIXER_NAME)),
    **only(
        _ATTENTION,
        {
            f"{_MIXER_NAME}.q_proj": permuted("blk.{i}.attn_q", query_width, HIDDEN, HEADS),
            f"{_MIXER_NAME}.k_proj": permuted("blk.{i}.attn_k", kv_width, HIDDEN, kv_heads),
            f"{_MIXER_NAME}.v_proj": linear("blk.{i}.attn_v", kv_width, HIDDEN),
            f"{_MIXER_NAME}.o_proj": linear("blk.{i}.attn_output", HIDDEN, query_width),
        },
    ),
}


def _lengths(kind: str, width: Size) -> Any:
    return array(
        "{arch}.feed_forward_length",
        GGUFValueType.INT32,
        by_layer(lambda h: width(h) if _kind(h) == kind else 0),
    )


_KEYS = (
    *(key for key in BASE if key not in (KEY_LENGTH, VALUE_LENGTH)),
    uint("{arch}.context_length", lambda h: UNLIMITED),
    array(
        "{arch}.attention.head_count_kv",
        GGUFValueType.INT32,
        by_layer(lambda h: kv_heads(h) if _ATTENTION(h) else 0),
    ),
    VOCABULARY_SIZE,
    uint("{arch}.rope.dimension_count", lambda h: HIDDEN(h) // HEADS(h)),
    uint("{arch}.ssm.conv_kernel", _MIXER.kernel),
    uint("{arch}.ssm.state_size", _MIXER.state),
    uint("{arch}.ssm.group_count", _MIXER.groups),
    uint("{arch}.ssm.inner_size", _MIXER.inner),
    uint("{arch}.ssm.time_step_rank", _MIXER.heads),
    flag("{arch}.rope.scaling.finetuned", False),
    uint("{arch}.attention.key_length", head_dim),
    uint("{arch}.attention.value_length", head_dim),
)


def _variant(config: Mapping[str, Any]) -> Architecture:
    return _SPARSE if "num_experts_per_tok" in config else _DENSE


_DENSE = Architecture(
    hf_class="NemotronHForCausalLM",
    name="nemotron_h",
    defaults={"head_dim": lambda h: h.integer("attention_head_dim", 1)},
    variant=_variant,
    tensors={
        **_COMMON,
        **only(_is("mlp"), {f"{_MIXER_NAME}.up_proj": _UP, f"{_MIXER_NAME}.down_proj": _DOWN}),
    },
    keys=(*_KEYS, _lengths("mlp", FEED_FORWARD)),
    vocabulary=lambda h: {"kinds": ("bpe",), "multiple": 8},
)
_SPARSE = replace(
    _DENSE,
    name="nemotron_h_moe",
    tensors={
        **_COMMON,
        **only(
            _is("moe"),
            {
                f"{_MIXER_NAME}.gate": linear("blk.{i}.ffn_gate_inp", _EXPERTS, HIDDEN),
                f"{_MIXER_NAME}.gate.e_score_correction_bias": Rule(
                    "blk.{i}.exp_probs_b", (_EXPERTS,), ending=".bias"
                ),
                f"{_MIXER_NAME}.experts.{{e}}.down_proj": Rule("blk.{i}.ffn_down_exps", (HIDDEN, _WIDTH)),
                f"{_MIXER_NAME}.experts.{{e}}.up_proj": Rule("blk.{i}.ffn_up_exps", (_WIDTH, HIDDEN)),
                f"{_MIXER_NAME}.shared_experts.up_proj": _SHARED_UP,
                f"{_MIXER_NAME}.shared_experts.down_proj": _SHARED_DOWN,
            },
        ),
    },
    experts=_EXPERTS,
    keys=(
        *_KEYS,
        _lengths("moe", _WIDTH),
        EXPERT_FEED_FORWARD_LENGTH,
        uint("{arch}.expert_shared_feed_forward_length", _SHARED_WIDTH),
        uint("{arch}.expert_shared_count", "n_shared_experts"),
        flag("{arch}.expert_weights_norm", "norm_topk_prob"),
        real("{arch}.expert_weights_scale", "routed_scaling_factor"),
    ),
)

ARCHITECTURES = (_DENSE,)

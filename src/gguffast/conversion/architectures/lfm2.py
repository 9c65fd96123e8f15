"""LFM2: short convolutions, and attention in some layers; dense, or with experts behind the first layers."""

from __future__ import annotations

from dataclasses import replace

from gguffast.conversion.architecture import (
    FEED_FORWARD,
    HIDDEN,
    VOCABULARY,
    Architecture,
    Rule,
    Size,
    classes,
    kv_heads,
    layer_kind,
    one,
    size,
)
from gguffast.conversion.blocks import ATTENTION, HEAD_NORMS, linear, norm, only, without
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import (
    BASE,
    EXPERT_FEED_FORWARD_LENGTH,
    VOCABULARY_SIZE,
    array,
    by_layer,
    uint,
)
from gguffast.conversion.steps import squeeze
from gguffast.gguf import GGUFValueType

_LAYER = "model.layers.{i}"


def _attends(h: Hparams) -> bool:
    return layer_kind(h) == "full_attention"


def _is_dense(h: Hparams) -> bool:
    return (h.layer or 0) < h.integer("num_dense_layers", 0)


def _has_expert_bias(h: Hparams) -> bool:
    return h.flag("use_expert_bias", default=True)


def _width(h: Hparams) -> int:
    """Width of the feed-forward block: two thirds of what is asked for, rounded up, unless told not to."""
    width = h.integer("block_ff_dim", 1, default=None) or FEED_FORWARD(h)
    if not h.flag("block_auto_adjust_ff_dim"):
        return width
    factor = h.number("block_ffn_dim_multiplier", default=None)
    width = int(2 * width / 3)
    width = width if factor is None else int(factor * width)
    multiple = h.integer("block_multiple_of", 1)
    return multiple * -(-width // multiple)


def _feed_forward(width: Size) -> dict[str, Rule | None]:
    return {
        f"{_LAYER}.feed_forward.w1": linear("blk.{i}.ffn_gate", width, HIDDEN),
        f"{_LAYER}.feed_forward.w2": linear("blk.{i}.ffn_down", HIDDEN, width),
        f"{_LAYER}.feed_forward.w3": linear("blk.{i}.ffn_up", width, HIDDEN),
    }


_NAMES = {"o_proj": "out_proj", "q_norm": "q_layernorm", "k_norm": "k_layernorm"}
_ATTENTION: dict[str, Rule | None] = {
    f"{_LAYER}.self_attn.{_NAMES.get(end, end)}": rule
    for name, rule in {**ATTENTION, **HEAD_NORMS}.items()
    for end in [name.rpartition(".")[2]]
}
_CONVOLUTION: dict[str, Rule | None] = {
    f"{_LAYER}.conv.conv": Rule("blk.{i}.shortconv.conv", (HIDDEN, one, size("conv_L_cache")), (squeeze,)),
    f"{_LAYER}.conv.in_proj": linear("blk.{i}.shortconv.in_proj", lambda h: 3 * HIDDEN(h), HIDDEN),
    f"{_LAYER}.conv.out_proj": linear("blk.{i}.shortconv.out_proj", HIDDEN, HIDDEN),
}
_TENSORS: dict[str, Rule | None] = {
    "model.embed_tokens": linear("token_embd", VOCABULARY, HIDDEN),
    "model.embedding_norm": norm("token_embd_norm"),
    "lm_head": Rule("output", (VOCABULARY, HIDDEN), optional=True),
    f"{_LAYER}.operator_norm": norm("blk.{i}.attn_norm"),
    f"{_LAYER}.ffn_norm": norm("blk.{i}.ffn_norm"),
    **only(_attends, _ATTENTION),
    **without(_attends, _CONVOLUTION),
}
_EXPERTS, _EXPERT_WIDTH = size("num_experts"), size("moe_intermediate_size")
_SPARSE_BLOCK: dict[str, Rule | None] = {
    f"{_LAYER}.feed_forward.gate": linear("blk.{i}.ffn_gate_inp", _EXPERTS, HIDDEN),
    f"{_LAYER}.feed_forward.expert_bias": Rule(
        "blk.{i}.exp_probs_b",
        (_EXPERTS,),
        ending=".bias",
        when=_has_expert_bias,
    ),
    f"{_LAYER}.feed_forward.experts.{{e}}.w1": Rule("blk.{i}.ffn_gate_exps", (_EXPERT_WIDTH, HIDDEN)),
    f"{_LAYER}.feed_forward.experts.{{e}}.w2": Rule("blk.{i}.ffn_down_exps", (HIDDEN, _EXPERT_WIDTH)),
    f"{_LAYER}.feed_forward.experts.{{e}}.w3": Rule("blk.{i}.ffn_up_exps", (_EXPERT_WIDTH, HIDDEN)),
}
_KV_HEADS = array(
    "{arch}.attention.head_count_kv",
    GGUFValueType.INT32,
    by_layer(lambda h: kv_heads(h) if _attends(h) else 0),
)
_L_CACHE = uint("{arch}.shortconv.l_cache", "conv_L_cache")

_DENSE = Architecture(
    hf_class="Lfm2ForCausalLM",
    name="lfm2",
    defaults={
        "vocab_size": 65536,
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "conv_L_cache": 3,
        "block_multiple_of": 256,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": True,
        "tie_word_embeddings": True,
    },
    tensors={**_TENSORS, **_feed_forward(_width)},
    keys=(*BASE, _KV_HEADS, uint("{arch}.feed_forward_length", _width), VOCABULARY_SIZE, _L_CACHE),
)
_SPARSE = replace(
    _DENSE,
    hf_class="Lfm2MoeForCausalLM",
    name="lfm2moe",
    defaults={"tie_word_embeddings": True},
    tensors={**_TENSORS, **only(_is_dense, _feed_forward(FEED_FORWARD)), **without(_is_dense, _SPARSE_BLOCK)},
    experts=_EXPERTS,
    keys=(
        *BASE,
        _KV_HEADS,
        EXPERT_FEED_FORWARD_LENGTH,
        uint("{arch}.leading_dense_block_count", "num_dense_layers"),
        uint("{arch}.expert_gating_func", lambda h: 2),  # sigmoid
        VOCABULARY_SIZE,
        _L_CACHE,
    ),
)

ARCHITECTURES = (*classes(_DENSE, "Lfm2ForCausalLM", "LFM2ForCausalLM"), _SPARSE)

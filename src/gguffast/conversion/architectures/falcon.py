"""Falcon: query, key and value of each group of heads in one matrix; attention beside feed-forward."""

from __future__ import annotations

from gguffast.conversion.architecture import HEADS, HIDDEN, VOCABULARY, Architecture, Rule
from gguffast.conversion.blocks import linear, norm, only, without
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import (
    BLOCK_COUNT,
    EMBEDDING_LENGTH,
    HEAD_COUNT,
    NORM_EPSILON,
    file_type,
    text,
    uint,
)
from gguffast.conversion.steps import ungrouped

_LAYER = "transformer.h.{i}"


def _head_width(h: Hparams) -> int:
    return HIDDEN(h) // HEADS(h)


def _kv_heads(h: Hparams) -> int:
    """Count the groups: one in Falcon 7B, whose class has a default that says otherwise."""
    if h.flag("multi_query") and not h.flag("new_decoder_architecture"):
        return 1
    return h.integer("num_kv_heads", 1, default=HEADS(h))


def _group_width(h: Hparams) -> int:
    return HEADS(h) // _kv_heads(h) * _head_width(h)


def _joined_width(h: Hparams) -> int:
    return (HEADS(h) + 2 * _kv_heads(h)) * _head_width(h)


def _feed_forward(h: Hparams) -> int:
    return 4 * HIDDEN(h)


def _has_two_norms(h: Hparams) -> bool:
    norms = h.integer("num_ln_in_parallel_attn", 1, default=2)
    return h.flag("new_decoder_architecture") and norms == 2


_TWO_NORMS: dict[str, Rule | None] = {
    f"{_LAYER}.ln_mlp": norm("blk.{i}.attn_norm")._replace(bias=True),
    f"{_LAYER}.ln_attn": norm("blk.{i}.attn_norm_2")._replace(bias=True),
}

ARCHITECTURES = (
    Architecture(
        hf_class="FalconForCausalLM",
        name="falcon",
        defaults={
            "vocab_size": 65024,
            "hidden_size": 4544,
            "num_hidden_layers": 32,
            "num_attention_heads": 71,
            "layer_norm_eps": 1e-5,
            "multi_query": True,
            "new_decoder_architecture": False,
            "tie_word_embeddings": True,
        },
        tensors={
            "transformer.word_embeddings": linear("token_embd", VOCABULARY, HIDDEN),
            "transformer.ln_f": norm("output_norm")._replace(bias=True),
            "lm_head": Rule("output", (VOCABULARY, HIDDEN), optional=True),
            **only(_has_two_norms, _TWO_NORMS),
            **without(
                _has_two_norms, {f"{_LAYER}.input_layernorm": norm("blk.{i}.attn_norm")._replace(bias=True)}
            ),
            f"{_LAYER}.self_attention.query_key_value": Rule(
                "blk.{i}.attn_qkv",
                (_joined_width, HIDDEN),
                (ungrouped(_kv_heads, _group_width, _head_width, _head_width),),
            ),
            f"{_LAYER}.self_attention.dense": linear("blk.{i}.attn_output", HIDDEN, HIDDEN),
            f"{_LAYER}.mlp.dense_h_to_4h": linear("blk.{i}.ffn_up", _feed_forward, HIDDEN),
            f"{_LAYER}.mlp.dense_4h_to_h": linear("blk.{i}.ffn_down", HIDDEN, _feed_forward),
        },
        keys=(
            uint("{arch}.context_length", lambda h: 2048),  # no configuration says it
            text("{arch}.tensor_data_layout", lambda h: "jploski"),
            EMBEDDING_LENGTH,
            uint("{arch}.feed_forward_length", _feed_forward),
            BLOCK_COUNT,
            HEAD_COUNT,
            uint("{arch}.attention.head_count_kv", _kv_heads),
            NORM_EPSILON,
            file_type,
        ),
    ),
)

"""InternLM 2 and 2.5: query, key and value of each group of heads in one matrix."""

from __future__ import annotations

from typing import Any

from gguffast.conversion.architecture import (
    FEED_FORWARD,
    HEADS,
    HIDDEN,
    VOCABULARY,
    Architecture,
    head_dim,
    kv_heads,
    kv_width,
)
from gguffast.conversion.blocks import joined, linear, norm
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import BASE
from gguffast.conversion.steps import interleaved, ungrouped

_LAYER = "model.layers.{i}"


def _group_width(h: Hparams) -> int:
    """Rows of the queries that share a key."""
    return HEADS(h) // kv_heads(h) * head_dim(h)


def _rotated_heads(h: Hparams) -> int:
    return HEADS(h) + kv_heads(h)


def _rotated_width(h: Hparams) -> int:
    return _rotated_heads(h) * head_dim(h)


def _vocabulary(h: Hparams) -> dict[str, Any]:
    return {"kinds": ("sentencepiece",), "literal_added_tokens": True, "internlm": True}


ARCHITECTURES = (
    Architecture(
        hf_class="InternLM2ForCausalLM",
        name="internlm2",
        ignored=("head_dim",),
        tensors={
            "model.tok_embeddings": linear("token_embd", VOCABULARY, HIDDEN),
            "model.norm": norm("output_norm"),
            "output": linear("output", VOCABULARY, HIDDEN),
            f"{_LAYER}.attention_norm": norm("blk.{i}.attn_norm"),
            f"{_LAYER}.ffn_norm": norm("blk.{i}.ffn_norm"),
            f"{_LAYER}.attention.wqkv": joined(
                ("blk.{i}.attn_q", "blk.{i}.attn_k", "blk.{i}.attn_v"), (HIDDEN, kv_width, kv_width), HIDDEN
            )._replace(
                steps=(
                    ungrouped(kv_heads, _group_width, head_dim, head_dim),
                    interleaved(_rotated_heads, _rotated_width),
                )
            ),
            f"{_LAYER}.attention.wo": linear("blk.{i}.attn_output", HIDDEN, HIDDEN),
            f"{_LAYER}.feed_forward.w1": linear("blk.{i}.ffn_gate", FEED_FORWARD, HIDDEN),
            f"{_LAYER}.feed_forward.w2": linear("blk.{i}.ffn_down", HIDDEN, FEED_FORWARD),
            f"{_LAYER}.feed_forward.w3": linear("blk.{i}.ffn_up", FEED_FORWARD, HIDDEN),
        },
        keys=BASE,
        vocabulary=_vocabulary,
    ),
)

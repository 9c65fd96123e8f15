"""Phi 3, 3.5 and 4 (text): joined projections, and frequency factors for long contexts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from gguffast.conversion.architecture import (
    FEED_FORWARD,
    HEADS,
    HIDDEN,
    Architecture,
    Generated,
    kv_width,
    query_width,
    size,
)
from gguffast.conversion.blocks import EMBEDDING, NORMS, linear
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import (
    BLOCK_COUNT,
    CONTEXT_LENGTH,
    EMBEDDING_LENGTH,
    FEED_FORWARD_LENGTH,
    HEAD_COUNT,
    HEAD_COUNT_KV,
    RMS_EPSILON,
    ROPE_FREQ_BASE,
    file_type,
    real,
    uint,
)
from gguffast.documents import shown
from gguffast.errors import OptionError


def _joined_width(h: Hparams) -> int:
    return query_width(h) + 2 * kv_width(h)


def _original_context(h: Hparams) -> int:
    return h.rope.integer("original_max_position_embeddings", 2)


def _rope_dimensions(h: Hparams) -> int:
    return int(h.rope.number("partial_rotary_factor", default=1.0) * HIDDEN(h)) // HEADS(h)


def _is_long(h: Hparams) -> bool:
    kind = h.rope.get("rope_type")
    if not h.rope.get("long_factor"):
        return False
    # "su" and "yarn" are what the first releases called it; the Hugging Face class reads all three as one.
    if kind not in ("su", "yarn", "longrope"):
        raise OptionError(f"{h.path}: rope type {shown(kind)} is not supported for Phi 3; known: longrope")
    return True


def _attention_factor(h: Hparams) -> float | None:
    if not _is_long(h):
        return None
    original = _original_context(h)
    scale = h.integer("max_position_embeddings", 1) / original
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0


def _long_rope(h: Hparams) -> Iterator[Generated]:
    if not _is_long(h):
        return
    import numpy as np

    n = _rope_dimensions(h) // 2
    for kind in ("long", "short"):
        factors = h.rope.numbers(f"{kind}_factor", n)
        yield Generated(f"rope_factors_{kind}.weight", np.array(factors, np.float32))


def _sliding_window(h: Hparams) -> int:
    # 0 tells Phi 4 from the others.
    return h.integer("sliding_window", default=0)


def _vocabulary(h: Hparams) -> dict[str, Any]:
    return {"kinds": ("sentencepiece", "bpe"), "literal_added_tokens": True}


PHI3 = Architecture(
    hf_class="Phi3ForCausalLM",
    name="phi3",
    defaults={
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 1.0,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    },
    tensors={
        **EMBEDDING,
        **NORMS,
        "model.layers.{i}.self_attn.qkv_proj": linear("blk.{i}.attn_qkv", _joined_width, HIDDEN),
        "model.layers.{i}.self_attn.o_proj": linear("blk.{i}.attn_output", HIDDEN, query_width),
        "model.layers.{i}.mlp.gate_up_proj": linear("blk.{i}.ffn_up", size("intermediate_size", 2), HIDDEN),
        "model.layers.{i}.mlp.down_proj": linear("blk.{i}.ffn_down", HIDDEN, FEED_FORWARD),
    },
    early_keys=(real("{arch}.rope.scaling.attn_factor", _attention_factor),),
    keys=(
        CONTEXT_LENGTH,
        uint("{arch}.rope.scaling.original_context_length", _original_context),
        EMBEDDING_LENGTH,
        FEED_FORWARD_LENGTH,
        BLOCK_COUNT,
        HEAD_COUNT,
        HEAD_COUNT_KV,
        RMS_EPSILON,
        uint("{arch}.rope.dimension_count", _rope_dimensions),
        ROPE_FREQ_BASE,
        file_type,
        uint("{arch}.attention.sliding_window", _sliding_window),
    ),
    generated=_long_rope,
    vocabulary=_vocabulary,
)

ARCHITECTURES = (PHI3,)

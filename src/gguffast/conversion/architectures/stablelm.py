"""Stable LM: Llama's shape with biased norms, and a quarter of each head rotated."""

from __future__ import annotations

from gguffast.conversion.architecture import HEADS, HIDDEN, Architecture
from gguffast.conversion.blocks import ATTENTION, EMBEDDING, FEED_FORWARD_BLOCK, NORMS, biased, without
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import (
    BLOCK_COUNT,
    CONTEXT_LENGTH,
    EMBEDDING_LENGTH,
    FEED_FORWARD_LENGTH,
    HEAD_COUNT,
    HEAD_COUNT_KV,
    NORM_EPSILON,
    file_type,
    flag,
    uint,
)


def _rotated(h: Hparams) -> int:
    return int(h.rope.number("partial_rotary_factor") * (HIDDEN(h) // HEADS(h)))


def _is_parallel(h: Hparams) -> bool:
    """Tell whether attention and feed-forward stand side by side, behind one norm."""
    return h.flag("use_parallel_residual")


_SECOND_NORM = "model.layers.{i}.post_attention_layernorm"

ARCHITECTURES = (
    Architecture(
        hf_class="StableLmForCausalLM",
        name="stablelm",
        defaults={
            "vocab_size": 50304,
            "hidden_size": 2560,
            "intermediate_size": 6912,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "layer_norm_eps": 1e-5,
            "partial_rotary_factor": 0.25,
            "use_parallel_residual": False,
            "tie_word_embeddings": False,
        },
        tensors={
            **biased(EMBEDDING, "norm"),
            **biased(NORMS, "norm"),
            **without(_is_parallel, biased({_SECOND_NORM: NORMS[_SECOND_NORM]}, "norm")),
            **ATTENTION,
            **FEED_FORWARD_BLOCK,
        },
        keys=(
            CONTEXT_LENGTH,
            EMBEDDING_LENGTH,
            BLOCK_COUNT,
            FEED_FORWARD_LENGTH,
            uint("{arch}.rope.dimension_count", _rotated),
            HEAD_COUNT,
            HEAD_COUNT_KV,
            flag("{arch}.use_parallel_residual", _is_parallel),
            NORM_EPSILON,
            file_type,
        ),
    ),
)

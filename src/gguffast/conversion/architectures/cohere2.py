"""Cohere 2 (Command R7B, Command A): attention and feed-forward side by side behind one norm, no biases."""

from __future__ import annotations

from gguffast.conversion.architecture import HEADS, HIDDEN, Architecture
from gguffast.conversion.blocks import ATTENTION, EMBEDDING, FEED_FORWARD_BLOCK, norm
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import BASE, SLIDING_WINDOW, VOCABULARY_SIZE, real, text, uint


def _without_biases(name: str, h: Hparams) -> str | None:
    """Leave out biases that the model does not use; there is no place for those that it does."""
    if not name.endswith(".bias"):
        return name
    if h.flag("attention_bias", default=False):
        h.refuse("attention_bias", "false: llama.cpp's Cohere 2 has no biases")
    return None


def _rotated(h: Hparams) -> int:
    return int(h.number("rotary_pct", default=1.0) * (HIDDEN(h) // HEADS(h)))


ARCHITECTURES = (
    Architecture(
        hf_class="Cohere2ForCausalLM",
        name="cohere2",
        defaults={
            "vocab_size": 256000,
            "hidden_size": 8192,
            "intermediate_size": 22528,
            "num_hidden_layers": 40,
            "num_attention_heads": 64,
            "num_key_value_heads": HEADS,
            "head_dim": lambda h: HIDDEN(h) // HEADS(h),
            "max_position_embeddings": 8192,
            "layer_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "logit_scale": 0.0625,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
        },
        tensors={
            **EMBEDDING,
            "model.layers.{i}.input_layernorm": norm("blk.{i}.attn_norm"),
            **ATTENTION,
            **FEED_FORWARD_BLOCK,
        },
        rename=_without_biases,
        keys=(
            *BASE,
            real("{arch}.logit_scale", "logit_scale"),
            SLIDING_WINDOW,
            VOCABULARY_SIZE,
            uint("{arch}.rope.dimension_count", _rotated),
            text("{arch}.rope.scaling.type", lambda h: "none"),
        ),
    ),
)

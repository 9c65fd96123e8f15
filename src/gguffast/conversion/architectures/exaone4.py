"""EXAONE 4: norms after the blocks instead of before them; the large one has windows in most layers."""

from __future__ import annotations

from gguffast.conversion.architecture import HEADS, Architecture, layer_kind
from gguffast.conversion.blocks import ATTENTION, EMBEDDING, FEED_FORWARD_BLOCK, HEAD_NORMS, norm
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import (
    BASE,
    SLIDING_WINDOW,
    VOCABULARY_SIZE,
    array,
    by_layer,
    llama3_rope,
)
from gguffast.gguf import GGUFValueType


def _is_sliding(h: Hparams) -> bool:
    """Tell the layers with a window; the pattern is text with an L for each, or every how manyth has none."""
    layer, pattern = h.layer or 0, h.get("sliding_window_pattern")
    if h.get("layer_types") is not None:
        return layer_kind(h) == "sliding_attention"
    if isinstance(pattern, str) and pattern:
        return pattern[layer % len(pattern)] == "L"
    return (layer + 1) % h.integer("sliding_window_pattern", 1) != 0


def _pattern(h: Hparams) -> list[bool] | None:
    return None if h.get("sliding_window") is None else by_layer(_is_sliding)(h)


ARCHITECTURES = (
    Architecture(
        hf_class="Exaone4ForCausalLM",
        name="exaone4",
        defaults={
            "vocab_size": 102400,
            "hidden_size": 4096,
            "intermediate_size": 16384,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
            "tie_word_embeddings": False,
        },
        tensors={
            **EMBEDDING,
            **ATTENTION,
            **HEAD_NORMS,
            **FEED_FORWARD_BLOCK,
            "model.layers.{i}.post_attention_layernorm": norm("blk.{i}.post_attention_norm"),
            "model.layers.{i}.post_feedforward_layernorm": norm("blk.{i}.post_ffw_norm"),
        },
        keys=(
            *BASE,
            VOCABULARY_SIZE,
            SLIDING_WINDOW,
            array("{arch}.attention.sliding_window_pattern", GGUFValueType.BOOL, _pattern),
        ),
        generated=llama3_rope,
    ),
)

"""OLMo 2: norms after the blocks instead of before them, and over all heads of queries and keys at once."""

from __future__ import annotations

from collections.abc import Iterator

from gguffast.conversion.architecture import Architecture, Facts, kv_width, layers, query_width
from gguffast.conversion.blocks import ATTENTION, EMBEDDING, FEED_FORWARD_BLOCK, norm
from gguffast.conversion.keys import BASE, uint
from gguffast.gguf import KV, GGUFValueType, kv


def _sliding_layers(facts: Facts) -> Iterator[KV]:
    """Say which layers have a window, where there is one: by default all but every fourth."""
    h = facts.hparams
    if h.get("sliding_window") is None:
        return
    kinds = h.get("layer_types")
    windowed = (
        [kind == "sliding_attention" for kind in kinds]
        if isinstance(kinds, list)
        else [i % 4 != 3 for i in range(layers(h))]
    )
    yield kv(f"{facts.name}.attention.sliding_window_pattern", windowed, GGUFValueType.ARRAY)


ARCHITECTURES = (
    Architecture(
        hf_class="Olmo2ForCausalLM",
        name="olmo2",
        defaults={
            "vocab_size": 50304,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        },
        tensors={
            **EMBEDDING,
            **ATTENTION,
            **FEED_FORWARD_BLOCK,
            "model.layers.{i}.self_attn.q_norm": norm("blk.{i}.attn_q_norm", query_width),
            "model.layers.{i}.self_attn.k_norm": norm("blk.{i}.attn_k_norm", kv_width),
            "model.layers.{i}.post_attention_layernorm": norm("blk.{i}.post_attention_norm"),
            "model.layers.{i}.post_feedforward_layernorm": norm("blk.{i}.post_ffw_norm"),
        },
        keys=(*BASE, uint("{arch}.attention.sliding_window", "sliding_window"), _sliding_layers),
    ),
)

"""OLMo 2 and 3, with norms after the blocks, and OLMoE; all norm the heads of queries and of keys at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gguffast.conversion.architecture import (
    FEED_FORWARD,
    HEADS,
    HIDDEN,
    Architecture,
    Facts,
    Rule,
    kv_width,
    layer_kind,
    layers,
    query_width,
)
from gguffast.conversion.architectures.qwen2 import EXPERTS
from gguffast.conversion.blocks import (
    ATTENTION,
    EMBEDDING,
    FEED_FORWARD_BLOCK,
    NORMS,
    linear,
    norm,
    stacked_experts,
)
from gguffast.conversion.keys import BASE, SLIDING_WINDOW, by_layer, real
from gguffast.gguf import KV, GGUFValueType, kv


def _sliding_layers(facts: Facts) -> Iterator[KV]:
    """Say which layers have a window, where there is one: by default all but every fourth."""
    h = facts.hparams
    if h.get("sliding_window") is None:
        return
    windowed = (
        [i % 4 != 3 for i in range(layers(h))]
        if h.get("layer_types") is None
        else by_layer(lambda h: layer_kind(h) == "sliding_attention")(h)
    )
    yield kv(f"{facts.name}.attention.sliding_window_pattern", windowed, GGUFValueType.ARRAY)


_NORMED_ATTENTION: dict[str, Rule | None] = {
    **ATTENTION,
    "model.layers.{i}.self_attn.q_norm": norm("blk.{i}.attn_q_norm", query_width),
    "model.layers.{i}.self_attn.k_norm": norm("blk.{i}.attn_k_norm", kv_width),
}
_OLMO2 = Architecture(
    hf_class="Olmo2ForCausalLM",
    name="olmo2",
    defaults={
        "vocab_size": 50304,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    },
    tensors={
        **EMBEDDING,
        **_NORMED_ATTENTION,
        **FEED_FORWARD_BLOCK,
        "model.layers.{i}.post_attention_layernorm": norm("blk.{i}.post_attention_norm"),
        "model.layers.{i}.post_feedforward_layernorm": norm("blk.{i}.post_ffw_norm"),
    },
    keys=(*BASE, SLIDING_WINDOW, _sliding_layers),
)
_OLMOE = replace(
    _OLMO2,
    hf_class="OlmoeForCausalLM",
    name="olmoe",
    defaults={
        **_OLMO2.defaults,
        "hidden_size": 2048,
        "intermediate_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "max_position_embeddings": 4096,
        "num_experts": 64,
        "num_experts_per_tok": 8,
    },
    tensors={
        **EMBEDDING,
        **NORMS,
        **_NORMED_ATTENTION,
        "model.layers.{i}.mlp.gate": linear("blk.{i}.ffn_gate_inp", EXPERTS, HIDDEN),
        **stacked_experts("model.layers.{i}.mlp.experts", EXPERTS, FEED_FORWARD),
    },
    experts=EXPERTS,
    # The reference writes this epsilon, whatever the configuration says.
    keys=(*BASE, real("{arch}.attention.layer_norm_rms_epsilon", lambda h: 1e-5)),
)

ARCHITECTURES = (
    _OLMO2,
    replace(_OLMO2, hf_class="Olmo3ForCausalLM", defaults={**_OLMO2.defaults, "sliding_window": 4096}),
    _OLMOE,
)

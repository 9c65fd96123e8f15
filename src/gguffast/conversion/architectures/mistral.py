"""Mistral and Mixtral: Llama's tensors and keys, other defaults, and experts."""

from __future__ import annotations

from gguffast.conversion.architecture import FEED_FORWARD, HIDDEN, Architecture, Rule, size
from gguffast.conversion.architectures import llama
from gguffast.conversion.blocks import EMBEDDING, NORMS, PERMUTED_ATTENTION, linear
from gguffast.conversion.keys import BASE, ROPE_DIMENSIONS, VOCABULARY_SIZE, llama3_rope

EXPERTS = size("num_local_experts")

_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}

_MOE = "model.layers.{i}.block_sparse_moe"
EXPERT_TENSORS: dict[str, Rule | None] = {
    f"{_MOE}.gate": linear("blk.{i}.ffn_gate_inp", EXPERTS, HIDDEN),
    f"{_MOE}.experts.{{e}}.w1": linear("blk.{i}.ffn_gate_exps", FEED_FORWARD, HIDDEN),
    f"{_MOE}.experts.{{e}}.w2": linear("blk.{i}.ffn_down_exps", HIDDEN, FEED_FORWARD),
    f"{_MOE}.experts.{{e}}.w3": linear("blk.{i}.ffn_up_exps", FEED_FORWARD, HIDDEN),
}

DENSE = Architecture(
    hf_class="MistralForCausalLM",
    name="llama",
    defaults=_DEFAULTS,
    tensors=llama.TENSORS,
    keys=llama.KEYS,
    generated=llama3_rope,
    vocabulary=llama.llama_vocabulary,
)

ARCHITECTURES = (
    DENSE,
    Architecture(
        hf_class="MixtralForCausalLM",
        name="llama",
        defaults={
            **_DEFAULTS,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        tensors={**EMBEDDING, **NORMS, **PERMUTED_ATTENTION, **EXPERT_TENSORS},
        experts=EXPERTS,
        keys=(*BASE, VOCABULARY_SIZE, ROPE_DIMENSIONS),
        generated=llama3_rope,
        vocabulary=llama.llama_vocabulary,
    ),
)

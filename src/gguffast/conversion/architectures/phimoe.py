"""Phi 3.5-MoE: Phi 3's keys and frequency factors, Mixtral's experts, biases."""

from __future__ import annotations

from dataclasses import replace

from gguffast.conversion.architectures.mistral import EXPERT_TENSORS, EXPERTS
from gguffast.conversion.architectures.phi3 import PHI3
from gguffast.conversion.blocks import ATTENTION, EMBEDDING, NORMS, biased
from gguffast.conversion.keys import uint

ARCHITECTURES = (
    replace(
        PHI3,
        hf_class="PhiMoEForCausalLM",
        name="phimoe",
        defaults={
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 6400,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1000000.0,
            "num_local_experts": 16,
            "num_experts_per_tok": 2,
            "tie_word_embeddings": False,
        },
        tensors={
            **biased(EMBEDDING, "model.norm"),
            **biased(NORMS, "norm"),
            **ATTENTION,
            **EXPERT_TENSORS,
        },
        experts=EXPERTS,
        keys=(
            *PHI3.keys,
            uint("{arch}.expert_used_count", "num_experts_per_tok"),
            uint("{arch}.expert_count", EXPERTS),
        ),
    ),
)

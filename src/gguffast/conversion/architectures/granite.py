"""IBM Granite (dense): Llama's tensors, and four multipliers."""

from __future__ import annotations

from gguffast.conversion.architecture import Architecture
from gguffast.conversion.architectures import llama
from gguffast.conversion.keys import BASE, ROPE_DIMENSIONS, VOCABULARY_SIZE, real

ARCHITECTURES = (
    Architecture(
        hf_class="GraniteForCausalLM",
        name="granite",
        defaults={
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "attention_multiplier": 1.0,
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
            "tie_word_embeddings": False,
        },
        ignored=("head_dim",),  # there is no such thing in Granite: the heads share the hidden size
        tensors=llama.TENSORS,
        keys=(
            *BASE,
            VOCABULARY_SIZE,
            ROPE_DIMENSIONS,
            real("{arch}.attention.scale", "attention_multiplier", unless_zero=True),
            real("{arch}.embedding_scale", "embedding_multiplier", unless_zero=True),
            real("{arch}.residual_scale", "residual_multiplier", unless_zero=True),
            real("{arch}.logit_scale", "logits_scaling", unless_zero=True),
        ),
        vocabulary=llama.llama_vocabulary,
    ),
)

"""SmolLM3: Llama's tensors; some layers without rotary positions, which llama.cpp knows by itself."""

from __future__ import annotations

from gguffast.conversion.architecture import Architecture
from gguffast.conversion.architectures import llama
from gguffast.conversion.keys import llama3_rope

ARCHITECTURES = (
    Architecture(
        hf_class="SmolLM3ForCausalLM",
        name="smollm3",
        defaults={
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_theta": 2000000.0,
            "tie_word_embeddings": True,
        },
        tensors=llama.TENSORS,
        keys=llama.KEYS,
        generated=llama3_rope,
        vocabulary=llama.llama_vocabulary,
    ),
)

"""Arcee's AFM: Llama without the gate."""

from __future__ import annotations

from gguffast.conversion.architecture import HEADS, Architecture, head_dim
from gguffast.conversion.architectures import llama
from gguffast.conversion.blocks import EMBEDDING, FEED_FORWARD_BLOCK, NORMS, PERMUTED_ATTENTION
from gguffast.conversion.keys import llama3_rope
from gguffast.conversion.pooling import pooling

ARCHITECTURES = (
    Architecture(
        hf_class="ArceeForCausalLM",
        name="arcee",
        defaults={
            "vocab_size": 32000,
            "hidden_size": 2560,
            "intermediate_size": 18432,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": HEADS,
            "head_dim": head_dim,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        },
        tensors={
            **EMBEDDING,
            **NORMS,
            **PERMUTED_ATTENTION,
            **{name: rule for name, rule in FEED_FORWARD_BLOCK.items() if not name.endswith("gate_proj")},
        },
        keys=(*llama.KEYS, pooling),
        generated=llama3_rope,
        vocabulary=llama.llama_vocabulary,
    ),
)

"""ByteDance Seed-OSS: Qwen 2's tensors under the norms' other name."""

from __future__ import annotations

from gguffast.conversion.architecture import Architecture
from gguffast.conversion.blocks import ATTENTION, EMBEDDING, FEED_FORWARD_BLOCK, norm
from gguffast.conversion.keys import BASE

ARCHITECTURES = (
    Architecture(
        hf_class="SeedOssForCausalLM",
        name="seed_oss",
        defaults={
            "vocab_size": 155136,
            "hidden_size": 4096,
            "intermediate_size": 27648,
            "num_hidden_layers": 64,
            "num_attention_heads": 80,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 524288,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        },
        tensors={
            **EMBEDDING,
            **ATTENTION,
            **FEED_FORWARD_BLOCK,
            "model.layers.{i}.input_layernorm": norm("blk.{i}.attn_norm"),
            "model.layers.{i}.post_attention_layernorm": norm("blk.{i}.post_attention_norm"),
        },
        keys=BASE,
    ),
)

"""Qwen 3, dense and with experts: norms of queries and keys, no biases."""

from __future__ import annotations

from gguffast.conversion.architecture import Architecture
from gguffast.conversion.architectures.qwen2 import (
    EXPERT_TENSORS,
    EXPERTS,
    qwen_vocabulary,
)
from gguffast.conversion.blocks import ATTENTION, EMBEDDING, FEED_FORWARD_BLOCK, HEAD_NORMS, NORMS
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import BASE, EXPERT_FEED_FORWARD_LENGTH
from gguffast.conversion.pooling import pooling

_BARE = ("embed_tokens.", "layers.", "norm.")


def _rename(name: str, h: Hparams) -> str:
    """Embedding models are stored as what their head is left away from, names and all."""
    return f"model.{name}" if name.startswith(_BARE) else name


DENSE = Architecture(
    hf_class="Qwen3ForCausalLM",
    name="qwen3",
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    },
    tensors={**EMBEDDING, **NORMS, **ATTENTION, **HEAD_NORMS, **FEED_FORWARD_BLOCK},
    keys=(*BASE, pooling),
    rename=_rename,
    vocabulary=qwen_vocabulary,
)
SPARSE = Architecture(
    hf_class="Qwen3MoeForCausalLM",
    name="qwen3moe",
    defaults={
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_experts": 128,
        "tie_word_embeddings": False,
    },
    tensors={**EMBEDDING, **NORMS, **ATTENTION, **HEAD_NORMS, **EXPERT_TENSORS},
    experts=EXPERTS,
    keys=(*BASE, EXPERT_FEED_FORWARD_LENGTH),
)

ARCHITECTURES = (DENSE, SPARSE)

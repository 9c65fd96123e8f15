"""Llama 1 to 3.x, and what is built like it (SmolLM2, TinyLlama, many more)."""

from __future__ import annotations

from typing import Any

from gguffast.conversion.architecture import Architecture, head_dim
from gguffast.conversion.blocks import EMBEDDING, FEED_FORWARD_BLOCK, NORMS, PERMUTED_ATTENTION
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import BASE, ROPE_DIMENSIONS, VOCABULARY_SIZE, llama3_rope
from gguffast.conversion.vocab import LLAMA_KINDS

# Code Llama's end of an infilling stands in no file; its vocabulary is known by its size.
_CODE_LLAMA = (("eot", 32010),)


def llama_vocabulary(h: Hparams) -> dict[str, Any]:
    """How Llama's kin read their tokenizer."""
    size = h.get("vocab_size")
    return {
        "kinds": LLAMA_KINDS,
        "config_space_prefix": True,
        # The SmolLM and small Granite models were trained without a token at the beginning.
        "add_bos": False if size == 49152 else None,
        "special_ids": _CODE_LLAMA if size == 32016 else (),
    }


KEYS = (*BASE, VOCABULARY_SIZE, ROPE_DIMENSIONS)
TENSORS = {**EMBEDDING, **NORMS, **PERMUTED_ATTENTION, **FEED_FORWARD_BLOCK}

ARCHITECTURES = (
    Architecture(
        hf_class="LlamaForCausalLM",
        name="llama",
        defaults={
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "head_dim": head_dim,
            "tie_word_embeddings": False,
        },
        tensors=TENSORS,
        keys=KEYS,
        generated=llama3_rope,
        vocabulary=llama_vocabulary,
    ),
)

"""Gemma 1, 2 and 3 (text). Norms are stored as offsets from 1, and the output head is the embedding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gguffast.conversion.architecture import HIDDEN, VOCABULARY, Architecture, Rule, classes, head_dim
from gguffast.conversion.blocks import ATTENTION, FEED_FORWARD_BLOCK, linear, norm
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import (
    BASE,
    BLOCK_COUNT,
    CONTEXT_LENGTH,
    EMBEDDING_LENGTH,
    FEED_FORWARD_LENGTH,
    HEAD_COUNT,
    HEAD_COUNT_KV,
    KEY_LENGTH,
    RMS_EPSILON,
    SLIDING_WINDOW,
    VALUE_LENGTH,
    file_type,
    real,
    uint,
)
from gguffast.conversion.pooling import pooling
from gguffast.conversion.steps import cut_to_vocabulary

_DEFAULTS = {
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "head_dim": 256,
    "tie_word_embeddings": True,
}

_COMMON: dict[str, Rule | None] = {
    "model.embed_tokens": linear("token_embd", VOCABULARY, HIDDEN),
    "model.norm": norm("output_norm", offset=True),
    "lm_head": None,
    **ATTENTION,
    **FEED_FORWARD_BLOCK,
    "model.layers.{i}.input_layernorm": norm("blk.{i}.attn_norm", offset=True),
}
_SANDWICH: dict[str, Rule | None] = {
    **_COMMON,
    "model.layers.{i}.post_attention_layernorm": norm("blk.{i}.post_attention_norm", offset=True),
    "model.layers.{i}.pre_feedforward_layernorm": norm("blk.{i}.ffn_norm", offset=True),
    "model.layers.{i}.post_feedforward_layernorm": norm("blk.{i}.post_ffw_norm", offset=True),
}

_KEYS = (
    CONTEXT_LENGTH,
    EMBEDDING_LENGTH,
    BLOCK_COUNT,
    FEED_FORWARD_LENGTH,
    HEAD_COUNT,
    HEAD_COUNT_KV,
    RMS_EPSILON,
    KEY_LENGTH,
    VALUE_LENGTH,
    file_type,
)
FINAL_SOFTCAP = real("{arch}.final_logit_softcapping", "final_logit_softcapping", unless_zero=True)

# Code Gemma's end of a turn, which every Gemma file gets; it stands in no file of the checkpoint.
_CODE_GEMMA = (("eot", 107),)


def _gemma_vocabulary(h: Hparams) -> dict[str, Any]:
    return {"kinds": ("sentencepiece",), "space_prefix": False, "special_ids": _CODE_GEMMA}


def _gemma2_vocabulary(h: Hparams) -> dict[str, Any]:
    return {"kinds": ("sentencepiece",), "space_prefix": False}


def _gemma3_vocabulary(h: Hparams) -> dict[str, Any]:
    return {"kinds": ("sentencepiece", "bpe"), "space_prefix": False}


def _sliding_window(h: Hparams) -> int | None:
    # The Hugging Face class counts a bidirectional window from its middle.
    window = h.integer("sliding_window", 1)
    return window // 2 + 1 if h.get("use_bidirectional_attention") else window


def _with_prefix(name: str, h: Hparams) -> str:
    return name if name.startswith(("model.", "lm_head.")) else f"model.{name}"


_GEMMA3 = Architecture(
    hf_class="Gemma3ForCausalLM",
    name="gemma3",
    defaults={
        **_DEFAULTS,
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "sliding_window": 4096,
    },
    tensors={
        **_SANDWICH,
        # The embedding of the multimodal models has rows for image tokens, which the tokenizer does not know.
        "model.embed_tokens": Rule("token_embd", (VOCABULARY, HIDDEN), steps=(cut_to_vocabulary,)),
        "lm_head": Rule("output", (VOCABULARY, HIDDEN), optional=True),
        "model.layers.{i}.self_attn.q_norm": norm("blk.{i}.attn_q_norm", head_dim, offset=True),
        "model.layers.{i}.self_attn.k_norm": norm("blk.{i}.attn_k_norm", head_dim, offset=True),
    },
    keys=(
        *BASE,
        FINAL_SOFTCAP,
        uint("{arch}.attention.sliding_window", _sliding_window),
    ),
    vocabulary=_gemma3_vocabulary,
)

ARCHITECTURES = (
    Architecture(
        hf_class="GemmaForCausalLM",
        name="gemma",
        defaults={
            **_DEFAULTS,
            "hidden_size": 3072,
            "intermediate_size": 24576,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
        },
        tensors={
            **_COMMON,
            "model.layers.{i}.post_attention_layernorm": norm("blk.{i}.ffn_norm", offset=True),
        },
        keys=_KEYS,
        vocabulary=_gemma_vocabulary,
    ),
    Architecture(
        hf_class="Gemma2ForCausalLM",
        name="gemma2",
        defaults={
            **_DEFAULTS,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        tensors=_SANDWICH,
        keys=(
            *_KEYS,
            real("{arch}.attn_logit_softcapping", "attn_logit_softcapping"),
            real("{arch}.final_logit_softcapping", "final_logit_softcapping"),
            SLIDING_WINDOW,
        ),
        vocabulary=_gemma2_vocabulary,
    ),
    *classes(_GEMMA3, "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    replace(
        _GEMMA3,
        hf_class="Gemma3TextModel",
        name="gemma-embedding",
        # Its window is written as config.json has it.
        keys=(*_GEMMA3.keys, SLIDING_WINDOW, pooling),
        rename=_with_prefix,
    ),
)

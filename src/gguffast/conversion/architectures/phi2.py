"""Phi 1, 1.5 and 2: biases everywhere, one norm a layer, part of each head rotated."""

from __future__ import annotations

from gguffast.conversion.architecture import FEED_FORWARD, HEADS, HIDDEN, VOCABULARY, Architecture, Rule
from gguffast.conversion.blocks import ATTENTION, biased, linear, norm
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import (
    BLOCK_COUNT,
    CONTEXT_LENGTH,
    EMBEDDING_LENGTH,
    HEAD_COUNT,
    NORM_EPSILON,
    file_type,
    flag,
    uint,
)

_LAYER = "model.layers.{i}"


def _rotated(h: Hparams) -> int:
    return int(h.rope.number("partial_rotary_factor") * HIDDEN(h)) // HEADS(h)


_ATTENTION: dict[str, Rule | None] = {
    **{name: rule for name, rule in ATTENTION.items() if not name.endswith("o_proj")},
    f"{_LAYER}.self_attn.dense": linear("blk.{i}.attn_output", HIDDEN, HIDDEN),
}

ARCHITECTURES = (
    Architecture(
        hf_class="PhiForCausalLM",
        name="phi2",
        defaults={
            "vocab_size": 51200,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "layer_norm_eps": 1e-5,
            "partial_rotary_factor": 0.5,
            "tie_word_embeddings": False,
        },
        tensors={
            "model.embed_tokens": linear("token_embd", VOCABULARY, HIDDEN),
            "model.final_layernorm": norm("output_norm")._replace(bias=True),
            "lm_head": linear("output", VOCABULARY, HIDDEN, bias=True),
            f"{_LAYER}.input_layernorm": norm("blk.{i}.attn_norm")._replace(bias=True),
            **biased(_ATTENTION, "proj", "dense"),
            f"{_LAYER}.mlp.fc1": linear("blk.{i}.ffn_up", FEED_FORWARD, HIDDEN, bias=True),
            f"{_LAYER}.mlp.fc2": linear("blk.{i}.ffn_down", HIDDEN, FEED_FORWARD, bias=True),
        },
        keys=(
            CONTEXT_LENGTH,
            EMBEDDING_LENGTH,
            uint("{arch}.feed_forward_length", lambda h: 4 * HIDDEN(h)),
            BLOCK_COUNT,
            HEAD_COUNT,
            uint("{arch}.attention.head_count_kv", HEADS),
            NORM_EPSILON,
            uint("{arch}.rope.dimension_count", _rotated),
            file_type,
            flag("tokenizer.ggml.add_bos_token", False),
        ),
    ),
)

"""GPT-NeoX and Pythia: query, key and value of each head in one matrix, biases everywhere."""

from __future__ import annotations

from gguffast.conversion.architecture import (
    FEED_FORWARD,
    HEADS,
    HIDDEN,
    VOCABULARY,
    Architecture,
    Rule,
    head_dim,
    size,
)
from gguffast.conversion.blocks import biased, linear, norm
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import (
    BLOCK_COUNT,
    CONTEXT_LENGTH,
    EMBEDDING_LENGTH,
    FEED_FORWARD_LENGTH,
    HEAD_COUNT,
    NORM_EPSILON,
    flag,
    uint,
)
from gguffast.conversion.steps import ungrouped


def _rotated(h: Hparams) -> int:
    return int(h.number("rotary_pct") * (HIDDEN(h) // HEADS(h)))


_LAYER_TENSORS: dict[str, Rule | None] = {
    "input_layernorm": norm("blk.{i}.attn_norm"),
    "post_attention_layernorm": norm("blk.{i}.ffn_norm"),
    "attention.query_key_value": Rule(
        "blk.{i}.attn_qkv",
        (size("hidden_size", 3), HIDDEN),
        (ungrouped(HEADS, head_dim, head_dim, head_dim),),
    ),
    "attention.dense": linear("blk.{i}.attn_output", HIDDEN, HIDDEN),
    "mlp.dense_h_to_4h": linear("blk.{i}.ffn_up", FEED_FORWARD, HIDDEN),
    "mlp.dense_4h_to_h": linear("blk.{i}.ffn_down", HIDDEN, FEED_FORWARD),
}

ARCHITECTURES = (
    Architecture(
        hf_class="GPTNeoXForCausalLM",
        name="gptneox",
        defaults={
            "vocab_size": 50432,
            "hidden_size": 6144,
            "intermediate_size": 24576,
            "num_hidden_layers": 44,
            "num_attention_heads": 64,
            "max_position_embeddings": 2048,
            "layer_norm_eps": 1e-5,
            "rotary_pct": 0.25,
            "use_parallel_residual": True,
            "tie_word_embeddings": False,
        },
        ignored=("head_dim",),
        tensors={
            "gpt_neox.embed_in": linear("token_embd", VOCABULARY, HIDDEN),
            "gpt_neox.final_layer_norm": norm("output_norm")._replace(bias=True),
            "embed_out": Rule(
                "output", (VOCABULARY, HIDDEN), optional=lambda h: bool(h.get("tie_word_embeddings"))
            ),
            **biased({f"gpt_neox.layers.{{i}}.{name}": rule for name, rule in _LAYER_TENSORS.items()}, ""),
        },
        # The file's type is not among them: the reference does not write it.
        keys=(
            CONTEXT_LENGTH,
            EMBEDDING_LENGTH,
            BLOCK_COUNT,
            FEED_FORWARD_LENGTH,
            uint("{arch}.rope.dimension_count", _rotated),
            HEAD_COUNT,
            flag("{arch}.use_parallel_residual", "use_parallel_residual"),
            NORM_EPSILON,
        ),
    ),
)

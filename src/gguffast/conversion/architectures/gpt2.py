"""GPT-2: matrices with the inputs first, positions that are learned."""

from __future__ import annotations

from gguffast.conversion.architecture import HIDDEN, VOCABULARY, Architecture, Rule, Size, size
from gguffast.conversion.blocks import linear, norm
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import (
    BLOCK_COUNT,
    CONTEXT_LENGTH,
    EMBEDDING_LENGTH,
    HEAD_COUNT,
    NORM_EPSILON,
    file_type,
    uint,
)
from gguffast.conversion.steps import transpose


def _feed_forward(h: Hparams) -> int:
    return 4 * HIDDEN(h)


def _renamed(name: str, h: Hparams) -> str | None:
    """Leave out the causal masks; tell a matrix's bias, which has its second size, from the matrix."""
    if name.endswith((".attn.bias", ".attn.masked_bias")):
        return None
    name = name.removeprefix("transformer.")
    return f"{name.removesuffix('.bias')}_bias" if ".c_" in name and name.endswith(".bias") else name


def _matrix(hf_name: str, gguf_name: str, rows: Size, columns: Size) -> dict[str, Rule | None]:
    return {
        f"h.{{i}}.{hf_name}": Rule(f"blk.{{i}}.{gguf_name}", (columns, rows), (transpose,)),
        f"h.{{i}}.{hf_name}_bias": Rule(f"blk.{{i}}.{gguf_name}", (rows,), ending=".bias"),
    }


ARCHITECTURES = (
    Architecture(
        hf_class="GPT2LMHeadModel",
        name="gpt2",
        defaults={
            "vocab_size": 50257,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 1024,
            "layer_norm_eps": 1e-5,
            "tie_word_embeddings": True,
        },
        tensors={
            "wte": linear("token_embd", VOCABULARY, HIDDEN),
            "wpe": linear("position_embd", size("max_position_embeddings"), HIDDEN),
            "ln_f": norm("output_norm")._replace(bias=True),
            "lm_head": Rule("output", (VOCABULARY, HIDDEN), optional=True),
            "h.{i}.ln_1": norm("blk.{i}.attn_norm")._replace(bias=True),
            "h.{i}.ln_2": norm("blk.{i}.ffn_norm")._replace(bias=True),
            **_matrix("attn.c_attn", "attn_qkv", size("hidden_size", 3), HIDDEN),
            **_matrix("attn.c_proj", "attn_output", HIDDEN, HIDDEN),
            **_matrix("mlp.c_fc", "ffn_up", _feed_forward, HIDDEN),
            **_matrix("mlp.c_proj", "ffn_down", HIDDEN, _feed_forward),
        },
        rename=_renamed,
        keys=(
            BLOCK_COUNT,
            CONTEXT_LENGTH,
            EMBEDDING_LENGTH,
            uint("{arch}.feed_forward_length", _feed_forward),
            HEAD_COUNT,
            NORM_EPSILON,
            file_type,
        ),
    ),
)

"""T5 and its kin: an encoder and a decoder; biases by distance, in the first layer, not positions."""

from __future__ import annotations

import re
from dataclasses import replace

from gguffast.conversion.architecture import VOCABULARY, Architecture, Rule, classes, layers, size
from gguffast.conversion.blocks import linear, norm, only, without
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import file_type, real, uint

_HIDDEN, _WIDTH, _HEADS = size("d_model"), size("d_ff"), size("num_heads")
_BUCKETS = size("relative_attention_num_buckets")
_SHARED = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_PART = re.compile(r"\.layer\.(\d)\.")


def _inner(h: Hparams) -> int:
    return _HEADS(h) * h.integer("d_kv", 1)


def _decoder_layers(h: Hparams) -> int:
    number = h.integer("num_decoder_layers", 1, layers(h), default=None)
    return layers(h) if number is None else number


def _is_gated(h: Hparams) -> bool:
    return h.text("feed_forward_proj").startswith("gated-")


def _first_alone(h: Hparams) -> bool:
    return h.layer != 0


def _rename(name: str, h: Hparams) -> str | None:
    """Take one embedding of the up to three that are the same, and make a part's number part of its name."""
    if name in _SHARED:
        first = next((other for other in h.tensors if other in _SHARED), name)
        return "shared.weight" if name == first else None
    return _PART.sub(r".part\1.", name)


def _attention(prefix: str, gguf: str) -> dict[str, Rule | None]:
    return {
        f"{prefix}.q": linear(f"{gguf}_q", _inner, _HIDDEN),
        f"{prefix}.k": linear(f"{gguf}_k", _inner, _HIDDEN),
        f"{prefix}.v": linear(f"{gguf}_v", _inner, _HIDDEN),
        f"{prefix}.o": linear(f"{gguf}_o", _HIDDEN, _inner),
        f"{prefix}.relative_attention_bias": Rule(f"{gguf}_rel_b", (_BUCKETS, _HEADS), optional=_first_alone),
    }


def _stack(side: str, gguf: str, last: int) -> dict[str, Rule | None]:
    """Declare one side's layers: attention to itself, and a feed-forward block as the last of its parts."""
    block, out = f"{side}.block.{{i}}", f"{gguf}.blk.{{i}}"
    feed_forward = f"{block}.part{last}.DenseReluDense"
    return {
        f"{block}.part0.layer_norm": norm(f"{out}.attn_norm", _HIDDEN),
        **_attention(f"{block}.part0.SelfAttention", f"{out}.attn"),
        f"{block}.part{last}.layer_norm": norm(f"{out}.ffn_norm", _HIDDEN),
        **only(
            _is_gated,
            {
                f"{feed_forward}.wi_0": linear(f"{out}.ffn_gate", _WIDTH, _HIDDEN),
                f"{feed_forward}.wi_1": linear(f"{out}.ffn_up", _WIDTH, _HIDDEN),
            },
        ),
        **without(_is_gated, {f"{feed_forward}.wi": linear(f"{out}.ffn_up", _WIDTH, _HIDDEN)}),
        f"{feed_forward}.wo": linear(f"{out}.ffn_down", _HIDDEN, _WIDTH),
    }


def _has_decoder(h: Hparams) -> bool:
    return (h.layer or 0) < _decoder_layers(h)


_CROSS = _attention("decoder.block.{i}.part1.EncDecAttention", "dec.blk.{i}.cross_attn")
_CROSS_BIAS = "decoder.block.{i}.part1.EncDecAttention.relative_attention_bias"
_CROSS[_CROSS_BIAS] = Rule("dec.blk.{i}.cross_attn_rel_b", (_BUCKETS, _HEADS), optional=True)

_T5 = Architecture(
    hf_class="T5ForConditionalGeneration",
    name="t5",
    defaults={
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_hidden_layers": lambda h: h.integer("num_layers", 1),
        "num_heads": 8,
        "relative_attention_num_buckets": 32,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
    },
    tensors={
        "shared": linear("token_embd", VOCABULARY, _HIDDEN),
        **_stack("encoder", "enc", 1),
        "encoder.final_layer_norm": norm("enc.output_norm", _HIDDEN),
        **only(
            _has_decoder,
            {
                **_stack("decoder", "dec", 2),
                "decoder.block.{i}.part1.layer_norm": norm("dec.blk.{i}.cross_attn_norm", _HIDDEN),
                **_CROSS,
            },
        ),
        "decoder.final_layer_norm": norm("dec.output_norm", _HIDDEN),
        "lm_head": Rule("output", (VOCABULARY, _HIDDEN), optional=True),
    },
    keys=(
        uint("{arch}.context_length", lambda h: h.integer("n_positions", default=None) or 512),
        uint("{arch}.embedding_length", _HIDDEN),
        uint("{arch}.feed_forward_length", _WIDTH),
        uint("{arch}.block_count", layers),
        uint("{arch}.decoder_block_count", _decoder_layers),
        uint("{arch}.attention.head_count", _HEADS),
        uint("{arch}.attention.key_length", "d_kv"),
        uint("{arch}.attention.value_length", "d_kv"),
        real("{arch}.attention.layer_norm_epsilon", "layer_norm_epsilon"),
        uint("{arch}.attention.relative_buckets_count", _BUCKETS),
        real("{arch}.attention.layer_norm_rms_epsilon", "layer_norm_epsilon"),
        uint("{arch}.decoder_start_token_id", "decoder_start_token_id"),
        file_type,
    ),
    rename=_rename,
    vocabulary=lambda h: {"kinds": ("t5",)},
)

_MT5 = replace(
    _T5,
    defaults={
        **_T5.defaults,
        "vocab_size": 250112,
        "d_ff": 1024,
        "num_layers": 8,
        "num_heads": 6,
        "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0,
        "tie_word_embeddings": False,
    },
)
_UMT5 = replace(_MT5, defaults={**_MT5.defaults, "tie_word_embeddings": True})

ARCHITECTURES = (
    *classes(_T5, "T5ForConditionalGeneration", "T5WithLMHeadModel"),
    *classes(_MT5, "MT5ForConditionalGeneration"),
    *classes(_UMT5, "UMT5ForConditionalGeneration", "UMT5Model"),
)

"""Tencent Hunyuan (dense): norms of queries and keys; positions that reach 256 Ki by a larger base."""

from __future__ import annotations

from typing import Any

from gguffast.conversion.architecture import HEADS, Architecture, head_dim
from gguffast.conversion.blocks import ATTENTION, EMBEDDING, FEED_FORWARD_BLOCK, NORMS, norm
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import BASE, real, rope_theta, text, uint
from gguffast.conversion.vocab.files import Files, is_id

_CONTEXT = 1 << 18


def _is_stretched(h: Hparams) -> bool:
    return bool(h.rope.get("rope_type") == "dynamic")


def _context(h: Hparams) -> int:
    """Give what the factor below reaches: the configuration says too little."""
    said = h.integer("max_position_embeddings", 1)
    if not _is_stretched(h):
        return said
    if said not in (1 << 15, _CONTEXT) or rope_theta(h) != 10000.0:
        h.refuse("max_position_embeddings", f"{1 << 15} or {_CONTEXT}, and a rope_theta of 10000")
    return _CONTEXT


def _frequency_base(h: Hparams) -> float | None:
    base = rope_theta(h)
    if base is None or not _is_stretched(h):
        return base
    width, alpha = head_dim(h), h.rope.number("alpha", default=50.0)
    if width < 3 or not 0 < alpha < 1e9:
        h.refuse("rope_scaling", "an alpha above 0, for heads of 3 numbers or more")
    return float(base * alpha ** (width / (width - 2)))


def _when_stretched(value: Any) -> Any:
    return lambda h: value if _is_stretched(h) else None


def _renamed(name: str, h: Hparams) -> str | None:
    return None if name == "lm_head.weight" and h.get("tie_word_embeddings") else name


def _vocabulary(h: Hparams) -> dict[str, Any]:
    """Take the first of several tokens that end an answer for the end of a turn."""
    ends = Files(h.path.parent).json("generation_config.json").get("eos_token_id")
    first = ends[0] if isinstance(ends, list) and len(ends) > 1 else None
    return {"kinds": ("bpe",), "special_ids": [("eot", first)] if is_id(first) else ()}


ARCHITECTURES = (
    Architecture(
        hf_class="HunYuanDenseV1ForCausalLM",
        name="hunyuan-dense",
        defaults={
            "vocab_size": 290943,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        },
        tensors={
            **EMBEDDING,
            **NORMS,
            **ATTENTION,
            **FEED_FORWARD_BLOCK,
            "model.layers.{i}.self_attn.query_layernorm": norm("blk.{i}.attn_q_norm", head_dim),
            "model.layers.{i}.self_attn.key_layernorm": norm("blk.{i}.attn_k_norm", head_dim),
        },
        rename=_renamed,
        keys=(
            *BASE,
            uint("{arch}.context_length", _context),
            real("{arch}.rope.freq_base", _frequency_base),
            text("{arch}.rope.scaling.type", _when_stretched("none")),
            real("{arch}.rope.scaling.factor", _when_stretched(1.0)),
            uint("{arch}.rope.scaling.original_context_length", _when_stretched(_CONTEXT)),
        ),
        vocabulary=_vocabulary,
    ),
)

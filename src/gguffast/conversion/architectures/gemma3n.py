"""Gemma 3n (text): four streams through the layers (AltUp), low-rank residuals (Laurel)."""

from __future__ import annotations

from typing import Any

from gguffast.conversion.architecture import HIDDEN, Architecture, Rule, layers, size
from gguffast.conversion.architectures.gemma import FINAL_SOFTCAP
from gguffast.conversion.architectures.gemma4 import (
    PER_LAYER_TENSORS,
    is_sliding,
    per_layer_width,
    shared_layers,
)
from gguffast.conversion.blocks import (
    ATTENTION,
    EMBEDDING,
    HEAD_NORMS,
    gated_feed_forward,
    linear,
    norm,
)
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import BASE, SLIDING_WINDOW, array, by_layer, uint
from gguffast.conversion.steps import padded_to_vocabulary
from gguffast.gguf import GGUFValueType

_STREAMS, _RANK = size("altup_num_inputs"), size("laurel_rank")


def _other_streams(h: Hparams) -> int:
    return _STREAMS(h) - 1


def _width(h: Hparams) -> int:
    return h.integers("intermediate_size", layers(h), 1)[h.layer or 0]


def _same_widths(h: Hparams) -> Any:
    width = h.get("intermediate_size")
    return width if isinstance(width, list) else [16384 if width is None else width] * layers(h)


def _sparsity_scales(h: Hparams) -> list[float]:
    """Turn the share of activations that are zero into how far above the mean one has to lie to be none."""
    from statistics import NormalDist

    shares = h.numbers("activation_sparsity_pattern", layers(h))
    if not all(0 <= share < 1 for share in shares):
        h.refuse("activation_sparsity_pattern", "shares from 0 to less than 1")
    return [NormalDist().inv_cdf(share) if share else float("-inf") for share in shares]


_ATTENTION = "model.layers.{i}.self_attn"
_ALTUP = "model.layers.{i}.altup"
_TENSORS: dict[str, Rule | None] = {
    **EMBEDDING,
    "model.altup_projections.{i}": Rule("altup_proj", (HIDDEN, HIDDEN), stack=_other_streams),
    "model.altup_unembed_projections.{i}": Rule("altup_unembd_proj", (HIDDEN, HIDDEN), stack=_other_streams),
    **PER_LAYER_TENSORS,
    "model.embed_tokens_per_layer": Rule(
        "per_layer_token_embd",
        (size("vocab_size_per_layer_input"), lambda h: layers(h) * per_layer_width(h)),
        (padded_to_vocabulary,),
    ),
    **ATTENTION,
    **HEAD_NORMS,
    f"{_ALTUP}.correct_output_scale": Rule("blk.{i}.altup_correct_scale", (HIDDEN,)),
    f"{_ALTUP}.correction_coefs": linear("blk.{i}.altup_correct_coef", _STREAMS, _STREAMS),
    f"{_ALTUP}.modality_router": linear("blk.{i}.altup_router", _STREAMS, HIDDEN),
    f"{_ALTUP}.prediction_coefs": linear("blk.{i}.altup_predict_coef", lambda h: _STREAMS(h) ** 2, _STREAMS),
    f"{_ALTUP}.router_norm": norm("blk.{i}.altup_router_norm"),
    "model.layers.{i}.laurel.linear_left": linear("blk.{i}.laurel_l", _RANK, HIDDEN),
    "model.layers.{i}.laurel.linear_right": linear("blk.{i}.laurel_r", HIDDEN, _RANK),
    "model.layers.{i}.laurel.post_laurel_norm": norm("blk.{i}.laurel_post_norm"),
    "model.layers.{i}.input_layernorm": norm("blk.{i}.attn_norm"),
    "model.layers.{i}.post_attention_layernorm": norm("blk.{i}.post_attention_norm"),
    "model.layers.{i}.pre_feedforward_layernorm": norm("blk.{i}.ffn_norm"),
    "model.layers.{i}.post_feedforward_layernorm": norm("blk.{i}.post_ffw_norm"),
    **gated_feed_forward("model.layers.{i}.mlp", width=_width),
}

ARCHITECTURES = (
    Architecture(
        hf_class="Gemma3nForConditionalGeneration",
        name="gemma3n",
        defaults={
            "vocab_size": 262400,
            "vocab_size_per_layer_input": 262144,
            "hidden_size": 2048,
            "num_hidden_layers": 35,
            "intermediate_size": _same_widths,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "sliding_window": 512,
            "final_logit_softcapping": 30.0,
            "hidden_size_per_layer_input": 256,
            "num_kv_shared_layers": 15,
            "altup_active_idx": 0,
            "altup_num_inputs": 4,
            "laurel_rank": 64,
            "tie_word_embeddings": True,
        },
        tensors=_TENSORS,
        keys=(
            *BASE,
            FINAL_SOFTCAP,
            SLIDING_WINDOW,
            uint("{arch}.altup.active_idx", "altup_active_idx"),
            uint("{arch}.altup.num_inputs", "altup_num_inputs"),
            uint("{arch}.embedding_length_per_layer_input", per_layer_width),
            uint("{arch}.attention.shared_kv_layers", shared_layers),
            array("{arch}.activation_sparsity_scale", GGUFValueType.FLOAT32, _sparsity_scales),
            array("{arch}.attention.sliding_window_pattern", GGUFValueType.BOOL, by_layer(is_sliding)),
        ),
        vocabulary=lambda h: {"kinds": ("sentencepiece", "bpe"), "space_prefix": False},
    ),
)

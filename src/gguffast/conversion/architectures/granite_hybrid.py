"""Granite 4: Mamba 2 mixers in most layers, attention in the others; dense, or with experts.

The small ones have attention in every layer. They are of the same class, and Granite like those before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gguffast.conversion.architecture import HIDDEN, Architecture, Rule, kv_heads, layer_kind, size
from gguffast.conversion.architectures.granite import (
    DENSE,
    EXPERT_TENSORS,
    SHARED_EXPERT,
    SPARSE,
    shared_width,
)
from gguffast.conversion.architectures.mamba import UNLIMITED, Mixer
from gguffast.conversion.blocks import EMBEDDING, NORMS, PERMUTED_ATTENTION, linear, only, without
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import array, by_layer, flag, uint
from gguffast.gguf import GGUFValueType


def _attends(h: Hparams) -> bool:
    return layer_kind(h) == "attention"


_MIXER = Mixer(
    lambda h: h.integer("mamba_expand", 1) * HIDDEN(h),
    size("mamba_n_heads"),
    size("mamba_n_groups"),
    size("mamba_d_state"),
    size("mamba_d_conv"),
)
_SHARED = size("shared_intermediate_size")
_FEED_FORWARD: dict[str, Rule | None] = {
    "model.layers.{i}.shared_mlp.input_linear": Rule(
        ("blk.{i}.ffn_gate", "blk.{i}.ffn_up"), (size("shared_intermediate_size", 2), HIDDEN)
    ),
    "model.layers.{i}.shared_mlp.output_linear": linear("blk.{i}.ffn_down", HIDDEN, _SHARED),
}
_LAYERS: dict[str, Rule | None] = {
    **EMBEDDING,
    **NORMS,
    **only(_attends, PERMUTED_ATTENTION),
    **without(_attends, _MIXER.tensors("model.layers.{i}.mamba")),
}
_EXPERTS: dict[str, Rule | None] = {
    **EXPERT_TENSORS,
    **only(lambda h: shared_width(h) is not None, SHARED_EXPERT),
}
_MIXER_KEYS = (
    uint("{arch}.ssm.conv_kernel", _MIXER.kernel),
    uint("{arch}.ssm.state_size", _MIXER.state),
    uint("{arch}.ssm.group_count", _MIXER.groups),
    uint("{arch}.ssm.inner_size", _MIXER.inner),
    uint("{arch}.ssm.time_step_rank", _MIXER.heads),
    array(
        "{arch}.attention.head_count_kv",
        GGUFValueType.INT32,
        by_layer(lambda h: kv_heads(h) if _attends(h) else 0),
    ),
)
_HYBRID_KEYS = (
    *_MIXER_KEYS,
    flag("{arch}.rope.scaling.finetuned", False),
    uint("{arch}.context_length", lambda h: UNLIMITED),
)
_ATTENTION_KEYS = (*_MIXER_KEYS, flag("{arch}.rope.scaling.finetuned", True))


def _variant(config: Mapping[str, Any]) -> Architecture:
    kinds = config.get("layer_types")
    hybrid = not isinstance(kinds, list) or any(kind != "attention" for kind in kinds)
    sparse = bool(config.get("num_local_experts", 8))
    tensors = {**_LAYERS, **(_EXPERTS if sparse else _FEED_FORWARD)}
    keys = (*SPARSE.keys, *(_HYBRID_KEYS if hybrid else _ATTENTION_KEYS))
    # Without mixers the name is by how many experts a token has, as the reference's is.
    routed = bool(config.get("num_experts_per_tok", 2))
    name = "granitehybrid" if hybrid else "granitemoe" if routed else "granite"
    multiple = 8 if hybrid else 1
    return replace(
        _HYBRID,
        name=name,
        tensors=tensors,
        keys=keys,
        vocabulary=lambda h: {"kinds": ("sentencepiece", "bpe"), "multiple": multiple},
    )


_HYBRID = replace(
    DENSE,
    hf_class="GraniteMoeHybridForCausalLM",
    name="granitehybrid",
    defaults={
        **SPARSE.defaults,
        "shared_intermediate_size": 1024,
        "mamba_n_heads": 128,
        "mamba_n_groups": 1,
        "mamba_d_state": 256,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
    },
    variant=_variant,
)

ARCHITECTURES = (_HYBRID,)

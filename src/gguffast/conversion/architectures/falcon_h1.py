"""Falcon-H1: attention and a Mamba 2 mixer side by side, with multipliers that go into the weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from gguffast.conversion.architecture import (
    FEED_FORWARD,
    HEADS,
    HIDDEN,
    Architecture,
    Rule,
    Step,
    head_dim,
    kv_heads,
    layers,
    size,
)
from gguffast.conversion.architectures.mamba import Mixer
from gguffast.conversion.blocks import ATTENTION, EMBEDDING, gated_feed_forward, norm
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import ROPE_FREQ_BASE, VOCABULARY_SIZE, file_type, real, uint
from gguffast.sources import lazy
from gguffast.sources.lazy import LazyTensor

_LAYER = "model.layers.{i}"
Factor = Callable[[Hparams], float]


def _mixer_heads(h: Hparams) -> int:
    if _INNER(h) % _HEAD_WIDTH(h):
        h.refuse("mamba_d_head", f"a divisor of {_INNER(h)}, the width of the mixer")
    return _INNER(h) // _HEAD_WIDTH(h)


def _has_norm(h: Hparams) -> bool:
    return h.flag("mamba_rms_norm")


_INNER, _HEAD_WIDTH = size("mamba_d_ssm"), size("mamba_d_head")
_MIXER = Mixer(_INNER, _mixer_heads, size("mamba_n_groups"), size("mamba_d_state"), size("mamba_d_conv"))


def _of(key: str) -> Factor:
    return lambda h: h.number(key)


def _times(tensor: LazyTensor, factor: float) -> LazyTensor:
    return lazy.map_f32(tensor, lambda values: values * np.float32(factor))


def _scaled(*factors: Factor) -> Step:
    """Multiply by one factor after the other; each product is rounded, as the reference's is."""

    def step(tensor: LazyTensor, h: Hparams) -> LazyTensor:
        for factor in factors:
            tensor = _times(tensor, factor(h))
        return tensor

    return step


def _scaled_bands(tensor: LazyTensor, h: Hparams) -> LazyTensor:
    """Multiply the parts of the projection: gate, input, into the state and out of it, time step."""
    inner, state = _INNER(h), _MIXER.groups(h) * _MIXER.state(h)
    ends = itertools.accumulate((inner, inner, state, state, _MIXER.heads(h)), initial=0)
    bands = zip(itertools.pairwise(ends), h.numbers("ssm_multipliers", 5), strict=True)
    return lazy.concat_rows([_times(lazy.slice_rows(tensor, a, b), factor) for (a, b), factor in bands])


_IN = _of("attention_in_multiplier")
_STEPS: dict[str, tuple[Step, ...]] = {
    "model.embed_tokens": (_scaled(_of("embedding_multiplier")),),
    "lm_head": (_scaled(_of("lm_head_multiplier")),),
    f"{_LAYER}.self_attn.q_proj": (_scaled(_IN),),
    f"{_LAYER}.self_attn.k_proj": (_scaled(_of("key_multiplier"), _IN),),
    f"{_LAYER}.self_attn.v_proj": (_scaled(_IN),),
    f"{_LAYER}.self_attn.o_proj": (_scaled(_of("attention_out_multiplier")),),
    f"{_LAYER}.feed_forward.gate_proj": (_scaled(lambda h: h.numbers("mlp_multipliers", 2)[0]),),
    f"{_LAYER}.feed_forward.down_proj": (_scaled(lambda h: h.numbers("mlp_multipliers", 2)[1]),),
    f"{_LAYER}.mamba.in_proj": (_scaled(_of("ssm_in_multiplier")), _scaled_bands),
    f"{_LAYER}.mamba.out_proj": (_scaled(_of("ssm_out_multiplier")),),
}


def _with_steps(rules: dict[str, Rule | None]) -> dict[str, Rule | None]:
    return {name: rule and rule._replace(steps=_STEPS.get(name, rule.steps)) for name, rule in rules.items()}


_TENSORS: dict[str, Rule | None] = {
    **{name: rule for name, rule in EMBEDDING.items() if name != "model.norm"},
    "model.final_layernorm": norm("output_norm"),
    f"{_LAYER}.input_layernorm": norm("blk.{i}.attn_norm"),
    f"{_LAYER}.pre_ff_layernorm": norm("blk.{i}.ffn_norm")._replace(ending=""),
    **ATTENTION,
    **gated_feed_forward(f"{_LAYER}.feed_forward"),
    **_MIXER.tensors(f"{_LAYER}.mamba", normed=_has_norm),
}


def _rename(name: str, h: Hparams) -> str:
    # The reference writes this norm without an ending, and llama.cpp looks for it like that.
    return name.replace("pre_ff_layernorm.weight", "pre_ff_layernorm")


ARCHITECTURES = (
    Architecture(
        hf_class="FalconH1ForCausalLM",
        name="falcon-h1",
        defaults={
            "vocab_size": 128000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": lambda h: HIDDEN(h) // HEADS(h),
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100000.0,
            "mamba_d_ssm": 1024,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 256,
            "mamba_d_conv": 4,
            "mamba_rms_norm": False,
            "lm_head_multiplier": 1.0,
            "embedding_multiplier": 1.0,
            "mlp_multipliers": [1.0, 1.0],
            "attention_out_multiplier": 1.0,
            "attention_in_multiplier": 1.0,
            "key_multiplier": 1.0,
            "ssm_multipliers": [1.0] * 5,
            "ssm_in_multiplier": 1.0,
            "ssm_out_multiplier": 1.0,
            "tie_word_embeddings": False,
        },
        tensors=_with_steps(_TENSORS),
        rename=_rename,
        keys=(
            uint("{arch}.context_length", "max_position_embeddings"),
            uint("{arch}.embedding_length", HIDDEN),
            uint("{arch}.feed_forward_length", FEED_FORWARD),
            uint("{arch}.attention.head_count", HEADS),
            uint("{arch}.block_count", layers),
            uint("{arch}.ssm.conv_kernel", _MIXER.kernel),
            uint("{arch}.ssm.inner_size", _MIXER.inner),
            uint("{arch}.ssm.state_size", _MIXER.state),
            uint("{arch}.ssm.time_step_rank", _MIXER.heads),
            uint("{arch}.ssm.group_count", _MIXER.groups),
            real("{arch}.attention.layer_norm_rms_epsilon", "rms_norm_eps"),
            file_type,
            VOCABULARY_SIZE,
            uint("{arch}.attention.head_count_kv", kv_heads),
            uint("{arch}.attention.key_length", head_dim),
            uint("{arch}.attention.value_length", head_dim),
            ROPE_FREQ_BASE,
        ),
    ),
)

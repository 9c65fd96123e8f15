"""Mamba and Mamba 2, and the mixer of the second, which hybrids have in some of their layers."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from gguffast.conversion.architecture import (
    HIDDEN,
    VOCABULARY,
    Architecture,
    Rule,
    Size,
    When,
    classes,
    layers,
    one,
    size,
)
from gguffast.conversion.blocks import linear, norm
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import file_type, flag, real, uint
from gguffast.conversion.steps import as_column, grouped, minus_exp, squeeze

UNLIMITED = 1 << 20
"""Context length of what has none: the reference's choice."""


class Mixer(NamedTuple):
    """Sizes of a Mamba 2 mixer."""

    inner: Size
    heads: Size
    groups: Size
    state: Size
    kernel: Size

    def convolved(self, h: Hparams) -> int:
        """Count the channels of the convolution: the inner ones, and what goes into and out of the state."""
        return self.inner(h) + 2 * self.groups(h) * self.state(h)

    def projected(self, h: Hparams) -> int:
        """Count the rows of the projection into the mixer: a gate, the channels, a time step a head."""
        return self.inner(h) + self.convolved(h) + self.heads(h)

    def tensors(self, prefix: str, normed: When | None = None) -> dict[str, Rule | None]:
        """Declare the mixer's tensors below `prefix`; `normed` says whether it has a norm; None: it has."""
        return {
            f"{prefix}.A_log": Rule("blk.{i}.ssm_a", (self.heads,), (minus_exp, as_column), ending=""),
            f"{prefix}.D": Rule("blk.{i}.ssm_d", (self.heads,), (as_column,), ending=""),
            f"{prefix}.dt_bias": Rule("blk.{i}.ssm_dt", (self.heads,), ending=".bias"),
            f"{prefix}.conv1d": Rule("blk.{i}.ssm_conv1d", (self.convolved, one, self.kernel), (squeeze,)),
            f"{prefix}.in_proj": linear("blk.{i}.ssm_in", self.projected, HIDDEN),
            f"{prefix}.norm": Rule("blk.{i}.ssm_norm", (self.inner,), (grouped(self.groups),), when=normed),
            f"{prefix}.out_proj": linear("blk.{i}.ssm_out", HIDDEN, self.inner),
        }


def _inner(h: Hparams) -> int:
    return h.integer("expand", 1) * HIDDEN(h)


def _heads(h: Hparams) -> int:
    if _inner(h) % h.integer("head_dim", 1):
        h.refuse("head_dim", f"a divisor of {_inner(h)}, the width of the mixer")
    return _inner(h) // h.integer("head_dim", 1)


def _epsilon(h: Hparams) -> float:
    return h.number("layer_norm_epsilon", default=None) or h.number("rms_norm_eps", default=None) or 1e-5


_MIXER = Mixer(_inner, _heads, size("n_groups"), size("state_size"), size("conv_kernel"))


def _rename(name: str, h: Hparams) -> str:
    return name.removeprefix("model.")


_MAMBA2 = Architecture(
    hf_class="Mamba2ForCausalLM",
    name="mamba2",
    # The reference fills these in by itself; it does not ask the class.
    defaults={
        "hidden_size": lambda h: h.integer("d_model", 1),
        "expand": 2,
        "head_dim": 64,
        "n_groups": 1,
        "state_size": 128,
        "conv_kernel": 4,
    },
    tensors={
        "backbone.embeddings": linear("token_embd", VOCABULARY, HIDDEN),
        "backbone.layers.{i}.norm": norm("blk.{i}.attn_norm"),
        **_MIXER.tensors("backbone.layers.{i}.mixer"),
        "backbone.norm_f": norm("output_norm"),
        "lm_head": Rule("output", (VOCABULARY, HIDDEN), optional=True),
    },
    keys=(
        uint("{arch}.context_length", lambda h: UNLIMITED),
        uint("{arch}.embedding_length", HIDDEN),
        uint("{arch}.feed_forward_length", lambda h: 0),
        uint("{arch}.attention.head_count", lambda h: 0),
        uint("{arch}.block_count", layers),
        uint("{arch}.ssm.conv_kernel", _MIXER.kernel),
        uint("{arch}.ssm.inner_size", _MIXER.inner),
        uint("{arch}.ssm.state_size", _MIXER.state),
        uint("{arch}.ssm.time_step_rank", _MIXER.heads),
        uint("{arch}.ssm.group_count", _MIXER.groups),
        real("{arch}.attention.layer_norm_rms_epsilon", _epsilon),
        file_type,
    ),
    rename=_rename,
    vocabulary=lambda h: {
        "kinds": ("sentencepiece", "bpe"),
        "multiple": h.integer("pad_vocab_size_multiple", 1, 1 << 16, default=16),
    },
)

# --- Mamba 1: a row of the state's numbers for each channel, time steps from a narrow projection ------------


def _width(h: Hparams) -> int:
    return h.integer("intermediate_size", 1, default=None) or 2 * HIDDEN(h)


def _rank(h: Hparams) -> int:
    return h.integer("time_step_rank", 1, default=None) or -(-HIDDEN(h) // 16)


def _without_tied_head(name: str, h: Hparams) -> str | None:
    return None if name == "lm_head.weight" and h.flag("tie_word_embeddings") else name


_STATE, _KERNEL, _LAYER = size("state_size"), size("conv_kernel"), "backbone.layers.{i}"
_MAMBA = replace(
    _MAMBA2,
    hf_class="MambaForCausalLM",
    name="mamba",
    defaults={"state_size": 16, "conv_kernel": 4, "tie_word_embeddings": True},
    tensors={
        "backbone.embeddings": linear("token_embd", VOCABULARY, HIDDEN),
        f"{_LAYER}.norm": norm("blk.{i}.attn_norm"),
        f"{_LAYER}.mixer.A_log": Rule("blk.{i}.ssm_a", (_width, _STATE), (minus_exp,), ending=""),
        f"{_LAYER}.mixer.D": Rule("blk.{i}.ssm_d", (_width,), ending=""),
        f"{_LAYER}.mixer.conv1d": Rule("blk.{i}.ssm_conv1d", (_width, one, _KERNEL), (squeeze,)),
        f"{_LAYER}.mixer.in_proj": linear("blk.{i}.ssm_in", lambda h: 2 * _width(h), HIDDEN),
        f"{_LAYER}.mixer.x_proj": linear("blk.{i}.ssm_x", lambda h: _rank(h) + 2 * _STATE(h), _width),
        f"{_LAYER}.mixer.dt_proj": linear("blk.{i}.ssm_dt", _width, _rank, bias=True),
        f"{_LAYER}.mixer.out_proj": linear("blk.{i}.ssm_out", HIDDEN, _width),
        "backbone.norm_f": norm("output_norm"),
        "lm_head": Rule("output", (VOCABULARY, HIDDEN), optional=True),
    },
    keys=(
        uint("{arch}.context_length", lambda h: UNLIMITED),
        uint("{arch}.embedding_length", HIDDEN),
        uint("{arch}.feed_forward_length", lambda h: 0),
        uint("{arch}.attention.head_count", lambda h: 0),
        uint("{arch}.block_count", layers),
        uint("{arch}.ssm.conv_kernel", _KERNEL),
        uint("{arch}.ssm.inner_size", _width),
        uint("{arch}.ssm.state_size", _STATE),
        uint("{arch}.ssm.time_step_rank", _rank),
        real("{arch}.attention.layer_norm_rms_epsilon", _epsilon),
        flag("{arch}.ssm.dt_b_c_rms", lambda h: h.get("model_type") == "falcon_mamba"),
        file_type,
    ),
    rename=_without_tied_head,
    vocabulary=lambda h: {
        "kinds": ("bpe", "sentencepiece"),
        "multiple": h.integer("pad_vocab_size_multiple", 1, 1 << 16, default=8),
    },
)

ARCHITECTURES = (_MAMBA2, *classes(_MAMBA, "MambaForCausalLM", "FalconMambaForCausalLM"))

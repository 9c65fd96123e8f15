"""Mamba 2, and the mixer that the hybrids have in some of their layers, too."""

from __future__ import annotations

from typing import NamedTuple

from gguffast.conversion.architecture import (
    HIDDEN,
    VOCABULARY,
    Architecture,
    Rule,
    Size,
    When,
    layers,
    one,
    size,
)
from gguffast.conversion.blocks import linear, norm
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import file_type, real, uint
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


ARCHITECTURES = (
    Architecture(
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
    ),
)

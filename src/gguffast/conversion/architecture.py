"""The small language in which a model family is declared: tensor rules and metadata keys.

An architecture file (see ``architectures/``) says which Hugging Face classes it covers, what each of their
tensors is called in GGUF and which shape it has, and which configuration values become which metadata keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from gguffast.conversion.hparams import Default, Hparams
from gguffast.documents import FLOAT32_MAX, UINT32_MAX
from gguffast.errors import FormatError, OptionError
from gguffast.gguf import KV, GGUFValueType, kv

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Size = Callable[[Hparams], int]


class Rule(NamedTuple):
    """What becomes of one tensor (pattern) of a checkpoint.

    Attributes
    ----------
    name : str or tuple of str
        GGUF name without its ending; several names split the rows of each matrix evenly.
    shape : tuple of Size
        Expected shape, NumPy order. A bias has the first size alone.
    heads : Size, optional
        Number of heads whose rows are reordered from half-split to interleaved rotary order.
    plus_one : bool
        Whether 1 is added (Gemma stores norms as offsets from 1).
    cut_rows : bool
        Whether rows beyond the tokenizer's vocabulary are left out.
    bias : bool
        Whether a ``.bias`` has to be there; without it one is taken if it is there.
    optional : bool
        Whether the tensor may be missing.
    """

    name: str | tuple[str, ...]
    shape: tuple[Size, ...]
    heads: Size | None = None
    plus_one: bool = False
    cut_rows: bool = False
    bias: bool = False
    optional: bool = False


class Generated(NamedTuple):
    """A tensor that comes from the configuration: GGUF name and float32 values."""

    name: str
    values: NDArray[np.float32]


class Facts(NamedTuple):
    """What a metadata key may be made of."""

    name: str
    """``general.architecture``."""
    hparams: Hparams
    file_type: int


Key = Callable[[Facts], Iterator[KV]]


@dataclass(frozen=True)
class Architecture:
    """One Hugging Face model class.

    Attributes
    ----------
    hf_class : str
        First of ``architectures`` in config.json.
    name : str
        ``general.architecture``.
    tensors : mapping of str to Rule or None
        By Hugging Face name without ``.weight``; ``{i}`` stands for the layer, ``{e}`` for the expert.
        Experts are stacked in the order of their numbers. None: known, and left out.
    keys : sequence of Key
        Metadata from ``general.type`` on, in file order.
    defaults : mapping
        See :class:`Hparams`.
    early_keys : sequence of Key
        Metadata that stands right after ``general.architecture``.
    ignored : sequence of str
        Configuration keys that the class does not look at.
    generated : callable
        Tensors that come from the configuration; they stand first.
    experts : Size, optional
        Number of experts, where tensors have an ``{e}``.
    vocabulary : callable
        What the family asks of the tokenizer's reader: keyword arguments of
        :func:`gguffast.conversion.vocab.load_vocab`.
    """

    hf_class: str
    name: str
    tensors: Mapping[str, Rule | None]
    keys: Sequence[Key]
    defaults: Mapping[str, Default] = field(default_factory=dict)
    early_keys: Sequence[Key] = ()
    ignored: Sequence[str] = ()
    generated: Callable[[Hparams], Iterator[Generated]] = lambda hparams: iter(())
    experts: Size | None = None
    vocabulary: Callable[[Hparams], dict[str, Any]] = lambda hparams: {"kinds": ("bpe",)}


MAX_LAYERS = 512
"""As many as llama.cpp loads (``LLAMA_MAX_LAYERS``)."""

MAX_WIDTH = 1 << 16
"""Widest head of attention; real ones have up to 576 numbers."""

# Sizes


def size(key: str, times: int = 1) -> Size:
    """Take a size from the configuration."""
    return lambda h: h.integer(key, 1) * times


def one(h: Hparams) -> int:
    """Be the size 1."""
    return 1


def head_dim(h: Hparams) -> int:
    """Width of one attention head."""
    if h.get("head_dim") is None:
        return HIDDEN(h) // HEADS(h)
    return h.integer("head_dim", 1, MAX_WIDTH)


def kv_heads(h: Hparams) -> int:
    """Heads of keys and values; as many as queries have, if the configuration does not say."""
    return HEADS(h) if h.get("num_key_value_heads") is None else h.integer("num_key_value_heads", 1)


def query_width(h: Hparams) -> int:
    """Width of all query heads together."""
    return HEADS(h) * head_dim(h)


def kv_width(h: Hparams) -> int:
    """Width of all key heads together."""
    return kv_heads(h) * head_dim(h)


def layers(h: Hparams) -> int:
    """Count the layers."""
    return h.integer("num_hidden_layers", 1, MAX_LAYERS)


HEADS = size("num_attention_heads")
HIDDEN = size("hidden_size")
FEED_FORWARD = size("intermediate_size")
VOCABULARY = size("vocab_size")


# Tensor rules


def linear(name: str, rows: Size, columns: Size, *, bias: bool = False) -> Rule:
    """Declare a matrix that is written as it is."""
    return Rule(name, (rows, columns), bias=bias)


def permuted(name: str, rows: Size, columns: Size, heads: Size) -> Rule:
    """Declare a query or key projection, whose rows go from half-split to interleaved rotary order."""
    return Rule(name, (rows, columns), heads=heads)


def norm(name: str, width: Size = HIDDEN, *, plus_one: bool = False) -> Rule:
    """Declare a vector of norm weights."""
    return Rule(name, (width,), plus_one=plus_one)


EMBEDDING = {
    "model.embed_tokens": linear("token_embd", VOCABULARY, HIDDEN),
    "model.norm": norm("output_norm"),
    "lm_head": Rule("output", (VOCABULARY, HIDDEN), optional=True),
}
NORMS = {
    "model.layers.{i}.input_layernorm": norm("blk.{i}.attn_norm"),
    "model.layers.{i}.post_attention_layernorm": norm("blk.{i}.ffn_norm"),
}
ATTENTION = {
    "model.layers.{i}.self_attn.q_proj": linear("blk.{i}.attn_q", query_width, HIDDEN),
    "model.layers.{i}.self_attn.k_proj": linear("blk.{i}.attn_k", kv_width, HIDDEN),
    "model.layers.{i}.self_attn.v_proj": linear("blk.{i}.attn_v", kv_width, HIDDEN),
    "model.layers.{i}.self_attn.o_proj": linear("blk.{i}.attn_output", HIDDEN, query_width),
}
PERMUTED_ATTENTION = {
    **ATTENTION,
    "model.layers.{i}.self_attn.q_proj": permuted("blk.{i}.attn_q", query_width, HIDDEN, HEADS),
    "model.layers.{i}.self_attn.k_proj": permuted("blk.{i}.attn_k", kv_width, HIDDEN, kv_heads),
}
HEAD_NORMS = {
    "model.layers.{i}.self_attn.q_norm": norm("blk.{i}.attn_q_norm", head_dim),
    "model.layers.{i}.self_attn.k_norm": norm("blk.{i}.attn_k_norm", head_dim),
}


def gated_feed_forward(prefix: str, suffix: str = "", width: Size = FEED_FORWARD) -> dict[str, Rule]:
    """Declare the matrices of a gated feed-forward block below `prefix`; `suffix` ends their GGUF names."""
    return {
        f"{prefix}.gate_proj": linear(f"blk.{{i}}.ffn_gate{suffix}", width, HIDDEN),
        f"{prefix}.up_proj": linear(f"blk.{{i}}.ffn_up{suffix}", width, HIDDEN),
        f"{prefix}.down_proj": linear(f"blk.{{i}}.ffn_down{suffix}", HIDDEN, width),
    }


FEED_FORWARD_BLOCK = gated_feed_forward("model.layers.{i}.mlp")


# Metadata keys


def uint(name: str, value: str | Callable[[Hparams], int | None]) -> Key:
    """Declare an unsigned 32-bit key: a configuration value, or made from several; null leaves it out."""

    def key(facts: Facts) -> Iterator[KV]:
        h = facts.hparams
        number = h.integer(value, default=None) if isinstance(value, str) else value(h)
        if number is not None:
            if not 0 <= number <= UINT32_MAX:
                raise _impossible(h, name, facts)
            yield kv(name.format(arch=facts.name), number, GGUFValueType.UINT32)

    return key


def real(name: str, value: str | Callable[[Hparams], float | None], *, unless_zero: bool = False) -> Key:
    """Declare a float32 key, likewise."""

    def key(facts: Facts) -> Iterator[KV]:
        h = facts.hparams
        number = h.number(value, default=None) if isinstance(value, str) else value(h)
        if number is not None and not (unless_zero and number == 0):
            if not abs(number) <= FLOAT32_MAX:
                raise _impossible(h, name, facts)
            yield kv(name.format(arch=facts.name), number, GGUFValueType.FLOAT32)

    return key


def _impossible(h: Hparams, name: str, facts: Facts) -> FormatError:
    return FormatError(
        f"{h.path}: its values make {name.format(arch=facts.name)} a number that no file can hold"
    )


def file_type(facts: Facts) -> Iterator[KV]:
    """``general.file_type``."""
    yield kv("general.file_type", facts.file_type, GGUFValueType.UINT32)


def causal(facts: Facts) -> Iterator[KV]:
    """Say so if attention is not causal."""
    if facts.hparams.get("is_causal") is False:
        yield kv(f"{facts.name}.attention.causal", False, GGUFValueType.BOOL)


_YARN = (
    ("yarn_ext_factor", ("extrapolation_factor",)),
    ("yarn_attn_factor", ("attention_factor", "attn_factor")),
    ("yarn_beta_fast", ("beta_fast",)),
    ("yarn_beta_slow", ("beta_slow",)),
)


def rope_scaling(facts: Facts) -> Iterator[KV]:
    """How positions are stretched. Llama 3's way lives in a tensor instead (:func:`llama3_rope`)."""
    h, prefix = facts.hparams, f"{facts.name}.rope.scaling"
    kind = str(h.rope.get("rope_type") or "default").lower()
    if kind in ("default", "none", "llama3", "dynamic"):
        return
    if kind in ("su", "longrope"):
        yield kv(f"{prefix}.type", "longrope", GGUFValueType.STRING)
        return
    if kind not in ("linear", "yarn"):
        raise OptionError(
            f'{h.path}: rope type "{kind}" is not supported; known: linear, yarn, longrope, llama3, dynamic'
        )
    yield kv(f"{prefix}.type", kind, GGUFValueType.STRING)
    yield kv(f"{prefix}.factor", h.rope.number("factor"), GGUFValueType.FLOAT32)
    if kind == "linear":
        return
    context = h.rope.integer("original_max_position_embeddings")
    yield kv(f"{prefix}.original_context_length", context, GGUFValueType.UINT32)
    for name, keys in _YARN:
        key = next((key for key in keys if h.rope.get(key) is not None), None)
        if key:
            yield kv(f"{prefix}.{name}", h.rope.number(key), GGUFValueType.FLOAT32)


def rope_theta(h: Hparams) -> float | None:
    """Give the base frequency of the rotary embedding."""
    return h.rope.number("rope_theta", default=None)


def rope_theta_local(h: Hparams) -> float | None:
    """Give the base frequency in sliding-window layers."""
    return h.rope_theta_local


CONTEXT_LENGTH = uint("{arch}.context_length", "max_position_embeddings")
EMBEDDING_LENGTH = uint("{arch}.embedding_length", HIDDEN)
BLOCK_COUNT = uint("{arch}.block_count", layers)
FEED_FORWARD_LENGTH = uint("{arch}.feed_forward_length", FEED_FORWARD)
HEAD_COUNT = uint("{arch}.attention.head_count", HEADS)
HEAD_COUNT_KV = uint("{arch}.attention.head_count_kv", kv_heads)
RMS_EPSILON = real("{arch}.attention.layer_norm_rms_epsilon", "rms_norm_eps")
ROPE_FREQ_BASE = real("{arch}.rope.freq_base", rope_theta)
ROPE_DIMENSIONS = uint("{arch}.rope.dimension_count", head_dim)
KEY_LENGTH = uint("{arch}.attention.key_length", "head_dim")
VALUE_LENGTH = uint("{arch}.attention.value_length", "head_dim")
VOCABULARY_SIZE = uint("{arch}.vocab_size", VOCABULARY)


def expert_keys(experts: Size) -> tuple[Key, Key]:
    """How many experts there are, and how many work on a token."""
    return uint("{arch}.expert_count", experts), uint("{arch}.expert_used_count", "num_experts_per_tok")


def base_keys(*experts: Key) -> tuple[Key, ...]:
    """Give the block of keys that most families share, with those about experts in their place."""
    return (
        BLOCK_COUNT,
        CONTEXT_LENGTH,
        EMBEDDING_LENGTH,
        FEED_FORWARD_LENGTH,
        HEAD_COUNT,
        HEAD_COUNT_KV,
        causal,
        rope_scaling,
        ROPE_FREQ_BASE,
        real("{arch}.rope.freq_base_swa", rope_theta_local),
        RMS_EPSILON,
        *experts,
        KEY_LENGTH,
        VALUE_LENGTH,
        file_type,
    )


# Tensors that come from the configuration


def llama3_rope(h: Hparams) -> Iterator[Generated]:
    """Make Llama 3's frequency factors: 1 for short waves, `factor` for long ones, a blend in between."""
    if str(h.rope.get("rope_type") or "").lower() != "llama3":
        return
    import numpy as np

    width = head_dim(h)
    theta, factor = h.rope.number("rope_theta", default=10000.0), h.rope.number("factor", default=8.0)
    low, high = h.rope.number("low_freq_factor", default=1.0), h.rope.number("high_freq_factor", default=4.0)
    context = h.rope.number("original_max_position_embeddings", default=8192.0)
    # Beyond these bounds float32 overflows somewhere; no model comes near them.
    if not (1 <= theta < 1e30 and 0 < factor < 1e30 and 0 < low < high < 1e30 and 0 < context < 1e30):
        raise FormatError(
            f"{h.path}: rope_scaling: expected positive factors, and high_freq_factor above low_freq_factor"
        )
    f32 = np.float32
    exponents = np.arange(0, width, 2, dtype=f32) / f32(width)
    frequencies = f32(1) / np.power(theta, exponents.astype(np.float64)).astype(f32)
    # PyTorch, which the reference uses, divides a number by a tensor by multiplying with its reciprocal.
    waves = f32(1) / frequencies * f32(2 * math.pi)
    smooth = (f32(1) / waves * f32(context) - f32(low)) / f32(high - low)
    blend = f32(1) / ((f32(1) - smooth) / f32(factor) + smooth)
    values = np.where(
        waves < f32(context / high), f32(1), np.where(waves > f32(context / low), f32(factor), blend)
    )
    yield Generated("rope_freqs.weight", values.astype(f32))

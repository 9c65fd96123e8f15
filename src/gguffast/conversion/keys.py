"""Metadata keys that configuration values become, and the block of them that most families share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from gguffast.conversion.architecture import (
    FEED_FORWARD,
    HEADS,
    HIDDEN,
    VOCABULARY,
    Facts,
    Generated,
    Key,
    blocks,
    head_dim,
    kv_heads,
    layers,
)
from gguffast.conversion.hparams import Hparams
from gguffast.documents import FLOAT32_MAX, UINT32_MAX, shown
from gguffast.errors import FormatError, OptionError
from gguffast.gguf import KV, GGUFValueType, kv


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


def flag(name: str, value: bool | str | Callable[[Hparams], bool | None]) -> Key:
    """Declare a yes or no: as it is, a configuration value, or made from several; null leaves it out."""

    def key(facts: Facts) -> Iterator[KV]:
        h = facts.hparams
        found = h.flag(value, default=None) if isinstance(value, str) else value
        found = found(h) if callable(found) else found
        if found is not None:
            yield kv(name.format(arch=facts.name), found, GGUFValueType.BOOL)

    return key


def text(name: str, value: Callable[[Hparams], str | None]) -> Key:
    """Declare a key that is text; None leaves it out."""

    def key(facts: Facts) -> Iterator[KV]:
        found = value(facts.hparams)
        if found is not None:
            yield kv(name.format(arch=facts.name), found, GGUFValueType.STRING)

    return key


def array(name: str, item: GGUFValueType, value: Callable[[Hparams], list[Any] | None]) -> Key:
    """Declare a list, usually with one item for each layer; None leaves it out."""

    def key(facts: Facts) -> Iterator[KV]:
        found = value(facts.hparams)
        if found is not None:
            yield kv(name.format(arch=facts.name), found, GGUFValueType.ARRAY, item)

    return key


def by_layer(value: Callable[[Hparams], Any]) -> Callable[[Hparams], list[Any]]:
    """Ask for a value in every layer, those for multi-token prediction included."""
    return lambda h: [value(h.at(layer)) for layer in range(blocks(h))]


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
            f"{h.path}: rope type {shown(kind)} is not supported; "
            "known: linear, yarn, longrope, llama3, dynamic"
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


def rope_sections(facts: Facts) -> Iterator[KV]:
    """How the rotary dimensions are shared out to time, height and width; four numbers always."""
    groups = facts.hparams.rope_groups
    if groups.get("mrope_section") is None:
        return
    count = len(groups.items("mrope_section"))
    sections = [*groups.integers("mrope_section", min(count, 16)), 0, 0, 0, 0][:4]
    yield kv(f"{facts.name}.rope.dimension_sections", sections, GGUFValueType.ARRAY, GGUFValueType.INT32)


def rope_theta(h: Hparams) -> float | None:
    """Give the base frequency of the rotary embedding."""
    return h.rope.number("rope_theta", default=None)


def rope_theta_local(h: Hparams) -> float | None:
    """Give the base frequency in sliding-window layers."""
    return h.rope_theta_local


def any_of(*keys: str) -> Callable[[Hparams], int | None]:
    """Take the first of several keys that is there, whatever it holds."""

    def value(h: Hparams) -> int | None:
        key = next((key for key in keys if key in h.values), None)
        return None if key is None else h.integer(key, default=None)

    return value


_GATING_KEYS = (
    *("score_function", "scoring_func", "score_func", "moe_router_activation"),
    *("moe_router_activation_func", "expert_selection_fn"),
)
_GATING = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}  # numbers of llama_expert_gating_func_type


def expert_gating(facts: Facts) -> Iterator[KV]:
    """Say what makes weights of the router's numbers."""
    h = facts.hparams
    key = next((name for name in _GATING_KEYS if name in h.values), None)
    kind = h.text(key, default=None) if key else None
    if key is None or kind is None:
        return
    if kind not in _GATING:
        h.refuse(key, f"one of {', '.join(_GATING)}")
    yield kv(f"{facts.name}.expert_gating_func", _GATING[kind], GGUFValueType.UINT32)


_FEED_FORWARD_KEYS = ("prefix_dense_intermediate_size", "dense_intermediate_size", "intermediate_size")


def feed_forward_length(facts: Facts) -> Iterator[KV]:
    """Say how wide the feed-forward blocks are: one width, or one for each layer."""
    h, name = facts.hparams, "{arch}.feed_forward_length"
    key = next((key for key in _FEED_FORWARD_KEYS if isinstance(h.get(key), list)), None)
    if key is None:
        yield from uint(name, any_of(*_FEED_FORWARD_KEYS))(facts)
    else:
        widths = h.integers(key, layers(h), 1)
        yield kv(name.format(arch=facts.name), widths, GGUFValueType.ARRAY, GGUFValueType.INT32)


def _shared_heads(h: Hparams) -> int | None:
    return kv_heads(h) if "num_key_value_heads" in h.values else None


CONTEXT_LENGTH = uint("{arch}.context_length", "max_position_embeddings")
EMBEDDING_LENGTH = uint("{arch}.embedding_length", HIDDEN)
BLOCK_COUNT = uint("{arch}.block_count", blocks)
FEED_FORWARD_LENGTH = uint("{arch}.feed_forward_length", FEED_FORWARD)
HEAD_COUNT = uint("{arch}.attention.head_count", HEADS)
HEAD_COUNT_KV = uint("{arch}.attention.head_count_kv", kv_heads)
RMS_EPSILON = real("{arch}.attention.layer_norm_rms_epsilon", "rms_norm_eps")
NORM_EPSILON = real("{arch}.attention.layer_norm_epsilon", "layer_norm_eps")
ROPE_FREQ_BASE = real("{arch}.rope.freq_base", rope_theta)
ROPE_DIMENSIONS = uint("{arch}.rope.dimension_count", head_dim)
KEY_LENGTH = uint("{arch}.attention.key_length", "head_dim")
VALUE_LENGTH = uint("{arch}.attention.value_length", "head_dim")
VOCABULARY_SIZE = uint("{arch}.vocab_size", VOCABULARY)
SLIDING_WINDOW = uint("{arch}.attention.sliding_window", "sliding_window")
EXPERT_FEED_FORWARD_LENGTH = uint("{arch}.expert_feed_forward_length", "moe_intermediate_size")

BASE: tuple[Key, ...] = (
    BLOCK_COUNT,
    CONTEXT_LENGTH,
    EMBEDDING_LENGTH,
    feed_forward_length,
    uint("{arch}.attention.head_count", "num_attention_heads"),
    uint("{arch}.attention.head_count_kv", _shared_heads),
    causal,
    rope_scaling,
    rope_sections,
    ROPE_FREQ_BASE,
    real("{arch}.rope.freq_base_swa", rope_theta_local),
    RMS_EPSILON,
    NORM_EPSILON,
    uint("{arch}.expert_count", any_of("num_local_experts", "num_experts", "n_routed_experts")),
    uint(
        "{arch}.expert_used_count",
        any_of("num_experts_per_tok", "num_experts_per_token", "top_k_experts"),
    ),
    uint("{arch}.expert_group_count", "n_group"),
    uint("{arch}.expert_group_used_count", "topk_group"),
    expert_gating,
    KEY_LENGTH,
    VALUE_LENGTH,
    file_type,
)
"""What nearly every family writes, in this order; what the configuration does not hold is left out."""

NEXTN_LAYERS = uint("{arch}.nextn_predict_layers", lambda h: h.nextn or None)


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
    positive = min(factor, low, context) > 1e-30 and max(factor, high, context) < 1e30
    if not (positive and low <= high and 1 <= theta < 1e30):
        raise FormatError(
            f"{h.path}: rope_scaling: expected positive factors, high_freq_factor at least low_freq_factor"
        )
    f32 = np.float32
    exponents = np.arange(0, width, 2, dtype=f32) / f32(width)
    frequencies = f32(1) / np.power(theta, exponents.astype(np.float64)).astype(f32)
    # PyTorch, which the reference uses, divides a number by a tensor by multiplying with its reciprocal.
    waves = f32(1) / frequencies * f32(2 * math.pi)
    # Llama 4 has no waves in between: its bounds are one.
    smooth = (f32(1) / waves * f32(context) - f32(low)) / f32(high - low or 1)
    with np.errstate(divide="ignore"):  # outside of the two bounds, where it is not taken
        blend = f32(1) / ((f32(1) - smooth) / f32(factor) + smooth)
    values = np.where(
        waves < f32(context / high), f32(1), np.where(waves > f32(context / low), f32(factor), blend)
    )
    yield Generated("rope_freqs.weight", values.astype(f32))

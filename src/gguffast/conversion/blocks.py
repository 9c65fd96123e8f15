"""Groups of tensors that many families share, and the rules that they are made of."""

from __future__ import annotations

from collections.abc import Mapping

from gguffast.conversion.architecture import (
    FEED_FORWARD,
    HEADS,
    HIDDEN,
    VOCABULARY,
    Rule,
    Size,
    When,
    head_dim,
    is_nextn,
    kv_heads,
    kv_width,
    query_width,
)
from gguffast.conversion.steps import interleaved, plus_one, transpose


def linear(name: str, rows: Size, columns: Size, *, bias: bool = False) -> Rule:
    """Declare a matrix that is written as it is."""
    return Rule(name, (rows, columns), bias=bias)


def permuted(name: str, rows: Size, columns: Size, heads: Size) -> Rule:
    """Declare a query or key projection, whose rows go from half-split to interleaved rotary order."""
    return Rule(name, (rows, columns), (interleaved(heads),))


def norm(name: str, width: Size = HIDDEN, *, offset: bool = False) -> Rule:
    """Declare a vector of norm weights; `offset` if it is stored as the offset from 1."""
    return Rule(name, (width,), (plus_one,) if offset else ())


def joined(names: tuple[str, ...], heights: tuple[Size, ...], columns: Size) -> Rule:
    """Declare a matrix whose rows are several: query, key and value in one, for example."""
    return Rule(names, (lambda h: sum(height(h) for height in heights), columns), parts=heights)


def only(when: When, rules: Mapping[str, Rule | None]) -> dict[str, Rule | None]:
    """Restrict rules to the layers for which `when` holds."""
    return {name: rule and rule._replace(when=_both(rule.when, when)) for name, rule in rules.items()}


def without(when: When, rules: Mapping[str, Rule | None]) -> dict[str, Rule | None]:
    """Restrict rules to the layers for which `when` does not hold."""
    return only(lambda h: not when(h), rules)


def _both(first: When | None, second: When) -> When:
    return second if first is None else lambda h: first(h) and second(h)


def offset_norms(rules: Mapping[str, Rule | None]) -> dict[str, Rule | None]:
    """Let every norm among the rules be stored as the offset from 1."""
    return {
        name: rule and (rule._replace(steps=(*rule.steps, plus_one)) if name.endswith("norm") else rule)
        for name, rule in rules.items()
    }


EMBEDDING: dict[str, Rule | None] = {
    "model.embed_tokens": linear("token_embd", VOCABULARY, HIDDEN),
    "model.norm": norm("output_norm"),
    "lm_head": Rule("output", (VOCABULARY, HIDDEN), optional=True),
}
NORMS: dict[str, Rule | None] = {
    "model.layers.{i}.input_layernorm": norm("blk.{i}.attn_norm"),
    "model.layers.{i}.post_attention_layernorm": norm("blk.{i}.ffn_norm"),
}
ATTENTION: dict[str, Rule | None] = {
    "model.layers.{i}.self_attn.q_proj": linear("blk.{i}.attn_q", query_width, HIDDEN),
    "model.layers.{i}.self_attn.k_proj": linear("blk.{i}.attn_k", kv_width, HIDDEN),
    "model.layers.{i}.self_attn.v_proj": linear("blk.{i}.attn_v", kv_width, HIDDEN),
    "model.layers.{i}.self_attn.o_proj": linear("blk.{i}.attn_output", HIDDEN, query_width),
}
PERMUTED_ATTENTION: dict[str, Rule | None] = {
    **ATTENTION,
    "model.layers.{i}.self_attn.q_proj": permuted("blk.{i}.attn_q", query_width, HIDDEN, HEADS),
    "model.layers.{i}.self_attn.k_proj": permuted("blk.{i}.attn_k", kv_width, HIDDEN, kv_heads),
}
HEAD_NORMS: dict[str, Rule | None] = {
    "model.layers.{i}.self_attn.q_norm": norm("blk.{i}.attn_q_norm", head_dim),
    "model.layers.{i}.self_attn.k_norm": norm("blk.{i}.attn_k_norm", head_dim),
}


def gated_feed_forward(prefix: str, suffix: str = "", width: Size = FEED_FORWARD) -> dict[str, Rule | None]:
    """Declare the matrices of a gated feed-forward block below `prefix`; `suffix` ends their GGUF names."""
    return {
        f"{prefix}.gate_proj": linear(f"blk.{{i}}.ffn_gate{suffix}", width, HIDDEN),
        f"{prefix}.up_proj": linear(f"blk.{{i}}.ffn_up{suffix}", width, HIDDEN),
        f"{prefix}.down_proj": linear(f"blk.{{i}}.ffn_down{suffix}", HIDDEN, width),
    }


FEED_FORWARD_BLOCK = gated_feed_forward("model.layers.{i}.mlp")

NEXTN: dict[str, Rule | None] = {
    "model.layers.{i}.eh_proj": Rule(
        "blk.{i}.nextn.eh_proj", (HIDDEN, lambda h: 2 * HIDDEN(h)), when=is_nextn
    ),
    "model.layers.{i}.enorm": norm("blk.{i}.nextn.enorm")._replace(when=is_nextn),
    "model.layers.{i}.hnorm": norm("blk.{i}.nextn.hnorm")._replace(when=is_nextn),
    "model.layers.{i}.shared_head.norm": norm("blk.{i}.nextn.shared_head_norm")._replace(when=is_nextn),
    "model.layers.{i}.embed_tokens": Rule(
        "blk.{i}.nextn.embed_tokens", (VOCABULARY, HIDDEN), optional=True, when=is_nextn
    ),
    "model.layers.{i}.shared_head.head": Rule(
        "blk.{i}.nextn.shared_head_head", (VOCABULARY, HIDDEN), optional=True, when=is_nextn
    ),
}
"""What a layer for multi-token prediction has besides those of a layer."""


def stacked_experts(
    prefix: str,
    count: Size,
    width: Size,
    names: tuple[str, str, str] = ("down_proj", "gate_proj", "up_proj"),
    *,
    columns_first: bool = False,
) -> dict[str, Rule | None]:
    """Declare gated experts, which are one stack a matrix in GGUF.

    In the checkpoint they are one by one (``experts.7.up_proj``), or stacked already: then the gate and the
    up matrices are one, the gate's rows first (``experts.gate_up_proj``), or two.

    Parameters
    ----------
    prefix : str
        Where they are, the layer as ``{i}``.
    count, width : Size
        Number of experts, and of the rows of one's gate.
    names : tuple of str
        What the down, gate and up matrices are called, in the order in which the stacks are written.
    columns_first : bool
        Whether the matrices of a stack that is in the checkpoint have their axes swapped.
    """
    rules: dict[str, Rule | None] = {}

    def stack(gguf: str | tuple[str, str], rows: Size, columns: Size) -> Rule:
        if columns_first:
            return Rule(gguf, (count, columns, rows), (transpose,), optional=True)
        return Rule(gguf, (count, rows, columns), optional=True)

    for name, kind in zip(names, ("down", "gate", "up"), strict=True):
        shape = (HIDDEN, width) if kind == "down" else (width, HIDDEN)
        rules[f"{prefix}.{{e}}.{name}"] = Rule(f"blk.{{i}}.ffn_{kind}_exps", shape)
        rules[f"{prefix}.{name}"] = stack(f"blk.{{i}}.ffn_{kind}_exps", *shape)
    both = ("blk.{i}.ffn_gate_exps", "blk.{i}.ffn_up_exps")
    rules[f"{prefix}.gate_up_proj"] = stack(both, lambda h: 2 * width(h), HIDDEN)
    return rules


def biased(rules: Mapping[str, Rule | None], *ends: str) -> dict[str, Rule | None]:
    """Let the rules whose names end so have a bias."""
    return {
        name: rule and (rule._replace(bias=True) if name.endswith(ends) else rule)
        for name, rule in rules.items()
    }

"""gpt-oss: experts with biases, whose matrices are MXFP4 as published, and stay what they are."""

from __future__ import annotations

from gguffast.conversion.architecture import FEED_FORWARD, HEADS, HIDDEN, Architecture, Rule, Size, size
from gguffast.conversion.blocks import ATTENTION, EMBEDDING, biased, linear, norm
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import BASE, SLIDING_WINDOW, uint
from gguffast.conversion.steps import by_turns, transpose

_EXPERTS = size("num_local_experts")
_BOTH = ("blk.{i}.ffn_gate_exps", "blk.{i}.ffn_up_exps")


def _both(h: Hparams) -> int:
    return 2 * FEED_FORWARD(h)


def _blocks(width: Size) -> Size:
    """Blocks in a row of MXFP4."""
    return lambda h: -(-width(h) // 32)


_EXPERT_TENSORS: dict[str, Rule | None] = {
    "experts.down_proj": Rule("blk.{i}.ffn_down_exps", (_EXPERTS, FEED_FORWARD, HIDDEN), (transpose,)),
    "experts.down_proj_bias": Rule("blk.{i}.ffn_down_exps", (_EXPERTS, HIDDEN), ending=".bias"),
    "experts.down_proj_blocks": Rule(
        "blk.{i}.ffn_down_exps", (_EXPERTS, HIDDEN, _blocks(FEED_FORWARD)), optional=True
    ),
    # The rows of gate and up take turns.
    "experts.gate_up_proj": Rule(_BOTH, (_EXPERTS, HIDDEN, _both), (transpose,), share=by_turns(-2)),
    "experts.gate_up_proj_bias": Rule(_BOTH, (_EXPERTS, _both), share=by_turns(-1), ending=".bias"),
    "experts.gate_up_proj_blocks": Rule(
        _BOTH, (_EXPERTS, _both, _blocks(HIDDEN)), share=by_turns(-2), optional=True
    ),
}

ARCHITECTURES = (
    Architecture(
        hf_class="GptOssForCausalLM",
        name="gpt-oss",
        defaults={
            "vocab_size": 201088,
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "num_hidden_layers": 36,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "sliding_window": 128,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150000.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "original_max_position_embeddings": 4096,
            },
            "tie_word_embeddings": False,
        },
        tensors={
            **EMBEDDING,
            "model.layers.{i}.input_layernorm": norm("blk.{i}.attn_norm"),
            "model.layers.{i}.post_attention_layernorm": norm("blk.{i}.post_attention_norm"),
            **biased(ATTENTION, "proj"),
            "model.layers.{i}.self_attn.sinks": Rule("blk.{i}.attn_sinks", (HEADS,)),
            "model.layers.{i}.mlp.router": linear("blk.{i}.ffn_gate_inp", _EXPERTS, HIDDEN, bias=True),
            **{f"model.layers.{{i}}.mlp.{name}": rule for name, rule in _EXPERT_TENSORS.items()},
        },
        keys=(*BASE, SLIDING_WINDOW, uint("{arch}.expert_feed_forward_length", FEED_FORWARD)),
    ),
)

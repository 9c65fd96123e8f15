"""MiniMax M2: Mixtral's experts, chosen by sigmoids; norms over all heads of queries and keys at once."""

from __future__ import annotations

from gguffast.conversion.architecture import FEED_FORWARD, Architecture, Rule, kv_width, query_width
from gguffast.conversion.architectures.mistral import EXPERT_TENSORS, EXPERTS
from gguffast.conversion.blocks import ATTENTION, EMBEDDING, NORMS, norm
from gguffast.conversion.keys import BASE, uint

ARCHITECTURES = (
    Architecture(
        hf_class="MiniMaxM2ForCausalLM",
        name="minimax-m2",
        tensors={
            **EMBEDDING,
            **NORMS,
            **ATTENTION,
            "model.layers.{i}.self_attn.q_norm": norm("blk.{i}.attn_q_norm", query_width),
            "model.layers.{i}.self_attn.k_norm": norm("blk.{i}.attn_k_norm", kv_width),
            **EXPERT_TENSORS,
            "model.layers.{i}.block_sparse_moe.e_score_correction_bias": Rule(
                "blk.{i}.exp_probs_b", (EXPERTS,), ending=".bias"
            ),
        },
        experts=EXPERTS,
        keys=(
            *BASE,
            uint("{arch}.expert_feed_forward_length", FEED_FORWARD),
            uint("{arch}.rope.dimension_count", "rotary_dim"),
        ),
    ),
)

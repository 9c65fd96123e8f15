"""IBM Granite, dense and with experts: Llama's attention, and four multipliers."""

from __future__ import annotations

from dataclasses import replace

from gguffast.conversion.architecture import FEED_FORWARD, HEADS, HIDDEN, Architecture, Rule, classes, size
from gguffast.conversion.architectures import llama
from gguffast.conversion.architectures.mistral import EXPERTS
from gguffast.conversion.blocks import EMBEDDING, NORMS, PERMUTED_ATTENTION, linear, only
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import BASE, ROPE_DIMENSIONS, VOCABULARY_SIZE, real, uint

_MOE = "model.layers.{i}.block_sparse_moe"
_SHARED = size("shared_intermediate_size")


def shared_width(h: Hparams) -> int | None:
    """Give the width of the expert that every token goes through, if there is one."""
    return h.integer("shared_intermediate_size", default=None) or None


EXPERT_TENSORS: dict[str, Rule | None] = {
    f"{_MOE}.router.layer": linear("blk.{i}.ffn_gate_inp", EXPERTS, HIDDEN),
    f"{_MOE}.input_linear": Rule(
        ("blk.{i}.ffn_gate_exps", "blk.{i}.ffn_up_exps"), (EXPERTS, size("intermediate_size", 2), HIDDEN)
    ),
    f"{_MOE}.output_linear": Rule("blk.{i}.ffn_down_exps", (EXPERTS, HIDDEN, FEED_FORWARD)),
}
SHARED_EXPERT: dict[str, Rule | None] = {
    "model.layers.{i}.shared_mlp.input_linear": Rule(
        ("blk.{i}.ffn_gate_shexp", "blk.{i}.ffn_up_shexp"), (size("shared_intermediate_size", 2), HIDDEN)
    ),
    "model.layers.{i}.shared_mlp.output_linear": linear("blk.{i}.ffn_down_shexp", HIDDEN, _SHARED),
}

DENSE = Architecture(
    hf_class="GraniteForCausalLM",
    name="granite",
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
        "tie_word_embeddings": False,
    },
    ignored=("head_dim",),  # there is no such thing in Granite: the heads share the hidden size
    tensors=llama.TENSORS,
    keys=(
        *BASE,
        VOCABULARY_SIZE,
        ROPE_DIMENSIONS,
        real("{arch}.attention.scale", "attention_multiplier", unless_zero=True),
        real("{arch}.embedding_scale", "embedding_multiplier", unless_zero=True),
        real("{arch}.residual_scale", "residual_multiplier", unless_zero=True),
        real("{arch}.logit_scale", "logits_scaling", unless_zero=True),
    ),
    vocabulary=llama.llama_vocabulary,
)
SPARSE = replace(
    DENSE,
    name="granitemoe",
    defaults={
        **DENSE.defaults,
        "num_key_value_heads": HEADS,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    tensors={
        **EMBEDDING,
        **NORMS,
        **PERMUTED_ATTENTION,
        **EXPERT_TENSORS,
        **only(lambda h: shared_width(h) is not None, SHARED_EXPERT),
    },
    keys=(*DENSE.keys, uint("{arch}.expert_shared_feed_forward_length", shared_width)),
)

ARCHITECTURES = (DENSE, *classes(SPARSE, "GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"))

"""StarCoder 2: biases everywhere, no gate."""

from __future__ import annotations

from gguffast.conversion.architecture import FEED_FORWARD, HIDDEN, Architecture
from gguffast.conversion.blocks import ATTENTION, EMBEDDING, NORMS, biased, linear
from gguffast.conversion.keys import BASE

ARCHITECTURES = (
    Architecture(
        hf_class="Starcoder2ForCausalLM",
        name="starcoder2",
        defaults={
            "vocab_size": 49152,
            "hidden_size": 3072,
            "intermediate_size": 12288,
            "num_hidden_layers": 30,
            "num_attention_heads": 24,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "layer_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
        },
        tensors={
            **biased(EMBEDDING, "model.norm"),
            **biased(NORMS, "norm"),
            **ATTENTION,
            "model.layers.{i}.mlp.c_fc": linear("blk.{i}.ffn_up", FEED_FORWARD, HIDDEN),
            "model.layers.{i}.mlp.c_proj": linear("blk.{i}.ffn_down", HIDDEN, FEED_FORWARD),
        },
        keys=BASE,
    ),
)

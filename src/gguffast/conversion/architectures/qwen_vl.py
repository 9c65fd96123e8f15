"""The text models of Qwen2-VL, Qwen 2.5-VL and Qwen3-VL: Qwen 2's and 3's, with rotary sections."""

from __future__ import annotations

from dataclasses import replace

from gguffast.conversion.architecture import Architecture, classes
from gguffast.conversion.architectures import qwen2, qwen3
from gguffast.conversion.blocks import stacked_experts
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import uint


def _without_thinker(name: str, h: Hparams) -> str:
    return name.replace("thinker.", "")


def _deepstack(h: Hparams) -> int:
    return len(h.within("vision_config").items("deepstack_visual_indexes", default=[]))


_DEEPSTACK = uint("{arch}.n_deepstack_layers", _deepstack)

_QWEN2 = replace(
    qwen2.DENSE,
    name="qwen2vl",
    defaults={
        **qwen2.DENSE.defaults,
        "vocab_size": 152064,
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
    },
    rename=_without_thinker,
)
_DEFAULTS = {"max_position_embeddings": 128000, "rope_theta": 5e6}
_QWEN3 = replace(
    qwen3.DENSE,
    name="qwen3vl",
    defaults={**qwen3.DENSE.defaults, **_DEFAULTS},
    keys=(*qwen3.DENSE.keys, _DEEPSTACK),
    rename=_without_thinker,
)
_SPARSE = replace(
    qwen3.SPARSE,
    name="qwen3vlmoe",
    defaults={
        **qwen3.SPARSE.defaults,
        **_DEFAULTS,
        "intermediate_size": 5632,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "moe_intermediate_size": 1408,
        "num_experts_per_tok": 4,
        "num_experts": 60,
    },
    tensors={
        **qwen3.SPARSE.tensors,
        **stacked_experts(
            "model.layers.{i}.mlp.experts", qwen2.EXPERTS, qwen2.EXPERT_WIDTH, columns_first=True
        ),
    },
    keys=(*qwen3.SPARSE.keys, _DEEPSTACK),
    rename=_without_thinker,
)

ARCHITECTURES: tuple[Architecture, ...] = (
    *classes(_QWEN2, "Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
    *classes(_QWEN3, "Qwen3VLForConditionalGeneration"),
    *classes(_SPARSE, "Qwen3VLMoeForConditionalGeneration"),
)

"""Mistral 3 and Ministral 3 (text): Mistral's tensors; Ministral stretches positions and cools attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gguffast.conversion.architecture import classes
from gguffast.conversion.architectures import mistral
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import real


def _of_ministral(key: str) -> Callable[[Hparams], float | None]:
    return lambda h: h.rope.number(key) if h.get("model_type") == "ministral3" else None


_MISTRAL3 = replace(
    mistral.DENSE,
    name="mistral3",
    keys=(
        *mistral.DENSE.keys,
        real("{arch}.rope.scaling.yarn_log_multiplier", _of_ministral("mscale_all_dim")),
        real("{arch}.attention.temperature_scale", _of_ministral("llama_4_scaling_beta")),
    ),
)

ARCHITECTURES = classes(_MISTRAL3, "Mistral3ForConditionalGeneration", "Ministral3ForCausalLM")

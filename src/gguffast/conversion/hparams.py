"""A checkpoint's ``config.json``, with the defaults that its class fills in.

A key that the file leaves out is not absent: the Hugging Face class has a default for it, and the model was
trained with that. Each architecture therefore declares the defaults that reach the output.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguffast.documents import Values, read_json
from gguffast.errors import FileError, FormatError

if TYPE_CHECKING:
    from gguffast.sources.lazy import LazyTensor

Default = Any | Callable[["Hparams"], Any]


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a checkpoint, with the text model's part moved to the root.

    Raises
    ------
    FileError
        If the folder or the file is missing.
    FormatError
        If the file is not a JSON object.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise FileError(f"{folder}: not a folder; expected one with a Hugging Face checkpoint")
    if not path.is_file():
        raise FileError(f"{folder}: no config.json; expected a folder with a Hugging Face checkpoint")
    config = read_json(path)
    for key in ("llm_config", "lm_config", "language_config", "lfm"):
        config.setdefault("text_config", config.get(key))
    text = config["text_config"]
    return {**config, **text} if isinstance(text, dict) else config


def class_name(config: Mapping[str, Any], path: Path) -> str:
    """Return the model class: the first of ``architectures``.

    Raises
    ------
    FormatError
        If the file names none.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise FormatError(
            f'{path}: no "architectures", so the model class is unknown; is this a whole checkpoint?'
        )
    return names[0]


class Mtp(Enum):
    """What becomes of the layers for multi-token prediction, which only guess what comes next but one."""

    WITH = "with"
    ONLY = "only"
    WITHOUT = "without"


# One name for one idea: what the classes of the years called it, the reference converter's order of them.
_ALIASES = {
    "num_hidden_layers": ("n_layers", "n_layer", "num_layers"),
    "max_position_embeddings": (
        *("n_ctx", "n_positions", "max_length", "max_sequence_length", "model_max_length"),
    ),
    "hidden_size": ("n_embd", "dim"),
    "intermediate_size": ("n_inner", "hidden_dim"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("n_kv_heads",),
    "rms_norm_eps": ("norm_eps",),
    "layer_norm_eps": ("layer_norm_epsilon", "norm_epsilon"),
    "rope_theta": ("global_rope_theta", "rope_global_theta", "rope_theta_global", "rotary_emb_base"),
    "rope_local_base_freq": ("local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta"),
    "partial_rotary_factor": ("rope_pct", "rope_percent"),
}


class Hparams(Values):
    """Configuration values, checked as they are asked for.

    Parameters
    ----------
    config : mapping
        What :func:`read_config` returned.
    defaults : mapping of str to value or callable
        Class defaults. A plain value fills a missing key; a callable (given the hyperparameters) fills a
        missing or null one.
    ignored : sequence of str
        Keys that the class does not look at.
    path : Path
        The file, for messages.
    """

    def __init__(
        self, config: Mapping[str, Any], defaults: Mapping[str, Default], ignored: Sequence[str], path: Path
    ) -> None:
        values = {key: value for key, value in config.items() if key not in ignored}
        for key, others in _ALIASES.items():
            other = next((name for name in others if name in values), None)
            if other and key not in values:
                values[key] = values[other]
        super().__init__(values, path)
        self.path = path
        self.tensors: Mapping[str, LazyTensor] = {}
        """The checkpoint's tensors, by its names."""
        self.mtp = Mtp.WITH
        self.nextn = 0
        """Layers for multi-token prediction that are written."""
        self.layer: int | None = None
        """The layer whose tensor it is about, where it is about one."""
        self.tokens = 0
        """Tokens of the tokenizer."""
        for key, default in defaults.items():
            if callable(default):
                if values.get(key) is None:
                    values[key] = default(self)
            else:
                values.setdefault(key, default)
        self.rope = self._rope()
        """Rope parameters of the full-attention layers, the older spellings brought to the newer one."""

    def at(self, layer: int | None) -> Hparams:
        """Return the same values, seen from a layer."""
        seen = copy.copy(self)
        seen.layer = layer
        return seen

    @property
    def rope_theta_local(self) -> float | None:
        """Base frequency of sliding-window layers, or None."""
        groups = self.rope_groups
        if isinstance(groups.get("sliding_attention"), dict):
            return groups.within("sliding_attention").number("rope_theta", default=None)
        return self.number("rope_local_base_freq", default=None)

    @property
    def rope_groups(self) -> Values:
        """Rope parameters as they stand: of all layers, or by kind of attention."""
        new = self.within("rope_parameters")
        return new if new else self.within("rope_scaling")

    def _rope(self) -> Values:
        groups = self.rope_groups
        by_kind = groups.get("full_attention") is not None
        rope = groups.within("full_attention") if by_kind else groups
        more = {"rope_type": rope.get("type")}
        if not by_kind:
            keys = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
            more |= {key: self.get(key) for key in keys}
        return rope.over(more)

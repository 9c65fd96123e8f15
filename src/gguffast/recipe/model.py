"""What the metadata and the names of tensors tell of a model, as far as recipes care."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol, TypeGuard, TypeVar

from gguffast.errors import FormatError
from gguffast.recipe.options import Override
from gguffast.types import GGMLQuantizationType

#: A tensor as the recipe sees it: name, dimensions in GGUF order (the row length first), type.
Weight = tuple[str, Sequence[int], GGMLQuantizationType]


def is_int(value: object) -> TypeGuard[int]:
    """Tell a number from a bool, which Python counts among them."""
    return isinstance(value, int) and not isinstance(value, bool)


def whole_number(metadata: Mapping[str, Any], key: str, default: int) -> int:
    """Look a whole number up; FormatError if the key holds anything else."""
    value = metadata.get(key, default)
    if not is_int(value):
        raise _unexpected(key, value, "a whole number")
    return value


def _unexpected(key: str, value: object, expected: str) -> FormatError:
    return FormatError(
        f"the key {key!r} is {value!r:.60}, expected {expected}; the file is damaged or was made by a faulty "
        "program: convert the model again"
    )


@dataclass(frozen=True, slots=True)
class Model:
    """The few facts of a model that mixtures depend on.

    Attributes
    ----------
    architecture : str
    n_layer : int or None
        Layers in all, those of multi-token prediction among them; None if the metadata does not tell.
    n_expert : int
        Experts of a layer; 0 for a dense model.
    n_gqa : int
        Query heads that share a key/value head in the first layer; 0 without attention.
    is_70b : bool
        One of the 80-layer models whose small attn_v deserves more bits.
    """

    architecture: str
    n_layer: int | None
    n_expert: int
    n_gqa: int
    is_70b: bool

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], overrides: Sequence[Override] = ()) -> Model:
        """Read the facts from a file's metadata, under the user's overrides."""
        # The first override of a key counts here (and the last one in the output): so does llama.cpp.
        first: dict[str, Any] = dict(reversed(overrides))
        architecture = first.get("general.architecture")
        if not isinstance(architecture, str):
            architecture = metadata.get("general.architecture", "")
            if not isinstance(architecture, str):
                raise _unexpected("general.architecture", architecture, "a string")

        def number(key: str, default: int = 0) -> int:
            key = f"{architecture}.{key}"
            value = first.get(key)
            return abs(value) if is_int(value) else whole_number(metadata, key, default)

        def of_first_layer(key: str, default: int) -> int:
            # A list has one value a layer. Overrides change neither lists nor what is not there.
            value = metadata.get(f"{architecture}.{key}", default)
            items = value.tolist() if hasattr(value, "tolist") else value
            if isinstance(items, list):
                return whole_number({key: items[0]}, key, 0) if items else 0
            return number(key) if f"{architecture}.{key}" in metadata else default

        n_head = of_first_layer("attention.head_count", 0)
        n_head_kv = of_first_layer("attention.head_count_kv", n_head)
        n_expert = number("expert_count")
        n_layer = number("block_count", 0 if architecture == "clip" else -1)
        n_main = n_layer - number("nextn_predict_layers")
        if architecture == "nanbeige":  # runs its layers more than once
            n_layer *= max(1, number("num_loops"))
        if architecture == "graniteswitch":  # adds a layer that routes between adapters
            n_layer = n_main + 1
        return cls(
            architecture=architecture,
            n_layer=n_layer if n_layer >= 0 else None,
            n_expert=n_expert,
            n_gqa=n_head // n_head_kv if n_head_kv else 0,
            is_70b=_is_70b(architecture, n_main, n_head != n_head_kv, n_expert),
        )


def _is_70b(architecture: str, n_layer: int, grouped: bool, n_expert: int) -> bool:
    if architecture in ("llama", "llama-embed"):
        return n_layer == 80 and grouped and n_expert != 8
    return n_layer == {"qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}.get(architecture)


class Role(Enum):
    """What a tensor does in the model, as far as the mixtures care."""

    OUTPUT = auto()
    TOKEN_EMBEDDING = auto()
    ATTN_V = auto()
    ATTN_K = auto()
    ATTN_Q = auto()
    ATTN_OUTPUT = auto()
    FFN_DOWN = auto()
    FFN_GATE = auto()
    FFN_UP = auto()
    OTHER = auto()


_TOKEN_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")

#: The first part found in a name tells the role. attn_qkv and attn_kv_b contain the value projection.
_ROLE_OF_PART = {
    "attn_qkv.weight": Role.ATTN_V,
    "attn_kv_b.weight": Role.ATTN_V,
    "attn_v.weight": Role.ATTN_V,
    "attn_k.weight": Role.ATTN_K,
    "attn_q.weight": Role.ATTN_Q,
    "attn_output.weight": Role.ATTN_OUTPUT,
    "ffn_up": Role.FFN_UP,
    "ffn_gate": Role.FFN_GATE,
    "ffn_down": Role.FFN_DOWN,
}


def role_of(name: str) -> Role:
    """Tell what the tensor `name` does."""
    if name == "output.weight":
        return Role.OUTPUT
    if name in _TOKEN_EMBEDDINGS:
        return Role.TOKEN_EMBEDDING
    return next((role for part, role in _ROLE_OF_PART.items() if part in name), Role.OTHER)


#: Weights that are never quantized: small, or too sensitive.
_KEPT_NAMES = {"position_embd.weight", "token_types.weight"}
_KEPT_PARTS = (
    "_norm.weight",
    # routing of experts
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    # Gemma 3n
    "altup",
    "laurel",
    "per_layer_model_proj",
    # state-space models, short convolutions
    "ssm_conv1d",
    "shortconv.conv.weight",
    # MiniMax
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    # RWKV
    "time_mix_first.weight",
    *(
        f"time_mix_{part}.weight"
        for part in ("w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2")
    ),
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    # T5
    "attn_rel_b.weight",
    # images and sound
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)
_KEPT_PARTS_OF = {
    "glm5-next": (
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    )
}


def is_quantizable(name: str, ne: Sequence[int], architecture: str = "") -> bool:
    """Tell whether a file type may change this tensor's type: a matrix of weights, and none of those kept."""
    if not any(n > 1 for n in ne[1:]):
        return False
    # llama.cpp finds the last "weight" at length - 6, which wraps to "not found" for names of 5 characters.
    if not name.endswith("weight") and len(name) != 5:
        return False
    parts = _KEPT_PARTS + _KEPT_PARTS_OF.get(architecture, ())
    return name not in _KEPT_NAMES and not any(part in name for part in parts)


def layer_of(name: str) -> int | None:
    """Return N for ``blk.N…``, None for other names."""
    match = re.match(r"blk\.\s*([+-]?[0-9]+)", name)
    return int(match[1]) if match else None


def order_key(name: str) -> tuple[int, str]:
    """Sort key of the output's tensors: those of no layer, then layer by layer, by name."""
    layer = layer_of(name)
    return (-1 if layer is None else layer, name)


class Named(Protocol):
    """Anything with a tensor's name."""

    @property
    def name(self) -> str:
        """The tensor's name."""


_Named = TypeVar("_Named", bound=Named)


def output_order(tensors: Iterable[_Named]) -> list[_Named]:
    """Return the tensors in the order in which the output holds them."""
    return sorted(tensors, key=lambda tensor: order_key(tensor.name))

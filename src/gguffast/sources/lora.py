"""LoRA adapters as Hugging Face's PEFT stores them: two thin matrices for each one that they change.

A folder with adapter_config.json and adapter_model.safetensors (or .bin). Its tensors are called as the base
model's are, behind ``base_model.model.``, and end in ``lora_A.weight`` (rank x columns) and ``lora_B.weight``
(rows x rank): the base's matrix W becomes W + scale * B @ A. Of an embedding the two stand transposed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gguffast.documents import Values, read_json, short
from gguffast.errors import FileError, FormatError, OptionError, quote
from gguffast.reading import ReadableFile
from gguffast.sources.common import open_weights
from gguffast.sources.lazy import DType, LazyTensor, as_array, row_pieces, to_f32, to_float32, transpose

_PREFIX = "base_model.model."
_ENDINGS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
}


class LoraPair(NamedTuple):
    """What is added to one matrix of the base model.

    Attributes
    ----------
    name : str
        Of its first half in the adapter, for messages.
    rows : LazyTensor
        (rows of the matrix, rank).
    columns : LazyTensor
        (rank, columns of the matrix).
    """

    name: str
    rows: LazyTensor
    columns: LazyTensor

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        return self.rows.shape[0], self.columns.shape[1]

    @property
    def rank(self) -> int:
        """Length of the axis that the halves share."""
        return self.columns.shape[0]


@dataclass(frozen=True)
class LoraAdapter:
    """An open adapter.

    Attributes
    ----------
    config_path : Path
        Its configuration.
    weights : ReadableFile
        Its open file of weights.
    alpha : float
        ``lora_alpha``: each product is scaled by alpha / rank.
    rank : int
        ``r``, the rank of what has none of its own.
    own_ranks : bool
        Whether ``rank_pattern`` gives some matrices a rank of their own.
    own_alphas : bool
        Whether ``alpha_pattern`` gives some matrices an alpha of their own.
    invocation : list of int
        Tokens from which on an activated LoRA works; empty for the usual kind.
    own_layout : bool
        ``fan_in_fan_out``: the base's matrices lie transposed.
    root_scaled : bool
        ``use_rslora``: it was trained with alpha / sqrt(rank) instead.
    pairs : dict of str to LoraPair
        By the base model's tensor, in the order in which they are met.
    norms : dict of str to LazyTensor
        Trained norms, whole, by the base model's tensor.
    """

    config_path: Path
    weights: ReadableFile
    alpha: float
    rank: int
    own_ranks: bool
    own_alphas: bool
    invocation: list[int]
    own_layout: bool
    root_scaled: bool
    pairs: dict[str, LoraPair]
    norms: dict[str, LazyTensor]


def open_adapter(folder: Path) -> LoraAdapter:
    """Open an adapter.

    Raises
    ------
    FormatError
        No LoRA adapter, one of a kind that GGUF has no place for, or a damaged one.
    FileError
        A file is missing or cannot be read.
    """
    config_path = folder / "adapter_config.json"
    if not config_path.is_file():
        raise FileError(f"{folder}: no adapter_config.json; expected a folder with a PEFT adapter")
    config = Values(read_json(config_path), config_path)
    _check_kind(config)
    alpha = config.number("lora_alpha")
    rank = config.integer("r", 1)
    other_ranks = config.within("rank_pattern")
    ranks = {rank, *(other_ranks.integer(key, 1) for key in other_ranks.values)}
    weights, tensors = _read_weights(folder)
    path = Path(weights.name)
    halves, norms = _sort_out(tensors, path)
    pairs = {name: _pair(name, group, path) for name, group in halves.items()}
    for pair in pairs.values():
        if pair.rank not in ranks:
            known = " or ".join(map(str, sorted(ranks)))
            key = '"r" or "rank_pattern"' if len(ranks) > 1 else '"r"'
            raise FormatError(
                f"{path}: tensor {short(pair.name)}: rank {pair.rank}, but {config_path} says {known} ({key})"
            )
    return LoraAdapter(
        config_path,
        weights,
        alpha,
        rank,
        len(ranks) > 1,
        bool(config.within("alpha_pattern")),
        _invocation(config),
        bool(config.flag("fan_in_fan_out", default=False)),
        bool(config.flag("use_rslora", default=False)),
        pairs,
        norms,
    )


def _invocation(config: Values) -> list[int]:
    key = "alora_invocation_tokens"
    tokens = config.items(key, default=None) or []
    if config.get("invocation_string") and not tokens:
        config.refuse(key, 'the tokens of "invocation_string", which are needed as numbers')
    return config.integers(key, len(tokens)) if tokens else []


def _check_kind(config: Values) -> None:
    kind = config.text("peft_type", default=None)
    if kind != "LORA":
        config.refuse("peft_type", '"LORA"; no other kind of adapter has a place in GGUF')
    if config.flag("use_dora", default=False):
        config.refuse(
            "use_dora",
            "false: DoRA also learns a magnitude for each row, which GGUF has no place for; merge the "
            "adapter into its base with PEFT (merge_and_unload) and convert the result",
        )


def _read_weights(folder: Path) -> tuple[ReadableFile, dict[str, LazyTensor]]:
    path = folder / "adapter_model.safetensors"
    if path.is_file():
        from gguffast.sources.safetensors import read_safetensors

        weights = open_weights(path)
        found = read_safetensors(weights)
        # The reference takes an adapter's tensors as they lie in the file, which is not by name.
        lying = sorted(found.values(), key=lambda tensor: tensor.offset)
        return weights, {tensor.name: tensor for tensor in lying}
    path = folder / "adapter_model.bin"
    if path.is_file():
        from gguffast.sources.torch_pickle import read_torch

        weights = open_weights(path)
        return weights, read_torch(weights)
    raise FileError(f"{folder}: no weights; expected adapter_model.safetensors or adapter_model.bin")


def _sort_out(
    tensors: Mapping[str, LazyTensor], path: Path
) -> tuple[dict[str, dict[str, LazyTensor]], dict[str, LazyTensor]]:
    """Give the halves by the tensor that they belong to, and the norms."""
    halves: dict[str, dict[str, LazyTensor]] = {}
    norms: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        plain = name.replace(_PREFIX, "")
        ending = next((ending for ending in _ENDINGS if plain.endswith(ending)), None)
        if ending:
            group = halves.setdefault(plain.removesuffix(ending) + ".weight", {})
            if _ENDINGS[ending] in group:
                raise FormatError(f"{path}: tensor {short(name)} is there twice")
            group[_ENDINGS[ending]] = tensor
        elif ".base_layer.weight" in name:  # the base's own weight, which some trainers save along
            continue
        elif "_layernorm" in name or ".norm" in name:
            norms[plain] = tensor
        else:
            raise FormatError(f"{path}: tensor {short(name)}: {_why_not(name)}")
    if not halves:
        raise FormatError(f"{path}: no tensor ends in lora_A.weight; is this a LoRA adapter?")
    return halves, norms


def _why_not(name: str) -> str:
    if "lora_magnitude_vector" in name:
        return "the magnitudes of DoRA have no place in GGUF; merge the adapter into its base with PEFT"
    if ".embed_tokens." in name or ".lm_head." in name:
        return (
            "an embedding that was trained as a whole (modules_to_save), for new tokens perhaps, has no "
            "place in an adapter; merge the adapter into its base with PEFT and convert the result"
        )
    return "neither half of a LoRA pair nor a norm; expected names that end in lora_A.weight or lora_B.weight"


def _pair(name: str, group: Mapping[str, LazyTensor], path: Path) -> LoraPair:
    """Check that the halves fit together; give them as those of a matrix whose rows are the outputs."""
    first = next(iter(group.values())).name
    kinds = set(group)
    embedding = kinds == {"embedding_a", "embedding_b"}
    if not embedding and kinds != {"a", "b"}:
        raise FormatError(f"{path}: tensor {short(first)}: its other half is missing; is the file complete?")
    a, b = (group["embedding_a"], group["embedding_b"]) if embedding else (group["a"], group["b"])
    for half in (a, b):
        if len(half.shape) != 2 or 0 in half.shape:
            raise FormatError(
                f"{path}: tensor {short(half.name)}: shape {list(half.shape)}, expected a matrix"
            )
    if a.shape[0] != b.shape[1]:
        raise FormatError(
            f"{path}: {quote(name)}: {short(a.name)} is of rank {a.shape[0]}, "
            f"{short(b.name)} of rank {b.shape[1]}"
        )
    if a.dtype is not b.dtype:
        a, b = to_f32(a), to_f32(b)
    return LoraPair(first, transpose(a), transpose(b)) if embedding else LoraPair(first, b, a)


# --- Merging ----------------------------------------------------------------------------------------------


class LoraMerge(NamedTuple):
    """An adapter to be merged into its base, and how strongly."""

    folder: str | os.PathLike[str]
    scale: float = 1.0


def parse_merge(text: str) -> LoraMerge:
    """Read ``ADAPTER`` or ``ADAPTER:SCALE``."""
    folder, colon, scale = text.rpartition(":")
    try:
        return LoraMerge(folder, float(scale)) if colon else LoraMerge(text)
    except ValueError:
        return LoraMerge(text)  # a colon in the folder's name


def merge_adapter(
    tensors: Mapping[str, LazyTensor], adapter: LoraAdapter, scale: float
) -> dict[str, LazyTensor]:
    """Give a checkpoint's tensors with an adapter merged into them, lazily.

    W becomes W + s * B @ A, in float32, where s is ``scale`` times alpha / rank, or times alpha / sqrt(rank)
    for rsLoRA. The products are added to W one rank after the other, each rounded: the same bits everywhere.

    Raises
    ------
    FormatError
        The adapter is one of another base; the tensor is named.
    OptionError
        The scale is no number.
    """
    if not math.isfinite(scale):
        raise OptionError(f"`merge_lora`: {scale} is no scale")
    for key, found in (("alpha_pattern", adapter.own_alphas), ("fan_in_fan_out", adapter.own_layout)):
        if found:
            raise FormatError(
                f'{adapter.config_path}: "{key}" is not taken into account here; merge the adapter with PEFT'
            )
    merged = dict(tensors)
    for name, pair in adapter.pairs.items():
        _check_base(adapter, merged, name, pair.name, pair.shape)
        divisor = math.sqrt(pair.rank) if adapter.root_scaled else pair.rank
        merged[name] = _Merged(merged[name], pair, scale * adapter.alpha / divisor)
    for name, norm in adapter.norms.items():
        _check_base(adapter, merged, name, norm.name, norm.shape)
        merged[name] = norm
    return merged


def _check_base(
    adapter: LoraAdapter, tensors: Mapping[str, LazyTensor], name: str, own: str, shape: tuple[int, ...]
) -> None:
    place = f"{adapter.weights.name} does not fit its base: tensor {short(own)}"
    if name not in tensors:
        raise FormatError(f"{place}: the checkpoint has no {short(name)}")
    if tensors[name].shape != shape:
        raise FormatError(f"{place} makes {list(shape)}, but {short(name)} is {list(tensors[name].shape)}")


class _Merged(LazyTensor):
    def __init__(self, tensor: LazyTensor, pair: LoraPair, scale: float) -> None:
        super().__init__(tensor.name, tensor.shape, DType.F32)
        self._tensor = tensor
        self._pair = pair
        self._scale = np.float32(scale)

    def read(self, first: int, into: memoryview) -> None:
        """See `LazyTensor.read`."""
        out = as_array(into, DType.F32)
        to_float32(self._tensor.elements(first, out.size), self._tensor.dtype, out)
        a = self._pair.columns.values()
        for piece in row_pieces(first, out.size, self.n_columns, out.size):
            b = to_float32(self._pair.rows.rows(piece.row, piece.n_rows), self._pair.rows.dtype)
            box = out[piece.place].reshape(piece.n_rows, piece.n_columns)
            factors, row = b * self._scale, a[:, piece.column : piece.column + piece.n_columns]
            # No matrix product: how its sums are rounded is the library's affair.
            for k in range(self._pair.rank):
                box += factors[:, k : k + 1] * row[k]

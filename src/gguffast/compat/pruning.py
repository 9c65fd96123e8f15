"""A model without some of its layers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from gguffast.gguf import KV, GGUFValueType, Metadata, kv
from gguffast.imatrix import ImportanceMatrix
from gguffast.recipe.model import output_order
from gguffast.sources.gguf import GGUFSource, GGUFTensor
from gguffast.types import GGMLQuantizationType

_LAYER = re.compile(r"blk\.(\d+)\.", re.ASCII)


class Pruned:
    """A GGUF model without some layers; those behind them move up. A `gguffast.sources.Source`.

    The numbers are those of ``llama-quantize --prune-layers``.

    Parameters
    ----------
    source : GGUFSource
        The whole model.
    layers : collection of int
        Which to leave out.

    Attributes
    ----------
    n_layers : int
        How many are left: what the output's block count says.
    counts : list of int
        Tensors left of each file.
    """

    def __init__(self, source: GGUFSource, layers: Collection[int]) -> None:
        self.paths: Sequence[Path] = source.paths
        self.metadata: Metadata = source.metadata
        self.kvs: Sequence[KV] = source.kvs
        self.n_layers = 0
        self._first = min(layers)
        self._layers = layers
        self._numbers: dict[int, int | None] = {}
        names = {tensor.name: self._renamed(tensor.name) for tensor in output_order(source.tensors)}
        self._names = {old: new for old, new in names.items() if new is not None}
        self.tensors: list[_Renamed] = []
        self.counts: list[int] = []
        rest = iter(source.tensors)
        for count in source.counts:
            kept = [tensor for tensor in islice(rest, count) if tensor.name in self._names]
            self.counts.append(len(kept))
            self.tensors += [_Renamed(tensor, self._names[tensor.name]) for tensor in kept]

    def with_block_count(self, kvs: Iterable[KV]) -> list[KV]:
        """Let metadata say how many layers are left."""
        key = f"{self.metadata.text('general.architecture')}.block_count"
        count = kv(key, self.n_layers, GGUFValueType.UINT32)
        return [*(pair for pair in kvs if pair.key != key), count]

    def importances(self, matrix: ImportanceMatrix | None) -> ImportanceMatrix | None:
        """Give the importances their tensors' new names. Those of no tensor are kept: they are counted."""
        if matrix is None:
            return None
        entries = {self._names.get(name, f"{name} (pruned)"): rows for name, rows in matrix.entries.items()}
        return replace(matrix, entries=entries)

    def _renamed(self, name: str) -> str | None:
        found = _LAYER.search(name)
        if found is None:
            return name
        layer = int(found[1])
        if layer not in self._numbers:
            self._numbers[layer] = self._number(layer)
        number = self._numbers[layer]
        return None if number is None else f"{name[: found.start(1)]}{number}{name[found.end(1) :]}"

    def _number(self, layer: int) -> int | None:
        if layer in self._layers:
            return None
        number = layer if layer < self._first else self.n_layers
        self.n_layers = number + 1
        return number


class _Renamed:
    """A tensor under another name (see :class:`gguffast.sources.SourceTensor`)."""

    __slots__ = ("_tensor", "name")

    def __init__(self, tensor: GGUFTensor, name: str) -> None:
        self._tensor = tensor
        self.name = name

    @property
    def ne(self) -> tuple[int, ...]:
        """Dimensions, the row length first."""
        return self._tensor.ne

    @property
    def type(self) -> GGMLQuantizationType:
        """Tensor type."""
        return self._tensor.type

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self._tensor.row_bytes

    @property
    def n_rows(self) -> int:
        """Product of all dimensions but the first."""
        return self._tensor.n_rows

    def read_into(self, offset: int, into: memoryview) -> None:
        """Fill `into` with the bytes from byte `offset` on."""
        self._tensor.read_into(offset, into)

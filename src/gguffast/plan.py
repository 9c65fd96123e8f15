"""Where every byte of the output goes, known before the first weight is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gguffast.errors import OptionError
from gguffast.gguf import DEFAULT_ALIGNMENT, KV, serialize_header
from gguffast.shards import MAX_SHARDS, split_kvs
from gguffast.sources import SourceTensor
from gguffast.types import GGMLQuantizationType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Target:
    """What becomes of a tensor.

    Attributes
    ----------
    source : SourceTensor
        The weights.
    type : GGMLQuantizationType
        Their type in the output.
    importance : ndarray or None
        float32, shape (ne[2], ne[0]): how much each column of each expert matters.
    """

    source: SourceTensor
    type: GGMLQuantizationType
    importance: NDArray[np.float32] | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in the output."""
        return self.type.nbytes(self.source.ne[0])

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the output, without padding."""
        return self.source.n_rows * self.row_bytes


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor and its place, in bytes from the beginning of the output file."""

    target: Target
    offset: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A GGUF file to be.

    Attributes
    ----------
    header : bytes
        Everything before the tensors' data, padded to the alignment.
    tensors : tuple of PlannedTensor
        In file order.
    size : int
        Bytes of the whole file.
    """

    header: bytes
    tensors: tuple[PlannedTensor, ...]
    size: int


def make_plan(kvs: Sequence[KV], targets: Iterable[Target], *, keep_dims: bool = False) -> Plan:
    """Lay out a GGUF file.

    llama.cpp drops dimensions of 1 at a shape's end, as this does; its converter (`keep_dims`) does not, and
    its file without tensors, a vocabulary alone, ends where its metadata end.

    Every tensor is padded to the alignment, the last one too, as llama.cpp does. The alignment is the one
    that ``kvs`` states, 32 without a statement. (llama-quantize keeps such a statement but aligns to 32 all
    the same, and no program, itself included, can then read the file.)
    """
    targets = tuple(targets)
    alignment = next((pair.value for pair in kvs if pair.key == "general.alignment"), DEFAULT_ALIGNMENT)
    offsets = []
    end = 0
    for target in targets:
        offsets.append(end)
        end += -(-target.nbytes // alignment) * alignment
    shapes = [t.source.ne if keep_dims else _significant(t.source.ne) for t in targets]
    infos = [(t.source.name, ne, t.type, o) for t, ne, o in zip(targets, shapes, offsets, strict=True)]
    header = serialize_header(kvs, infos, 1 if keep_dims and not infos else alignment)
    tensors = tuple(PlannedTensor(t, len(header) + o) for t, o in zip(targets, offsets, strict=True))
    return Plan(header, tensors, len(header) + end)


def plan_files(
    kvs: Sequence[KV],
    targets: Sequence[Target],
    *,
    max_size: int = 0,
    max_tensors: int = 0,
    keep_dims: bool = False,
) -> list[Plan]:
    """Lay out a model in one GGUF file or several; the first one has the metadata.

    Parameters
    ----------
    kvs, targets, keep_dims
        As for :func:`make_plan`.
    max_size, max_tensors : int
        Most bytes of tensors, and most tensors, in a file; 0 is no limit. A tensor larger than `max_size` has
        a file of its own.

    Raises
    ------
    OptionError
        The limits ask for more files than a split model can have.
    """
    return plan_shards(kvs, _share_out(targets, max_size, max_tensors), keep_dims=keep_dims)


def plan_shards(
    kvs: Sequence[KV], shards: Sequence[Sequence[Target]], *, keep_dims: bool = False
) -> list[Plan]:
    """Lay out a model in files with these tensors each; the first one has the metadata."""
    if len(shards) == 1:
        return [make_plan(kvs, shards[0], keep_dims=keep_dims)]
    if len(shards) > MAX_SHARDS:
        raise OptionError(f"these limits would make {len(shards)} files; at most {MAX_SHARDS} can be counted")
    n_tensors = sum(map(len, shards))
    return [
        make_plan(
            [*(kvs if i == 0 else ()), *split_kvs(i, len(shards), n_tensors)], shard, keep_dims=keep_dims
        )
        for i, shard in enumerate(shards)
    ]


def _share_out(targets: Sequence[Target], max_size: int, max_tensors: int) -> list[list[Target]]:
    shards: list[list[Target]] = [[]]
    size = 0
    for target in targets:
        full = (max_tensors and len(shards[-1]) >= max_tensors) or (
            max_size and size + target.nbytes > max_size
        )
        if full and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(target)
        size += target.nbytes
    return shards


def _significant(ne: tuple[int, ...]) -> tuple[int, ...]:
    n = len(ne)
    while n > 1 and ne[n - 1] == 1:
        n -= 1
    return ne[:n]

"""Shards: the names of the files that share one model, and what each says about itself.

llama.cpp's GGUF and the Hub's safetensors and PyTorch files are numbered alike:
``NAME-00001-of-00003.gguf``, counted from 1 in the name and from 0 in the metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gguffast.gguf import KV

#: Keys of a GGUF shard: its number from 0, how many shards there are, and how many tensors all of them hold.
SPLIT_NUMBER, SPLIT_COUNT, SPLIT_TENSORS = "split.no", "split.count", "split.tensors.count"
SPLIT_KEYS = (SPLIT_NUMBER, SPLIT_COUNT, SPLIT_TENSORS)

#: ``split.count`` has 16 bits.
MAX_SHARDS = 2**16 - 1

_NAME = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<suffix>\.[a-z]+)", re.DOTALL)


class ShardName(NamedTuple):
    """A shard's file name, in its parts; ``str()`` puts them together.

    Attributes
    ----------
    stem : str
        Name of the model.
    number, total : int
        Which of how many, from 1.
    suffix : str
        ``".gguf"``, ``".safetensors"``, ...
    """

    stem: str
    number: int
    total: int
    suffix: str = ".gguf"

    def __str__(self) -> str:
        return f"{self.stem}-{self.number:05}-of-{self.total:05}{self.suffix}"

    @property
    def whole(self) -> str:
        """Name of the model in one file."""
        return self.stem + self.suffix

    @property
    def all(self) -> list[str]:
        """Names of all shards, this one among them."""
        return [str(self._replace(number=i)) for i in range(1, self.total + 1)]


def parse_shard_name(name: str) -> ShardName | None:
    """Take a file's name (or path) apart; None if it is not that of a shard."""
    found = _NAME.fullmatch(name)
    return found and ShardName(found["stem"], int(found["number"]), int(found["count"]), found["suffix"])


def group_shards(names: Iterable[str]) -> dict[str, list[str]]:
    """Put the shards of a model together.

    Parameters
    ----------
    names : iterable of str
        Names or paths of files, shards and others.

    Returns
    -------
    dict of str to list of str
        The files of each model, in the given order, by the name it would have in one file.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        shard = parse_shard_name(name)
        groups.setdefault(shard.whole if shard else name, []).append(name)
    return groups


def shard_paths(path: Path, count: int) -> list[Path]:
    """Name the `count` files of a GGUF model that is `path` if it is one file."""
    if count == 1:
        return [path]
    return [path.with_name(name) for name in ShardName(path.stem, 1, count).all]


def split_kvs(number: int, count: int, n_tensors: int) -> list[KV]:
    """Make the keys of the shard `number`, from 0, in their order and types."""
    from gguffast.gguf import GGUFValueType, kv

    return [
        kv(SPLIT_NUMBER, number, GGUFValueType.UINT16),
        kv(SPLIT_COUNT, count, GGUFValueType.UINT16),
        kv(SPLIT_TENSORS, n_tensors, GGUFValueType.INT32),
    ]

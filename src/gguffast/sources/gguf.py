"""GGUF files as a source: one file, or the shards that ``gguf-split`` made of one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from gguffast.errors import FormatError
from gguffast.gguf import KV, GGUFFile, Metadata, TensorInfo
from gguffast.reading import ReadableFile
from gguffast.shards import SPLIT_COUNT, SPLIT_NUMBER, SPLIT_TENSORS, parse_shard_name
from gguffast.types import GGMLQuantizationType


class GGUFTensor:
    """A tensor of a GGUF file (see :class:`gguffast.sources.SourceTensor`)."""

    __slots__ = ("_info", "name", "ne", "row_bytes", "type")

    def __init__(self, info: TensorInfo) -> None:
        self._info = info
        self.name: str = info.name
        self.ne: tuple[int, ...] = info.ne or (1,)
        self.type: GGMLQuantizationType = info.type
        self.row_bytes: int = info.row_bytes

    @property
    def n_rows(self) -> int:
        """Product of all dimensions but the first."""
        return self._info.n_rows

    def read_into(self, offset: int, into: memoryview) -> None:
        """Fill `into` with the bytes from byte `offset` on."""
        self._info.read_into(offset, into)


class GGUFSource:
    """A GGUF model (see :class:`gguffast.sources.Source`); given its first shard, a split one.

    Parameters
    ----------
    path : path-like
        The file, or the first shard.

    Attributes
    ----------
    counts : list of int
        Tensors of each file.

    Raises
    ------
    FileError
        A file is missing or cannot be read.
    FormatError
        A file is not GGUF or is damaged; shards are missing or do not belong together; ``path`` is not the
        first one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.paths: list[Path] = []
        self.tensors: list[GGUFTensor] = []
        self.counts: list[int] = []
        self._files: list[GGUFFile] = []
        try:
            self._open(Path(path))
            self._open_other_shards(Path(path))
        except BaseException:
            self.close()
            raise

    @property
    def metadata(self) -> Metadata:
        """Decoded metadata, of the first shard."""
        return self._files[0].metadata

    @property
    def kvs(self) -> Sequence[KV]:
        """Encoded metadata, of the first shard."""
        return self._files[0].kvs

    @property
    def files(self) -> Sequence[ReadableFile]:
        """The open files."""
        return [file._file for file in self._files]

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
        self._files = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, path: Path) -> GGUFFile:
        file = GGUFFile(path)
        self._files.append(file)
        self.paths.append(path)
        self.tensors += [GGUFTensor(info) for info in file.tensors]
        self.counts.append(len(file.tensors))
        return file

    def _open_other_shards(self, path: Path) -> None:
        count = self.metadata.uint(SPLIT_COUNT) or 0
        if count <= 1:
            return
        name = parse_shard_name(path.name)
        if not name or name.total != count:
            raise FormatError(
                f"{path}: one of {count} shards, but its name does not end in -00001-of-{count:05}.gguf; "
                "give all shards their names back"
            )
        paths = [path.with_name(shard) for shard in name.all]
        if self.metadata.uint(SPLIT_NUMBER) != 0:
            raise FormatError(f"{path}: not the first of {count} shards; give the first one, {paths[0].name}")
        for number, shard in enumerate(paths[1:], 1):
            metadata = self._open(shard).metadata
            found = metadata.uint(SPLIT_NUMBER)
            if found != number:
                raise FormatError(
                    f"{shard}: {SPLIT_NUMBER} is {found}, expected {number}; the shards were renamed"
                )
            for key in (SPLIT_COUNT, SPLIT_TENSORS):
                if key in metadata and metadata.uint(key) != self.metadata.uint(key):
                    raise FormatError(
                        f"{shard}: {key} is {metadata.uint(key)}, but {self.metadata.uint(key)} in "
                        f"{path.name}; they belong to different models"
                    )
        self._check_shards(path)

    def _check_shards(self, path: Path) -> None:
        expected = self.metadata.uint(SPLIT_TENSORS)
        if expected != len(self.tensors):
            raise FormatError(
                f"{path}: {SPLIT_TENSORS} is {expected}, but the shards hold {len(self.tensors)} tensors; "
                "they belong to different models"
            )
        seen: set[str] = set()
        for tensor in self.tensors:
            if tensor.name in seen:
                raise FormatError(f"{path}: tensor '{tensor.name}' is in more than one shard")
            seen.add(tensor.name)

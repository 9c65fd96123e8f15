"""What weights can be read from: metadata, and tensors whose rows are read when they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gguffast.gguf import KV
    from gguffast.types import GGMLQuantizationType


class SourceTensor(Protocol):
    """One tensor, readable by rows from any thread."""

    @property
    def name(self) -> str:
        """Its name in the output."""

    @property
    def ne(self) -> tuple[int, ...]:
        """Dimensions in GGUF order: the length of a row first."""

    @property
    def type(self) -> GGMLQuantizationType:
        """Type of the bytes that :meth:`read_rows` gives."""

    @property
    def n_rows(self) -> int:
        """Product of all dimensions but the first."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of :attr:`type`."""

    def read_rows(self, first: int, count: int, into: memoryview) -> memoryview:
        """Bytes of the rows ``[first, first + count)``.

        Parameters
        ----------
        first, count : int
            Rows, within ``n_rows``.
        into : memoryview
            Writable, at least ``count * row_bytes`` long: scratch that the caller lends.

        Returns
        -------
        memoryview
            ``count * row_bytes`` bytes, either the beginning of ``into`` or memory of the source's own.
        """


class Source(Protocol):
    """A model: its metadata and its tensors."""

    @property
    def paths(self) -> Sequence[Path]:
        """The files that are read."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Decoded metadata."""

    @property
    def kvs(self) -> Sequence[KV]:
        """Encoded metadata, in file order."""

    @property
    def tensors(self) -> Sequence[SourceTensor]:
        """All tensors, in file order."""

"""What weights can be read from: metadata, and tensors whose rows are read when they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gguffast.gguf import KV
    from gguffast.types import GGMLQuantizationType


class SourceTensor(Protocol):
    """One tensor, readable in pieces from any thread."""

    @property
    def name(self) -> str:
        """Its name in the output."""

    @property
    def ne(self) -> tuple[int, ...]:
        """Dimensions in GGUF order: the length of a row first."""

    @property
    def type(self) -> GGMLQuantizationType:
        """Type of the bytes that :meth:`read_into` gives."""

    @property
    def n_rows(self) -> int:
        """Product of all dimensions but the first."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of :attr:`type`."""

    def read_into(self, offset: int, into: memoryview) -> None:
        """Fill ``into`` with the bytes from byte ``offset`` on, row after row.

        Not rows: a row may be longer than anybody's buffer.

        Parameters
        ----------
        offset : int
            Where a block begins.
        into : memoryview
            Writable bytes, whole blocks of them.
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

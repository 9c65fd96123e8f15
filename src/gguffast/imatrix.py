"""Importance matrices: how much each column of a weight matters, measured on sample text.

Both formats that llama-imatrix writes are read: GGUF (two tensors a weight, sums of squared activations and
how many were summed) and the older ``.dat``. The normalisation is llama.cpp's, in float32 and in its order
(``tools/quantize/quantize.cpp``), so that the same bytes follow.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gguffast.errors import DataError, FormatError, OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gguffast.gguf import KV

_GGUF_MAGIC = b"GGUF"
_METADATA = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
_SUMS, _COUNTS = ".in_sum2", ".counts"
#: llama.cpp carries these texts in 128 bytes, the closing zero included, and cuts what is longer.
_MAX_TEXT = 127
#: No model has as many weights; so that a small file cannot cost much.
_MAX_ENTRIES = 2**16
_TOKEN_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")


@dataclass(frozen=True, slots=True)
class ImportanceMatrix:
    """Importances of a model's weights. False if it has none, as after a filter that left nothing.

    Attributes
    ----------
    path : str
        The file, as the user named it.
    entries : mapping of str to ndarray
        Tensor name to its importances: float32, one a column, expert after expert.
    datasets : tuple of str
        The texts it was measured on.
    chunk_count : int
        How many pieces of text; 0 if unknown.
    """

    path: str
    entries: Mapping[str, NDArray[np.float32]]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0

    def __bool__(self) -> bool:
        return bool(self.entries)

    def filter(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> ImportanceMatrix:
        """Keep the entries whose name contains one of `include`, or none of `exclude`.

        Raises
        ------
        OptionError
            Both are given.
        """
        if include and exclude:
            raise OptionError("`include_weights` and `exclude_weights` cannot be used together")
        if not include and not exclude:
            return self

        def kept(name: str) -> bool:
            return (
                any(part in name for part in include)
                if include
                else not any(part in name for part in exclude)
            )

        return replace(self, entries={name: values for name, values in self.entries.items() if kept(name)})

    def check(self, names: Iterable[str]) -> None:
        """Make sure that the values can be used, and for the model whose tensors have these names.

        Raises
        ------
        DataError
            A value is infinite, no number or negative; or no name of the model's is known here.
        """
        for name, values in self.entries.items():
            # llama.cpp lets negative ones pass; no sum of squares is negative, so the file is damaged.
            bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
            if bad.size:
                raise DataError(
                    f"{self.path}: importance {bad[0]} of {name} is {values[bad[0]]}; expected a finite "
                    f"number from 0 up; make the importance matrix anew or name {name} in `exclude_weights`"
                )
        if self.entries and self.entries.keys().isdisjoint(names):
            raise DataError(
                f"{self.path}: the model has none of the {len(self.entries)} tensors that this importance "
                f"matrix names, {next(iter(self.entries))} for one; it belongs to another model"
            )

    def for_tensor(self, name: str, ne: Sequence[int], required: bool = False) -> NDArray[np.float32] | None:
        """Return the importances of a tensor that is to be quantized.

        Parameters
        ----------
        name : str
        ne : sequence of int
            Its dimensions in GGUF order.
        required : bool
            Its type is of no use without importances.

        Returns
        -------
        ndarray of float32, shape (experts, columns), or None
            Row e is for the rows of expert e; one row for a matrix. None if there is no entry, and for token
            embeddings whose entry has another size: llama-imatrix once wrote such.

        Raises
        ------
        DataError
            The entry has another size than the tensor, or is missing and `required`.
        """
        columns, experts = ne[0], ne[2] if len(ne) > 2 else 1
        values = self.entries.get(name)
        if values is not None and values.size == columns * experts:
            return values.reshape(experts, columns)
        if values is not None and name not in _TOKEN_EMBEDDINGS:
            raise DataError(
                f"{self.path}: tensor {name}: expected {columns * experts} importances ({columns} columns, "
                f"{experts} experts), found {values.size}; the importance matrix belongs to another model"
            )
        if required:
            raise DataError(
                f"{self.path}: tensor {name} has no importances, which its type needs; "
                "use an importance matrix that covers it or a larger file type"
            )
        return None

    def kvs(self) -> list[KV]:
        """Return the metadata that tell where the importances of a quantized file come from."""
        from gguffast.gguf import GGUFValueType, kv

        def text(key: str, value: bytes) -> KV:
            # Cut in bytes, perhaps within a character, as llama.cpp does.
            return kv(key, value.partition(b"\0")[0][:_MAX_TEXT], GGUFValueType.STRING)

        if not self.entries:
            return []
        pairs = [text("quantize.imatrix.file", os.fsencode(self.path))]
        if self.datasets:
            pairs.append(
                text("quantize.imatrix.dataset", self.datasets[0].encode("utf-8", "surrogateescape"))
            )
        pairs.append(kv("quantize.imatrix.entries_count", len(self.entries), GGUFValueType.UINT32))
        if self.chunk_count > 0:
            pairs.append(kv("quantize.imatrix.chunks_count", self.chunk_count, GGUFValueType.UINT32))
        return pairs


def load(path: str | os.PathLike[str]) -> ImportanceMatrix:
    """Read an importance matrix in either format.

    Raises
    ------
    FileError
        The file cannot be read.
    FormatError
        It is no importance matrix, truncated, or its lengths lie.
    """
    from gguffast.reading import LocalFile

    with contextlib.closing(LocalFile(path)) as file:
        if file.read(0, min(file.size, len(_GGUF_MAGIC))) != _GGUF_MAGIC:
            return _Legacy(file.name, file.read(0, file.size)).load()
    return _load_gguf(file.name)


def _load_gguf(path: str) -> ImportanceMatrix:
    from gguffast.gguf import GGUFFile
    from gguffast.types import GGMLQuantizationType

    with GGUFFile(path) as file:
        missing = [key for key in _METADATA if key not in file.metadata]
        if missing:
            raise FormatError(f"{path}: not an importance matrix: its metadata have no {missing[0]}")
        tensors = {tensor.name: tensor for tensor in file.tensors}
        # Ordered by name, as llama.cpp does; nothing depends on it but messages.
        names = sorted({t.removesuffix(s) for t in tensors for s in (_SUMS, _COUNTS) if t.endswith(s)})
        if not names:
            raise FormatError(f"{path}: not an importance matrix: it has no tensors named *{_SUMS}")
        entries = {}
        for name in names:
            pair = [tensors.get(name + suffix) for suffix in (_SUMS, _COUNTS)]
            for tensor, suffix in zip(pair, (_SUMS, _COUNTS), strict=True):
                if tensor is None:
                    raise FormatError(f"{path}: {name}{suffix} is missing; make the importance matrix anew")
                if tensor.type != GGMLQuantizationType.F32:
                    raise FormatError(f"{path}: {tensor.name}: expected F32, found {tensor.type.name}")
            sums, counts = (tensor.read().ravel() for tensor in pair if tensor is not None)
            entries[name] = _mean(path, name, sums, counts)
        texts = tuple(file.metadata.texts("imatrix.datasets") or ())
        return ImportanceMatrix(path, entries, texts, file.metadata.uint("imatrix.chunk_count") or 0)


def _mean(
    path: str, name: str, sums: NDArray[np.float32], counts: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Divide the sums of each expert by its count; an expert that saw no text gets ones."""
    if not counts.size or sums.size % counts.size:
        raise FormatError(f"{path}: {name} has {sums.size} sums, which {counts.size} counts do not divide")
    bad = counts[~(np.isfinite(counts) & (counts >= 0))]
    if bad.size:
        raise FormatError(f"{path}: {name}{_COUNTS} are no counts: found {bad[0]}")
    # lround of llama.cpp: halves go up (np.rint would take them to even)
    exact = counts.astype(np.float64)
    exact += 0.5
    whole = np.floor(exact, out=exact).astype(np.float32)[:, None]
    table = sums.reshape(counts.size, -1)
    with np.errstate(all="ignore"):  # sums may be infinite; ImportanceMatrix.check() tells of it
        return np.divide(table, whole, out=np.ones_like(table), where=whole > 0).ravel()


class _Legacy:
    """Reader of the ``.dat`` format: little-endian int32 counts and lengths, float32 values, no magic."""

    def __init__(self, path: str, data: bytearray) -> None:
        self.path = path
        self.data = memoryview(data)
        self.at = 0

    def load(self) -> ImportanceMatrix:
        n_entries = self._int("number of entries")
        if not 1 <= n_entries <= _MAX_ENTRIES:
            raise FormatError(
                f"{self.path}: not an importance matrix: it claims {n_entries} entries, expected 1 to "
                f"{_MAX_ENTRIES}; give a file that llama-imatrix wrote"
            )
        entries = dict(self._entry(i) for i in range(n_entries))
        # llama-imatrix did not always write what follows.
        chunks = self._int("number of chunks") if self._left() else 0
        dataset = self._text("name of the dataset") if self._left() else ""
        return ImportanceMatrix(self.path, entries, (dataset,) if dataset else (), chunks)

    def _entry(self, i: int) -> tuple[str, NDArray[np.float32]]:
        name = self._text(f"name of entry {i}")
        calls = self._int(f"number of calls of {name}")
        size = self._int(f"number of values of {name}")
        if size < 1:
            raise FormatError(
                f"{self.path}: offset {self.at - 4}: {name} has {size} values; expected at least 1"
            )
        values = np.frombuffer(self._take(4 * size, f"{size} values of {name}"), "<f4").astype(np.float32)
        if calls > 0:  # the file holds the mean times the calls
            values /= np.float32(calls)
        return name, values

    def _left(self) -> int:
        return len(self.data) - self.at

    def _take(self, size: int, what: str) -> memoryview:
        if not 0 <= size <= self._left():
            raise FormatError(
                f"{self.path}: offset {self.at}: the {what} take {size} bytes, but {self._left()} are left; "
                "the file is truncated or not an importance matrix"
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def _int(self, what: str) -> int:
        return int.from_bytes(self._take(4, what), "little", signed=True)

    def _text(self, what: str) -> str:
        size = self._int(f"length of the {what}")
        # a C string to llama.cpp: it ends at a zero byte
        return bytes(self._take(size, what)).partition(b"\0")[0].decode("utf-8", "surrogateescape")

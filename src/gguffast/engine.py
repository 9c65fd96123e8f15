"""Carries out a plan: threads that read weights, recode them and write them where they belong."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from gguffast import _core
from gguffast.errors import DataError, OptionError
from gguffast.plan import PlannedTensor, Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gguffast.types import GGMLQuantizationType

# Weights in a piece of work: long enough that Python's share of the time vanishes, short enough that a
# thread's two buffers (at most 4 bytes a weight each) stay near the caches and that stopping is prompt. Whole
# blocks of every type.
CHUNK_WEIGHTS = 1 << 20

_REPORT_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the work is.

    Attributes
    ----------
    done, total : int
        Bytes of the source.
    tensor : str
        Name of the tensor that was worked on last; empty before the first.
    complete : int
        Tensors, from the first of the file on, that are complete.
    """

    done: int
    total: int
    tensor: str
    complete: int = 0


class _Chunk(NamedTuple):
    """Weights of one tensor, all of the same expert if an importance matrix is used."""

    order: int
    tensor: int
    planned: PlannedTensor
    first: int
    n: int


class _Scratch:
    """A buffer that grows to what is asked for."""

    def __init__(self) -> None:
        self._bytes = memoryview(b"")

    def take(self, size: int) -> memoryview:
        if size > len(self._bytes):
            self._bytes = memoryview(bytearray(size))
        return self._bytes[:size]


def available_cpus() -> int:
    """CPUs that this process may use: its affinity mask, further limited by a container's quota."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cpus = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, round(int(quota) / int(period))))


def run(
    tensors: Sequence[PlannedTensor],
    write: Callable[[memoryview, int], None],
    threads: int,
    progress: Callable[[Progress], object] | None = None,
) -> None:
    """Recode every tensor and write it.

    The bytes do not depend on the number of threads. An error in one thread stops the others; of several, the
    one that stands first in the file is raised. Memory is two buffers of a chunk a thread; of a row, if
    there are importances.

    Parameters
    ----------
    tensors : sequence of PlannedTensor
        The work, in file order.
    write : callable
        ``write(data, offset)``, called from several threads at once.
    threads : int
        How many.
    progress : callable, optional
        Called with a :class:`Progress` from the calling thread about ten times a second, first with nothing
        done and at last with everything done. What it raises stops the work.

    Raises
    ------
    DataError
        NaN or infinity in the source, or weights that the type cannot hold; with the tensor's name and the
        row.
    """
    _Run(tensors, write).run(threads, progress)


class _Run:
    def __init__(self, tensors: Sequence[PlannedTensor], write: Callable[[memoryview, int], None]) -> None:
        self._write = write
        self._chunks = _chunks(tensors)
        self._lock = threading.Lock()
        self._stop = False
        self._finished = threading.Event()
        self._errors: dict[int, BaseException] = {}
        self._done = 0
        self._tensor = ""
        self._to_do = [p.target.source.n_rows * p.target.source.ne[0] for p in tensors]  # weights
        self._complete = 0
        self._total = sum(p.target.source.n_rows * p.target.source.row_bytes for p in tensors)

    def run(self, threads: int, progress: Callable[[Progress], object] | None) -> None:
        self._report(progress)
        workers = [threading.Thread(target=self._work, name=f"gguffast-{i}") for i in range(threads)]
        self._left = threads
        try:
            self._start(workers)
            while not self._finished.wait(_REPORT_SECONDS if progress else None):
                self._report(progress)
        finally:
            self._stop = True
            _join(workers)
        if self._errors:
            raise self._errors[min(self._errors)]
        self._report(progress)

    def _report(self, progress: Callable[[Progress], object] | None) -> None:
        if progress:
            progress(Progress(self._done, self._total, self._tensor, self._count_complete()))

    def _count_complete(self) -> int:
        while self._complete < len(self._to_do) and not self._to_do[self._complete]:
            self._complete += 1
        return self._complete

    def _start(self, workers: list[threading.Thread]) -> None:
        try:
            for worker in workers:
                worker.start()
        except RuntimeError as error:
            raise OptionError(f"cannot start {len(workers)} threads: {error}; ask for fewer") from error

    def _work(self) -> None:
        chunk = None
        try:
            source, result = _Scratch(), _Scratch()
            while not self._stop:
                with self._lock:
                    chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._recode(chunk, source, result)
        except BaseException as error:
            # Chunks are given out in file order, and those given out before this one are still finished: so
            # the smallest index is the first error in the file, whatever the number of threads.
            self._errors[chunk.order if chunk else -1] = error
            self._stop = True
        finally:
            with self._lock:
                self._left -= 1
                if not self._left:
                    self._finished.set()

    def _recode(self, chunk: _Chunk, source: _Scratch, result: _Scratch) -> None:
        target = chunk.planned.target
        tensor = target.source
        data = source.take(tensor.type.nbytes(chunk.n))
        tensor.read_into(tensor.type.nbytes(chunk.first), data)
        out = result.take(target.type.nbytes(chunk.n))
        row = chunk.first // tensor.ne[0]
        columns = min(tensor.ne[0], chunk.n)
        status, bad = _core.recode(tensor.type, data, target.type, out, columns, _importance(target, row))
        if status:
            raise bad_row(status, tensor.name, target.type, row + bad)
        self._write(out, chunk.planned.offset + target.type.nbytes(chunk.first))
        with self._lock:
            self._done += len(data)
            self._to_do[chunk.tensor] -= chunk.n
            self._tensor = tensor.name


def _chunks(tensors: Sequence[PlannedTensor]) -> Iterator[_Chunk]:
    index = 0
    for number, planned in enumerate(tensors):
        target = planned.target
        if not target.nbytes:
            continue
        columns, n = target.source.ne[0], target.source.ne[0] * target.source.n_rows
        step = max(1, CHUNK_WEIGHTS // columns) * columns
        run = n
        if target.importance is not None:
            # The rows of an expert have their own importance: a chunk never spans two experts.
            run = columns * target.source.ne[1]
        elif columns > CHUNK_WEIGHTS:
            # Without importances no block depends on another one of its row, which may be longer than memory.
            run, step = columns, CHUNK_WEIGHTS
        for start in range(0, n, run):
            for first in range(start, start + run, step):
                yield _Chunk(index, number, planned, first, min(step, start + run - first))
                index += 1


def _importance(target: Target, row: int) -> NDArray[np.float32] | None:
    if target.importance is None:
        return None
    expert: NDArray[np.float32] = target.importance[row // target.source.ne[1] % len(target.importance)]
    return expert


def bad_row(status: _core.RecodeStatus, name: str, type_: GGMLQuantizationType, row: int) -> DataError:
    """Say what :func:`gguffast._core.recode` found in a row of a tensor that was to become `type_`."""
    place = f"tensor '{name}', row {row}"
    if status is _core.RecodeStatus.BAD_INPUT:
        return DataError(
            f"{place}: NaN or infinity in the source; the model is damaged: convert or download it again"
        )
    if type_.info.quantized:
        hint = f"keep this tensor in another type, for example with `tensor_type` '{name}=bf16'"
    else:
        hint = "BF16 has their range: make such a file, and quantize that"
    return DataError(f"{place} holds weights {type_.misfit}; {hint}")


def _join(workers: list[threading.Thread]) -> None:
    """Wait for the threads to end, even when Ctrl-C is pressed again: they use a file that is closed next."""
    interrupt: KeyboardInterrupt | None = None
    for worker in workers:
        while worker.is_alive():
            try:
                worker.join()
            except KeyboardInterrupt as error:
                interrupt = error
    if interrupt:
        raise interrupt

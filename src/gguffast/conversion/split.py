"""Output in one file or several, that are all there or not at all."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gguffast import engine
from gguffast.engine import Progress
from gguffast.errors import OptionError
from gguffast.files import OutputFile
from gguffast.gguf import KV
from gguffast.plan import Plan, Target, make_plan
from gguffast.shards import split_kvs

_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}


def parse_size(size: str | int) -> int:
    """Read a number of bytes: ``"4G"``, ``"500M"``, ``"64K"`` (decimal units) or a plain number.

    Raises
    ------
    OptionError
        If it is something else.
    """
    text = str(size).strip()
    digits, unit = (text[:-1], text[-1]) if text[-1:].upper() in _UNITS else (text, "")
    if not (digits.isascii() and digits.isdecimal()):
        raise OptionError(f"split size {size!r}: expected a number of bytes, or one with K, M or G as in 4G")
    return int(digits) * _UNITS.get(unit.upper(), 1)


def split(targets: Sequence[Target], max_size: int, max_tensors: int) -> list[list[Target]]:
    """Share tensors out in their order; 0 is no limit. One larger than `max_size` has a shard of its own."""
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


def plan_shards(kvs: Sequence[KV], shards: Sequence[Sequence[Target]], *, keep_dims: bool) -> list[Plan]:
    """Lay the shards out: the first one has the model's metadata."""
    if len(shards) == 1:
        return [make_plan(kvs, shards[0], keep_dims=keep_dims)]
    total = sum(len(shard) for shard in shards)
    plans = []
    for i, shard in enumerate(shards):
        own = split_kvs(i, len(shards), total)
        plans.append(make_plan([*(kvs if i == 0 else ()), *own], shard, keep_dims=keep_dims))
    return plans


def write_files(
    files: Sequence[tuple[Path, Plan]], threads: int, progress: Callable[[Progress], object] | None
) -> None:
    """Write every file, and give all of them their names only when the last byte of the last one is there."""
    starts = [0]
    for _, plan in files:
        starts.append(starts[-1] + plan.size)
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(OutputFile(path, plan.size)) for path, plan in files]
        for output, (_, plan) in zip(outputs, files, strict=True):
            output.write(plan.header, 0)

        def write(data: memoryview, offset: int) -> None:
            i = bisect_right(starts, offset) - 1
            outputs[i].write(data, offset - starts[i])

        # One run over all files, as if they lay one behind the other.
        tensors = [
            replace(tensor, offset=start + tensor.offset)
            for start, (_, plan) in zip(starts, files, strict=False)
            for tensor in plan.tensors
        ]
        engine.run(tensors, write, threads, progress)
        _commit(outputs)


def _commit(outputs: Sequence[OutputFile]) -> None:
    done: list[Path] = []
    try:
        for output in outputs:
            output.commit()
            done.append(output.path)
    except BaseException:
        for path in done:
            path.unlink(missing_ok=True)
        raise

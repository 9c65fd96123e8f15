"""One GGUF file into shards, and shards into one file: gguf-split's files, byte for byte."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Unpack

from gguffast.errors import FormatError, OptionError
from gguffast.gguf import DEFAULT_ALIGNMENT, KV, GGUFValueType, kv
from gguffast.job import Job, Result, ShardLimits, Worker, WorkOptions, read_limits
from gguffast.plan import Plan, Target, make_plan
from gguffast.recipe.choose import Choice
from gguffast.recipe.options import Option, takes
from gguffast.shards import MAX_SHARDS, SPLIT_COUNT, SPLIT_KEYS, ShardName, split_kvs
from gguffast.sources.gguf import GGUFSource

#: Most tensors of a shard where nothing else is said.
DEFAULT_MAX_TENSORS = 128


class SplitOptions(ShardLimits, WorkOptions, total=False):
    """What can be said about splitting a model."""

    no_tensor_first_split: Annotated[bool, Option("leave the first file without tensors")]


@takes(SplitOptions)
def split(
    src: str | os.PathLike[str], dst: str | os.PathLike[str], **options: Unpack[SplitOptions]
) -> Result:
    """Split a GGUF file. The shards equal those of llama.cpp's gguf-split, byte for byte.

    Without a limit, a shard has 128 tensors. A tensor larger than a limit has a shard of its own. A model
    that is split already is split anew.

    Parameters
    ----------
    src : path-like
        A GGUF file, or the first shard of a split one.
    dst : path-like
        What the shards' names begin with: ``model`` makes ``model-00001-of-00003.gguf``.
    {options}
    progress
        As for :func:`gguffast.quantize`.

    Returns
    -------
    Result
        Sizes, types, files, time.

    Raises
    ------
    OptionError
        Limits that make no sense.
    FormatError
        ``src`` is damaged; shards are missing, doubled, or do not belong together.
    FileError
        A file is missing, exists already, cannot be read or written, or the disk is full.
    """
    worker = Worker(options)
    with GGUFSource(src) as source:
        worker.reads(source.files)
        job, plans = plan_split(source, options)
        paths = split_paths(dst, len(plans))
        return worker.run_planned(job, Path(src), paths, plans, file_type="COPY")


@takes(WorkOptions)
def merge(src: str | os.PathLike[str], dst: str | os.PathLike[str], **options: Unpack[WorkOptions]) -> Result:
    """Make one GGUF file of shards. It equals that of llama.cpp's gguf-split, byte for byte.

    Parameters
    ----------
    src : path-like
        The first shard.
    dst : path-like
        The output.
    {options}
    progress
        As for :func:`gguffast.quantize`.

    Returns
    -------
    Result
        Sizes, types, file, time.

    Raises
    ------
    FormatError
        ``src`` is not a shard, or is damaged; shards are missing, doubled, or do not belong together.
    FileError
        A file is missing, exists already, cannot be read or written, or the disk is full.
    """
    worker = Worker(options)
    with GGUFSource(src) as source:
        worker.reads(source.files)
        return worker.run(merge_job(source), Path(src), Path(dst), file_type="COPY")


def plan_split(source: GGUFSource, options: SplitOptions) -> tuple[Job, list[Plan]]:
    """Decide which shard each tensor goes to; errors as in :func:`split`."""
    max_size, max_tensors = read_limits(options)
    if not (max_size or max_tensors):
        max_tensors = DEFAULT_MAX_TENSORS
    job = _copy(source, [pair for pair in source.kvs if pair.key not in SPLIT_KEYS])
    shards = _share_out(job, max_size, max_tensors)
    if options.get("no_tensor_first_split"):
        shards.insert(0, [])
    if len(shards) > MAX_SHARDS:
        raise OptionError(f"these limits would make {len(shards)} files; at most {MAX_SHARDS} can be counted")
    plans = []
    for i, shard in enumerate(shards):
        # The count comes last, where gguf-split has it; the converter has it in the middle.
        number, count, n_tensors = split_kvs(i, len(shards), len(job.targets))
        plans.append(make_plan([*(job.kvs if i == 0 else ()), number, n_tensors, count], shard))
    return job, plans


def split_paths(prefix: str | os.PathLike[str], count: int) -> list[Path]:
    """Name shards; unlike :func:`gguffast.shards.shard_paths`, numbers are added to one that is alone too."""
    path = Path(prefix)
    return [path.with_name(name) for name in ShardName(path.name, 1, count).all]


def merge_job(source: GGUFSource) -> Job:
    """Decide what the file of all shards is; errors as in :func:`merge`."""
    if not source.metadata.uint(SPLIT_COUNT):
        raise FormatError(f"{source.paths[0]}: this is a whole model and no shard; there is nothing to merge")
    # Of the shard's own keys only the count changes: zero says that the file is whole.
    kvs = [pair for pair in source.kvs if pair.key != SPLIT_COUNT]
    return _copy(source, [*kvs, kv(SPLIT_COUNT, 0, GGUFValueType.UINT16)])


def _copy(source: GGUFSource, kvs: Sequence[KV]) -> Job:
    return Job(kvs, source.tensors, [Choice(tensor.type) for tensor in source.tensors])


def _share_out(job: Job, max_size: int, max_tensors: int) -> list[list[Target]]:
    """Fill shards in turn, counting the padding of tensors; the converter's rule counts without."""
    shards: list[list[Target]] = [[]]
    size = 0
    for target in job.targets:
        nbytes = -(-target.nbytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT
        full = (max_tensors and len(shards[-1]) >= max_tensors) or (max_size and size + nbytes > max_size)
        if full and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(target)
        size += nbytes
    return shards

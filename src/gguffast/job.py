"""A job: source, recipe, engine and output make a `Result`. What the commands on weights are made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

from gguffast import engine
from gguffast.engine import Progress
from gguffast.errors import DataError, FormatError, OptionError
from gguffast.files import parse_size
from gguffast.filetypes import FileType
from gguffast.output import Output, check_output
from gguffast.plan import Plan, Target, plan_files
from gguffast.reading import ReadableFile
from gguffast.recipe.choose import Choice, check_choices, choose_types
from gguffast.recipe.metadata import file_type_number, output_kvs
from gguffast.recipe.model import output_order
from gguffast.recipe.options import Option, Options, RecipeOptions
from gguffast.shards import shard_paths
from gguffast.sources import Source, SourceTensor
from gguffast.types import GGMLQuantizationType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gguffast.gguf import KV
    from gguffast.imatrix import ImportanceMatrix


class _Running(TypedDict, total=False):
    threads: Annotated[
        int | None, Option("number of threads (default: the CPUs this process may use)", "N", int)
    ]
    progress: Callable[[Progress], object] | None
    """Called about ten times a second, from the calling thread. What it raises stops the work."""


class MakeOptions(RecipeOptions, _Running, total=False):
    """The recipe's options, and how the work is done."""


class WorkOptions(_Running, total=False):
    """How the work is done, where the output is named."""

    force: Annotated[bool, Option("replace an output that exists; it stands until the new one is complete")]
    dry_run: Annotated[bool, Option("show the resulting size, write nothing")]


class JobOptions(RecipeOptions, WorkOptions, total=False):
    """The recipe's options, and how the work is done, where the output is named."""


class ShardLimits(TypedDict, total=False):
    """How much a file of a model in several files may hold."""

    split_max_size: Annotated[int | str, Option("most bytes of tensors in a file, as in 4G", "N(M|G)")]
    split_max_tensors: Annotated[int, Option("most tensors in a file", "N", int)]


def read_limits(limits: ShardLimits) -> tuple[int, int]:
    """Give the most bytes and the most tensors of a file; 0 is no limit."""
    max_tensors = limits.get("split_max_tensors", 0)
    if max_tensors < 0:
        raise OptionError(f"`split_max_tensors` must be 0 or more, found {max_tensors}")
    try:
        return parse_size(limits.get("split_max_size", 0)), max_tensors
    except OptionError as error:
        raise OptionError(f"`split_max_size`: {error}") from None


@dataclass(frozen=True, slots=True)
class Fallback:
    """A tensor that got another type than meant, because its rows are not whole blocks of that type."""

    tensor: str
    wanted: GGMLQuantizationType
    type: GGMLQuantizationType


@dataclass(frozen=True, slots=True)
class TypeShare:
    """What one tensor type has of a file."""

    tensors: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Result:
    """What was done.

    Attributes
    ----------
    src, dst : Path
        Input and output. After a dry run there is no output.
    file_type : str
        Name of the file type: ``Q4_K_M``.
    dry_run : bool
        True if nothing was written.
    size_in, size_out : int
        Bytes of the files.
    tensor_bytes_in, tensor_bytes_out : int
        Bytes of the tensors in them.
    n_weights, n_tensors : int
        How many there are.
    n_requantized : int
        Tensors that were already quantized and were quantized again.
    types : dict of str to TypeShare
        Tensor types of the output, the one with the most bytes first.
    fallbacks : tuple of Fallback
        Tensors that got another type than meant.
    imatrix_used : int
        Tensors quantized with an importance matrix.
    imatrix_missing : tuple of str
        Tensors quantized without one although one was given: it has no entry for them.
    threads : int
        Threads that worked.
    seconds : float
        Time from opening the input to closing the output.
    outputs : tuple of Path
        The files of the output: ``dst``, or its shards.
    warnings : tuple of str
        What the user should know about the input, and the folder of the output.
    """

    src: Path
    dst: Path
    file_type: str
    dry_run: bool
    size_in: int
    size_out: int
    tensor_bytes_in: int
    tensor_bytes_out: int
    n_weights: int
    n_tensors: int
    n_requantized: int
    types: dict[str, TypeShare]
    fallbacks: tuple[Fallback, ...]
    imatrix_used: int
    imatrix_missing: tuple[str, ...]
    threads: int
    seconds: float
    outputs: tuple[Path, ...]
    warnings: tuple[str, ...] = ()

    @property
    def bpw_in(self) -> float:
        """Bits per weight of the input's tensors."""
        return self.tensor_bytes_in * 8 / self.n_weights if self.n_weights else 0.0

    @property
    def bpw_out(self) -> float:
        """Bits per weight of the output's tensors."""
        return self.tensor_bytes_out * 8 / self.n_weights if self.n_weights else 0.0

    @property
    def weights_per_second(self) -> float:
        """Weights, quantized or copied, in a second."""
        return self.n_weights / self.seconds


class Job:
    """A model on its way: what each tensor becomes, and the metadata that goes with it.

    Parameters
    ----------
    kvs : sequence of KV
        The output's metadata.
    tensors : sequence of SourceTensor
        In output order.
    choices : sequence of Choice
        What each becomes.
    matrix : ImportanceMatrix, optional
        Importances of the weights.
    keep_dims : bool
        As for :func:`gguffast.plan.make_plan`.
    """

    def __init__(
        self,
        kvs: Sequence[KV],
        tensors: Sequence[SourceTensor],
        choices: Sequence[Choice],
        matrix: ImportanceMatrix | None = None,
        *,
        keep_dims: bool = False,
    ) -> None:
        self.kvs = kvs
        self.tensors = tensors
        self.keep_dims = keep_dims
        self.missing: list[str] = []
        self.fallbacks = [
            Fallback(tensor.name, choice.fallback_from, choice.type)
            for tensor, choice in zip(tensors, choices, strict=True)
            if choice.fallback_from is not None
        ]
        if matrix:
            matrix.check(tensor.name for tensor in tensors)
        self.targets = [
            Target(tensor, choice.type, self._importance(matrix, tensor, choice) if matrix else None)
            for tensor, choice in zip(tensors, choices, strict=True)
        ]

    def _importance(
        self, matrix: ImportanceMatrix, tensor: SourceTensor, choice: Choice
    ) -> NDArray[np.float32] | None:
        if choice.type == tensor.type or not choice.type.info.quantized:
            return None
        importance = matrix.for_tensor(tensor.name, tensor.ne, choice.needs_imatrix)
        if importance is None:
            self.missing.append(tensor.name)
        return importance


def quantization(source: Source, file_type: FileType, options: Options, *, keep_order: bool = False) -> Job:
    """Decide what quantization makes of a model.

    Parameters
    ----------
    source : Source
    file_type : FileType
    options : Options
    keep_order : bool
        Keep the tensors in the order of the source, as shards need that are to stay what they are.

    Raises
    ------
    OptionError, DataError, FormatError
        As :func:`gguffast.recipe.choose.choose_types` and ``check_choices``; the importance matrix is that of
        another model.
    """
    tensors = list(source.tensors) if keep_order else output_order(source.tensors)
    weights = [(t.name, t.ne, t.type) for t in tensors]
    try:
        choices = choose_types(source.metadata, weights, file_type, options, keep_order=keep_order)
        check_choices(weights, choices, options)
        number = file_type_number(file_type, source.metadata, weights, options.override_kv)
    except (DataError, FormatError) as error:
        error.args = (f"{source.paths[0]}: {error}",)
        raise
    matrix = options.imatrix
    kvs = output_kvs(source.kvs, number, options.override_kv, matrix.kvs() if matrix else ())
    return Job(kvs, tensors, choices, matrix)


class Worker:
    """Carries jobs out, as the options say; the clock runs from here on.

    Parameters
    ----------
    given : WorkOptions
    output : type of Output
        How files are written.
    planned : callable, optional
        Called with the paths and plans of all files, before the first byte is written.

    Raises
    ------
    OptionError
        The number of threads makes no sense.
    """

    def __init__(
        self,
        given: WorkOptions,
        output: type[Output] = Output,
        planned: Callable[[Sequence[Path], Sequence[Plan]], object] | None = None,
    ) -> None:
        self._output = output
        self._planned = planned
        self._started = time.perf_counter()
        self._threads = thread_count(given.get("threads"))
        self._progress = given.get("progress")
        self._replace = given.get("force", False)
        self._dry_run = given.get("dry_run", False)
        self._weights: Sequence[ReadableFile] = ()
        self._warnings: list[str] = []

    def reads(self, weights: Sequence[ReadableFile]) -> None:
        """Tell the open files of the weights: they must not change until all is written."""
        self._weights = weights

    def run(
        self,
        job: Job,
        src: Path,
        dst: Path,
        *,
        file_type: str,
        inputs: Iterable[Path] = (),
        max_size: int = 0,
        max_tensors: int = 0,
        warnings: Sequence[str] = (),
    ) -> Result:
        """Write what becomes of a model.

        Parameters
        ----------
        job : Job
            What to write.
        src, dst : Path
            What was named as input, and the output; shards are named after it.
        file_type : str
            Name of the output's file type.
        inputs : iterable of Path
            All files that are read besides the weights; none of them may be the output.
        max_size, max_tensors : int
            Limits of a shard, as for :func:`gguffast.plan.plan_files`.
        warnings : sequence of str
            What the user should know about the input.
        """
        plans = plan_files(
            job.kvs, job.targets, max_size=max_size, max_tensors=max_tensors, keep_dims=job.keep_dims
        )
        paths = shard_paths(dst, len(plans))
        return self.run_planned(job, src, paths, plans, file_type=file_type, inputs=inputs, warnings=warnings)

    def run_planned(
        self,
        job: Job,
        src: Path,
        paths: Sequence[Path],
        plans: Sequence[Plan],
        *,
        file_type: str,
        inputs: Iterable[Path] = (),
        warnings: Sequence[str] = (),
    ) -> Result:
        """Write a model to `paths`, laid out as `plans` say; other parameters as for :meth:`run`."""
        if self._planned:
            self._planned(paths, plans)
        if not self._dry_run:
            self.write(paths, plans, inputs)
        return Result(
            src=src,
            dst=paths[0],
            outputs=tuple(paths),
            file_type=file_type,
            dry_run=self._dry_run,
            size_in=sum(file.size for file in self._weights),
            size_out=sum(plan.size for plan in plans),
            tensor_bytes_in=sum(t.n_rows * t.row_bytes for t in job.tensors),
            tensor_bytes_out=sum(t.nbytes for t in job.targets),
            n_weights=sum(t.n_rows * t.ne[0] for t in job.tensors),
            n_tensors=len(job.tensors),
            n_requantized=sum(t.type != t.source.type and t.source.type.info.quantized for t in job.targets),
            types=_types(job.targets),
            fallbacks=tuple(job.fallbacks),
            imatrix_used=sum(t.importance is not None for t in job.targets),
            imatrix_missing=tuple(job.missing),
            threads=self._threads,
            seconds=time.perf_counter() - self._started,
            warnings=(*warnings, *self._warnings),
        )

    def write(self, paths: Sequence[Path], plans: Sequence[Plan], inputs: Iterable[Path] = ()) -> None:
        """Write files as planned; parameters as for :meth:`run`."""
        read = [*(Path(file.name) for file in self._weights), *inputs]
        for path in paths:
            check_output(path, read, replace=self._replace)
        files = [(path, plan.size) for path, plan in zip(paths, plans, strict=True)]
        with self._output(files, replace=self._replace) as output:
            self._warnings += output.warnings
            for start, plan in zip(output.starts, plans, strict=True):
                output.write(plan.header, start)
            # One run over all files, as if they lay one behind the other.
            tensors = [
                replace(tensor, offset=start + tensor.offset)
                for start, plan in zip(output.starts, plans, strict=True)
                for tensor in plan.tensors
            ]
            engine.run(tensors, output.write, self._threads, self._progress)
            for file in self._weights:
                file.check_unchanged()
            output.commit()


def thread_count(threads: int | None) -> int:
    """Check a number of threads; None means the CPUs that this process may use."""
    if threads is None:
        return engine.available_cpus()
    if threads < 1:
        raise OptionError(f"`threads` must be at least 1, found {threads}")
    if threads > _MAX_THREADS:
        raise OptionError(f"`threads` must be at most {_MAX_THREADS}")
    return threads


#: More than any machine has CPUs.
_MAX_THREADS = 4096


def _types(targets: Sequence[Target]) -> dict[str, TypeShare]:
    shares: dict[str, TypeShare] = {}
    for target in targets:
        share = shares.get(target.type.name, TypeShare(0, 0))
        shares[target.type.name] = TypeShare(share.tensors + 1, share.nbytes + target.nbytes)
    return dict(sorted(shares.items(), key=lambda item: -item[1].nbytes))

"""GGUF in, quantized GGUF out: llama-quantize's file, byte for byte."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gguffast import engine
from gguffast import imatrix as imatrices
from gguffast.engine import Progress
from gguffast.errors import DataError, FormatError, OptionError
from gguffast.files import OutputFile, check_output
from gguffast.filetypes import FileType, parse_file_type
from gguffast.plan import Plan, Target, make_plan
from gguffast.recipe.choose import Choice, check_choices, choose_types
from gguffast.recipe.metadata import file_type_number, output_kvs
from gguffast.recipe.model import output_order
from gguffast.recipe.options import (
    Options,
    Override,
    TensorRule,
    check_override,
    parse_tensor_type,
    tensor_rule,
)
from gguffast.shards import parse_shard_name
from gguffast.sources import Source, SourceTensor
from gguffast.sources.gguf import GGUFSource
from gguffast.types import GGMLQuantizationType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gguffast.gguf import KV
    from gguffast.imatrix import ImportanceMatrix

# The last part of a name by the GGUF naming convention: the encoding, as people write it.
_ENCODING = re.compile(
    r"(?<=[-._])(?:bf16|fp?16|fp?32|mxfp4(?:_moe)?|nvfp4|i?q\d(?:_[a-z0-9]+)*|tq\d_\d)$", re.IGNORECASE
)


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
        What the user should know about the input.
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


def quantize(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str] | None,
    ftype: str | int,
    *,
    imatrix: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: Callable[[Progress], object] | None = None,
    force: bool = False,
    allow_requantize: bool = False,
    leave_output_tensor: bool = False,
    pure: bool = False,
    output_tensor_type: str | GGMLQuantizationType | None = None,
    token_embedding_type: str | GGMLQuantizationType | None = None,
    tensor_types: Iterable[tuple[str, str | GGMLQuantizationType] | TensorRule] = (),
    include_weights: Sequence[str] = (),
    exclude_weights: Sequence[str] = (),
    override_kv: Mapping[str, bool | int | float | str] | Iterable[Override] = (),
    dry_run: bool = False,
) -> Result:
    """Quantize a GGUF file. The output equals llama-quantize's, byte for byte, for every number of threads.

    The output appears under its name when it is complete; an error or Ctrl-C leaves nothing behind.

    Parameters
    ----------
    src : path-like
        A GGUF file, or the first shard of a split one.
    dst : path-like or None
        The output; None names it after ``src`` and ``ftype`` (see :func:`default_output`).
    ftype : str, int or LlamaFileType
        The file type, by name (any case) or by number: ``"Q4_K_M"``, ``15``, ``LlamaFileType.MOSTLY_Q4_K_M``;
        ``"COPY"`` keeps every tensor as it is.
    imatrix : path-like, optional
        Importance matrix: a file that llama-imatrix wrote, in either format. Its path as given here is stored
        in the output's metadata.
    threads : int, optional
        Number of threads; by default the CPUs that this process may use.
    progress : callable, optional
        Called with a :class:`gguffast.engine.Progress` about ten times a second, from the calling thread.
        What it raises stops the work.
    force : bool
        Replace an existing output. It stands until the new one is complete.
    allow_requantize : bool
        Quantize tensors that are already quantized. Quality suffers.
    leave_output_tensor : bool
        Keep ``output.weight`` as it is.
    pure : bool
        The file type's main type for every tensor, instead of its mixture.
    output_tensor_type, token_embedding_type : str or GGMLQuantizationType, optional
        Type of ``output.weight``, and of the token embeddings.
    tensor_types : iterable of (str, type)
        Types by regular expression (searched in the tensor's name; the first that matches wins).
    include_weights, exclude_weights : sequence of str
        Use the importance matrix only for tensors whose name contains one of these strings, or not for these.
    override_kv : mapping or iterable of Override
        Metadata to set in the output: an int is stored as UINT32, a float as FLOAT32.
    dry_run : bool
        Only say what would be done.

    Returns
    -------
    Result
        Sizes, types, fallbacks, time.

    Raises
    ------
    OptionError
        Arguments that do not exist or do not fit together.
    FormatError
        ``src`` or ``imatrix`` is damaged.
    DataError
        NaN or infinity in a tensor; already quantized; an importance matrix of another model.
    FileError
        A file is missing, exists already, cannot be read or written, or the disk is full.
    """
    started = time.perf_counter()
    src = Path(src)
    file_type = parse_file_type(ftype)
    dst = Path(dst) if dst is not None else default_output(src, file_type.name)
    n_threads = thread_count(threads)
    settings = read_settings(
        imatrix=imatrix,
        allow_requantize=allow_requantize,
        leave_output_tensor=leave_output_tensor,
        pure=pure,
        output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type,
        tensor_types=tensor_types,
        include_weights=include_weights,
        exclude_weights=exclude_weights,
        override_kv=override_kv,
    )
    with GGUFSource(src) as source:
        if not dry_run:
            inputs = [*source.paths, *([Path(imatrix)] if imatrix else [])]
            check_output(dst, inputs, force=force)
        job = make_job(source, file_type, settings)
        plan = make_plan(job.kvs, job.targets)
        if not dry_run:
            _write(plan, dst, n_threads, progress)
        return job.result(
            src=src,
            outputs=(dst,),
            file_type=file_type.name,
            dry_run=dry_run,
            size_in=sum(path.stat().st_size for path in source.paths),
            size_out=plan.size,
            threads=n_threads,
            seconds=time.perf_counter() - started,
        )


def default_output(src: Path, file_type: str) -> Path:
    """Name the output by the GGUF naming convention: the encoding, the name's last part, changes.

    ``Qwen2-0.5B-F16.gguf`` becomes ``Qwen2-0.5B-Q4_K_M.gguf``, ``model.f16.gguf`` becomes
    ``model.q4_k_m.gguf``, and ``model.gguf`` becomes ``model-Q4_K_M.gguf``. The numbers of a shard are
    dropped. It lies beside ``src``.
    """
    stem = src.stem if src.suffix.lower() == ".gguf" else src.name
    shard = parse_shard_name(f"{stem}.gguf")
    if shard:
        stem = shard.stem
    encoding = _ENCODING.search(stem)
    if encoding is None or file_type == "COPY":
        return src.with_name(f"{stem}-{file_type}.gguf")
    name = file_type.lower() if encoding[0].islower() else file_type
    return src.with_name(f"{stem[: encoding.start()]}{name}.gguf")


@dataclass(frozen=True, slots=True)
class Settings:
    """The user's say in a quantization, read and checked."""

    options: Options
    matrix: ImportanceMatrix | None


def read_settings(
    *,
    imatrix: str | os.PathLike[str] | None,
    allow_requantize: bool,
    leave_output_tensor: bool,
    pure: bool,
    output_tensor_type: str | GGMLQuantizationType | None,
    token_embedding_type: str | GGMLQuantizationType | None,
    tensor_types: Iterable[TensorRule | tuple[str, str | GGMLQuantizationType]],
    include_weights: Sequence[str],
    exclude_weights: Sequence[str],
    override_kv: Mapping[str, bool | int | float | str] | Iterable[Override],
) -> Settings:
    """Check the options of :func:`quantize`, and load the importance matrix."""
    options = Options(
        pure=pure,
        leave_output_tensor=leave_output_tensor,
        output_tensor_type=_tensor_type(output_tensor_type),
        token_embedding_type=_tensor_type(token_embedding_type),
        tensor_types=[r if isinstance(r, TensorRule) else tensor_rule(*r) for r in tensor_types],
        allow_requantize=allow_requantize,
        overrides=_overrides(override_kv),
    )
    return Settings(options, _load_matrix(imatrix, include_weights, exclude_weights))


def make_job(source: Source, file_type: FileType, settings: Settings) -> Job:
    """Decide what quantization makes of a model."""
    options, matrix = settings.options, settings.matrix
    tensors = output_order(source.tensors)
    weights = [(t.name, t.ne, t.type) for t in tensors]
    try:
        choices = choose_types(source.metadata, weights, file_type, options, matrix is not None)
        check_choices(weights, choices, options, matrix is not None)
    except (DataError, FormatError) as error:
        raise type(error)(f"{source.paths[0]}: {error}") from None
    number = file_type_number(file_type, source.metadata, weights, options.overrides)
    kvs = output_kvs(source.kvs, number, options.overrides, matrix.kvs() if matrix else ())
    return Job(kvs, tensors, choices, matrix)


class Job:
    """One model on its way: what each tensor becomes, and the metadata that goes with it.

    Parameters
    ----------
    kvs : sequence of KV
        The output's metadata.
    tensors : sequence of SourceTensor
        In output order.
    choices : sequence of Choice
        What each becomes.
    matrix : ImportanceMatrix, optional
    """

    def __init__(
        self,
        kvs: Sequence[KV],
        tensors: Sequence[SourceTensor],
        choices: Sequence[Choice],
        matrix: ImportanceMatrix | None = None,
    ) -> None:
        self.kvs = kvs
        self._tensors = tensors
        self._choices = choices
        self._missing: list[str] = []
        self.targets = self._targets(matrix)

    def result(
        self,
        *,
        src: Path,
        outputs: tuple[Path, ...],
        file_type: str,
        dry_run: bool,
        size_in: int,
        size_out: int,
        threads: int,
        seconds: float,
        warnings: tuple[str, ...] = (),
    ) -> Result:
        """Sum up."""
        return Result(
            src=src,
            dst=outputs[0],
            file_type=file_type,
            dry_run=dry_run,
            size_in=size_in,
            size_out=size_out,
            tensor_bytes_in=sum(t.n_rows * t.row_bytes for t in self._tensors),
            tensor_bytes_out=sum(t.nbytes for t in self.targets),
            n_weights=sum(t.n_rows * t.ne[0] for t in self._tensors),
            n_tensors=len(self._tensors),
            n_requantized=sum(t.type != t.source.type and t.source.type.info.quantized for t in self.targets),
            types=_types(self.targets),
            fallbacks=tuple(self._fallbacks()),
            imatrix_used=sum(t.importance is not None for t in self.targets),
            imatrix_missing=tuple(self._missing),
            threads=threads,
            seconds=seconds,
            outputs=outputs,
            warnings=warnings,
        )

    def _fallbacks(self) -> list[Fallback]:
        return [
            Fallback(tensor.name, choice.fallback_from, choice.type)
            for tensor, choice in zip(self._tensors, self._choices, strict=True)
            if choice.fallback_from is not None
        ]

    def _targets(self, matrix: ImportanceMatrix | None) -> list[Target]:
        if matrix:
            matrix.check(tensor.name for tensor in self._tensors)
        return [
            Target(tensor, choice.type, self._importance(matrix, tensor, choice) if matrix else None)
            for tensor, choice in zip(self._tensors, self._choices, strict=True)
        ]

    def _importance(
        self, matrix: ImportanceMatrix, tensor: SourceTensor, choice: Choice
    ) -> NDArray[np.float32] | None:
        if choice.type == tensor.type or not choice.type.info.quantized:
            return None
        importance = matrix.for_tensor(tensor.name, tensor.ne, choice.needs_imatrix)
        if importance is None:
            self._missing.append(tensor.name)
        return importance


def _write(plan: Plan, dst: Path, threads: int, progress: Callable[[Progress], object] | None) -> None:
    with OutputFile(dst, plan.size) as output:
        output.write(plan.header, 0)
        engine.run(plan.tensors, output.write, threads, progress)
        output.commit()


def _load_matrix(
    path: str | os.PathLike[str] | None, include: Sequence[str], exclude: Sequence[str]
) -> ImportanceMatrix | None:
    if path is None:
        if include or exclude:
            raise OptionError("--include-weights and --exclude-weights need an importance matrix (--imatrix)")
        return None
    # As for llama-quantize, a matrix without entries is none.
    return imatrices.load(path).filter(include, exclude) or None


def thread_count(threads: int | None) -> int:
    """Check a number of threads; None means the CPUs that this process may use."""
    if threads is None:
        return engine.available_cpus()
    if threads < 1:
        raise OptionError(f"threads must be at least 1, found {threads}")
    return threads


def _tensor_type(name: str | GGMLQuantizationType | None) -> GGMLQuantizationType | None:
    return None if name is None else parse_tensor_type(name)


def _overrides(given: Mapping[str, bool | int | float | str] | Iterable[Override]) -> list[Override]:
    pairs = given.items() if isinstance(given, Mapping) else given
    return [check_override(Override(key, value)) for key, value in pairs]


def _types(targets: Sequence[Target]) -> dict[str, TypeShare]:
    shares: dict[str, TypeShare] = {}
    for target in targets:
        share = shares.get(target.type.name, TypeShare(0, 0))
        shares[target.type.name] = TypeShare(share.tensors + 1, share.nbytes + target.nbytes)
    return dict(sorted(shares.items(), key=lambda item: -item[1].nbytes))

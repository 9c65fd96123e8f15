"""Hugging Face checkpoint in, GGUF out: the reference converter's file, or that quantized in one pass."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Unpack

from gguffast import _core, engine
from gguffast.conversion.architecture import Architecture, Facts
from gguffast.conversion.architectures import find_architecture
from gguffast.conversion.hparams import Mtp, class_name, read_config
from gguffast.conversion.metadata import General, count_weights, read_general
from gguffast.conversion.options import ConvertOptions
from gguffast.conversion.tensors import Mapped, is_text, map_tensors
from gguffast.conversion.vocab import Vocab, load_vocab
from gguffast.documents import Values
from gguffast.errors import FileError, FormatError, OptionError, quote
from gguffast.filetypes import FILE_TYPES, FileType, LlamaFileType, parse_file_type
from gguffast.gguf import KV, GGUFValueType, kv
from gguffast.job import Job, Result, Worker, quantization, read_limits
from gguffast.plan import Plan
from gguffast.reading import ReadableFile
from gguffast.recipe.choose import Choice
from gguffast.recipe.options import Options, said_of_recipe, takes
from gguffast.sources import SourceTensor
from gguffast.sources.checkpoint import Checkpoint, guess_dtype, open_checkpoint
from gguffast.sources.lazy import DType, LazyTensor, as_source, to_f32
from gguffast.sources.lora import LoraMerge, merge_adapter, open_adapter
from gguffast.types import GGMLQuantizationType

# What the converter writes by its own rules; every other type is made from `auto` as `quantize` makes it.
TENSOR_TYPES = {
    LlamaFileType.ALL_F32: GGMLQuantizationType.F32,
    LlamaFileType.MOSTLY_F16: GGMLQuantizationType.F16,
    LlamaFileType.MOSTLY_BF16: GGMLQuantizationType.BF16,
    LlamaFileType.MOSTLY_Q8_0: GGMLQuantizationType.Q8_0,
}
QUANTIZATION_VERSION = ("general.quantization_version", 2, GGUFValueType.UINT32)

# What has the type that is asked for, if it is a matrix.
_BY_TYPE = (".weight", ".lora_a", ".lora_b")

# Routers, convolutions and positions are small and decide much: F32 always.
_ALWAYS_F32 = (
    *("_norm.weight", ".ffn_gate_inp.weight", ".ffn_gate_inp_shexp.weight"),
    *("position_embd.weight", "token_types.weight", ".ssm_conv1d.weight", ".shortconv.conv.weight"),
    *(".ssm_conv1d_q.weight", ".ssm_conv1d_k.weight", ".ssm_conv1d_v.weight", ".indexer.proj.weight"),
    *(".altup_correct_coef.weight", ".altup_predict_coef.weight"),
    *(".time_mix_first.weight", ".time_mix_w1.weight", ".time_mix_w2.weight", ".time_mix_decay_w1.weight"),
    *(".time_mix_decay_w2.weight", ".time_mix_lerp_fused.weight"),
)


@takes(ConvertOptions)
def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str] | None = None,
    file_type: str | int | FileType = "auto",
    **options: Unpack[ConvertOptions],
) -> Result:
    """Convert a Hugging Face checkpoint to GGUF, quantized on the way if asked for.

    One pass over the checkpoint: nothing lies in between, and no code of the checkpoint is executed. The file
    equals that of llama.cpp's ``convert_hf_to_gguf.py``; a quantized one equals what llama-quantize makes of
    its ``auto`` file. It appears under its name when it is complete; an error or Ctrl-C leaves nothing.

    Parameters
    ----------
    src : path-like
        Folder of the checkpoint: config.json, weights (safetensors or PyTorch), tokenizer.
    dst : path-like or None
        The output; ``{ftype}`` in its name becomes the type. A folder, or None for the checkpoint's own one,
        gets a file named by the GGUF naming convention.
    file_type : str, int or LlamaFileType
        ``"f32"``, ``"f16"``, ``"bf16"``, ``"q8_0"``; ``"auto"``, the 16-bit type of the weights; or any file
        type that :func:`gguffast.quantize` knows. The recipe's options are for these others only.
    {options}
    progress
        As for :func:`gguffast.quantize`.

    Returns
    -------
    Result
        Sizes, types, fallbacks, files, time.

    Raises
    ------
    OptionError
        Arguments that do not exist or do not fit together; a model class or pre-tokenizer that is not known.
    FormatError
        A file of the checkpoint is damaged, missing in a set, or disagrees with another one.
    DataError
        NaN or infinity in a tensor, or weights too large for the type.
    FileError
        A file is missing, exists already, cannot be read or written, or the disk is full.
    """
    return run(src, dst, file_type, options)


def run(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str] | None,
    file_type: str | int | FileType,
    options: ConvertOptions,
    *,
    copied: bool = False,
    planned: Callable[[Sequence[Path], Sequence[Plan]], object] | None = None,
) -> Result:
    """Do what :func:`convert` says.

    Parameters
    ----------
    src, dst, file_type, options
        As there.
    copied : bool
        Write the file that llama-quantize's COPY makes of the converter's; they differ in order only.
    planned
        As for :class:`gguffast.job.Worker`.
    """
    worker = Worker(options, planned=planned)
    folder = Path(os.path.abspath(src))
    wanted = _parse_type(file_type)
    say = Options(options)
    vocab_only = options.get("vocab_only", False)
    override = options.get("metadata")
    max_size, max_tensors = read_limits(options)
    if vocab_only and (max_size or max_tensors):
        raise OptionError("`vocab_only` leaves nothing to split with `split_max_size` or `split_max_tensors`")
    if vocab_only and options.get("merge_lora"):
        raise OptionError("`vocab_only` leaves nothing to merge with `merge_lora`")
    if not isinstance(wanted, FileType):
        _check_no_recipe(options)
    model = _Model(folder, options)
    worker.reads(model.files)
    general = read_general(
        folder,
        model.weights,
        model_name=options.get("model_name"),
        override=None if override is None else Path(override),
    )
    number, job = _make_job(model, general, wanted, say, copied)
    encoding = None if vocab_only else number.name.partition("_")[2]
    return worker.run(
        job,
        Path(src),
        output_path(folder, dst, general, encoding),
        file_type=encoding or "VOCAB",
        inputs=[
            *files_of(folder),
            *model.configs,
            *say.files,
            *([] if override is None else [Path(override)]),
        ],
        max_size=max_size,
        max_tensors=max_tensors,
        warnings=model.vocabulary.warnings,
    )


def _parse_type(file_type: str | int | FileType) -> LlamaFileType | FileType | None:
    """Return a type with rules of its own, a file type of `quantize`, or None for ``auto``."""
    if str(file_type).lower() == "auto":
        return None
    found = parse_file_type(file_type)
    return found if found.number not in TENSOR_TYPES else LlamaFileType(found.number)


def _check_no_recipe(options: ConvertOptions) -> None:
    given = [f"`{name}`" for name in said_of_recipe(options)]
    if given:
        raise OptionError(f"{' and '.join(given)} need a quantized `file_type`, for example q4_k_m")


def files_of(folder: Path) -> list[Path]:
    """Give the files of a checkpoint that may be read: all but the GGUF files that were made of it."""
    found = [*folder.iterdir(), *folder.glob("*/*.jinja")]
    return [path for path in found if path.is_file() and path.suffix.lower() != ".gguf"]


def _parse_mtp(options: ConvertOptions) -> Mtp:
    try:
        return Mtp(options.get("mtp", "with"))
    except ValueError:
        known = ", ".join(mode.value for mode in Mtp)
        raise OptionError(f"`mtp` is {options['mtp']!r}; known: {known}") from None


class _Model:
    """A checkpoint under GGUF names."""

    def __init__(self, folder: Path, options: ConvertOptions) -> None:
        self.folder = folder
        config_path = folder / "config.json"
        config = read_config(folder)
        self.architecture: Architecture = find_architecture(class_name(config, config_path), config)
        quantization = Values(config, config_path).within("quantization_config").values
        checkpoint = None if options.get("vocab_only") else open_checkpoint(folder, quantization)
        tensors = checkpoint.tensors if checkpoint else {}
        self.hparams = self.architecture.hparams(config, config_path, tensors, _parse_mtp(options))
        self.vocabulary: Vocab = load_vocab(
            folder, self.hparams.values, pre=options.get("pre"), **self.architecture.vocabulary(self.hparams)
        )
        self.files: Sequence[ReadableFile] = ()
        self.configs: list[Path] = []
        self.tensors: list[Mapped] = []
        self.auto = LlamaFileType.MOSTLY_F16
        if checkpoint:
            self._map(checkpoint, options.get("merge_lora", ()))
        else:
            # The file type is that of the weights, if there are any.
            with contextlib.suppress(FileError, FormatError):
                self._guess(open_checkpoint(folder).tensors)
        self.weights = count_weights((m.name, m.tensor.ne[::-1]) for m in self.tensors)

    def _map(self, checkpoint: Checkpoint, merges: Sequence[LoraMerge]) -> None:
        text = {name: tensor for name, tensor in checkpoint.tensors.items() if is_text(name)}
        self.files = checkpoint.files
        self._guess(text)
        for merge in merges:
            adapter = open_adapter(Path(os.path.abspath(merge.folder)))
            self.files = [*self.files, adapter.weights]
            self.configs.append(adapter.config_path)
            text = merge_adapter(text, adapter, merge.scale)
        self.tensors = map_tensors(self.architecture, self.hparams, text, self.vocabulary.size)
        for name, tensor in self.tensors:
            if name == "token_embd.weight" and self.vocabulary.size > tensor.shape[0]:
                raise FormatError(
                    f"{self.folder}: the tokenizer has {self.vocabulary.size} tokens, "
                    f"but the embedding only {tensor.shape[0]} rows"
                )

    def _guess(self, tensors: Mapping[str, LazyTensor]) -> None:
        if guess_dtype(tensors.values()) is DType.BF16:
            self.auto = LlamaFileType.MOSTLY_BF16

    def file_type(self, wanted: LlamaFileType) -> LlamaFileType:
        """Name the file's type: experts that stay MXFP4 count more than the 16 or 32 bits of the rest."""
        kept = any(mapped.tensor.dtype is DType.MXFP4 for mapped in self.tensors)
        return LlamaFileType.MOSTLY_MXFP4_MOE if kept and wanted is not LlamaFileType.MOSTLY_Q8_0 else wanted

    def kvs(self, general: General, file_type: LlamaFileType) -> list[KV]:
        """All metadata, in file order."""
        facts = Facts(self.architecture.name, self.hparams, int(file_type))
        pairs = [kv("general.architecture", self.architecture.name, GGUFValueType.STRING)]
        if self.tensors:
            pairs += [pair for key in self.architecture.early_keys for pair in key(facts)]
        pairs.append(kv("general.type", "model", GGUFValueType.STRING))
        pairs += general.kvs
        pairs += [pair for key in self.architecture.keys for pair in key(facts)]
        pairs.append(kv(*QUANTIZATION_VERSION))
        for key, value, kind in self.vocabulary.kvs:
            type_, _, item = kind.partition("/")
            pairs.append(kv(key, value, GGUFValueType[type_], GGUFValueType[item] if item else None))
        # A key that is said twice, by a family that knows better, keeps its first place and its last value.
        return list({pair.key: pair for pair in pairs}.values())


def _make_job(
    model: _Model,
    general: General,
    wanted: LlamaFileType | FileType | None,
    options: Options,
    copied: bool,
) -> tuple[LlamaFileType, Job]:
    """Decide what becomes of each tensor."""
    if isinstance(wanted, FileType):
        return wanted.number, quantization(_AsWritten(model, general, model.auto), wanted, options)
    file_type = model.auto if wanted is None else wanted
    number = model.file_type(file_type)
    if copied:
        return number, quantization(_AsWritten(model, general, file_type), FILE_TYPES["COPY"], options)
    tensors = [as_source(name, tensor) for name, tensor in model.tensors]
    choices = [choose(tensor, file_type) for tensor in tensors]
    return number, Job(model.kvs(general, number), tensors, choices, keep_dims=True)


def choose(tensor: SourceTensor, file_type: LlamaFileType) -> Choice:
    """Choose as the reference converter does."""
    if tensor.type.info.quantized:
        return Choice(tensor.type)
    if len(tensor.ne) == 1 or not tensor.name.endswith(_BY_TYPE) or tensor.name.endswith(_ALWAYS_F32):
        return Choice(GGMLQuantizationType.F32)
    wanted = TENSOR_TYPES[file_type]
    if tensor.ne[0] % wanted.info.block_size:
        return Choice(GGMLQuantizationType.F16, fallback_from=wanted)
    return Choice(wanted)


class _AsWritten:
    """What reading the converter's file of a type would give, without the file."""

    def __init__(self, model: _Model, general: General, file_type: LlamaFileType) -> None:
        self.paths = [model.folder]
        self.kvs = model.kvs(general, model.file_type(file_type))
        self.metadata = {pair.key: pair.value for pair in self.kvs if not pair.key.startswith("tokenizer.")}
        self.tensors: list[SourceTensor] = [
            _as_stored(name, tensor, file_type) for name, tensor in model.tensors
        ]


def _as_stored(name: str, tensor: LazyTensor, file_type: LlamaFileType) -> SourceTensor:
    source = as_source(name, tensor)
    type_ = choose(source, file_type).type
    if type_ is GGMLQuantizationType.F32:
        return as_source(name, to_f32(tensor))
    return source if source.type == type_ else _Rounded(source, type_)


class _Rounded:
    """A tensor of another type when it is read: what the converter's file would hold."""

    def __init__(self, source: SourceTensor, type_: GGMLQuantizationType) -> None:
        self._source = source
        self.name = source.name
        self.ne = source.ne
        self.type = type_
        self.n_rows = source.n_rows
        self.row_bytes = type_.nbytes(source.ne[0])

    def read_into(self, offset: int, into: memoryview) -> None:
        """See :class:`gguffast.sources.SourceTensor`."""
        first, count = self.type.weights(offset), self.type.weights(len(into))
        data = memoryview(bytearray(self._source.type.nbytes(count)))
        self._source.read_into(self._source.type.nbytes(first), data)
        columns = self.ne[0] if count % self.ne[0] == 0 else count
        status, row = _core.recode(self._source.type, data, self.type, into, columns, None)
        if status:
            raise engine.bad_row(status, self.name, self.type, first // self.ne[0] + row)


def output_path(
    folder: Path, dst: str | os.PathLike[str] | None, general: General, encoding: str | None
) -> Path:
    """Decide where the output goes, and what it is called; parameters as the commands have them."""
    path = folder if dst is None else Path(dst)
    if path.is_dir():
        return path / general.file_name(encoding)
    if path.exists():  # whatever its name looks like
        return path
    return path.with_name(fill_template(path.name, encoding))


def fill_template(name: str, encoding: str | None) -> str:
    """Put the type into a file name: ``{ftype}`` or ``{outtype}`` in lower case, ``{FTYPE}`` in upper case.

    Raises
    ------
    OptionError
        If there is something else in braces.
    """
    low, up = (encoding or "").lower(), (encoding or "").upper()
    values = {
        "{{": "{",
        "}}": "}",
        "{}": low,
        "{ftype}": low,
        "{outtype}": low,
        "{FTYPE}": up,
        "{OUTTYPE}": up,
    }

    def fill(found: re.Match[str]) -> str:
        if found[0] not in values:
            raise OptionError(f"output name {quote(name)}: braces can hold {{ftype}} or {{FTYPE}} only")
        return values[found[0]]

    return re.sub(r"\{\{|\}\}|\{\w*\}|[{}]", fill, name)

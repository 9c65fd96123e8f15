"""PEFT LoRA adapter in, GGUF adapter out: the reference converter's file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import numpy as np

from gguffast.conversion.architecture import Architecture, Rule, Step
from gguffast.conversion.architectures import find_architecture
from gguffast.conversion.converter import QUANTIZATION_VERSION, TENSOR_TYPES, choose, files_of, output_path
from gguffast.conversion.hparams import Hparams, class_name, read_config
from gguffast.conversion.metadata import Weights, read_general
from gguffast.conversion.tensors import Mapped, is_text, map_some
from gguffast.documents import short
from gguffast.errors import FormatError, OptionError
from gguffast.filetypes import FileType, LlamaFileType, parse_file_type
from gguffast.gguf import KV, GGUFValueType, kv
from gguffast.job import Job, Result, Worker, WorkOptions
from gguffast.recipe.options import Option, takes
from gguffast.sources.checkpoint import guess_dtype
from gguffast.sources.lazy import DType, LazyTensor, as_source, from_array, transpose, zeros
from gguffast.sources.lora import LoraAdapter, open_adapter

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LoraOptions(WorkOptions, total=False):
    """What can be said about the conversion of an adapter."""

    rslora: Annotated[
        bool,
        Option("store the alpha with which llama.cpp scales an rsLoRA adapter as it was trained"),
    ]


@takes(LoraOptions)
def convert_lora(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str] | None = None,
    file_type: str | int | FileType = "f32",
    *,
    base: str | os.PathLike[str],
    **options: Unpack[LoraOptions],
) -> Result:
    """Convert a PEFT LoRA adapter to GGUF.

    The file equals that of llama.cpp's ``convert_lora_to_gguf.py``. Whether the adapter fits its base is
    checked before anything is written: every name, shape and rank.

    Parameters
    ----------
    src : path-like
        Folder of the adapter: adapter_config.json and adapter_model.safetensors or .bin.
    dst : path-like or None
        The output; ``{ftype}`` in its name becomes the type. A folder, or None for the adapter's own one,
        gets a file named by the GGUF naming convention.
    file_type : str, int or LlamaFileType
        ``"f32"``, ``"f16"``, ``"bf16"``, ``"q8_0"``, or ``"auto"``, the 16-bit type of the weights.
    base : path-like
        Folder of the base model's checkpoint; its config.json is enough.
    {options}
    progress
        As for :func:`gguffast.quantize`.

    Returns
    -------
    Result
        Sizes, types, fallbacks, warnings (what llama.cpp will make of the adapter otherwise than PEFT), time.

    Raises
    ------
    OptionError
        A type that adapters are not written in; a model class that is not known.
    FormatError
        The adapter is damaged, of a kind that GGUF has no place for (DoRA, whole embeddings), or of another
        base: the tensor and the configuration's key are named.
    DataError
        NaN or infinity in a tensor, or weights too large for the type.
    FileError
        A file is missing, exists already, cannot be read or written, or the disk is full.
    """
    worker = Worker(options)
    folder, base_folder = Path(os.path.abspath(src)), Path(os.path.abspath(base))
    adapter = open_adapter(folder)
    wanted = _parse_type(file_type, adapter)
    worker.reads([adapter.weights])
    config, config_path = read_config(base_folder), base_folder / "config.json"
    architecture = find_architecture(class_name(config, config_path), config)
    hparams = architecture.hparams(config, config_path)
    # Which rows a vocabulary leaves out is not known without it; an adapter is trained on all of them.
    hparams.tokens = hparams.integer("vocab_size", 0, default=0)
    try:
        found = _tensors(architecture, hparams, adapter)
    except FormatError as error:
        error.args = (f"{adapter.weights.name} does not fit its base: {error}",)
        raise
    general = read_general(folder, Weights(-_count(found), 0, 0))
    kvs = _metadata(architecture.name, adapter, general.kvs, rslora=options.get("rslora", False))
    tensors = [as_source(name, tensor) for name, tensor in found]
    job = Job(kvs, tensors, [choose(tensor, wanted) for tensor in tensors], keep_dims=True)
    encoding = wanted.name.partition("_")[2]
    return worker.run(
        job,
        Path(src),
        output_path(folder, dst, general, encoding),
        file_type=encoding,
        inputs=[*files_of(folder), config_path],
        warnings=_warnings(adapter, rslora=options.get("rslora", False)),
    )


def _parse_type(file_type: str | int | FileType, adapter: LoraAdapter) -> LlamaFileType:
    if str(file_type).lower() == "auto":
        halves = [half for pair in adapter.pairs.values() for half in (pair.columns, pair.rows)]
        bf16 = guess_dtype(halves) is DType.BF16
        return LlamaFileType.MOSTLY_BF16 if bf16 else LlamaFileType.MOSTLY_F16
    found = parse_file_type(file_type)
    if found.number not in TENSOR_TYPES:
        raise OptionError(f"an adapter is not written as {found.name}; known: f32, f16, bf16, q8_0, auto")
    return LlamaFileType(found.number)


def _metadata(name: str, adapter: LoraAdapter, general: Sequence[KV], *, rslora: bool) -> list[KV]:
    alpha = adapter.alpha
    if rslora:
        if not adapter.root_scaled:
            raise OptionError(f"`rslora` is for rsLoRA, which {adapter.config_path} does not say this is")
        if adapter.own_ranks:
            raise OptionError(f"`rslora`: {adapter.config_path} has a rank_pattern, and GGUF only one alpha")
        # llama.cpp divides by the rank; the training by its root.
        alpha *= math.sqrt(adapter.rank)
    return [
        kv("general.architecture", name, GGUFValueType.STRING),
        kv("general.type", "adapter", GGUFValueType.STRING),
        kv("adapter.type", "lora", GGUFValueType.STRING),
        *general,
        kv("adapter.lora.alpha", alpha, GGUFValueType.FLOAT32),
        *_invocation(adapter),
        kv(*QUANTIZATION_VERSION),
    ]


def _invocation(adapter: LoraAdapter) -> list[KV]:
    """Say from which tokens on an activated LoRA works."""
    if not adapter.invocation:
        return []
    key, kind = "adapter.alora.invocation_tokens", GGUFValueType.ARRAY
    return [kv(key, adapter.invocation, kind, GGUFValueType.UINT32)]


def _warnings(adapter: LoraAdapter, *, rslora: bool) -> list[str]:
    """Say where llama.cpp, given the reference's file, computes something else than PEFT."""
    found = []
    if adapter.root_scaled and not rslora:
        found.append(
            f"{adapter.config_path} says rsLoRA, trained with alpha / sqrt(rank); as in the reference's file "
            "alpha stands unchanged, and llama.cpp scales by alpha / rank, "
            f"{math.sqrt(adapter.rank):.4g} times less; the option rslora makes up for it"
        )
    if adapter.own_alphas:
        found.append(f"{adapter.config_path} has an alpha_pattern; a GGUF adapter has one alpha for all")
    if adapter.norms:
        found.append("the adapter holds trained norms, which llama.cpp reads over")
    skipped = [name for name in adapter.pairs if not is_text(name)]
    if skipped:
        found.append(f"not of the text model, left out: {short(skipped[0])} ({len(skipped)} in all)")
    return found


def _count(tensors: Sequence[Mapped]) -> int:
    """Weights that an adapter changes, the reference's way."""
    shapes = {mapped.name: mapped.tensor.shape for mapped in tensors}
    total = 0
    for name, shape in shapes.items():
        if name.endswith(".lora_b"):
            shape = (*shape[:-1], shapes[name[:-1] + "a"][-1])
        total += 0 if name.endswith(".lora_a") else math.prod(shape)
    return total


def _tensors(architecture: Architecture, h: Hparams, adapter: LoraAdapter) -> list[Mapped]:
    """Give all that is written, in file order: norms, then pair by pair.

    A rule is written for a whole matrix. What it does to rows is done to the half that has them, what it does
    within rows to the other.
    """
    pairs = {name: pair for name, pair in adapter.pairs.items() if is_text(name)}
    found = map_some(architecture, h, {name: t for name, t in adapter.norms.items() if is_text(name)})
    if any(len(mapped.tensor.shape) != 1 for mapped in found):
        raise FormatError("a norm that is no vector has no place in an adapter")
    checked = _with_rules(architecture, lambda rule: {"steps": tuple(map(_checked, rule.steps))})
    rows = _with_rules(architecture, lambda rule: {"shape": (), "steps": tuple(map(_of_rows, rule.steps))})
    columns = _with_rules(
        architecture,
        lambda rule: {"shape": (), "steps": tuple(map(_of_columns, rule.steps)), "share": _to_each},
    )
    matrices = map_some(checked, h, {name: zeros(pair.name, pair.shape) for name, pair in pairs.items()})
    if "lm_head.weight" in pairs and not any(mapped.name == "output.weight" for mapped in matrices):
        raise FormatError(
            f"tensor {short(pairs['lm_head.weight'].name)}: the base has no output matrix of its own"
        )
    halves = zip(
        matrices,
        map_some(rows, h, {name: pair.rows for name, pair in pairs.items()}),
        map_some(columns, h, {name: pair.columns for name, pair in pairs.items()}),
        strict=True,
    )
    for (name, matrix), (_, b), (_, a) in halves:
        if (*b.shape[:-1], a.shape[-1]) != matrix.shape:
            raise _immovable(matrix)
        # The rows of an embedding are looked up, not multiplied: llama.cpp wants that half first.
        pair = (b, transpose(a)) if name == "token_embd.weight" else (a, b)
        found += [Mapped(name + end, t) for end, t in zip((".lora_a", ".lora_b"), pair, strict=True)]
    return found


def _with_rules(architecture: Architecture, changes: Callable[[Rule], dict[str, Any]]) -> Architecture:
    rules = {name: rule and rule._replace(**changes(rule)) for name, rule in architecture.tensors.items()}
    return replace(architecture, tensors=rules)


def _checked(step: Step) -> Step:
    def check(tensor: LazyTensor, h: Hparams) -> LazyTensor:
        if not (_moves_rows(step, tensor, h) or _moves_columns(step, tensor, h)):
            raise _immovable(tensor)
        return step(tensor, h)

    return check


def _of_rows(step: Step) -> Step:
    return lambda tensor, h: step(tensor, h) if _moves_rows(step, tensor, h) else tensor


def _of_columns(step: Step) -> Step:
    return lambda tensor, h: step(tensor, h) if _moves_columns(step, tensor, h) else tensor


def _moves_rows(step: Step, tensor: LazyTensor, h: Hparams) -> bool:
    """Tell whether a step only moves rows, leaves some out, or adds some of zeros: tried on one column."""
    result = _try(step, np.zeros((tensor.shape[0], 1), np.float32), h)
    return result is not None and result.shape == (len(result), 1) and not result.any()


def _moves_columns(step: Step, tensor: LazyTensor, h: Hparams) -> bool:
    """Tell whether a step only moves numbers within rows, or leaves some out: tried on one row.

    Of ones: what scales both rows and columns would be done twice.
    """
    result = _try(step, np.ones((1, tensor.shape[-1]), np.float32), h)
    return result is not None and result.shape == (1, result.size) and bool((result == 1).all())


def _try(step: Step, values: NDArray[np.float32], h: Hparams) -> NDArray[np.float32] | None:
    try:
        return step(from_array("", values), h).values()
    except FormatError:  # it asks for another number of rows, or of columns
        return None


def _to_each(tensor: LazyTensor, heights: list[int]) -> list[LazyTensor]:
    return [tensor] * len(heights)


def _immovable(tensor: LazyTensor) -> FormatError:
    return FormatError(
        f"tensor {short(tensor.name)}: what GGUF does to this matrix cannot be done to the halves of an "
        "adapter; merge the adapter into its base with PEFT and convert the result"
    )

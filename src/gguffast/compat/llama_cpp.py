"""``llama_model_quantize`` of llama.cpp's C API, as llama-cpp-python has it.

``gguffast.compat.llama_cpp`` in place of ``llama_cpp`` is the whole change: the same function, the same
parameter struct (``llama_model_quantize_params``, of llama-cpp-python 0.3.36), the same bytes in the file.
The structs of llama-cpp-python itself are taken too.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguffast.compat.speech import reason_of, say
from gguffast.errors import DataError, OptionError

if TYPE_CHECKING:
    from gguffast.imatrix import ImportanceMatrix
    from gguffast.recipe.options import RecipeOptions

#: As a tensor type: not said.
GGML_TYPE_COUNT = 43


class llama_model_kv_override_value(ctypes.Union):
    """The value of a metadata key."""

    _fields_ = (
        ("val_i64", ctypes.c_int64),
        ("val_f64", ctypes.c_double),
        ("val_bool", ctypes.c_bool),
        ("val_str", ctypes.c_char * 128),
    )


class llama_model_kv_override(ctypes.Structure):
    """A metadata key and its value; the last one of an array has an empty key."""

    _fields_ = (
        ("tag", ctypes.c_int),
        ("key", ctypes.c_char * 128),
        ("value", llama_model_kv_override_value),
    )


class llama_model_tensor_override(ctypes.Structure):
    """A pattern and the type of tensors whose names it is found in; the last one has no pattern."""

    _fields_ = (("pattern", ctypes.c_char_p), ("type", ctypes.c_int))


class llama_model_imatrix_data(ctypes.Structure):
    """The importances of a tensor; the last one of an array has no name."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.POINTER(ctypes.c_float)),
        ("size", ctypes.c_size_t),
    )


class llama_model_quantize_params(ctypes.Structure):
    """What can be said about a quantization; `llama_model_quantize_default_params` makes one."""

    _fields_ = (
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int),
        ("output_tensor_type", ctypes.c_int),
        ("token_embedding_type", ctypes.c_int),
        ("allow_requantize", ctypes.c_bool),
        ("quantize_output_tensor", ctypes.c_bool),
        ("only_copy", ctypes.c_bool),
        ("pure", ctypes.c_bool),
        ("keep_split", ctypes.c_bool),
        ("dry_run", ctypes.c_bool),
        ("imatrix", ctypes.POINTER(llama_model_imatrix_data)),
        ("kv_overrides", ctypes.POINTER(llama_model_kv_override)),
        ("tt_overrides", ctypes.POINTER(llama_model_tensor_override)),
        ("prune_layers", ctypes.POINTER(ctypes.c_int32)),
        ("max_buf_size", ctypes.c_size_t),
    )


def llama_model_quantize_default_params() -> llama_model_quantize_params:
    """Make the parameters that llama.cpp has by default: Q8_0, all CPUs."""
    return llama_model_quantize_params(
        ftype=7,
        output_tensor_type=GGML_TYPE_COUNT,
        token_embedding_type=GGML_TYPE_COUNT,
        quantize_output_tensor=True,
        max_buf_size=8 << 30,
    )


def llama_model_quantize(
    fname_inp: bytes | str | os.PathLike[str], fname_out: bytes | str | os.PathLike[str], params: Any, /
) -> int:
    """Quantize a GGUF file.

    Parameters
    ----------
    fname_inp, fname_out : bytes or path-like
        Input and output. An output that exists is overwritten where it stands.
    params : llama_model_quantize_params
        Or a reference or pointer to one. `max_buf_size` is not needed.

    Returns
    -------
    int
        0 if the file was written; if not, 1, and a line on stderr says why.
    """
    try:
        _quantize(Path(os.fsdecode(fname_inp)), Path(os.fsdecode(fname_out)), _contents(params))
    except Exception as error:
        say(f"llama_model_quantize: failed to quantize: {reason_of(error)}")
        return 1
    return 0


def _contents(params: Any) -> Any:
    """Follow what ``ctypes.byref`` and ``ctypes.pointer`` make."""
    found = getattr(params, "_obj", None) or getattr(params, "contents", params)
    if not hasattr(found, "nthread"):
        raise OptionError("no llama_model_quantize_params; llama_model_quantize_default_params() makes some")
    return found


def _quantize(src: Path, dst: Path, params: Any) -> None:
    from gguffast.compat.llama_quantize import plan_outputs
    from gguffast.compat.pruning import Pruned
    from gguffast.filetypes import parse_file_type
    from gguffast.job import Worker, quantization
    from gguffast.output import InPlace
    from gguffast.recipe.options import Options
    from gguffast.sources.gguf import GGUFSource

    threads = params.nthread if params.nthread > 0 else None
    worker = Worker({"threads": threads, "force": True}, output=InPlace)
    file_type = parse_file_type("COPY" if params.only_copy else params.ftype)
    options = Options(_recipe(params))
    options.imatrix = _matrix(params.imatrix)
    with GGUFSource(src) as opened:
        worker.reads(opened.files)
        source: GGUFSource | Pruned = opened
        layers = list(_until(params.prune_layers, lambda layer: layer < 0))
        if layers:
            source = Pruned(opened, layers)
            options.imatrix = source.importances(options.imatrix)
        job = quantization(source, file_type, options, keep_order=params.keep_split)
        if isinstance(source, Pruned):
            job.kvs = source.with_block_count(job.kvs)
        outputs = plan_outputs(job, dst, source.counts if params.keep_split else None)
        if not params.dry_run:
            worker.write(*outputs)


def _recipe(params: Any) -> RecipeOptions:
    from gguffast.recipe.options import Override

    overrides = _until(params.kv_overrides, lambda override: not override.key)
    rules = _until(params.tt_overrides, lambda rule: rule.pattern is None)
    return {
        "allow_requantize": params.allow_requantize,
        "leave_output_tensor": not params.quantize_output_tensor,
        "pure": params.pure,
        "output_tensor_type": _type_name(params.output_tensor_type),
        "token_embedding_type": _type_name(params.token_embedding_type),
        "override_kv": [Override(os.fsdecode(item.key), _value(item)) for item in overrides],
        "tensor_type": [(os.fsdecode(rule.pattern), _type_name(rule.type) or "") for rule in rules],
    }


def _until(pointer: Any, last: Any) -> Iterator[Any]:
    """Give the items of an array up to the one that ends it; none where there is no array."""
    i = 0
    while pointer and not last(pointer[i]):
        yield pointer[i]
        i += 1


def _type_name(number: int) -> str | None:
    from gguffast.types import GGMLQuantizationType

    if number == GGML_TYPE_COUNT:
        return None
    try:
        return GGMLQuantizationType(number).name
    except ValueError:
        raise OptionError(f"tensor type {number} is unknown; {GGML_TYPE_COUNT} means none") from None


def _value(override: Any) -> bool | int | float | str:
    if override.tag not in range(4):
        raise OptionError(f"the override of {os.fsdecode(override.key)!r} has the unknown tag {override.tag}")
    value = override.value
    kinds = (value.val_i64, value.val_f64, value.val_bool, os.fsdecode(value.val_str))
    chosen: bool | int | float | str = kinds[override.tag]
    return chosen


def _matrix(pointer: Any) -> ImportanceMatrix | None:
    import numpy as np

    from gguffast.imatrix import ImportanceMatrix

    class InMemory(ImportanceMatrix):
        """One that came from no file: the caller says in `kv_overrides` what the output tells of it."""

        def kvs(self) -> list[Any]:
            """Add nothing to the output's metadata."""
            return []

    entries = {}
    for item in _until(pointer, lambda item: item.name is None):
        name = os.fsdecode(item.name)
        entries[name] = np.ctypeslib.as_array(item.data, (item.size,)).copy()
        if not np.isfinite(entries[name]).all():
            raise DataError(f"the importance matrix of {name} holds NaN or infinite values: make it anew")
    return InMemory("the importance matrix", entries) if entries else None

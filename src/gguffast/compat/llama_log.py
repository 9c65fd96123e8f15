"""Lines as llama.cpp logs them (``src/llama-model-loader.cpp``, ``src/llama-quant.cpp``)."""

from __future__ import annotations

import itertools
import struct
from collections import Counter
from collections.abc import Iterator

from gguffast.gguf import KV, GGUFValueType
from gguffast.job import Fallback
from gguffast.plan import Target
from gguffast.sources.gguf import GGUFSource
from gguffast.types import GGMLQuantizationType

_MIB = 1024 * 1024
_LOADER = "llama_model_loader"
_NUMBERS = {
    GGUFValueType.UINT8: ("u8", "B"),
    GGUFValueType.INT8: ("i8", "b"),
    GGUFValueType.UINT16: ("u16", "H"),
    GGUFValueType.INT16: ("i16", "h"),
    GGUFValueType.UINT32: ("u32", "I"),
    GGUFValueType.INT32: ("i32", "i"),
    GGUFValueType.FLOAT32: ("f32", "f"),
    GGUFValueType.BOOL: ("bool", "?"),
    GGUFValueType.UINT64: ("u64", "Q"),
    GGUFValueType.INT64: ("i64", "q"),
    GGUFValueType.FLOAT64: ("f64", "d"),
}
_LONGEST = 40  # bytes of a value; what is longer is cut


def type_name(type_: GGMLQuantizationType) -> str:
    """Name a tensor type as ggml does: ``q4_K``, ``iq4_nl``, ``f16``."""
    return type_.name.lower().replace("_k", "_K")


def metadata_lines(source: GGUFSource) -> Iterator[str]:
    """Say what a model's metadata are, and how many tensors it has of each type."""
    if len(source.paths) > 1:
        yield f"{_LOADER}: additional {len(source.paths) - 1} GGUFs metadata loaded."
    yield (
        f"{_LOADER}: loaded meta data with {len(source.kvs)} key-value pairs and {len(source.tensors)} "
        f"tensors from {source.paths[0]} (version GGUF V3 (latest))"
    )
    yield f"{_LOADER}: Dumping metadata keys/values. Note: KV overrides do not apply in this output."
    for i, pair in enumerate(source.kvs):
        kind = _kind(pair.item_type)
        if pair.type is GGUFValueType.ARRAY:
            kind = f"arr[{kind},{pair.n_items}]"
        yield f"{_LOADER}: - kv {i:3}: {pair.key:>42} {kind:<16} = {_value(pair)}"
    for type_, count in sorted(Counter(tensor.type for tensor in source.tensors).items()):
        yield f"{_LOADER}: - type {type_name(type_):>4}: {count:4} tensors"


def tensor_line(number: int, count: int, target: Target, *, dry_run: bool) -> str:
    """Say what became of a tensor, or would become."""
    source = target.source
    ne = (*source.ne, 1, 1, 1)[:4]
    head = (
        f"[{number:4}/{count:4}] {source.name:<36} - [{', '.join(f'{n:6}' for n in ne)}], "
        f"type = {type_name(source.type):>6}, "
    )
    before, after = source.n_rows * source.row_bytes / _MIB, target.nbytes / _MIB
    if target.type == source.type:
        return f"{head}size = {before:8.3f} MiB"
    sizes = f"size = {before:8.2f} MiB -> {after:8.2f} MiB"
    if dry_run:
        return f"{head}{sizes} ({type_name(target.type)})"
    return f"{head}converting to {type_name(target.type)} .. {sizes}"


def fallback_line(fallback: Fallback, ncols: int) -> str:
    """Say why a tensor gets another type than meant."""
    wanted, type_ = fallback.wanted, fallback.type
    unusual = "(WARNING: must use F16 due to unusual shape) " if type_ is GGMLQuantizationType.F16 else ""
    return (
        f"warning: {fallback.tensor:<36} - ncols {ncols:6} not divisible by {wanted.info.block_size:3} "
        f"(required for type {type_name(wanted):>7}) {unusual}-> falling back to {type_name(type_):>7}"
    )


def size_line(what: str, nbytes: int, n_weights: int) -> str:
    """Sum a model up: ``model size`` before, ``quant size`` after."""
    return f"{what} size  = {nbytes / _MIB:8.2f} MiB ({nbytes * 8 / (n_weights or 1):.2f} BPW)"


def _kind(type_: GGUFValueType) -> str:
    return "str" if type_ is GGUFValueType.STRING else _NUMBERS[type_][0]


def _value(pair: KV) -> str:
    if pair.type is GGUFValueType.STRING:
        text = pair.raw[8 : 8 + _LONGEST + 1]
    elif pair.type is GGUFValueType.ARRAY:
        text = _array(pair)
    else:
        text = _number(pair.type, pair.raw, 0)
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 3] + b"..."
    return text.decode("utf-8", "replace").replace("\n", "\\n")


def _array(pair: KV) -> bytes:
    """Show the beginning of an array: of a vocabulary of 150,000 texts no more is decoded."""
    text = bytearray(b"[")
    at = 12
    for i in itertools.count():
        if i == pair.n_items or len(text) > _LONGEST:
            break
        text += b", " if i else b""
        if pair.item_type is GGUFValueType.STRING:
            (size,) = struct.unpack_from("<Q", pair.raw, at)
            item = pair.raw[at + 8 : at + 8 + size]
            at += 8 + size
            text += b'"' + item.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
        else:
            text += _number(pair.item_type, pair.raw, at)
            at += struct.calcsize(_NUMBERS[pair.item_type][1])
    return bytes(text + b"]")


def _number(type_: GGUFValueType, raw: bytes, at: int) -> bytes:
    (value,) = struct.unpack_from("<" + _NUMBERS[type_][1], raw, at)
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return (f"{value:f}" if isinstance(value, float) else str(value)).encode()

"""What the output says about itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gguffast.filetypes import ALIASES, GUESSED, FileType, LlamaFileType
from gguffast.recipe.model import Weight, is_int, order_key, whole_number
from gguffast.recipe.options import Override, check_override
from gguffast.shards import SPLIT_KEYS
from gguffast.types import GGMLQuantizationType

if TYPE_CHECKING:
    from gguffast.gguf import KV

T = GGMLQuantizationType


def file_type_number(
    file_type: FileType,
    metadata: Mapping[str, Any],
    tensors: Iterable[Weight],
    overrides: Sequence[Override] = (),
) -> int:
    """Return what ``general.file_type`` of the output says.

    COPY keeps the source's number. Where there is none, the commonest tensor type gives it, plus `GUESSED`.
    """
    if not file_type.copies:
        return int(file_type.number)
    for key, value in overrides:
        if key == "general.file_type" and is_int(value):
            return abs(value)
    if "general.file_type" in metadata:
        return whole_number(metadata, "general.file_type", 0)
    return guess_file_type(tensors) | GUESSED


def guess_file_type(tensors: Iterable[Weight]) -> LlamaFileType:
    """Guess a file's type from its most frequent tensor type; the one that got there first wins a tie."""
    counts: Counter[GGMLQuantizationType] = Counter()
    most, leader = 0, T.F32
    for _, _, type_ in sorted(tensors, key=lambda tensor: order_key(tensor[0])):
        counts[type_] += 1
        if counts[type_] > most:
            most, leader = counts[type_], type_
    name = ALIASES.get(leader.name, leader.name)
    return LlamaFileType.__members__.get(f"MOSTLY_{name}", LlamaFileType.ALL_F32)


#: Version of the block layouts; it changes when an existing type changes.
_QUANTIZATION_VERSION = 2


def output_kvs(
    kvs: Iterable[KV], file_type_number: int, overrides: Iterable[Override] = (), extra: Iterable[KV] = ()
) -> list[KV]:
    """Make the metadata of the output from the source's.

    A key that is set goes to the end, also when it was there before: so llama.cpp's ``gguf_set_val_*`` do.

    Parameters
    ----------
    kvs : iterable of KV
        The source's pairs, in file order.
    file_type_number : int
        From `file_type_number`.
    overrides : iterable of Override
        The user's; an int becomes the unsigned 32-bit integer of its absolute value.
    extra : iterable of KV
        Added at last: those of the importance matrix.

    Returns
    -------
    list of KV
        In output order.
    """
    from gguffast import gguf

    kinds = gguf.GGUFValueType
    out = {pair.key: pair for pair in kvs}

    def put(pair: KV) -> None:
        out.pop(pair.key, None)
        out[pair.key] = pair

    put(gguf.kv("general.quantization_version", _QUANTIZATION_VERSION, kinds.UINT32))
    put(gguf.kv("general.file_type", file_type_number, kinds.UINT32))
    for key in SPLIT_KEYS:
        out.pop(key, None)
    for key, value in map(check_override, overrides):
        if isinstance(value, bool):
            put(gguf.kv(key, value, kinds.BOOL))
        elif isinstance(value, int):
            put(gguf.kv(key, abs(value), kinds.UINT32))
        elif isinstance(value, float):
            put(gguf.kv(key, value, kinds.FLOAT32))
        else:
            put(gguf.kv(key, value, kinds.STRING))
    for pair in extra:
        put(pair)
    return list(out.values())

"""How an embedding model makes one vector of many: what the files of sentence-transformers say about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from gguffast.conversion.architecture import Facts
from gguffast.documents import Values, parse_json, read_bytes, read_json, shown
from gguffast.errors import FormatError
from gguffast.gguf import KV, GGUFValueType, kv

# Numbers of llama_pooling_type.
_MODES = {"mean": 1, "cls": 2, "lasttoken": 3}
_FLAGS = {"pooling_mode_mean_tokens": 1, "pooling_mode_cls_token": 2, "pooling_mode_lasttoken": 3}


def modules(folder: Path, kind: str) -> Iterator[Path]:
    """Give the folders of the modules of a kind: ``Pooling``, ``Dense``.

    Raises
    ------
    FormatError
        modules.json is damaged, or names a folder that is not one of the checkpoint.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return
    listed = parse_json(read_bytes(path), path)
    if not isinstance(listed, list):
        raise FormatError(f"{path}: not a list of modules")
    for module in listed:
        entry: dict[str, Any] = module if isinstance(module, dict) else {}
        if str(entry.get("type")).endswith(kind):
            place = entry.get("path")
            if not isinstance(place, str) or PurePosixPath(place).is_absolute() or ".." in place.split("/"):
                raise FormatError(f"{path}: {shown(place)} is not the name of a folder beside it")
            yield folder / place


def pooling(facts: Facts) -> Iterator[KV]:
    """Say how the vectors of the tokens become that of the text, if the checkpoint does."""
    folder = next(modules(facts.hparams.path.parent, "Pooling"), None)
    if folder is None:
        return
    path = folder / "config.json"
    values = Values(read_json(path), path)
    mode = next((number for flag, number in _FLAGS.items() if values.flag(flag, default=False)), None)
    if mode is None:
        mode = _MODES.get(values.text("pooling_mode", default=""))
    if mode is None:
        values.refuse("pooling_mode", f"one of {', '.join(_MODES)}, the ways that llama.cpp knows")
    yield kv(f"{facts.name}.pooling_type", mode, GGUFValueType.UINT32)

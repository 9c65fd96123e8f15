"""``general.*`` metadata: what the model card, the configuration and the folder's name say about a model.

The rules are those of the ``gguf`` package, which also fixes the keys' order; this module reads the files and
checks every value before that package sees it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gguffast.documents import Values, decode, missing_extra, parse_yaml, read_bytes, read_json
from gguffast.errors import FileError, FormatError, OptionError
from gguffast.gguf import KV, GGUFValueType, kv

if TYPE_CHECKING:
    import gguf

_MAX_CARD = 64 << 20  # bytes of README.md
_MAX_ID = 1024  # characters of a model's name that is taken apart
_MAX_MODELS = 1024  # names that are taken apart; real cards list a few dozen
_MAX_STEM = 200  # bytes of a file name before its type

# What the rules look at in a model card.
_CARD_TEXTS = (
    *("name", "author", "version", "organization", "description", "finetune", "basename", "size_label"),
    *("url", "doi", "uuid", "repo_url", "creator", "type"),
)
_CARD_LISTS = ("tags", "pipeline_tag", "languages", "language")
_CARD_MODELS = (
    *("base_model", "base_models", "base_model_sources"),
    *("datasets", "dataset", "dataset_sources"),
)
# What --metadata may set besides texts, which are all others.
_WHOLE_NUMBERS = ("top_k", "penalty_last_n", "mirostat")
_NUMBERS = (
    *("top_p", "min_p", "xtc_probability", "xtc_threshold", "temp", "penalty_repeat"),
    *("mirostat_tau", "mirostat_eta"),
)


class Weights(NamedTuple):
    """How many weights a model has, for the size label.

    Attributes
    ----------
    total : int
        All of them; of an adapter the negative of what it changes, so that sizes in names are read otherwise.
    active : int
        All that are not in experts, and one expert's.
    experts : int
        Number of experts; 0 for a dense model.
    """

    total: int
    active: int
    experts: int


def count_weights(tensors: Iterable[tuple[str, Sequence[int]]]) -> Weights:
    """Count weights; `tensors` are GGUF names with shapes in NumPy order."""
    total = active = experts = stacks = 0
    for name, shape in tensors:
        n = 1
        for length in shape:
            n *= length
        total += n
        if "_exps." in name and len(shape) == 3:
            active += n // shape[0]
            experts += shape[0]
            stacks += 1
        else:
            active += n
    return Weights(total, active, experts // stacks if stacks else 0)


@dataclass(frozen=True)
class General:
    """What is known about a model.

    Attributes
    ----------
    kvs : list of KV
        ``general.sampling.*``, ``general.name`` and so on, in file order.
    """

    kvs: list[KV]
    _metadata: gguf.Metadata
    _kind: str = ""

    def file_name(self, encoding: str | None) -> str:
        """Return the name by the GGUF naming convention; without `encoding`, that of a vocabulary."""
        import gguf

        m = self._metadata
        label = m.size_label if encoding else None
        # config.json's _name_or_path is often empty, and then gguf-py's name is, too.
        stem = gguf.naming_convention(m.name or None, m.basename, m.finetune, m.version, label, None)
        # A model card may say anything; this names a file in one folder.
        stem = re.sub(r"[/\0-\x1f]", "-", stem).encode()[:_MAX_STEM].decode(errors="ignore")
        return f"{stem}-{encoding.upper() if encoding else 'vocab'}{self._kind}.gguf"


def read_general(
    folder: Path, weights: Weights, *, model_name: str | None = None, override: Path | None = None
) -> General:
    """Gather what is known about the model in `folder`.

    Parameters
    ----------
    folder : Path
        The checkpoint, absolute: its last part may become the model's name.
    weights : Weights
        For the size label; a total of 0 or less gives none.
    model_name : str, optional
        ``general.name``, whatever else is found.
    override : Path, optional
        JSON object of ``general.*`` keys that count more than what is found.

    Raises
    ------
    FormatError
        A model card or an override that cannot be used.
    FileError
        The override cannot be read.
    OptionError
        The packages for conversion are not installed, or `model_name` is not text.
    """
    try:
        import gguf
    except ImportError as error:
        raise missing_extra(error, "convert") from error
    given = {} if override is None else _read_override(override)
    if model_name is not None:
        given["name"] = _check_name(model_name)
    # Names on the disk need not be Unicode.
    name = folder.name.encode(errors="surrogateescape").decode(errors="replace")
    found = gguf.Metadata.apply_metadata_heuristic(
        gguf.Metadata(),
        _read_card(folder / "README.md"),
        _name_or_path(folder / "config.json"),
        Path(name),
        weights.total,
    )
    for field, value in {**_read_generation_config(folder / "generation_config.json"), **given}.items():
        setattr(found, field, value)
    if found.name is None:
        found.name = name
    if found.size_label is None and weights.total > 0:
        found.size_label = gguf.size_label(weights.total, weights.active, 0, weights.experts)
    return General(_encode(found), found, "-LoRA" if weights.total < 0 else "")


def _check_name(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise OptionError("the model's name is not UTF-8 text") from error
    return name


def _read_card(path: Path) -> dict[str, Any]:
    """Read what the rules look at in the head of a model card, checked."""
    if not path.is_file():
        return {}
    head = _head(read_bytes(path, _MAX_CARD))
    # Models were published with tabs in the head of their cards.
    card = parse_yaml(decode(head, path).replace("\t", "  "), path, 2)
    if not isinstance(card, dict):
        return {}
    values = Values(card, path)
    found: dict[str, Any] = {}
    for key in (*_CARD_TEXTS, *(f"model_{key}" for key in _CARD_TEXTS)):
        if key in card:
            found[key] = values.text(key, default=None)
    if "license" in card:
        licenses = _texts(values, "license")
        found["license"] = licenses[0] if licenses and isinstance(card["license"], str) else licenses or None
    for key in ("license_name", "license_link"):
        found[key] = values.text(key, default=None)
    for key in _CARD_LISTS:
        found[key] = _texts(values, key)
    for key in _CARD_MODELS:
        if key in card:
            found[key] = _models(values, key)
    return found


def _head(data: bytes) -> bytes:
    """Lines between the first, which is ``---``, and the next such line."""
    lines = re.match(rb"---\r?\n(.*?)(?:^---\r?$|\Z)", data, re.DOTALL | re.MULTILINE)
    return lines[1] if lines else b""


def _texts(values: Values, key: str) -> list[str]:
    """Text, or a list of it; an empty list if there is none."""
    value = values.get(key)
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        values.refuse(key, "text, or a list of it")
    return texts


def _models(values: Values, key: str) -> list[str | dict[str, str]]:
    """Names, addresses, or objects of text: models and data sets that this one comes from."""
    value = values.get(key)
    models = [value] if isinstance(value, str | dict) else value or []
    if not isinstance(models, list) or len(models) > _MAX_MODELS or not all(map(_is_model, models)):
        values.refuse(
            key, f"a name of at most {_MAX_ID} characters, or a list of at most {_MAX_MODELS} of them"
        )
    return models


def _is_model(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(text, str) for text in value.values())
    return isinstance(value, str) and len(value) <= _MAX_ID


def _name_or_path(path: Path) -> dict[str, str]:
    name = read_json(path).get("_name_or_path") if path.is_file() else None
    return {"_name_or_path": name} if isinstance(name, str) and len(name) <= _MAX_ID else {}


def _read_generation_config(path: Path) -> dict[str, Any]:
    """Read the sampling parameters; as the reference does, none if the file is missing or damaged."""
    try:
        config = read_json(path) if path.is_file() else {}
    except FormatError:
        return {}
    values = Values(config, path)
    renamed = {"temp": "temperature", "penalty_repeat": "repetition_penalty"}
    if (
        config.get("penalty_repeat") is not None
    ):  # the one name that the gguf package knows, and no other does
        del renamed["penalty_repeat"]
    names = (*_WHOLE_NUMBERS, *_NUMBERS)
    found: dict[str, Any] = {name: _sampling(values, name, renamed.get(name, name)) for name in names}
    found["sequence"] = values.text("sequence", default=None)
    return {f"sampling_{name}": value for name, value in found.items() if value is not None}


def _sampling(values: Values, name: str, key: str) -> int | float | None:
    if name in _WHOLE_NUMBERS:
        return values.integer(key, -(2**31), default=None)
    return values.number(key, default=None)


def _read_override(path: Path) -> dict[str, Any]:
    """Read a file for `metadata`: fields of `gguf.Metadata` by the names of their keys."""
    import gguf

    if not path.is_file():
        raise FileError(f"{path}: no such file; `metadata` needs a JSON file of general.* keys")
    values = Values(read_json(path), path)
    found: dict[str, Any] = {}
    for field in gguf.Metadata.__dataclass_fields__:
        kind, _, name = field.partition("_")
        keys = {"base_models": "general.base_models", "datasets": "general.datasets"}
        key = keys.get(field) or getattr(gguf.Keys.General, field.upper())
        if key not in values.values or field == "license":
            continue
        if kind == "sampling" and name != "sequence":
            found[field] = _sampling(values, name, key)
        elif field in ("tags", "languages"):
            found[field] = _texts(values, key)
        elif field in keys:
            models = _models(values, key)
            if any(isinstance(model, str) for model in models):
                values.refuse(key, "a list of objects")
            found[field] = models
        else:
            found[field] = values.text(key, default=None)
    return found


def _encode(metadata: gguf.Metadata) -> list[KV]:
    import gguf

    writer = gguf.GGUFWriter(None, "")
    writer.kv_data[0].clear()  # general.architecture, which is not this module's
    metadata.set_gguf_meta_model(writer)
    return [kv(key, v.value, GGUFValueType(v.type)) for key, v in writer.kv_data[0].items()]

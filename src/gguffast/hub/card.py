"""Model cards for GGUF files: what the files say about themselves, for readers and for the Hub's search.

The front matter's keys are those of the Hub's model card specification.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gguffast.files import format_bytes
from gguffast.filetypes import file_type_name
from gguffast.gguf import GGUFFile
from gguffast.shards import parse_shard_name

# What YAML takes for something else than a string when it is not quoted: "no" is Norwegian.
_YAML_PLAIN = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[a-z][\w./-]*", re.ASCII | re.IGNORECASE)

# Tags and languages that a card lists, and characters of each: a file can hold millions.
_MOST, _LONGEST = 100, 1000


class Entry(NamedTuple):
    """A GGUF file, as its model card shows it.

    Attributes
    ----------
    name : str
        File name.
    file_type : str or None
        ``Q4_K_M``; None if the file does not tell, as shards after the first do not.
    size : int
        Bytes of the file.
    tensor_bytes, weights : int
        Bytes of the tensors, and how many weights they hold.
    general : dict
        Its ``general.*`` metadata, without that prefix.
    """

    name: str
    file_type: str | None
    size: int
    tensor_bytes: int
    weights: int
    general: dict[str, Any]

    @property
    def model(self) -> str:
        """Name of the model's file: without the numbers of a shard."""
        shard = parse_shard_name(self.name)
        return shard.whole if shard else self.name


def read_entry(path: Path) -> Entry:
    """Read a file's entry; raises FormatError if it is not GGUF."""
    with GGUFFile(path) as file:
        keys = [key for key in file.metadata if key.startswith("general.")]
        general = {key.partition(".")[2]: file.metadata[key] for key in keys}
        return Entry(
            path.name,
            file_type_name(general.get("file_type")),
            file.byte_size,
            sum(tensor.nbytes for tensor in file.tensors),
            sum(tensor.n_rows * (tensor.ne or (1,))[0] for tensor in file.tensors),
            general,
        )


def model_card(repo: str, entries: Sequence[Entry], base_model: str | None = None) -> str:
    """Write the model card of a repo.

    Parameters
    ----------
    repo : str
        ``owner/name``.
    entries : sequence of Entry
        The repo's GGUF files.
    base_model : str, optional
        The Hub repo that they were made of; by default the files' metadata tell.
    """
    # Of a split model only the first shard knows.
    general = next((e.general for e in entries if len(e.general) > 1), {})
    base = base_model or _base_model(general)
    title = f"{repo.rpartition('/')[2]}"
    origin = f" of [{base}](https://huggingface.co/{base})" if base else ""
    models = _by_model(entries)
    types = [e.file_type for e in entries if e.file_type]
    tag = f":{types[0]}" if types else ""
    lines = [
        *_front_matter(general, base),
        "",
        f"# {title}",
        "",
        f"GGUF files{origin}, made with gguffast.",
        "",
        "| File | Type | Size | Bits per weight |",
        "| --- | --- | ---: | ---: |",
        *(_row(name, shards) for name, shards in models.items()),
        "",
        "## Run it",
        "",
        "In [Ollama](https://ollama.com):",
        "",
        "```sh",
        f"ollama run hf.co/{repo}{tag}",
        "```",
        "",
        "In [llama.cpp](https://github.com/ggml-org/llama.cpp):",
        "",
        "```sh",
        f"llama-cli -hf {repo}{tag}",
        "```",
    ]
    return "\n".join(lines) + "\n"


def _front_matter(general: Mapping[str, Any], base: str | None) -> list[str]:
    licence = _text(general.get("license"))
    tags = ["gguf", *(tag for tag in _texts(general.get("tags")) if tag != "gguf")]
    fields: dict[str, str | list[str]] = {
        "base_model": base or "",
        "base_model_relation": "quantized" if base else "",
        "license": licence,
        "license_name": _text(general.get("license.name")) if licence == "other" else "",
        "license_link": _text(general.get("license.link")) if licence == "other" else "",
        "language": _texts(general.get("languages")),
        "tags": tags,
    }
    lines = ["---"]
    for key, value in fields.items():
        if isinstance(value, list) and value:
            lines += [f"{key}:", *(f"- {_yaml(item)}" for item in value)]
        elif value:
            lines.append(f"{key}: {_yaml(str(value))}")
    return [*lines, "---"]


def _base_model(general: Mapping[str, Any]) -> str | None:
    """``owner/name`` of what the files were made of: the repo itself if known, else that repo's base."""
    for key in ("source.repo_url", "source.url", "base_model.0.repo_url", "base_model.0.url"):
        found = re.search(r"huggingface\.co/([\w.-]+/[\w.-]+)/?$", _text(general.get(key)))
        if found:
            return found[1]
    return None


def _by_model(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    models: dict[str, list[Entry]] = {}
    for entry in sorted(entries):
        models.setdefault(entry.model, []).append(entry)
    return models


def _row(name: str, shards: Sequence[Entry]) -> str:
    weights = sum(e.weights for e in shards)
    bits = f"{8 * sum(e.tensor_bytes for e in shards) / weights:.2f}" if weights else "-"
    type_ = next((e.file_type for e in shards if e.file_type), "-")
    parts = f" ({len(shards)} files)" if len(shards) > 1 else ""
    return f"| {_cell(name)}{parts} | {type_} | {format_bytes(sum(e.size for e in shards))} | {bits} |"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)][:_MOST] if isinstance(value, list) else []


def _cell(text: str) -> str:
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", "".join(c if c.isprintable() else "\ufffd" for c in text))


def _yaml(text: str) -> str:
    """Quote what YAML could misread; a JSON string is a YAML string, but for characters that YAML forbids."""
    # Bytes of the metadata that are no UTF-8 stand as lone surrogates in the text.
    text = text.encode("utf-8", "replace").decode()[:_LONGEST]
    if _YAML_PLAIN.fullmatch(text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)

"""Which files of a repo are needed, and whether their names may be used."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from gguffast.errors import FormatError, OptionError
from gguffast.shards import group_shards, parse_shard_name

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?", re.ASCII)
_PREFIX = re.compile(
    r"^(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/|^hf://(?:models/)?", re.IGNORECASE
)

# What a conversion reads besides the weights; the card and the licence become metadata.
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "README.md",
    "LICENSE*",
)
_WEIGHTS = (("model", ".safetensors"), ("pytorch_model", ".bin"))


def repo_id(text: str) -> str:
    """Read the name of a repo, in any of its spellings.

    Raises
    ------
    OptionError
        It cannot be one.
    """
    name = _PREFIX.sub("", text.strip()).rstrip("/")
    if not _REPO.fullmatch(name) or ".." in name or "--" in name:
        raise OptionError(f"'{text}' is not the name of a Hub repo; expected owner/name")
    return name


def needed_files(
    repo: str, names: Sequence[str], include: Sequence[str], exclude: Sequence[str]
) -> list[str]:
    """Choose from the files of a repo.

    Parameters
    ----------
    repo : str
        Its name, for messages.
    names : sequence of str
        All its files.
    include, exclude : sequence of str
        The user's patterns.

    Raises
    ------
    OptionError
        Nothing fits, or there are several models and no pattern.
    FormatError
        No weights that can be converted.
    """
    chosen = [n for n in names if _fits(n, include)] if include else _for_conversion(repo, names, exclude)
    chosen = [n for n in chosen if not _fits(n, exclude)]
    if not chosen:
        raise OptionError(f"{repo}: no file fits {_quoted([*include, *exclude])}; it has {_some(names)}")
    return sorted(chosen)


def _for_conversion(repo: str, names: Sequence[str], exclude: Sequence[str]) -> list[str]:
    weights = _checkpoint_weights(names)
    if weights and "config.json" in names:
        return [*weights, *(name for name in names if _fits(name, _SMALL_FILES))]
    models = _gguf_models([name for name in names if not _fits(name, exclude)])
    if len(models) == 1:
        return next(iter(models.values()))
    if models:
        example = PurePosixPath(min(models)).stem
        raise OptionError(
            f"{repo} has {len(models)} GGUF models; choose with --include, as in --include '*{example}*' "
            f"(or import it as {repo}:{example}): {_some(sorted(models), 30)}"
        )
    missing = "config.json" if weights else "weights that can be converted"
    raise FormatError(
        f"{repo} has no {missing} (model*.safetensors or pytorch_model*.bin with config.json, or a .gguf); "
        f"it has {_some(names)}"
    )


def _checkpoint_weights(names: Sequence[str]) -> list[str]:
    """Weight files at the top of the repo: in one format, and not both whole and in shards."""
    for prefix, suffix in _WEIGHTS:
        found = [n for n in names if n.startswith(prefix) and n.endswith(suffix) and "/" not in n]
        shards = [n for n in found if (m := parse_shard_name(n)) and m.stem == prefix]
        index = f"{prefix}{suffix}.index.json"
        if shards and index in names:
            return [*shards, index]
        if prefix + suffix in found:
            return [prefix + suffix]
        if shards or found:
            return shards or found
    return []


def _gguf_models(names: Sequence[str]) -> dict[str, list[str]]:
    """GGUF models by name, with the shards of split ones."""
    models = group_shards(name for name in names if name.lower().endswith(".gguf"))
    # Projectors and importance matrices go with a model, they are none.
    return {k: v for k, v in models.items() if not re.search(r"mmproj|imatrix", k, re.IGNORECASE)}


def single_gguf(names: Sequence[str]) -> str | None:
    """Give the file, or its first shard, if the names are one GGUF model and nothing else."""
    models = _gguf_models(names)
    if len(models) == 1 and sum(map(len, models.values())) == len(names):
        return min(next(iter(models.values())))
    return None


def _fits(name: str, patterns: Sequence[str]) -> bool:
    # As huggingface_hub has it: a folder means what is in it.
    return any(fnmatchcase(name, f"{p}*" if p.endswith("/") else p) for p in patterns)


def patterns(given: str | Sequence[str]) -> list[str]:
    """Make a list of what may be one pattern."""
    return [given] if isinstance(given, str) else list(given)


def _some(names: Sequence[str], most: int = 8) -> str:
    if not names:
        return "no files"
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _quoted(patterns: Sequence[str]) -> str:
    return ", ".join(f"'{p}'" for p in patterns)


def check_names(repo: str, names: Sequence[str], folder: Path | None) -> None:
    """Refuse file names that lead out of the target folder, before anything is written."""
    root = None if folder is None else Path(os.path.realpath(folder))
    for name in names:
        parts = name.split("/")
        # Unprintable: what the terminal takes for a command when the path is shown.
        bad = any(part in ("", ".", "..") for part in parts) or not name.isprintable()
        bad = bad or bool(re.search(r"\\|^[A-Za-z]:", name))
        if not bad and root is not None:
            # A link that stands in the folder already may lead elsewhere.
            bad = not Path(os.path.realpath(root.joinpath(*parts[:-1]))).is_relative_to(root)
        if bad:
            raise FormatError(
                f"{repo}: the file name {name!r} is unprintable or leads out of the target folder; "
                "nothing was downloaded"
            )

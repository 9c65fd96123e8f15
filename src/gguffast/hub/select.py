"""Which files of a repo are needed, and whether their names may be used."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from gguffast.errors import FormatError, OptionError
from gguffast.shards import group_shards, parse_shard_name

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?", re.ASCII)
_PREFIX = re.compile(
    r"^(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/|^hf://(?:models/)?", re.IGNORECASE
)

# Image projectors, importance matrices and draft models go with a model: llama.cpp takes none for one.
_BESIDE_A_MODEL = re.compile(r"mmproj|imatrix|(?:^|[-_.])(?:mtp|eagle3|dflash|dspark)-", re.IGNORECASE)

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


def parse_repo(text: str) -> tuple[str, str | None]:
    """Read ``owner/name``, or ``owner/name:tag``, which means one of its GGUF models.

    Raises
    ------
    OptionError
        It is neither.
    """
    repo, colon, tag = text.strip().rpartition(":")
    if not colon or "/" in tag:
        repo, tag = text, ""
    return repo_id(repo), tag or None


def needed_files(
    repo: str,
    names: Sequence[str],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    tag: str | None = None,
    prefer: Sequence[str] = (),
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
    tag : str, optional
        Picks a GGUF model; see :func:`find_gguf`.
    prefer : sequence of str
        Of several GGUF models and without a tag, the tags to try, the first that finds one.

    Raises
    ------
    OptionError
        Nothing fits, or there are several models and no pattern.
    FormatError
        No weights that can be converted.
    """
    if include:
        chosen = [name for name in names if _fits(name, include)]
    elif tag:
        chosen = _tagged(repo, names, tag)
    else:
        chosen = _for_conversion(repo, names, exclude, prefer)
    chosen = [n for n in chosen if not _fits(n, exclude)]
    if not chosen:
        raise OptionError(f"{repo}: no file fits {_quoted([*include, *exclude])}; it has {some(names)}")
    return sorted(chosen)


def find_gguf(models: Mapping[str, Sequence[str]], tag: str) -> str | None:
    """Find the GGUF model that a tag means, by the rules of llama.cpp (``-hf``) and Ollama (``hf.co/...``).

    The tag is a file type, in any case, which stands in the model's path as a word of its own: ``Q8_0`` is in
    ``m-q8_0.gguf`` and in ``Q8_0/m-00001-of-00002.gguf``; ``F16`` is not in ``m-BF16.gguf``, nor ``Q4_K`` in
    ``m-Q4_K_M.gguf``, but it is llama-quantize's alias of that, and means it where nothing is called so. Or
    the tag is the name of a file, with or without ``.gguf``. Of several that fit, those whose names end with
    it come first, then the order of names decides. Image projectors, importance matrices and draft models
    are never meant. Without a tag both programs try ``Q4_K_M``, llama.cpp then ``Q8_0``.

    Parameters
    ----------
    models : mapping
        As :func:`gguf_models` gives them.
    tag : str

    Returns
    -------
    str or None
        Name of the model.
    """
    from gguffast.filetypes import ALIASES

    for text in (tag, ALIASES.get(tag.upper())):
        if text is None:
            continue
        fits = re.compile(rf"(?:^|[-_./]){re.escape(text)}[-./]", re.IGNORECASE)
        wanted = text.lower().removesuffix(".gguf")
        found = [name for name in models if fits.search(name) or _stem(name).lower() == wanted]
        if found:
            return min(found, key=lambda name: (not _stem(name).lower().endswith(wanted), name))
    return None


def _stem(name: str) -> str:
    return name.rpartition("/")[2][: -len(".gguf")]


def _tagged(repo: str, names: Sequence[str], tag: str) -> list[str]:
    models = gguf_models(names)
    found = find_gguf(models, tag)
    if found is None:
        raise OptionError(
            f"{repo} has no GGUF model '{tag}'"
            + (f"; it has {some(sorted(models), 30)}" if models else f", nor any other; it has {some(names)}")
        )
    return models[found]


def _for_conversion(
    repo: str, names: Sequence[str], exclude: Sequence[str], prefer: Sequence[str]
) -> list[str]:
    weights = _checkpoint_weights(names)
    if weights and "config.json" in names:
        return [*weights, *(name for name in names if _fits(name, _SMALL_FILES))]
    models = gguf_models([name for name in names if not _fits(name, exclude)])
    found = next((name for tag in prefer if (name := find_gguf(models, tag))), None)
    if found or len(models) == 1:
        return models[found or next(iter(models))]
    if models:
        example = PurePosixPath(min(models)).stem
        raise OptionError(
            f"{repo} has {len(models)} GGUF models, and none is {' or '.join(prefer)}; "
            f"choose one, as in {repo}:{example}: {some(sorted(models), 30)}"
        )
    missing = "config.json" if weights else "weights that can be converted"
    raise FormatError(
        f"{repo} has no {missing} (model*.safetensors or pytorch_model*.bin with config.json, or a .gguf); "
        f"it has {some(names)}"
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


def gguf_models(names: Iterable[str]) -> dict[str, list[str]]:
    """Give GGUF models by name, with the shards of split ones."""
    models = group_shards(name for name in names if name.lower().endswith(".gguf"))
    return {name: files for name, files in models.items() if not _BESIDE_A_MODEL.search(_stem(name))}


def single_gguf(names: Sequence[str]) -> str | None:
    """Give the file, or its first shard, if the names are one GGUF model and nothing else."""
    models = gguf_models(names)
    if len(models) == 1 and sum(map(len, models.values())) == len(names):
        return min(next(iter(models.values())))
    return None


def _fits(name: str, patterns: Sequence[str]) -> bool:
    # As huggingface_hub has it: a folder means what is in it.
    return any(fnmatchcase(name, f"{p}*" if p.endswith("/") else p) for p in patterns)


def patterns(given: str | Sequence[str]) -> list[str]:
    """Make a list of what may be one pattern."""
    return [given] if isinstance(given, str) else list(given)


def some(names: Sequence[str], most: int = 8) -> str:
    """Name a few files."""
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

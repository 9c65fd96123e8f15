"""Mistral's tekken.json: a byte-level BPE vocabulary as ranked byte strings, special tokens first."""

from __future__ import annotations

import base64
import binascii
import itertools
from typing import Any

from ...documents import shown
from .bpe import byte_letters
from .files import Files, as_dict, content
from .special import chat_template_entries, flag_entry, id_entry
from .table import Entry, TokenTable, TokenType, Vocab

NAME = "tekken.json"
# What versions up to v7 mean when they list none (mistral-common).
# fmt: off
_OLD_SPECIALS = [
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]",
    "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
]
# fmt: on
_MAX_SPECIALS = 1 << 16  # real: 1000
_MAX_TOKEN = 1024  # bytes; real: 128 spaces
_MAX_MERGES = 48 << 20  # bytes of Python's; real: a third
_TEMPLATES = {"v3": "mistral-v3-tekken", "v7": "mistral-v7-tekken"}  # names that llama.cpp knows


def load(files: Files) -> Vocab:
    """Read a tekken.json.

    Parameters
    ----------
    files : Files
        The checkpoint's tokenizer files; tekken.json must be there.

    Raises
    ------
    FormatError
        A file that is not of this format, or a token that no merge makes.
    """
    config = as_dict(files.json(NAME).get("config"))
    size, count = config.get("default_vocab_size"), config.get("default_num_special_tokens")
    if type(size) is not int or type(count) is not int or not 0 < count <= size:
        raise files.damaged(NAME, "config has no default_vocab_size and default_num_special_tokens")
    if count > _MAX_SPECIALS:
        raise files.damaged(NAME, f"{shown(count)} special tokens; such a file has at most {_MAX_SPECIALS}")
    specials = _specials(files, count, str(config.get("version")))
    ranks = _ranks(files, size - count)
    letters = byte_letters()
    table = TokenTable(size, 0.0)
    for number, text in enumerate(specials):
        table.put(number, text, TokenType.CONTROL, 0.0)
    for token, rank in ranks.items():
        table.put(count + rank, _spelled(token, letters), TokenType.NORMAL, 0.0)
    model, pre, *rest = table.entries(str(files.path(NAME)), "gpt2", "tekken")
    warnings: list[str] = []
    entries = [
        model,
        pre,
        Entry("tokenizer.ggml.merges", _merges(files, ranks, letters), "ARRAY/STRING"),
        *_special_ids(files, specials),
        *rest,
        flag_entry("add_bos_token", True),
        flag_entry("add_eos_token", False),
        *_template(files, str(config.get("version")), warnings),
    ]
    return Vocab(entries, size, warnings)


def _specials(files: Files, count: int, version: str) -> list[str]:
    listed = files.json(NAME).get("special_tokens")
    if listed is None and version in ("v1", "v2", "v3", "v7"):
        listed = _OLD_SPECIALS
    listed = listed if isinstance(listed, list) else []
    names = [content(token.get("token_str") if isinstance(token, dict) else token) for token in listed]
    if not names or None in names or len(names) > count:
        raise files.damaged(NAME, f"{len(names)} special tokens, expected 1 to {count} with their token_str")
    return [name for name in names if name] + [f"<SPECIAL_{number}>" for number in range(len(names), count)]


def _ranks(files: Files, count: int) -> dict[bytes, int]:
    vocab = files.json(NAME).get("vocab")
    if not isinstance(vocab, list) or len(vocab) < max(count, 256) or count < 256:
        raise files.damaged(NAME, f"vocab has not the {shown(count)} tokens that config promises")
    ranks: dict[bytes, int] = {}
    for rank, token in enumerate(vocab[:count]):
        text = _token_bytes(token)
        if not text or len(text) > _MAX_TOKEN or text in ranks or token.get("rank") != rank:
            raise files.damaged(
                NAME, f"vocab entry {rank} is damaged, a duplicate, too long, or not in the order of its rank"
            )
        ranks[text] = rank
    return ranks


def _token_bytes(token: Any) -> bytes | None:
    try:
        return base64.b64decode(token["token_bytes"], validate=True)
    except (TypeError, KeyError, binascii.Error, ValueError):
        return None


def _spelled(token: bytes, letters: list[str]) -> str:
    return "".join([letters[byte] for byte in token])


def _merges(files: Files, ranks: dict[bytes, int], letters: list[str]) -> list[str]:
    """Every way to make a token from two others, tokens by rank, ways by the ranks of their parts."""
    merges: list[str] = []
    memory = 0
    rank_of = ranks.get
    for token, rank in itertools.islice(ranks.items(), 256, None):
        ways = []
        for cut in range(1, len(token)):
            left = rank_of(token[:cut])
            if left is not None and (right := rank_of(token[cut:])) is not None:
                ways.append((left, right, cut))
        if not ways:
            raise files.damaged(NAME, f"no two tokens make vocab entry {rank}, {token[:40]!r}")
        spelled = _spelled(token, letters)
        memory += len(ways) * (64 + 2 * len(spelled))
        if memory > _MAX_MERGES:  # tokens that are made of each other in every way
            raise files.damaged(NAME, f"the merges of its tokens take more than {_MAX_MERGES} bytes")
        merges += [f"{spelled[:cut]} {spelled[cut:]}" for _, _, cut in sorted(ways)]
    return merges


def _special_ids(files: Files, specials: list[str]) -> list[Entry]:
    ids = {text: number for number, text in enumerate(specials)}
    names = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
    if missing := [text for text in names.values() if text not in ids]:
        raise files.damaged(NAME, f"no special token {missing[0]}")
    return [id_entry(kind, ids[text]) for kind, text in names.items()]


def _template(files: Files, version: str, warnings: list[str]) -> list[Entry]:
    if version in _TEMPLATES:
        return [Entry("tokenizer.chat_template", _TEMPLATES[version], "STRING")]
    # For later versions the reference converter puts in a template of its own collection; the model's is the
    # right one.
    entries = chat_template_entries(files)
    if not entries and files.has("chat_template.jinja"):
        entries = [Entry("tokenizer.chat_template", files.text("chat_template.jinja"), "STRING")]
    if not entries:
        warnings.append(f"{files.directory}: no chat template: put the model's chat_template.jinja there")
    return entries

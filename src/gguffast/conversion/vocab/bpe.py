"""Byte-level BPE from tokenizer.json: GPT-2's kind, also Llama 3, Qwen, DeepSeek and most others."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ...documents import short, shown
from .added import AddedToken, added_tokens, written
from .files import Files, as_dict, dicts, is_id
from .pre import recognise
from .special import special_entries
from .table import Entry, TokenTable, TokenType, Vocab, table_size

NAME = "tokenizer.json"
_MAX_STEPS = 64


def load(files: Files, size: int | None, pre: str | None, roles: Iterable[tuple[str, str]] = ()) -> Vocab:
    """Read a byte-level BPE tokenizer.

    Parameters
    ----------
    files : Files
        The checkpoint's tokenizer files; tokenizer.json must be there.
    size : int, optional
        Rows of the embedding; ids that no token has become ``[PADid]``. None: as many as there are tokens.
    pre : str, optional
        Name of the pre-tokenizer; None recognises it.
    roles : iterable of (name, text)
        Added tokens that have a role, if no file gives it to another.

    Raises
    ------
    FormatError
        A tokenizer of another kind, ids out of range, malformed merges, duplicates, an unknown pre-tokenizer.
    """
    model = as_dict(files.json(NAME).get("model"))
    if model.get("type", "BPE") != "BPE":
        raise files.damaged(
            NAME, f"a {short(str(model['type']), 60)} tokenizer; this class's can be converted from BPE only"
        )
    vocab = model_vocab(files, model)
    added = added_tokens(files, vocab)
    table = token_table(files, vocab, added, size)
    name = pre or recognise(files, vocab)
    merges = model_merges(files, model)
    warnings: list[str] = []
    ids = {token.text: number for number, token in added.items()}
    known = {role: ids[text] for role, text in roles if text in ids}
    entries = [
        *table.entries(str(files.path(NAME)), "gpt2", name),
        Entry("tokenizer.ggml.merges", merges, "ARRAY/STRING"),
        *special_entries(files, None, warnings, known),
    ]
    return Vocab(entries, len(table), warnings)


def model_vocab(files: Files, model: Mapping[str, Any]) -> dict[str, int]:
    """Tokens of the tokenizer's model with their ids, checked."""
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not vocab:
        raise files.damaged(NAME, "no model.vocab: the file holds no BPE tokenizer")
    if set(map(type, vocab.values())) != {int} or min(vocab.values()) < 0 or not is_id(max(vocab.values())):
        text, number = next(item for item in vocab.items() if not is_id(item[1]))
        raise files.damaged(NAME, f"token {shown(text)} has the id {shown(number)}")
    if len(set(vocab.values())) != len(vocab):
        by_id: dict[int, str] = {}
        for text, number in vocab.items():
            if by_id.setdefault(number, text) != text:
                raise files.damaged(
                    NAME, f"id {number} is given to two tokens, {shown(by_id[number])} and {shown(text)}"
                )
    return vocab


def model_merges(files: Files, model: Mapping[str, Any]) -> list[str]:
    """Give the merges of the tokenizer's model as ``"left right"``.

    A space inside a part becomes U+0120, the byte-level letter for it.
    """
    merges: Any = model.get("merges")
    kinds = set(map(type, merges)) if isinstance(merges, list) else set()
    if kinds == {str}:
        if not _all_split_once(merges):
            _check_merges(files, merges, lambda merge: " " in merge[1:-1])
        return list(merges)
    if kinds != {list}:
        raise files.damaged(NAME, "no model.merges, a list of pairs: llama.cpp cannot use such a tokenizer")
    _check_merges(files, merges, lambda merge: len(merge) == 2 and type(merge[0]) is str is type(merge[1]))
    joined = list(map(" ".join, merges))
    if "".join(joined).count(" ") == len(joined):
        return joined
    return [f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}" for left, right in merges]


def _all_split_once(merges: list[str]) -> bool:
    """Whether every merge is two parts and a space: the usual case, without a loop in Python."""
    spaces = set(map(operator.methodcaller("count", " "), merges))
    return spaces == {1} and not any(" " in map(operator.itemgetter(end), merges) for end in (0, -1))


def _check_merges(files: Files, merges: list[Any], good: Callable[[Any], bool]) -> None:
    for place, merge in enumerate(merges):
        if not good(merge):
            raise files.damaged(NAME, f"merge {place} is {shown(merge)}, not a pair of tokens")


def token_table(
    files: Files, vocab: dict[str, int], added: Mapping[int, AddedToken], size: int | None
) -> TokenTable:
    """Put the tokens of a tokenizer.json and those added to them in the order of their ids."""
    last = max(*vocab.values(), *added) if added else max(vocab.values())
    table = TokenTable(table_size(str(files.path(NAME)), size, last, len(vocab) + len(added)))
    if last >= len(table):
        raise files.damaged(
            NAME,
            f"the largest token id is {last}, but config.json's vocab_size is {len(table)}: rows are missing",
        )
    texts, types, normal = table.texts, table.types, int(TokenType.NORMAL)
    for text, number in vocab.items():
        texts[number], types[number] = text, normal
    steps = list(_decoder_steps(files.json(NAME).get("decoder")))
    if len(steps) > _MAX_STEPS:
        raise files.damaged(NAME, f"a decoder of {len(steps)} steps; no tokenizer has more than {_MAX_STEPS}")
    for number, token in added.items():
        held = texts[number]
        if held is not None and held != token.text:
            raise files.damaged(
                NAME, f"id {number} is given to two tokens, {shown(held)} and {shown(token.text)}"
            )
        text = token.text if token.normalized else _decoded(files, token.text, steps)
        texts[number], types[number] = written(text, token.special)
    return table


def _decoder_steps(decoder: Any) -> Iterator[dict[str, Any]]:
    for step in dicts([decoder]):
        if step.get("type") == "Sequence":
            for part in dicts(step.get("decoders")):
                yield from _decoder_steps(part)
        else:
            yield step


def _decoded(files: Files, text: str, steps: list[dict[str, Any]]) -> str:
    # llama.cpp matches these tokens in plain text, so they are written as their decoder prints them.
    limit = 4 * len(text) + 64  # a chain of replacements could double and double
    for step in steps:
        if step.get("type") == "ByteLevel":
            text = _bytes_decoded(text)
        elif step.get("type") == "Replace":
            old, new = as_dict(step.get("pattern")).get("String"), step.get("content")
            if isinstance(old, str) and old and isinstance(new, str):
                length = len(text) + text.count(old) * (len(new) - len(old))
                if length > limit:
                    raise files.damaged(NAME, f"the decoder makes {length} characters of an added token")
                text = text.replace(old, new)
    return text


def byte_letters() -> list[str]:
    """Give the letter that stands for each byte in byte-level vocabularies.

    It is the byte's own character if that is printable, else the next from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _bytes_decoded(text: str) -> str:
    if text.isascii():
        return text
    values = {letter: byte for byte, letter in enumerate(byte_letters())}
    if not values.keys() >= set(text):
        return text
    return bytes(values[letter] for letter in text).decode(errors="replace")

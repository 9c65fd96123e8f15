"""Tokens that a tokenizer has besides its model's, as transformers merges them from three files.

tokenizer.json lists them with their ids; tokenizer_config.json's ``added_tokens_decoder`` overrides their
flags and may add more; tokens that tokenizer_config.json merely names (``eos_token``, …) become special,
unless tokenizer.json alone lists them and says otherwise. Files of the older kind, without
``added_tokens_decoder``, have a special_tokens_map.json that counts instead of those names. (transformers
4.57, ``PreTrainedTokenizerBase._from_pretrained`` and ``PreTrainedTokenizerFast.__init__``.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...documents import shown
from .files import Files, as_dict, as_id, content, dicts, is_id
from .special import KINDS
from .table import TokenType


@dataclass(frozen=True)
class AddedToken:
    """One added token; `normalized` tells whether text is normalized before it is searched for."""

    text: str
    special: bool
    normalized: bool


def added_tokens(files: Files, vocab: dict[str, int]) -> dict[int, AddedToken]:
    """Collect the added tokens by id.

    Parameters
    ----------
    files : Files
        The checkpoint's tokenizer files.
    vocab : dict of str to int
        Tokens of the tokenizer's model; an added token that is there has that id.

    Raises
    ------
    FormatError
        An id that is no id, or one that is given to two tokens.
    """
    found: dict[int, AddedToken] = {}
    ids = vocab.copy()
    for token in dicts(files.json("tokenizer.json").get("added_tokens")):
        _add(files, "tokenizer.json", found, ids, token, token.get("id"))
    decoder = files.json("tokenizer_config.json").get("added_tokens_decoder")
    listed = set()
    for key, token in as_dict(decoder).items():
        _add(files, "tokenizer_config.json", found, ids, as_dict(token), as_id(key))
        listed.add(content(token))
    last = max([len(vocab) - 1, *found])
    for name in special_names(files):
        number = ids[name] if name in ids else last + 1
        last = max(last, number)
        if number not in found:
            found[number] = AddedToken(name, special=True, normalized=False)
        elif decoder is None or name in listed:
            found[number] = replace(found[number], special=True)
        ids[name] = number
    return found


def _add(
    files: Files,
    name: str,
    found: dict[int, AddedToken],
    ids: dict[str, int],
    token: dict[str, Any],
    number: Any,
) -> None:
    text = content(token)
    if text is None or not is_id(number):
        raise files.damaged(name, f"added token {shown(text)} has the id {shown(number)}")
    if not text:  # the tokenizers library ignores these
        return
    if ids.setdefault(text, number) != number:
        raise files.damaged(name, f"token {shown(text)} has two ids, {ids[text]} and {number}")
    if number in found and found[number].text != text:
        raise files.damaged(
            name, f"id {number} is given to two tokens, {shown(found[number].text)} and {shown(text)}"
        )
    special = token.get("special") is True
    found[number] = AddedToken(text, special, normalized=token.get("normalized", not special) is True)


# What classes of transformers call their tokens where tokenizer_config.json does not say; null there is none.
_GPT2 = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")
_CLASS_ROLES = {
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "GPT2Tokenizer": _GPT2,
    "GPTNeoXTokenizer": _GPT2,
    "Qwen2Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
    "GemmaTokenizer": {f"{role}_token": f"<{role}>" for role in ("unk", "bos", "eos", "pad")},
}


def special_names(files: Files) -> list[str]:
    """Texts of the tokens with a role: bos, eos, …, additional ones, the model's own, in this order."""
    config = files.json("tokenizer_config.json")
    roles = _CLASS_ROLES.get(str(config.get("tokenizer_class")).removesuffix("Fast"), {}) | config
    if "added_tokens_decoder" not in roles:
        roles.update(files.json("special_tokens_map.json"))
    named = [roles.get(f"{kind}_token") for kind in KINDS]
    for more in map(roles.get, ("additional_special_tokens", "extra_special_tokens")):
        named += more if isinstance(more, list) else as_dict(more).values()
    return list(_unique(map(content, named)))


def _unique(names: Any) -> Iterator[str]:
    seen = set()
    for name in names:
        if name and name not in seen:
            seen.add(name)
            yield name


def looks_special(text: str) -> bool:
    """Whether a token is a control token by its looks: some models do not flag theirs.

    The list is the reference converter's: deepseek-coder, command-r, Gemma.
    """
    return (
        text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (text.startswith("<|") and text.endswith("|>"))
        or (text.startswith("<｜") and text.endswith("｜>"))  # noqa: RUF001
        or (text.startswith("<unused") and text.endswith(">"))
    )


def written(text: str, special: bool) -> tuple[str, TokenType]:
    """Text and type of an added token in the file: control, or user-defined with spaces for ``▁``."""
    if special or looks_special(text):
        return text, TokenType.CONTROL
    return text.replace("▁", " "), TokenType.USER_DEFINED

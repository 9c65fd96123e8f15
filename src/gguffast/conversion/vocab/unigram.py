"""Unigram tokenizers, llama.cpp's "t5": XLM-RoBERTa's and T5's.

The pieces and their scores come from a SentencePiece model, or from tokenizer.json; so do the tables by which
text is normalized (a precompiled character map), and whether spaces are put in front and taken away.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

from ...documents import shown
from ...errors import FormatError
from . import sentencepiece
from .added import added_tokens, special_names
from .bpe import NAME
from .files import Files, as_dict, content, is_id
from .sentencepiece import Normalizer
from .special import flag_entry, special_entries
from .table import Entry, TokenTable, TokenType, Vocab, table_size

_PADDING_SCORE = -10000.0
_ADDED_SCORE = -1000.0
ROBERTA_NAME = "sentencepiece.bpe.model"
T5_NAMES = ("tokenizer.model", "spiece.model")


def is_unigram(files: Files) -> bool:
    """Whether tokenizer.json holds a Unigram tokenizer."""
    return as_dict(files.json(NAME).get("model")).get("type") == "Unigram"


def load_t5(files: Files, size: int | None) -> Vocab:
    """Read T5's: a SentencePiece model, and added_tokens.json.

    Raises
    ------
    FormatError
        A damaged model, malformed added tokens, or duplicates.
    """
    name = next(name for name in T5_NAMES if files.has(name))
    pieces, normalizer = _read_model(files, name)
    source = str(files.path(name))
    count = table_size(source, size, len(pieces) - 1, len(pieces))
    if count < len(pieces):
        raise FormatError(f"{source}: {len(pieces)} tokens, but config.json's vocab_size is {count}")
    table = TokenTable(count, _PADDING_SCORE)
    _put_pieces(table, pieces)
    warnings: list[str] = []
    for text, number in files.json("added_tokens.json").items():
        if not is_id(number):
            raise files.damaged("added_tokens.json", f"token {shown(text)} has the id {shown(number)}")
        if number < count:
            table.put(number, text, TokenType.USER_DEFINED, _ADDED_SCORE)
        else:
            warnings.append(f"{source}: the added token {shown(text)} is left out: config.json's vocab_size")
    entries = [
        *table.entries(source, "t5", "default"),
        flag_entry("add_space_prefix", normalizer.space_prefix),
        flag_entry("remove_extra_whitespaces", normalizer.strips),
        *_character_map(normalizer),
    ]
    return Vocab(entries + special_entries(files, count, warnings), count, warnings)


def load_roberta(files: Files, size: int | None, token_types: int) -> Vocab:
    """Read XLM-RoBERTa's: sentencepiece.bpe.model, else tokenizer.json.

    Parameters
    ----------
    files : Files
        The checkpoint's tokenizer files.
    size : int, optional
        Rows of the embedding.
    token_types : int
        Value of ``tokenizer.ggml.token_type_count``.

    Raises
    ------
    FormatError
        A damaged model, or duplicates.
    """
    if files.has(ROBERTA_NAME):
        name = ROBERTA_NAME
        pieces, normalizer = _read_model(files, name)
        table = _roberta_table(files, pieces, size)
    else:
        name = NAME
        table, normalizer = _table_of_json(files, size)
    warnings: list[str] = []
    entries = [
        *table.entries(str(files.path(name)), "t5", "default"),
        flag_entry("add_space_prefix", normalizer.space_prefix),
        Entry("tokenizer.ggml.token_type_count", token_types, "UINT32"),
        flag_entry("remove_extra_whitespaces", normalizer.strips),
        *_character_map(normalizer),
    ]
    return Vocab(entries + special_entries(files, len(table), warnings), len(table), warnings)


def _read_model(files: Files, name: str) -> tuple[list[tuple[str, float, int]], Normalizer]:
    data, source = files.bytes(name), str(files.path(name))
    pieces = sentencepiece.read_pieces(data, source)
    normalizer = sentencepiece.read_normalizer(data, source)
    if not normalizer.unigram:
        raise FormatError(f"{source}: not a Unigram model, which this class has")
    return pieces, normalizer


def _put_pieces(table: TokenTable, pieces: list[tuple[str, float, int]]) -> None:
    for number, (text, score, kind) in enumerate(pieces):
        # The reference converter writes SentencePiece's user-defined pieces as normal ones.
        table.put(number, text, TokenType.NORMAL if kind == TokenType.USER_DEFINED else kind, score)


def _roberta_table(files: Files, pieces: list[tuple[str, float, int]], size: int | None) -> TokenTable:
    # fairseq's four tokens stand before the pieces, whose first three are left out; one padding falls away.
    count = max(table_size(str(files.path(ROBERTA_NAME)), size, len(pieces) - 1, len(pieces)), len(pieces))
    table = TokenTable(count, _PADDING_SCORE)
    _put_pieces(table, pieces)
    assert table.scores is not None
    unknown, control = int(TokenType.UNKNOWN), int(TokenType.CONTROL)
    named = [f"[PAD{number}]" if text is None else text for number, text in enumerate(table.texts)]
    table.texts = ["<s>", "<pad>", "</s>", "<unk>", *named[3:-1]]
    table.types = [control, control, control, unknown, *table.types[3:-1]]
    table.scores = [0.0, 0.0, 0.0, 0.0, *table.scores[3:-1]]
    return table


def _table_of_json(files: Files, size: int | None) -> tuple[TokenTable, Normalizer]:
    tokenizer, config = files.json(NAME), files.json("tokenizer_config.json")
    model = as_dict(tokenizer.get("model"))
    vocab = _scored(files, model)
    ids = {text: number for number, (text, _) in enumerate(vocab)}
    added = added_tokens(files, ids)
    ids |= {token.text: number for number, token in added.items()}
    special = {ids[name] for name in special_names(files) if name in ids}
    given = model.get("unk_id")
    named = ids.get(content(config.get("unk_token")) or "")
    unknown = named if named in added else 3 if given is None else given
    count = max(table_size(str(files.path(NAME)), size, len(vocab) - 1, len(vocab)), len(vocab))
    table = TokenTable(count, _PADDING_SCORE)
    for number, (text, score) in enumerate(vocab):
        kind = TokenType.NORMAL
        if number == unknown:
            kind = TokenType.UNKNOWN
        elif number in special:
            kind = TokenType.CONTROL
        elif number in added:
            kind = TokenType.USER_DEFINED
        table.put(number, text, kind, score)
    # The reference takes both switches from transformers, where they are off unless the file sets them.
    prefix, strips = config.get("add_prefix_space"), config.get("clean_up_tokenization_spaces")
    characters = _decoded(files, as_dict(tokenizer.get("normalizer")).get("precompiled_charsmap"))
    return table, Normalizer(True, prefix is True, strips is True, characters)


def _scored(files: Files, model: dict[str, Any]) -> list[tuple[str, float]]:
    vocab = model.get("vocab")
    if model.get("type", "Unigram") != "Unigram" or not isinstance(vocab, list) or not vocab:
        raise files.damaged(NAME, "not a Unigram tokenizer, which this class has")
    for place, item in enumerate(vocab):
        good = isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)
        if not good or type(item[1]) not in (int, float) or not math.isfinite(item[1]):
            raise files.damaged(NAME, f"token {place} is {shown(item)}, not a text and its score")
    return [(text, float(score)) for text, score in vocab]


def _decoded(files: Files, text: Any) -> bytes:
    if text is None:
        return b""
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise files.damaged(NAME, "the normalizer's precompiled_charsmap is not base64") from None


def _character_map(normalizer: Normalizer) -> list[Entry]:
    if not normalizer.characters:
        return []
    return [Entry("tokenizer.ggml.precompiled_charsmap", list(normalizer.characters), "ARRAY/UINT8")]

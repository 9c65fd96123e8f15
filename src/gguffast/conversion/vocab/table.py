"""The table of tokens, and the keys it becomes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from ...documents import shown
from ...errors import FormatError

_MAX_PADDING = 1 << 18


class TokenType(IntEnum):
    """Kinds of tokens, numbered as in GGUF files and SentencePiece models."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Entry(NamedTuple):
    """One key with its value and the name of its GGUF type, arrays as ``ARRAY/STRING``."""

    key: str
    value: Any
    type: str


def table_size(source: str, size: int | None, last: int, count: int) -> int:
    """Check the number of ids that a table shall have.

    Parameters
    ----------
    source : str
        File the tokens came from, for error messages.
    size : int, optional
        Rows of the embedding; None for as many as there are ids.
    last, count : int
        The largest id, and the number of tokens.

    Raises
    ------
    FormatError
        Many more ids than tokens: the file, or config.json, is not to be believed. (Rows beyond the tokens
        are common; real models have up to some thousands.)
    """
    wanted = last + 1 if size is None else size
    if wanted > 2 * count + _MAX_PADDING:
        what = f"the largest token id is {last}" if size is None else f"config.json's vocab_size is {size}"
        raise FormatError(f"{source}: {count} tokens, but {what}; are the files of one model?")
    return wanted


class TokenTable:
    """Texts, types and scores of all ids; ids that nobody sets are padding.

    Parameters
    ----------
    size : int
        Number of ids: rows of the embedding.
    padding_score : float, optional
        Score of padding; without it the table has no scores (byte-level BPE).
    """

    def __init__(self, size: int, padding_score: float | None = None) -> None:
        self.texts: list[str | None] = [None] * size
        self.types: list[int] = [int(TokenType.UNUSED)] * size
        self.scores: list[float] | None = None if padding_score is None else [padding_score] * size

    def __len__(self) -> int:
        return len(self.texts)

    def put(self, token: int, text: str, kind: int, score: float) -> None:
        """Set one id of a table with scores, whatever it held."""
        assert self.scores is not None
        self.texts[token], self.types[token], self.scores[token] = text, int(kind), score

    def entries(self, source: str, model: str, pre: str | None) -> list[Entry]:
        """Give the keys of the table, in the order of the reference converter.

        Parameters
        ----------
        source : str
            File the tokens came from, for error messages.
        model, pre : str
            Values of ``tokenizer.ggml.model`` and ``tokenizer.ggml.pre``; None leaves the second out.

        Raises
        ------
        FormatError
            Two ids with the same text: llama.cpp aborts on such a file.
        """
        texts = [f"[PAD{token}]" if text is None else text for token, text in enumerate(self.texts)]
        _check_texts(source, texts)
        scores = [] if self.scores is None else [Entry("tokenizer.ggml.scores", self.scores, "ARRAY/FLOAT32")]
        return [
            Entry("tokenizer.ggml.model", model, "STRING"),
            *([] if pre is None else [Entry("tokenizer.ggml.pre", pre, "STRING")]),
            Entry("tokenizer.ggml.tokens", texts, "ARRAY/STRING"),
            *scores,
            Entry("tokenizer.ggml.token_type", self.types, "ARRAY/INT32"),
        ]


def _check_texts(source: str, texts: list[str]) -> None:
    if len(set(texts)) != len(texts):
        first: dict[str, int] = {}
        for token, text in enumerate(texts):
            if text in first:
                raise FormatError(
                    f"{source}: tokens {first[text]} and {token} are both {shown(text)}, "
                    "which llama.cpp refuses"
                )
            first[text] = token
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"{source}: a token is not valid Unicode ({error.reason})") from error


@dataclass
class Vocab:
    """What a tokenizer contributes to a GGUF file.

    Attributes
    ----------
    kvs : list of Entry
        The ``tokenizer.*`` keys in file order.
    size : int
        Number of tokens, padding included: rows that the embedding must have.
    warnings : list of str
        What the user should know: tokens that did not fit, special ids out of range.
    """

    kvs: list[Entry]
    size: int
    warnings: list[str] = field(default_factory=list)

    def set(self, entries: Iterable[Entry]) -> None:
        """Replace keys that are there, in their place, and append the others."""
        places = {entry.key: place for place, entry in enumerate(self.kvs)}
        for entry in entries:
            if entry.key in places:
                self.kvs[places[entry.key]] = entry
            else:
                places[entry.key] = len(self.kvs)
                self.kvs.append(entry)

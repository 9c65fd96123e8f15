"""WordPiece from tokenizer.json: BERT's kind.

llama.cpp marks where words begin (with ``\u2581``) instead of where they go on (``##``).
"""

from __future__ import annotations

from .added import added_tokens
from .bpe import NAME, model_vocab, token_table
from .files import Files, as_dict
from .pre import recognise
from .special import special_entries
from .table import TokenType, Vocab


def load(files: Files, size: int | None, pre: str | None) -> Vocab:
    """Read a WordPiece tokenizer.

    Parameters
    ----------
    files, size, pre
        As for :func:`gguffast.conversion.vocab.bpe.load`.

    Raises
    ------
    FormatError
        A tokenizer of another kind, ids out of range, duplicates, an unknown pre-tokenizer.
    """
    model = as_dict(files.json(NAME).get("model"))
    if model.get("type") != "WordPiece":
        raise files.damaged(NAME, "not a WordPiece tokenizer, which this class has")
    vocab = model_vocab(files, model)
    table = token_table(files, vocab, added_tokens(files, vocab), size)
    table.texts = [
        text if kind == TokenType.CONTROL else _marked(f"[PAD{token}]" if text is None else text)
        for token, (text, kind) in enumerate(zip(table.texts, table.types, strict=True))
    ]
    warnings: list[str] = []
    entries = table.entries(str(files.path(NAME)), "bert", pre or recognise(files, vocab))
    return Vocab(entries + special_entries(files, len(table), warnings), len(table), warnings)


def _marked(text: str) -> str:
    return text[2:] if text.startswith("##") else "\u2581" + text

"""SentencePiece-style BPE that has only a tokenizer.json (Llama 2 and its kin, with ``byte_fallback``).

The reference converter gives every token of such a file the score -1000, and llama.cpp, which merges by
score, then tokenizes text wrongly. The scores of the SentencePiece model that the file was made from can be
told from it: see `_scores`.
"""

from __future__ import annotations

import re

from ...documents import shown
from .added import added_tokens, special_names
from .bpe import NAME, model_merges, model_vocab
from .files import Files, as_dict
from .special import special_entries
from .table import Entry, TokenTable, TokenType, Vocab, table_size

_PADDING_SCORE = -10000.0
_ADDED_SCORE = -1000.0
_NEVER = -1e9
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


def is_spm(files: Files) -> bool:
    """Whether tokenizer.json holds a SentencePiece-style tokenizer."""
    model = as_dict(files.json(NAME).get("model"))
    decoder = as_dict(files.json(NAME).get("decoder"))
    return (
        model.get("type") == "BPE"
        and model.get("byte_fallback") is True
        and decoder.get("type") == "Sequence"
    )


def load(files: Files, size: int | None) -> Vocab:
    """Read a SentencePiece-style tokenizer.json.

    Parameters
    ----------
    files : Files
        The checkpoint's tokenizer files, for which `is_spm` holds.
    size : int, optional
        Rows of the embedding; missing tokens are padding (the reference converter writes none, and llama.cpp
        then refuses the file). None: as many as there are tokens.

    Raises
    ------
    FormatError
        Ids out of range, malformed merges, or duplicates.
    """
    model = as_dict(files.json(NAME).get("model"))
    vocab = model_vocab(files, model)
    table = _table(files, vocab, size, _scores(vocab, model_merges(files, model)))
    warnings: list[str] = []
    entries = table.entries(str(files.path(NAME)), "llama", "default")
    return Vocab(entries + special_entries(files, len(table), warnings), len(table), warnings)


# Control tokens of Gemma 4 that are printed all the same: who reads a chat has to see them.
_GEMMA4_PRINTED = (
    *("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>"),
    *("<|tool_response>", "<tool_response|>", '<|"|>'),
)


def load_gemma4(files: Files, size: int | None) -> Vocab:
    """Read Gemma 4's tokenizer.json: of the same kind, but llama.cpp merges by the list of merges.

    Raises
    ------
    FormatError
        As for `load`; or the tokenizer is of another kind.
    """
    if not is_spm(files):
        raise files.damaged(NAME, "no BPE tokenizer with byte_fallback, which Gemma 4 has")
    model = as_dict(files.json(NAME).get("model"))
    vocab = model_vocab(files, model)
    table = _table(files, vocab, size, dict.fromkeys(vocab, _ADDED_SCORE))
    table.types = [
        TokenType.USER_DEFINED if text in _GEMMA4_PRINTED else kind
        for text, kind in zip(table.texts, table.types, strict=True)
    ]
    warnings: list[str] = []
    entries = [
        *table.entries(str(files.path(NAME)), "gemma4", None),
        Entry("tokenizer.ggml.merges", model_merges(files, model), "ARRAY/STRING"),
        *special_entries(files, None, warnings),
    ]
    return Vocab(entries, len(table), warnings)


def _table(files: Files, vocab: dict[str, int], size: int | None, scores: dict[str, float]) -> TokenTable:
    added = {number: token for number, token in added_tokens(files, vocab).items() if token.text not in vocab}
    last = max([*vocab.values(), *added])
    count = table_size(str(files.path(NAME)), size, last, len(vocab) + len(added))
    table = TokenTable(count, _PADDING_SCORE)
    if last >= len(table):
        raise files.damaged(
            NAME,
            f"the largest token id is {last}, but config.json's vocab_size is {len(table)}: rows are missing",
        )
    special = set(special_names(files))
    for text, number in vocab.items():
        kind = TokenType.CONTROL if text in special else TokenType.NORMAL
        table.put(number, text, TokenType.BYTE if _BYTE.fullmatch(text) else kind, scores[text])
    for number, token in added.items():
        if table.texts[number] is not None:
            raise files.damaged(
                NAME,
                f"id {number} is given to two tokens, {shown(table.texts[number])} and {shown(token.text)}",
            )
        kind = TokenType.CONTROL if token.text in special else TokenType.USER_DEFINED
        table.put(number, token.text, kind, _ADDED_SCORE)
    return table


def _scores(vocab: dict[str, int], merges: list[str]) -> dict[str, float]:
    """Scores of a SentencePiece BPE model, told from the order of its merges.

    Training numbers the pieces in the order it finds them, after the byte pieces, and scores piece ``id`` as
    ``-(id - first)``; pieces of nothing but ``▁`` are put in later and never win a merge. tokenizer.json
    lists the merges by falling score. Where ids and merges agree the scores are exactly those of
    tokenizer.model (checked on Llama 2 and on Mistral's v1); where they do not (Gemma), the merges have the
    say: only the order counts.
    """
    first = vocab.get("<0xFF>", -1) + 1
    order = {product: None for product in (merge.replace(" ", "", 1) for merge in merges) if product in vocab}
    ids = [vocab[product] for product in order if product.strip("▁")]
    if ids == sorted(ids) and (not ids or ids[0] >= first):
        return {text: _trained_score(text, number - first) for text, number in vocab.items()}
    ranks: dict[str, float] = {product: -float(rank) for rank, product in enumerate(order)}
    return {text: ranks.get(text, -float(len(ranks) + number)) for text, number in vocab.items()}


def _trained_score(text: str, place: int) -> float:
    if place < 0:
        return 0.0
    return -float(place) if text.strip("▁") else _NEVER

"""A checkpoint's tokenizer as the ``tokenizer.*`` keys of a GGUF file.

One file a kind of tokenizer; `load_vocab` picks one by the files that are there. What is common to all (the special
ids, the chat templates) is in `special`, the table of pre-tokenizers in `pre`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["LLAMA_KINDS", "Entry", "Vocab", "load_vocab"]

LLAMA_KINDS = ("tekken", "sentencepiece", "spm_json", "bpe")


class Entry(NamedTuple):
    """One key with its value and the name of its GGUF type, arrays as ``ARRAY/STRING``."""

    key: str
    value: Any
    type: str


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


def load_vocab(
    directory: Path,
    config: Mapping[str, Any],
    *,
    kinds: Sequence[str] = ("bpe",),
    pre: str | None = None,
    config_space_prefix: bool = False,
    space_prefix: bool | None = None,
    add_bos: bool | None = None,
    special_ids: Iterable[tuple[str, int]] = (),
    literal_added_tokens: bool = False,
) -> Vocab:
    """Read the tokenizer of the checkpoint in `directory`.

    Parameters
    ----------
    directory : Path
        The checkpoint: tokenizer files, ``tokenizer_config.json``, ``chat_template.*``.
    config : mapping
        The model's configuration with its class defaults filled in; ``vocab_size`` and the special ids
        (``bos_token_id``, …) count.
    kinds : sequence of str
        Kinds of tokenizer that the architecture may have, tried in this order: ``bpe`` and ``spm_json``
        (tokenizer.json), ``sentencepiece`` (tokenizer.model), ``tekken`` (tekken.json).
    pre : str, optional
        Name of the pre-tokenizer, when the user gave one; otherwise it is recognised.
    config_space_prefix : bool
        Write tokenizer_config's ``add_prefix_space`` before everything else (Llama and its kin).
    space_prefix : bool, optional
        ``add_space_prefix`` to write at the end when the tokenizer is of the SentencePiece sort (Gemma: False).
    add_bos : bool, optional
        ``add_bos_token`` to write at the end, whatever the tokenizer says (Llama classes with 49152 tokens: False).
    special_ids : iterable of (name, id)
        Special ids that the architecture knows and no file says, e.g. ``[("eot", 107)]``.
    literal_added_tokens : bool
        Phi-3: SentencePiece added tokens are taken as they stand, and tokenizer.json's list counts as well.

    Returns
    -------
    Vocab

    Raises
    ------
    FormatError
        No tokenizer of these kinds, or one that is damaged, has duplicate tokens or more tokens than the
        embedding has rows, or a pre-tokenizer that is not known.
    """
    raise NotImplementedError

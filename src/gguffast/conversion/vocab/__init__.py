"""A checkpoint's tokenizer as the ``tokenizer.*`` keys of a GGUF file.

One file a kind of tokenizer; `load_vocab` picks one by the files that are there. What is common to all (the
special ids, the chat templates) is in `special`, the table of pre-tokenizers in `pre`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...documents import shown
from ...errors import FormatError
from . import bpe, sentencepiece, spm_json, tekken, unigram, wordpiece
from .files import Files, is_id
from .special import flag_entry, id_entry
from .table import Entry, Vocab

__all__ = ["LLAMA_KINDS", "Entry", "Vocab", "load_vocab"]

LLAMA_KINDS = ("tekken", "sentencepiece", "spm_json", "bpe")
"""Kinds of tokenizer of the Llama classes, in the order the reference converter tries them."""


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
    special_texts: Iterable[tuple[str, str]] = (),
    literal_added_tokens: bool = False,
    internlm: bool = False,
    multiple: int = 1,
    token_types: int | None = None,
    early_flags: Iterable[tuple[str, bool]] = (),
) -> Vocab:
    """Read the tokenizer of the checkpoint in `directory`.

    Parameters
    ----------
    directory : Path
        The checkpoint: tokenizer files, ``tokenizer_config.json``, ``chat_template.*``, ``config.json``
        (whose own ``bos_token_id`` and the like count, without class defaults).
    config : mapping
        The model's configuration with its class defaults filled in, for ``vocab_size``.
    kinds : sequence of str
        Kinds of tokenizer that the architecture may have, tried in this order: ``bpe``, ``spm_json`` and
        ``gemma4`` (tokenizer.json), ``sentencepiece`` (tokenizer.model), ``tekken`` (tekken.json),
        ``wordpiece`` (tokenizer.json), ``unigram`` (sentencepiece.bpe.model or tokenizer.json), ``t5``
        (tokenizer.model or spiece.model).
    pre : str, optional
        Name of the pre-tokenizer, when the user gave one; otherwise it is recognised.
    config_space_prefix : bool
        Write tokenizer_config's ``add_prefix_space`` before everything else (Llama and its kin).
    space_prefix : bool, optional
        ``add_space_prefix`` to write at the end when the tokenizer is of the SentencePiece sort (Gemma:
        False).
    add_bos : bool, optional
        ``add_bos_token`` to write at the end, whatever the tokenizer says (Llama classes with 49152 tokens:
        False).
    special_ids : iterable of (name, id)
        Special ids that the architecture knows and no file says, e.g. ``[("eot", 107)]``.
    special_texts : iterable of (name, text)
        Added tokens with a role that the architecture knows; what a file says counts more. For ``bpe`` alone.
    literal_added_tokens : bool
        Phi-3: SentencePiece added tokens are taken as they stand, and tokenizer.json's list counts as well.
    internlm : bool
        InternLM 2: its ways with a SentencePiece model.
    multiple : int
        The list of tokens is filled up to a multiple of this, whatever the embedding's rows are (Mamba).
    token_types : int, optional
        BERT and its kin: kinds of sentences, ``tokenizer.ggml.token_type_count``.
    early_flags : iterable of (name, value)
        Switches that stand first; the tokenizer's own say, if they have one, counts.

    Returns
    -------
    Vocab

    Raises
    ------
    FormatError
        No tokenizer of these kinds, or one that is damaged, has duplicate tokens or more tokens than the
        embedding has rows, or a pre-tokenizer that is not known.
    FileError
        A file that cannot be read.
    """
    files = Files(directory)
    size = config.get("vocab_size")
    if size is not None and not (is_id(size) and size > 0):
        raise files.damaged("config.json", f"vocab_size is {shown(size)}")
    if size is not None:
        size = -(-size // multiple) * multiple
    kind = _choose(files, kinds)
    match kind:
        case "tekken":
            vocab = tekken.load(files)
        case "sentencepiece":
            vocab = sentencepiece.load(files, size, literal_added_tokens, internlm)
        case "spm_json":
            vocab = spm_json.load(files, size)
        case "gemma4":
            vocab = spm_json.load_gemma4(files, size)
        case "wordpiece":
            vocab = wordpiece.load(files, size, pre)
        case "unigram":
            vocab = unigram.load_roberta(files, size, token_types or 1)
        case "t5":
            vocab = unigram.load_t5(files, size)
        case _:
            vocab = bpe.load(files, size, pre, special_texts)
    if kind == "wordpiece" and token_types is not None:
        vocab.kvs.insert(0, Entry("tokenizer.ggml.token_type_count", token_types, "UINT32"))
    prefix = files.json("tokenizer_config.json").get("add_prefix_space")
    if config_space_prefix and kind != "tekken" and isinstance(prefix, bool):
        vocab.kvs.insert(0, flag_entry("add_space_prefix", prefix))
    early = [flag_entry(name, value) for name, value in early_flags]
    if early:
        own, vocab.kvs = vocab.kvs, early
        vocab.set(own)
    vocab.set(id_entry(name, token) for name, token in special_ids)
    if space_prefix is not None and kind in ("sentencepiece", "spm_json", "gemma4"):
        vocab.set([flag_entry("add_space_prefix", space_prefix)])
    if add_bos is not None:
        vocab.set([flag_entry("add_bos_token", add_bos)])
    return vocab


def _choose(files: Files, kinds: Sequence[str]) -> str:
    present = {
        # tekken.json often lies beside a tokenizer.json that says the same and more
        "tekken": files.has("tekken.json") and not files.has("tokenizer.json"),
        "sentencepiece": files.has("tokenizer.model"),
        "spm_json": files.has("tokenizer.json") and spm_json.is_spm(files),
        "gemma4": files.has("tokenizer.json"),
        "bpe": files.has("tokenizer.json"),
        "wordpiece": files.has("tokenizer.json") and not unigram.is_unigram(files),
        "unigram": files.has(unigram.ROBERTA_NAME) or unigram.is_unigram(files),
        "t5": any(map(files.has, unigram.T5_NAMES)),
    }
    for kind in kinds:
        if present[kind]:
            return kind
    names = {"tekken": "tekken.json", "sentencepiece": "tokenizer.model", "t5": "spiece.model"}
    looked_for = " or ".join(dict.fromkeys(names.get(kind, "tokenizer.json") for kind in kinds))
    raise FormatError(f"{files.directory}: no tokenizer: expected {looked_for} beside config.json")

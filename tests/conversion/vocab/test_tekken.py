"""Mistral's tekken.json."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from gguffast.conversion.vocab import LLAMA_KINDS, Vocab, load_vocab
from gguffast.errors import FormatError

WORDS = [b"ab", b" c", b"abab", b"aba", "é".encode()]


def tekken(**changes: Any) -> dict[str, Any]:
    words = [bytes([byte]) for byte in range(256)] + WORDS + [b"never used"]
    config = {
        "pattern": "unused here: the reference names it tekken without looking",
        "default_vocab_size": 22 + 256 + len(WORDS),
        "default_num_special_tokens": 22,
        "version": "v3",
        **changes.pop("config", {}),
    }
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(word).decode(), "token_str": None}
        for rank, word in enumerate(words)
    ]
    return {"config": config, "vocab": vocab, **changes}


def load(folder: Path, content: dict[str, Any]) -> Vocab:
    (folder / "tekken.json").write_text(json.dumps(content))
    return load_vocab(folder, {}, kinds=LLAMA_KINDS)


def test_the_keys(tmp_path: Path) -> None:
    vocab = load(tmp_path, tekken())
    assert vocab.size == 22 + 256 + 5
    assert [entry.key.removeprefix("tokenizer.") for entry in vocab.kvs] == [
        "ggml.model",
        "ggml.pre",
        "ggml.merges",
        "ggml.bos_token_id",
        "ggml.eos_token_id",
        "ggml.unknown_token_id",
        "ggml.padding_token_id",
        "ggml.tokens",
        "ggml.scores",
        "ggml.token_type",
        "ggml.add_bos_token",
        "ggml.add_eos_token",
        "chat_template",
    ]
    values = {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in vocab.kvs}
    assert [values[key] for key in ("model", "pre", "bos_token_id", "eos_token_id", "padding_token_id")] == [
        "gpt2",
        "tekken",
        1,
        2,
        11,
    ]
    # Special tokens first, the missing ones filled up; then bytes as letters.
    tokens = values["tokens"]
    assert tokens[:4] == ["<unk>", "<s>", "</s>", "[INST]"]
    assert tokens[19:22] == ["[TOOL_CONTENT]", "<SPECIAL_20>", "<SPECIAL_21>"]
    assert tokens[22 + ord("a")] == "a"
    assert tokens[22 + ord(" ")] == "Ġ"
    assert tokens[22 + 256 :] == ["ab", "Ġc", "abab", "aba", "Ã©"]
    assert values["token_type"] == [3] * 22 + [1] * 261
    assert values["scores"] == [0.0] * 283
    # Every way to make a token, in the order of the ranks of its parts.
    assert values["merges"] == ["a b", "Ġ c", "ab ab", "aba b", "ab a", "Ã ©"]


def test_templates(tmp_path: Path) -> None:
    assert load(tmp_path, tekken()).kvs[-1].value == "mistral-v3-tekken"
    specials = [{"rank": n, "token_str": text} for n, text in enumerate(["<unk>", "<s>", "</s>", "<pad>"])]
    newer = tekken(config={"version": "v11"}, special_tokens=specials)
    vocab = load(tmp_path, newer)
    assert vocab.kvs[-1].key == "tokenizer.ggml.add_eos_token"
    assert "no chat template" in vocab.warnings[0]
    (tmp_path / "chat_template.jinja").write_text("model's own")
    vocab = load(tmp_path, newer)
    assert vocab.kvs[-1].value == "model's own"
    assert vocab.warnings == []


def broken(place: int, **changes: Any) -> list[dict[str, Any]]:
    vocab: list[dict[str, Any]] = tekken()["vocab"]
    vocab[place] |= changes
    return vocab


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "config has no default_vocab_size"),
        (tekken(config={"default_vocab_size": "1"}), "config has no default_vocab_size"),
        (tekken(config={"default_num_special_tokens": 0}), "config has no default_vocab_size"),
        (tekken(config={"default_vocab_size": 1000}), "vocab has not the 978 tokens"),
        (tekken(config={"default_vocab_size": 100}), "vocab has not the 78 tokens"),
        (tekken(vocab=None), "vocab has not the 261 tokens"),
        (tekken(vocab=broken(3, rank=4)), "vocab entry 3 is damaged"),
        (tekken(vocab=broken(3, token_bytes="AA==")), "vocab entry 3 is damaged, a duplicate"),
        (tekken(vocab=broken(3, token_bytes="?")), "vocab entry 3 is damaged"),
        (tekken(vocab=broken(3, token_bytes=None)), "vocab entry 3 is damaged"),
        (tekken(vocab=broken(257, token_bytes="YWJjZA==")), "no two tokens make vocab entry 257, b'abcd'"),
        (tekken(config={"version": "v11"}), "0 special tokens"),
        (tekken(special_tokens=[{"rank": 0}]), "1 special tokens"),
        (tekken(special_tokens=[{"token_str": "<unk>"}]), "no special token <s>"),
        (
            tekken(special_tokens=[{"token_str": str(n)} for n in range(23)]),
            "23 special tokens, expected 1 to 22",
        ),
    ],
)
def test_damaged_files(content: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=said):
        load(tmp_path, content)

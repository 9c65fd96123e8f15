"""Byte-level BPE from tokenizer.json, and SentencePiece-style BPE that has nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gguffast.conversion.vocab import load_vocab
from gguffast.errors import FormatError
from support.tokenizers_by_hand import VOCAB, added, bpe, write

NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6


def values(folder: Path, size: int | None = 16, kinds: tuple[str, ...] = ("bpe",)) -> dict[str, Any]:
    vocab = load_vocab(folder, {} if size is None else {"vocab_size": size}, kinds=kinds)
    return {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in vocab.kvs}


def test_gaps_are_padding_up_to_the_embedding(tmp_path: Path) -> None:
    vocab = dict(VOCAB)
    del vocab["h"]
    write(tmp_path, bpe(model_vocab=vocab))
    found = values(tmp_path, 13)
    assert found["tokens"] == [*"abcdefg", "[PAD7]", "ab", "abc", "de", "[PAD11]", "[PAD12]"]
    assert found["token_type"] == [NORMAL] * 7 + [UNUSED] + [NORMAL] * 3 + [UNUSED] * 2
    assert values(tmp_path, None)["tokens"] == found["tokens"][:11]


def test_added_tokens_of_the_base_vocabulary_change_their_type(tmp_path: Path) -> None:
    tokens = [added(3, "d", special=True), added(4, "e"), added(11, "<|x|>"), added(12, "▁▁")]
    write(tmp_path, bpe(added_tokens=tokens))
    found = values(tmp_path, 13)
    assert found["token_type"] == [NORMAL] * 3 + [CONTROL, USER_DEFINED] + [NORMAL] * 6 + [
        CONTROL,
        USER_DEFINED,
    ]
    assert found["tokens"][11:] == ["<|x|>", "  "]


@pytest.mark.parametrize(
    ("merges", "written"),
    [
        (["a b", "ab c"], ["a b", "ab c"]),
        ([["a", "b"], ["ab", "c"]], ["a b", "ab c"]),
        ([["a", " "], ["a ", "b"]], ["a Ġ", "aĠ b"]),
        (["a b", "a b c"], ["a b", "a b c"]),
    ],
)
def test_merges(merges: list[Any], written: list[str], tmp_path: Path) -> None:
    write(tmp_path, bpe(model_merges=merges))
    assert values(tmp_path)["merges"] == written


@pytest.mark.parametrize(
    ("merges", "said"),
    [
        (["a b", "ab"], "merge 1 is 'ab'"),
        (["a b", "ab "], "merge 1 is 'ab '"),
        (["a b", " ab"], "merge 1 is ' ab'"),
        ([["a", "b"], ["a"]], r"merge 1 is \['a'\]"),
        ([["a", "b"], ["a", 1]], r"merge 1 is \['a', 1\]"),
        ([["a", "b"], "a b"], "no model.merges"),
        ([], "no model.merges"),
        (None, "no model.merges"),
        ({"a": "b"}, "no model.merges"),
    ],
)
def test_malformed_merges(merges: object, said: str, tmp_path: Path) -> None:
    write(tmp_path, bpe(model_merges=merges))
    with pytest.raises(FormatError, match=f"tokenizer.json: {said}"):
        values(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "Unigram"}, "a Unigram tokenizer; this class"),
        ({"model_vocab": []}, "no model.vocab"),
        ({"model_vocab": {"a": 0, "b": -1}}, "token 'b' has the id -1"),
        ({"model_vocab": {"a": 0, "b": 1.0}}, "token 'b' has the id 1.0"),
        ({"model_vocab": {"a": 0, "b": True}}, "token 'b' has the id True"),
        ({"model_vocab": {"a": 0, "b": 10**12}}, "token 'b' has the id 1000000000000"),
        ({"model_vocab": {"a": 0, "b": 1, "c": 1}}, "id 1 is given to two tokens, 'b' and 'c'"),
        ({"model_vocab": {"a": 0, "b": 16}}, "largest token id is 16, but config.json's vocab_size is 16"),
        ({"added_tokens": [added(16, "x")]}, "largest token id is 16"),
        ({"added_tokens": [added(0, "x")]}, "id 0 is given to two tokens, 'a' and 'x'"),
        ({"added_tokens": [added(12, "x"), added(12, "y")]}, "id 12 is given to two tokens, 'x' and 'y'"),
        ({"added_tokens": [added(12, "x"), added(13, "x")]}, "token 'x' has two ids, 12 and 13"),
        ({"added_tokens": [{"content": "x"}]}, "added token 'x' has the id None"),
        ({"added_tokens": [{"id": 12}]}, "added token None has the id 12"),
        ({"added_tokens": [added(12, "  "), added(13, "▁▁")]}, "tokens 12 and 13 are both '  '"),
        ({"added_tokens": [added(12, "[PAD13]")]}, r"tokens 12 and 13 are both '\[PAD13\]'"),
        ({"added_tokens": [added(12, "\ud800")]}, "half a surrogate pair"),
    ],
)
def test_malformed_tokens(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    write(tmp_path, bpe(**changes))
    with pytest.raises(FormatError, match=said) as caught:
        values(tmp_path)
    assert "\n" not in str(caught.value)
    assert "tokenizer.json" in str(caught.value)


def test_malformed_added_tokens_decoder(tmp_path: Path) -> None:
    write(tmp_path, bpe(), config={"added_tokens_decoder": {"x1": {"content": "y"}}})
    with pytest.raises(FormatError, match=r"tokenizer_config\.json: added token 'y' has the id 'x1'"):
        values(tmp_path)


# SentencePiece style. A model of this shape: the bytes, then pieces in the order that training found them.

SPM_PIECES = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    "▁▁",
    "▁a",
    "ab",
    "▁ab",
    "▁",
    "a",
    "b",
]
FIRST = 259


def spm(pieces: list[str], merges: list[str], **changes: Any) -> dict[str, Any]:
    vocab = {text: number for number, text in enumerate(pieces)}
    model = {"model_vocab": vocab, "model_merges": merges, "model_byte_fallback": True}
    return bpe(decoder={"type": "Sequence", "decoders": []}, pre_tokenizer=None, **model, **changes)


def test_scores_are_those_of_the_sentencepiece_model(tmp_path: Path) -> None:
    # The reference converter writes -1000 for every one of them, and llama.cpp, which merges by score, then
    # merges in any order. That is a mistake, so we differ.
    write(
        tmp_path,
        spm(SPM_PIECES, ["▁ a", "a b", "▁a b", "▁ ab", "▁ ▁"]),
        config={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    )
    found = values(tmp_path, len(SPM_PIECES), ("spm_json",))
    assert found["model"] == "llama"
    assert found["pre"] == "default"
    assert found["tokens"] == SPM_PIECES
    assert found["token_type"] == [CONTROL] * 3 + [BYTE] * 256 + [NORMAL] * 7
    assert found["scores"][:FIRST] == [0.0] * FIRST
    assert found["scores"][FIRST:] == [-1e9, -1.0, -2.0, -3.0, -1e9, -5.0, -6.0]


def test_where_ids_are_in_another_order_the_merges_give_the_scores(tmp_path: Path) -> None:
    write(tmp_path, spm(SPM_PIECES, ["▁ ▁", "a b", "▁ ab", "▁ a"]))
    found = values(tmp_path, len(SPM_PIECES), ("spm_json",))
    scores = dict(zip(found["tokens"], found["scores"], strict=True))
    assert [scores[text] for text in ("▁▁", "ab", "▁ab", "▁a")] == [0.0, -1.0, -2.0, -3.0]
    assert max(scores["a"], scores["<unk>"], scores["<0x41>"]) < -3.0


def test_added_tokens_and_padding_follow_the_pieces(tmp_path: Path) -> None:
    # The reference converter pads no such table, and llama.cpp wants a token for every row: we do.
    tokens = [
        added(266, "<|im_start|>", special=True),
        added(267, "<|im_end|>", special=True),
        added(1, "<s>", True),
    ]
    write(tmp_path, spm(SPM_PIECES, ["▁ a"], added_tokens=tokens), config={"eos_token": "<|im_end|>"})
    found = values(tmp_path, 270, ("spm_json",))
    assert found["tokens"][266:] == ["<|im_start|>", "<|im_end|>", "[PAD268]", "[PAD269]"]
    assert found["token_type"][266:] == [USER_DEFINED, CONTROL, UNUSED, UNUSED]
    assert found["scores"][266:] == [-1000.0, -1000.0, -10000.0, -10000.0]
    assert found["eos_token_id"] == 267


def test_more_pieces_than_rows(tmp_path: Path) -> None:
    write(tmp_path, spm(SPM_PIECES, ["▁ a"]))
    with pytest.raises(FormatError, match=r"largest token id is 265, but config\.json's vocab_size is 200"):
        values(tmp_path, 200, ("spm_json",))

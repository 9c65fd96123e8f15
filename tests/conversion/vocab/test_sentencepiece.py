"""The reader of SentencePiece models, and the table made of one."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguffast.conversion.vocab import load_vocab
from gguffast.conversion.vocab.sentencepiece import read_pieces
from gguffast.errors import FormatError
from support.tokenizers_by_hand import bpe, message, sentencepiece, varint, write

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
PIECES = [
    ("<unk>", 0.0, UNKNOWN),
    ("<s>", 0.0, CONTROL),
    ("<0x00>", 0.0, BYTE),
    ("▁the", -1.5, NORMAL),
    ("名", -2.25, USER_DEFINED),
    ("x", -3.0, UNUSED),
]

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
pieces = st.tuples(texts, st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(1, 6))


def load(
    folder: Path, size: int | None = 8, **options: Any
) -> tuple[list[tuple[str, int, float]], list[str]]:
    vocab = load_vocab(
        folder, {} if size is None else {"vocab_size": size}, kinds=("sentencepiece",), **options
    )
    found = {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in vocab.kvs}
    return list(zip(found["tokens"], found["token_type"], found["scores"], strict=True)), vocab.warnings


@given(st.lists(pieces, min_size=1), st.binary())
def test_pieces_come_back(written: list[tuple[str, float, int]], trainer: bytes) -> None:
    assert read_pieces(sentencepiece(written, trainer), "m") == written


def test_unknown_fields_are_skipped() -> None:
    extra = b"\x20" + varint(2**63) + b"\x29" + bytes(8) + b"\x35" + bytes(4) + message(200, b"extension")
    body = message(1, b"a") + extra + b"\x15" + struct.pack("<f", 0.5)
    assert read_pieces(extra + message(1, body) + extra + message(3, b""), "m") == [("a", 0.5, NORMAL)]


@pytest.mark.parametrize("stop", range(len(sentencepiece(PIECES))))
def test_a_truncated_model(stop: int) -> None:
    # Cut between two pieces it is a whole message, only nothing follows the pieces.
    with pytest.raises(FormatError, match=r"^tokenizer\.model: (not a SentencePiece|the file is truncated)"):
        read_pieces(sentencepiece(PIECES)[:stop], "tokenizer.model")


@given(st.binary(max_size=60), st.integers(0, 200))
def test_garbage_is_a_format_error(garbage: bytes, at: int) -> None:
    model = sentencepiece(PIECES)
    at = min(at, len(model))
    for data in (garbage, model[:at] + garbage + model[at + len(garbage) :]):
        with contextlib.suppress(FormatError):
            assert all(text and 1 <= kind <= 6 for text, _, kind in read_pieces(data, "m"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it has no pieces"),
        (message(2, b"trainer"), "it has no pieces"),
        (message(1, b""), "empty piece"),
        (message(1, message(1, b"a") + b"\x18\x07"), "piece of type 7"),
        (message(1, message(1, b"\xff")), "a piece is not UTF-8"),
        (b"\x0a\xff\xff\xff\xff\x0f", "ends 4294967295 bytes too late"),
        (b"\x0a" + b"\xff" * 10, "more than 64 bits"),
        (b"\x0b", "wire type 3"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a SentencePiece model"),
    ],
)
def test_no_model(data: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        read_pieces(data, "tokenizer.model")


def test_the_table(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece(PIECES))
    table, warnings = load(tmp_path)
    assert table == [
        ("<unk>", UNKNOWN, 0.0),
        ("<s>", CONTROL, 0.0),
        ("<0x00>", BYTE, 0.0),
        ("▁the", NORMAL, -1.5),
        ("名", NORMAL, -2.25),  # user-defined ones become normal
        ("x", UNUSED, -3.0),
        ("[PAD6]", UNUSED, -10000.0),
        ("[PAD7]", UNUSED, -10000.0),
    ]
    assert warnings == []
    assert load(tmp_path, None)[0] == table[:6]


def test_added_tokens(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece(PIECES))
    decoder = {
        "3": {"content": "▁a▁b"},
        "5": {"content": "<|x|>"},
        "6": {"content": "<c>", "special": True},
        "9": {"content": "<far>"},
    }
    write(tmp_path, added_tokens={"new": 5, "newer": 7, "out": 8}, config={"added_tokens_decoder": decoder})
    table, warnings = load(tmp_path)
    assert table[3] == (" a b", USER_DEFINED, -1000.0)
    assert table[5:] == [
        ("<|x|>", CONTROL, -1000.0),
        ("<c>", CONTROL, -1000.0),
        ("newer", USER_DEFINED, -1000.0),
    ]
    assert len(warnings) == 1
    assert "2 added tokens are left out, from 8 'out' on" in warnings[0]


def test_phi3_takes_added_tokens_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece(PIECES))
    listed = [{"id": 6, "content": "▁", "special": True}, {"id": 7, "content": "<|y|>"}]
    write(tmp_path, bpe(added_tokens=listed), config={"added_tokens_decoder": {"5": {"content": "<|x|>"}}})
    table, _ = load(tmp_path, literal_added_tokens=True)
    assert table[5:] == [
        ("<|x|>", USER_DEFINED, -1000.0),
        ("▁", CONTROL, -1000.0),
        ("<|y|>", USER_DEFINED, -1000.0),
    ]


def test_more_pieces_than_rows_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece(PIECES))
    table, warnings = load(tmp_path, 4)
    assert len(table) == 4
    assert len(warnings) == 1
    assert "tokens from 4 on are left out" in warnings[0]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"added_tokens": {"a": "5"}}, r"added_tokens\.json: token 'a' has the id '5'"),
        ({"config": {"added_tokens_decoder": {"-1": {"content": "a"}}}}, "added token 'a' has the id '-1'"),
        ({"config": {"added_tokens_decoder": {"6": {}}}}, "added token None has the id '6'"),
        ({"config": {"added_tokens_decoder": {"9" * 5000: {"content": "a"}}}}, "added token 'a' has the id"),
        ({"added_tokens": {"<s>": 6}}, "tokens 1 and 6 are both '<s>'"),
    ],
)
def test_malformed_added_tokens(files: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece(PIECES))
    write(tmp_path, **files)
    with pytest.raises(FormatError, match=said):
        load(tmp_path)

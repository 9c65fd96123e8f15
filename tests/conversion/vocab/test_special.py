"""Special ids, flags and chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gguffast.conversion.vocab import load_vocab
from gguffast.errors import FormatError
from support.tokenizers_by_hand import added, bpe, sentencepiece, write

TOKENS = [added(11, "<s>", True), added(12, "</s>", True), added(13, "<|eot|>", True)]
A = {"Sequence": {"id": "A", "type_id": 0}}
B = {"Sequence": {"id": "B", "type_id": 1}}


def special(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": 0}}


def keys(folder: Path, **options: Any) -> list[tuple[str, Any]]:
    """What follows the merges."""
    kvs = load_vocab(folder, {}, **options).kvs
    names = [entry.key for entry in kvs]
    start = names.index("tokenizer.ggml.merges") + 1
    return [(entry.key.removeprefix("tokenizer."), entry.value) for entry in kvs[start:]]


def test_names_come_first_then_the_ids_of_the_configuration(tmp_path: Path) -> None:
    write(
        tmp_path,
        bpe(added_tokens=TOKENS),
        config={"eos_token": {"content": "</s>"}, "bos_token": "<s>", "unk_token": None, "pad_token": "a"},
        model_config={"bos_token_id": 5, "eos_token_id": [1, 2], "pad_token_id": 7, "sep_token_id": None,
                      "text_config": {"sep_token_id": 8, "pad_token_id": 9}, "cls_token_id": 3},
    )  # fmt: skip
    assert keys(tmp_path) == [
        ("ggml.bos_token_id", 11),
        ("ggml.eos_token_id", 12),
        ("ggml.seperator_token_id", 8),
        ("ggml.padding_token_id", 7),
    ]


@pytest.mark.parametrize("token", [-1, 2**32])
def test_an_id_that_cannot_be(token: int, tmp_path: Path) -> None:
    write(tmp_path, bpe(), model_config={"eos_token_id": token})
    with pytest.raises(FormatError, match=rf"config\.json: {token} cannot be the id of the eos token"):
        keys(tmp_path)


def test_an_id_beyond_a_sentencepiece_table_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece([("<unk>", 0.0, 2), ("<s>", 0.0, 3)]))
    write(tmp_path, model_config={"bos_token_id": 1, "eos_token_id": 2})
    vocab = load_vocab(tmp_path, {"vocab_size": 2}, kinds=("sentencepiece",))
    assert [entry.key for entry in vocab.kvs[5:]] == ["tokenizer.ggml.bos_token_id"]
    assert vocab.warnings == ["the eos token 2 is left out: there are only 2 tokens"]


def test_what_the_template_ends_with_is_the_end_of_text(tmp_path: Path) -> None:
    processor = {"type": "TemplateProcessing", "single": [special("<s>"), A, special("</s>")]}
    config = {"bos_token": "<s>", "eos_token": "<|eot|>", "add_eos_token": False, "add_bos_token": False}
    write(tmp_path, bpe(added_tokens=TOKENS, post_processor=processor), config=config)
    assert keys(tmp_path) == [
        ("ggml.bos_token_id", 11),
        ("ggml.eos_token_id", 12),
        ("ggml.eot_token_id", 13),
        ("ggml.add_bos_token", True),
        ("ggml.add_eos_token", True),
    ]


def test_a_separator_between_two_texts(tmp_path: Path) -> None:
    processor = {
        "type": "TemplateProcessing",
        "single": [special("<s>"), A],
        "pair": [special("<s>"), A, special("</s>"), B],
    }
    write(
        tmp_path,
        bpe(added_tokens=TOKENS, post_processor=processor),
        config={"bos_token": "<s>", "eos_token": "</s>"},
    )
    assert ("ggml.add_sep_token", True) in keys(tmp_path)
    assert ("ggml.seperator_token_id", 12) in keys(tmp_path)


@pytest.mark.parametrize(
    "processor",
    [
        [],
        "x",
        {"type": "Sequence", "processors": 3},
        {"type": "TemplateProcessing", "single": {"a": 1}, "pair": [A, B]},
        {"type": "TemplateProcessing", "single": [{"SpecialToken": "x"}, {"Sequence": []}], "pair": [[], A]},
    ],
)
def test_a_malformed_post_processor_adds_nothing(processor: object, tmp_path: Path) -> None:
    write(tmp_path, bpe(post_processor=processor), config={"bos_token": "<s>"})
    assert keys(tmp_path) == []


def test_normalizer_switches(tmp_path: Path) -> None:
    bert = {"type": "BertNormalizer", "lowercase": False, "strip_accents": None}
    write(tmp_path, bpe(normalizer={"type": "Sequence", "normalizers": [{"type": "StripAccents"}, bert]}))
    assert keys(tmp_path) == [("ggml.normalizer.lowercase", False), ("ggml.normalizer.strip_accents", True)]


# Chat templates


def templates(folder: Path, config: dict[str, Any]) -> list[tuple[str, Any]]:
    write(folder, bpe(), config={"add_prefix_space": False, **config})
    return keys(folder)


def test_the_template_of_tokenizer_config_comes_first(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("file")
    assert templates(tmp_path, {"chat_template": "config"}) == [("chat_template", "config")]
    assert templates(tmp_path, {"chat_template": None}) == []
    assert templates(tmp_path, {"chat_template": ""}) == []
    assert templates(tmp_path, {"chat_template": 3}) == []


def test_then_the_jinja_file_then_the_json_file(tmp_path: Path) -> None:
    write(tmp_path, chat_template={"chat_template": "json"})
    assert templates(tmp_path, {}) == [("chat_template", "json")]
    (tmp_path / "chat_template.jinja").write_bytes(b"a\r\nb \xc3\xa9\n")
    assert templates(tmp_path, {}) == [("chat_template", "a\nb é\n")]
    more = tmp_path / "additional_chat_templates"
    more.mkdir()
    (more / "rag.jinja").write_text("R")
    (more / "tool use.jinja").write_text("T")
    assert templates(tmp_path, {}) == [
        ("chat_template.rag", "R"),
        ("chat_template.tool_use", "T"),
        ("chat_templates", ["rag", "tool_use"]),
        ("chat_template", "a\nb é\n"),
    ]


def test_named_templates(tmp_path: Path) -> None:
    named = [
        {"name": "tool", "template": "T"},
        {"name": "default", "template": "D"},
        {"name": "", "template": "x"},
        {"name": "no template"},
        "x",
    ]
    assert templates(tmp_path, {"chat_template": named}) == [
        ("chat_template.tool", "T"),
        ("chat_templates", ["tool"]),
        ("chat_template", "D"),
    ]


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"ab\xff")
    with pytest.raises(FormatError, match=r"chat_template\.jinja: not UTF-8 text .byte 2"):
        templates(tmp_path, {})


def test_without_tokenizer_config_there_is_no_template(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe()))
    (tmp_path / "chat_template.jinja").write_text("file")
    assert keys(tmp_path) == []

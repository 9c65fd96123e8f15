"""Whole tokenizers against what the reference converter made of them, and which file is read."""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguffast.conversion.architectures import find_architecture
from gguffast.conversion.hparams import class_name, read_config
from gguffast.conversion.vocab import LLAMA_KINDS, Vocab, load_vocab
from gguffast.errors import FormatError
from support.checkpoints import DATA, NAMES

KVS = json.loads((DATA / "tokenizer_kvs.json").read_text())

# Small tokenizers with added tokens, flags, templates and post-processors of every kind, drawn at random;
# each with what the reference (transformers 4.57.6, the gguf-py of llama.cpp) makes of it.
CASES: list[dict[str, Any]] = json.loads(lzma.decompress((DATA / "tokenizers.json.xz").read_bytes()))


def as_reference(vocab: Vocab, long: int) -> list[list[Any]]:
    """Keys in file order as [key, type, value], lists above `long` items by length and hash."""
    kvs: list[list[Any]] = []
    for key, value, kind in vocab.kvs:
        if isinstance(value, list) and len(value) > long:
            digest = hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()
            value = {"len": len(value), "sha256": digest}
        kvs.append([key, kind, value])
    return kvs


@pytest.mark.parametrize("name", NAMES)
def test_the_keys_are_the_references(name: str, unpacked: Path) -> None:
    folder = unpacked / name
    config = read_config(folder)
    architecture = find_architecture(class_name(config, folder), config)
    hparams = architecture.hparams(config, folder / "config.json")
    # No --pre: the reference needed it for these vocabularies, the structure tells it.
    vocab = load_vocab(folder, hparams.values, **architecture.vocabulary(hparams))
    assert as_reference(vocab, 40) == KVS[name]
    assert vocab.size == next(len(e.value) for e in vocab.kvs if e.key == "tokenizer.ggml.tokens")


@pytest.mark.parametrize("number", range(len(CASES)))
def test_special_cases_are_the_references(number: int, tmp_path: Path) -> None:
    case = CASES[number]
    for name, text in case["files"].items():
        (tmp_path / name).write_bytes(text.encode())
    vocab = load_vocab(tmp_path, json.loads(case["files"]["config.json"]), pre="X")
    values = {entry.key: entry.value for entry in vocab.kvs}
    table = zip(values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"], strict=True)
    assert [list(row) for row in table][600:] == case["added"]
    assert as_reference(vocab, 40) == case["kvs"]


def test_the_llama_classes_read_the_first_kind_there_is(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("llama3")
    assert model_of(folder, LLAMA_KINDS) == "gpt2"
    (folder / "tekken.json").write_text("not read: tokenizer.json says the same and more")
    assert model_of(folder, LLAMA_KINDS) == "gpt2"
    (folder / "tokenizer.model").write_bytes((copy_of("llama2") / "tokenizer.model").read_bytes())
    assert model_of(folder, LLAMA_KINDS) == "llama"
    assert model_of(folder, ("bpe",)) == "gpt2"


def model_of(folder: Path, kinds: tuple[str, ...]) -> str:
    vocab = load_vocab(folder, {"vocab_size": 605}, kinds=kinds)
    return str(next(e.value for e in vocab.kvs if e.key == "tokenizer.ggml.model"))


def test_options_of_the_architectures(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("qwen2")
    plain = load_vocab(folder, {"vocab_size": 640})
    vocab = load_vocab(
        folder,
        {"vocab_size": 640},
        config_space_prefix=True,
        add_bos=False,
        special_ids=[("eot", 602), ("eos", 601)],
        space_prefix=True,  # not for byte-level BPE
    )
    first, *rest = vocab.kvs
    assert first == ("tokenizer.ggml.add_space_prefix", False, "BOOL")
    assert rest[-2:] == [
        ("tokenizer.ggml.eot_token_id", 602, "UINT32"),
        ("tokenizer.ggml.add_bos_token", False, "BOOL"),
    ]
    # A key that is there already keeps its place.
    changed = [(e.key, new.value) for e, new in zip(plain.kvs, rest, strict=False) if e != new]
    assert changed == [("tokenizer.ggml.eos_token_id", 601)]


@pytest.mark.parametrize(
    ("kinds", "named"),
    [
        (("bpe",), "expected tokenizer.json beside"),
        (("sentencepiece",), "expected tokenizer.model beside"),
        (LLAMA_KINDS, "expected tekken.json or tokenizer.model or tokenizer.json beside"),
    ],
)
def test_a_missing_tokenizer_names_what_was_looked_for(
    kinds: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=named):
        load_vocab(tmp_path, {"vocab_size": 10}, kinds=kinds)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"model": {\n "type": BPE}}', r"tokenizer\.json: not valid JSON at line 2, column 10"),
        (b'{"model": {"vocab": {"\xff\xfe": 1}}}', "not UTF-8 text"),
        (b'{"model": ' * 100_000, "nested more than"),
        (b'{"model": 1' + b"0" * 5000 + b"}", "not usable JSON: a number"),
        (b"[1, 2]", "expected a JSON object at the root, found a list"),
        (b"", "not valid JSON at line 1"),
        (b"{}", "no model.vocab"),
    ],
)
def test_malformed_json_is_one_line(text: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(text)
    with pytest.raises(FormatError, match=said) as caught:
        load_vocab(tmp_path, {"vocab_size": 10}, kinds=LLAMA_KINDS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", ["600", -1, 0, 10**12, True, 3.5])
def test_a_vocabulary_size_that_is_none(size: object, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FormatError, match=r"config\.json: vocab_size is"):
        load_vocab(tmp_path, {"vocab_size": size})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").symlink_to("/proc/self/mem")
    with pytest.raises(FormatError, match=r"tokenizer\.model: "):  # it is empty, by its size
        load_vocab(tmp_path, {"vocab_size": 10}, kinds=("sentencepiece",))

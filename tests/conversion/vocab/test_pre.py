"""Pre-tokenizers recognised by structure."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from gguffast.conversion.vocab import load_vocab, pre
from gguffast.conversion.vocab.files import Files
from gguffast.conversion.vocab.pre import GPT2, TABLE
from gguffast.conversion.vocab.pre_hashes import CHECK_TEXT, HASHES
from gguffast.errors import FormatError
from support.tokenizers_by_hand import QWEN2_REGEX, added, bpe, byte_level, sequence, split, write

LLAMA3_REGEX = QWEN2_REGEX.replace(r"\p{N}|", r"\p{N}{1,3}|")
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
)
CASED_END = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DIGITS = {"type": "Digits", "individual_digits": True}
FALCON = sequence(
    {"type": "Punctuation", "behavior": "Contiguous"},
    byte_level(True),
    {"type": "Digits", "individual_digits": False},
    split("[0-9][0-9][0-9]"),
)
DEEPSEEK_V3 = sequence(  # copied from the model's tokenizer.json, which has real line ends in its brackets
    split(r"\p{N}{1,3}"),
    split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
    split(
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
        "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
    ),
    byte_level(False),
)
BOS = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
}


def recognised(folder: Path, tokenizer: dict[str, Any], **config: Any) -> str:
    write(folder, tokenizer, config=config)
    vocab = load_vocab(folder, {})
    return str(next(entry.value for entry in vocab.kvs if entry.key == "tokenizer.ggml.pre"))


def one(regex: str, **how: Any) -> dict[str, Any]:
    return sequence(split(regex, **how), byte_level(False))


@pytest.mark.parametrize(
    ("pre_tokenizer", "name"),
    [
        (one(QWEN2_REGEX), "qwen2"),
        (one(QWEN2_REGEX, behavior="Removed", invert=True), "qwen2"),
        (one(LLAMA3_REGEX), "smaug-bpe"),
        (one("|".join(CASED) + r"|\p{N}" + CASED_END), "tekken"),
        (
            one(
                "|".join(part + "(?i:'s|'t|'re|'ve|'m|'ll|'d)?" for part in CASED)
                + r"|\p{N}{1,3}"
                + CASED_END
            ),
            "gpt-4o",
        ),
        (byte_level(True), "gpt-2"),
        ({"type": "ByteLevel", "add_prefix_space": True}, "gpt-2"),
        (sequence(DIGITS, byte_level(True)), "smollm"),
        (sequence(sequence(DIGITS), byte_level(True)), "smollm"),
        (FALCON, "falcon"),
        (DEEPSEEK_V3, "deepseek-v3"),
    ],
)
def test_structures(pre_tokenizer: dict[str, Any], name: str, tmp_path: Path) -> None:
    assert recognised(tmp_path, bpe(pre_tokenizer=pre_tokenizer)) == name


def test_bos_tells_llama_3_from_its_first_tokenizer(tmp_path: Path) -> None:
    llama3 = bpe(pre_tokenizer=one(LLAMA3_REGEX), added_tokens=[added(11, "<s>", True)])
    assert recognised(tmp_path, llama3) == "smaug-bpe"
    assert recognised(tmp_path, {**llama3, "post_processor": BOS}) == "llama-bpe"
    byte_level_first = {"type": "Sequence", "processors": [byte_level(True), BOS]}
    assert recognised(tmp_path, {**llama3, "post_processor": byte_level_first}) == "llama-bpe"
    # transformers rebuilds the post-processor of Llama's own classes
    assert recognised(tmp_path, llama3, tokenizer_class="LlamaTokenizerFast") == "llama-bpe"
    assert (
        recognised(
            tmp_path, {**llama3, "post_processor": BOS}, tokenizer_class="LlamaTokenizer", add_bos_token=False
        )
        == "smaug-bpe"
    )


@pytest.mark.parametrize(
    ("pre_tokenizer", "tokens", "name"),
    [
        (one(LLAMA3_REGEX), {"<|endoftext|>": 100257}, "dbrx"),
        (one(LLAMA3_REGEX), {"[gMASK]": 151331}, "glm4"),
        (one(QWEN2_REGEX), {"<|endoftext|>": 100257}, "stablelm2"),
        (one(QWEN2_REGEX), {"<|endoftext|>": 151643}, "qwen2"),
        (byte_level(True), {"<|padding|>": 1, "  ": 50276}, "olmo"),
        (byte_level(True), {"<|padding|>": 1}, "mpt"),
        (byte_level(True), {"<|endoftext|>": 50256, " " * 31: 50257}, "phi-2"),
        (sequence(DIGITS, byte_level(True)), {"<BOS_TOKEN>": 5}, "command-r"),
        (sequence(DIGITS, byte_level(True)), {"<repo_name>": 5, "<file_sep>": 6}, "starcoder"),
        (sequence(DIGITS, byte_level(True)), {"<fim_prefix>": 1, "<filename>": 5}, "refact"),
    ],
)
def test_tokens_tell_families_of_one_structure_apart(
    pre_tokenizer: dict[str, Any], tokens: dict[str, int], name: str, tmp_path: Path
) -> None:
    vocab = {**{text: 200_000 + n for n, text in enumerate("abcde")}, "ab": 1000, "abc": 1001, "de": 1002}
    tokenizer = bpe(
        pre_tokenizer=pre_tokenizer,
        model_vocab=vocab,
        added_tokens=[added(number, text, True) for text, number in tokens.items()],
    )
    assert recognised(tmp_path, tokenizer) == name
    tokenizer["model"]["vocab"] |= {
        "more": 250_000
    }  # a fine-tune with a larger vocabulary is still one of the family
    assert recognised(tmp_path, tokenizer) == name


@pytest.mark.parametrize("rule", TABLE, ids=[rule.name for rule in TABLE])
def test_every_family_can_be_reached(rule: Any) -> None:
    tokens = {text: number or 0 for text, number in rule.tokens.items()}
    found = next(r.name for r in TABLE if r.fits(rule.steps, tokens, rule.bos is True))
    assert found == rule.name


def test_an_unknown_pre_tokenizer_shows_itself_and_the_way_out(tmp_path: Path) -> None:
    write(tmp_path, bpe(pre_tokenizer=sequence(split("[xyz]+\n"), DIGITS, byte_level(False))))
    with pytest.raises(FormatError) as caught:
        load_vocab(tmp_path, {})
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/tokenizer.json: unknown pre-tokenizer")
    assert r"[xyz]+\n then \p{N}" in message
    assert "`pre`" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        None,
        "ByteLevel",
        {},
        {"type": 7},
        {"type": "Sequence", "pretokenizers": "x"},
        {"type": "Split", "pattern": "x", "behavior": "Isolated"},
        {"type": "Split"},
        one(QWEN2_REGEX, behavior="MergedWithNext"),
        split(QWEN2_REGEX),  # without ByteLevel the vocabulary is not one of bytes
    ],
)
def test_what_only_resembles_one_is_unknown(pre_tokenizer: object, tmp_path: Path) -> None:
    write(tmp_path, bpe(pre_tokenizer=pre_tokenizer))
    with pytest.raises(FormatError, match="unknown pre-tokenizer"):
        load_vocab(tmp_path, {})


def test_the_user_may_name_it(tmp_path: Path) -> None:
    write(tmp_path, bpe(pre_tokenizer=None))
    assert load_vocab(tmp_path, {}, pre="chatglm-bpe").kvs[1].value == "chatglm-bpe"


def test_the_table_names_each_structure_once() -> None:
    keys = [(rule.steps, tuple(sorted(rule.tokens)), rule.bos) for rule in TABLE]
    assert len(set(keys)) == len(keys)
    assert GPT2.endswith(r"|\s+(?!\S)|\s+")


def test_the_references_check_text() -> None:
    # One wrong character and no hash would ever be found.
    digest = hashlib.sha256(CHECK_TEXT.encode()).hexdigest()
    assert digest == "a36179c1e2b1cfcfbfad1dc779addad2ffc778201e4cf0d538bddeafa2c526da"
    assert {len(key) for key in HASHES} == {64}


def test_the_package_is_asked_in_a_process_of_its_own(tmp_path: Path) -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "<s>": 1, "ab": 2, "b": 3}, [("a", "b")]))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    expected = [tokenizer.encode(CHECK_TEXT, add_special_tokens=special).ids for special in (False, True)]
    assert expected[0]
    assert expected[1] == [1, *expected[0]]
    assert pre._encode(Files(tmp_path)) == tuple(expected)

"""What stands in a checkpoint's small files can end in an error, never in a crash, nor in gigabytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gguffast.conversion.architecture import Facts
from gguffast.conversion.architectures import find_architecture
from gguffast.conversion.hparams import class_name, read_config
from gguffast.conversion.metadata import Weights, read_general
from gguffast.conversion.tensors import is_text, map_tensors
from gguffast.conversion.vocab import LLAMA_KINDS, load_vocab
from gguffast.errors import FormatError
from gguffast.sources.checkpoint import open_checkpoint
from support import families
from support.bounded import run_bounded
from support.checkpoints import NAMES
from support.mutations import mutated, survives, unhurried
from support.tokenizers_by_hand import added, bpe, message, sentencepiece, sequence, split, varint, write

CONFIG_KEYS = (
    *("rope_parameters", "rope_scaling", "layer_types", "head_dim", "is_causal", "text_config"),
    *("num_key_value_heads", "partial_rotary_factor", "quantization_config", "sliding_window"),
    *("original_max_position_embeddings", "use_bidirectional_attention", "architectures"),
)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "bin" not in name and "wide" not in name] + families.NAMES
)
def test_no_configuration_is_a_crash(
    name: str, unpacked: Path, family: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = family(name) if name in families.NAMES else unpacked / name
    config = json.loads((folder / "config.json").read_text())
    checkpoint = open_checkpoint(folder, config.get("quantization_config"))
    tensors = {key: value for key, value in checkpoint.tensors.items() if is_text(key)}

    def describe(changed: dict[str, Any], with_tensors: bool) -> None:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(changed))
        read = read_config(tmp_path)
        architecture = find_architecture(class_name(read, path), read)
        hparams = architecture.hparams(read, path, tensors if with_tensors else {})
        architecture.vocabulary(hparams)
        list(architecture.generated(hparams))
        if with_tensors:
            map_tensors(architecture, hparams, tensors, 0)
        facts = Facts(architecture.name, hparams, 0)
        for key in (*architecture.early_keys, *architecture.keys):
            list(key(facts))

    @settings(unhurried, max_examples=25)
    @given(mutated(config, CONFIG_KEYS), st.booleans())
    @example({**config, "head_dim": 2**29, "rope_scaling": {"rope_type": "llama3"}}, False)
    @example({**config, "num_hidden_layers": 2**28, "sliding_window": 1}, False)
    @example({**config, "num_attention_heads": 0}, True)
    @example({**config, "rms_norm_eps": 10**400}, False)
    @example({**config, "vocab_size": 2**24}, True)
    def check(changed: dict[str, Any], with_tensors: bool) -> None:
        survives(lambda: describe(changed, with_tensors))

    describe(config, True)
    check()


# --- What each file of a tokenizer may cost ----------------------------------------------------------------


def token_bytes(text: bytes) -> str:
    return base64.b64encode(text).decode()


def tekken(more: list[bytes] | None = None, specials: int = 8) -> dict[str, Any]:
    names = ["<unk>", "<s>", "</s>", "<pad>"]
    texts = [bytes([byte]) for byte in range(256)] + (more or [])
    return {
        "config": {
            "version": "v11",
            "default_vocab_size": len(texts) + specials,
            "default_num_special_tokens": specials,
        },
        "special_tokens": [{"rank": rank, "token_str": name} for rank, name in enumerate(names)],
        "vocab": [{"rank": rank, "token_bytes": token_bytes(text)} for rank, text in enumerate(texts)],
    }


def every_length(letters: bytes, length: int) -> list[bytes]:
    """Tokens whose merges are squared: each is made from all shorter ones."""
    return [bytes([letter]) * n for letter in letters for n in range(2, length)]


def roles(count: int) -> dict[str, Any]:
    return {"additional_special_tokens": [f"<s{i}>" for i in range(count)]}


def doubling(times: int) -> dict[str, Any]:
    steps = [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"} for _ in range(times)]
    return {"type": "Sequence", "normalizers": steps, "decoders": steps}


UNKNOWN = sequence(split("[xyz]+"))
PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("a", -1.0, 1)]
PIECE = message(1, b"a")
Writer = Callable[[Path], Any]


def json_file(tokenizer: dict[str, Any] | None = None, **files: Any) -> Writer:
    return lambda folder: write(folder, tokenizer, **files)


def regex(text: str) -> Writer:
    return json_file(bpe(pre_tokenizer=sequence(split(text))))


def model_file(data: bytes, **files: Any) -> Writer:
    return lambda folder: (write(folder, **files) / "tokenizer.model").write_bytes(data)


PANIC = {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}
BILLION = {"default_vocab_size": 10**9 + 256, "default_num_special_tokens": 10**9}
SQUARED = tekken(every_length(b"abcdef", 1000))
FAR = {f"<{i}>": i + 5 for i in range(50_000)}
LONG_DECODER = bpe(added_tokens=[added(11, "a" * 64, False, False)], decoder=doubling(60))

# Files, and the error; no error where the tokenizer is in order and only large.
COSTLY: dict[str, tuple[Writer, str | None]] = {
    "tekken: specials": (json_file(tekken=tekken() | {"config": BILLION}), "1000000000 special tokens"),
    "tekken: a long token": (json_file(tekken=tekken([b"ab" * 150_000])), "vocab entry 256 is .*too long"),
    "tekken: merges": (json_file(tekken=SQUARED), "the merges of its tokens"),
    "tekken: no list": (json_file(tekken=tekken() | {"special_tokens": 7}), "0 special tokens"),
    "vocab_size": (json_file(bpe(), model_config={"vocab_size": 2**24 - 1}), "vocab_size is 16777215"),
    "a large id": (json_file(bpe(model_vocab={"a": 0, "b": 2**24 - 1})), "largest token id is 16777215"),
    "many roles": (json_file(bpe(), config=roles(30_000)), None),
    "a decoder that doubles": (json_file(LONG_DECODER), "the decoder makes 512 characters"),
    "a long decoder": (json_file(bpe(decoder=doubling(1000))), "a decoder of 1000 steps"),
    "a normalizer that doubles": (
        json_file(bpe(pre_tokenizer=UNKNOWN, normalizer=doubling(32))),
        "unknown pre-tokenizer",
    ),
    "a regex without end": (regex("(.*)*(.*)*(.*)*(.*)*(.*)*x"), "unknown pre-tokenizer"),
    "a regex of a size": (regex("(((a{1000}){1000}){1000}){99999999999}"), "unknown pre-tokenizer"),
    "a long regex": (regex("[ab]" * 100_000), "unknown pre-tokenizer"),
    "what the tokenizers package panics at": (
        json_file(bpe(pre_tokenizer=UNKNOWN, normalizer=PANIC)),
        "unknown",
    ),
    "no regex": (regex("(("), "unknown pre-tokenizer"),
    "a long merge": (json_file(bpe(model_merges=["a b", "a" * 1_000_000])), "merge 1 is 'aaa"),
    "a long merge of two": (json_file(bpe(model_merges=[["a" * 1_000_000, "b"]])), None),
    "a long token": (json_file(bpe(model_vocab={"a" * 1_000_000: 0, "b": -1})), "token 'b' has the id -1"),
    "pieces of five bytes": (model_file(message(1, PIECE) * 1_000_000), "more pieces"),
    "many plain pieces": (model_file(message(1, PIECE + b"\x15\0\0\0\0") * 900_000), "more pieces"),
    "a piece of many fields": (model_file(message(1, b"\x20\0" * 2_000_000)), "more than 64 fields"),
    "many other fields": (model_file(b"\x20\0" * 2_000_000), "more pieces or other fields"),
    "a length of 2**63": (model_file(b"\x0a" + varint(2**63) + b"a"), "9223372036854775807 bytes too late"),
    "no score": (model_file(sentencepiece([*PIECES, ("b", float("nan"), 1)])), "score of a piece"),
    "added tokens out of range": (
        model_file(sentencepiece(PIECES), added_tokens=FAR, model_config={"vocab_size": 3}),
        None,
    ),
    "a template that is a number": (json_file(bpe(), config={"chat_template": 7, "x": 10**400}), None),
}


@pytest.mark.parametrize("case", COSTLY)
def test_a_tokenizer_costs_little_for_its_size(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make, said = COSTLY[case]
    make(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    config = tmp_path / "config.json"
    values = json.loads(config.read_text()) if config.exists() else {}

    def load() -> int:
        vocab = load_vocab(tmp_path, values, kinds=LLAMA_KINDS)
        assert len(vocab.warnings) < 5
        return vocab.size

    if said is None:
        assert run_bounded(load, file_bytes=size) > 0
        return
    with pytest.raises(FormatError, match=said) as caught:
        run_bounded(load, file_bytes=size)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2500
    assert capfd.readouterr() == ("", "")


# --- Any tokenizer -----------------------------------------------------------------------------------------

BOS, EOS = {"SpecialToken": {"id": "<s>"}}, {"SpecialToken": {"id": "</s>"}}
TOKENIZER = bpe(
    added_tokens=[added(11, "<s>", True), added(12, "▁x"), added(13, "</s>", True, False)],
    normalizer={"type": "Sequence", "normalizers": [{"type": "Lowercase"}]},
    post_processor={
        "type": "TemplateProcessing",
        "single": [BOS, {"Sequence": {"id": "A"}}, EOS],
        "pair": [{"Sequence": {"id": "A"}}, EOS, {"Sequence": {"id": "B"}}],
    },
    decoder={
        "type": "Sequence",
        "decoders": [{"type": "ByteLevel"}, {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}],
    },
)
TOKENIZER_CONFIG = {
    "bos_token": "<s>",
    "eos_token": {"content": "</s>"},
    "add_bos_token": True,
    "add_prefix_space": False,
    "added_tokens_decoder": {"11": {"content": "<s>", "special": True}},
    "additional_special_tokens": ["<a>", {"content": "<b>"}],
    "chat_template": [{"name": "default", "template": "x"}, {"name": "tool", "template": "y"}],
    "tokenizer_class": "LlamaTokenizer",
}
MODEL_CONFIG = {"bos_token_id": 11, "eos_token_id": [1], "text_config": {"pad_token_id": 0}, "vocab_size": 20}


@settings(unhurried, max_examples=150)
@given(mutated([TOKENIZER, TOKENIZER_CONFIG, MODEL_CONFIG]), st.sampled_from(["bpe", "spm_json"]))
@example([bpe(added_tokens=[added(2**24 - 1, "x")]), TOKENIZER_CONFIG, MODEL_CONFIG], "bpe")
@example([TOKENIZER, {"added_tokens_decoder": {"9" * 5000: {}}}, MODEL_CONFIG], "bpe")
def test_no_tokenizer_json_is_a_crash(
    tmp_path_factory: pytest.TempPathFactory, documents: list[Any], kind: str
) -> None:
    folder = tmp_path_factory.mktemp("t")
    names = ("tokenizer.json", "tokenizer_config.json", "config.json")
    for name, document in zip(names, documents, strict=False):
        (folder / name).write_text(json.dumps(document))
    config = documents[2] if len(documents) > 2 and isinstance(documents[2], dict) else {}
    survives(lambda: load_vocab(folder, config, kinds=(kind,), pre="x"))
    survives(lambda: load_vocab(folder, config, kinds=LLAMA_KINDS, pre="x"))


@settings(unhurried, max_examples=60)
@given(mutated(tekken([b"ab", b"abc"])))
def test_no_tekken_json_is_a_crash(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    folder = tmp_path_factory.mktemp("t")
    write(folder, tekken=document)
    survives(lambda: load_vocab(folder, {}, kinds=("tekken",)))


MODEL = sentencepiece([*PIECES, ("<0x41>", -2.0, 6), ("▁b", -3.0, 4)], b"\x08\x01")


@settings(unhurried, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, len(MODEL) - 1), st.integers(0, 255)), max_size=6),
    st.integers(0, len(MODEL)),
    mutated([{"<x>": 5}, TOKENIZER_CONFIG]),
)
def test_no_sentencepiece_model_is_a_crash(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], stop: int, documents: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("t")
    data = bytearray(MODEL)
    for place, byte in changes:
        data[place] = byte
    (folder / "tokenizer.model").write_bytes(data[:stop] if stop % 3 == 0 else data)
    for name, document in zip(("added_tokens.json", "tokenizer_config.json"), documents, strict=False):
        (folder / name).write_text(json.dumps(document))
    for literal in (False, True):
        survives(
            lambda literal=literal: load_vocab(
                folder, {}, kinds=("sentencepiece",), literal_added_tokens=literal
            )
        )


# --- Model cards and generation configurations -------------------------------------------------------------

CARD = """---
license: apache-2.0
name: X
version: 1.10
base_model: [Some-Org/Big-Model-7B-v1.5, {name: y}]
tags:
- chat
language: no
datasets: https://huggingface.co/a/b
---
"""
CARDS = [
    "a: [[[[[[[b]]]]]]]",
    "license: [{a: b}]",
    "tags: {a: b}",
    "tags: [null]",
    "name: [x]",
    "version: {}",
    "name: \0",
    "name: !!python/name:os.system",
    "base_model: [1, [2]]",
    "base_model: " + "-" * 500_000,
    "base_model: [" + "a/b," * 20_000 + "]",
    "datasets: {name: [x]}",
    "finetune: ../../x\nsize_label: 7B",
    "basename: '..'\nsize_label: " + "x" * 5000,
]


def general(folder: Path, **files: str | bytes) -> None:
    for name, text in files.items():
        path = folder / {"card": "README.md", "generation": "generation_config.json"}.get(
            name, f"{name}.json"
        )
        path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    found = read_general(
        folder, Weights(10**9, 10**9, 0), override=folder / "given.json" if "given" in files else None
    )
    for encoding in ("Q4_K_M", None):
        name = found.file_name(encoding)
        assert Path(name).name == name
        assert len(name.encode()) <= 255


@settings(unhurried, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(4, len(CARD)), st.sampled_from([*"[]{}:&*!|>-#\0\t\n'\"%@", "<<: *a", "é"])),
        max_size=4,
    )
)
def test_no_model_card_is_a_crash(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, str]]
) -> None:
    text = CARD
    for place, more in changes:
        text = text[:place] + more + text[place:]
    survives(lambda: general(tmp_path_factory.mktemp("m"), card=text))


@pytest.mark.parametrize("card", range(len(CARDS)))
def test_a_model_card_costs_little(card: int, tmp_path: Path) -> None:
    text = f"---\n{CARDS[card]}\n---\n"
    assert run_bounded(survives, lambda: general(tmp_path, card=text), file_bytes=len(text)) in (True, False)


def test_a_card_may_name_a_thousand_models(tmp_path: Path) -> None:
    card = "---\nbase_model: [{}]\n---\n"
    general(tmp_path, card=card.format("a/b," * 1024))
    with pytest.raises(FormatError, match=r"README\.md: .*base_model.* at most 1024"):
        general(tmp_path, card=card.format("a/b," * 1025))


def test_a_card_counts_as_its_text_says(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD + "\nlatin-1 below: \n")
    with open(tmp_path / "README.md", "ab") as file:
        file.write(b"\xe9")
    found = {pair.key: pair.value for pair in read_general(tmp_path, Weights(0, 0, 0)).kvs}
    assert found["general.version"] == "1.10"
    assert found["general.languages"] == ["no"]
    assert found["general.base_model.1.name"] == "y"


GENERATION = {
    "temperature": 0.6,
    "top_p": 0.9,
    "top_k": 50,
    "repetition_penalty": 1.1,
    "penalty_repeat": None,
}
GIVEN = {
    "general.name": "x",
    "general.tags": ["a"],
    "general.base_models": [{"name": "x"}],
    "general.sampling.top_k": 3,
    "general.sampling.mirostat_tau": 0.5,
    "general.license.link": "x",
}


@settings(unhurried, max_examples=100)
@given(mutated([GENERATION, {"_name_or_path": "a/b-7B"}, GIVEN], ()))
def test_no_other_document_is_a_crash(tmp_path_factory: pytest.TempPathFactory, documents: list[Any]) -> None:
    names = ("generation", "config", "given")
    files = {name: json.dumps(document) for name, document in zip(names, documents, strict=False)}
    survives(lambda: general(tmp_path_factory.mktemp("m"), **files))

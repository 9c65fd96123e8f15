"""Real vocabularies, as packages of npm and PyPI hold them: ``pytest -m network``.

The digests are of what the reference converter writes for them (transformers 4.57.6, sentencepiece 0.2.3).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gguffast.conversion.vocab import LLAMA_KINDS, Vocab, load_vocab
from gguffast.files import cache_folder
from support.npm import npm_package

pytestmark = pytest.mark.network

NPM_VERSION = "3.7.2"
MISTRAL_COMMON = "mistral-common==1.13.1"


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def values(vocab: Vocab) -> dict[str, Any]:
    return {entry.key.removeprefix("tokenizer.ggml."): entry.value for entry in vocab.kvs}


@pytest.fixture(scope="module")
def mistral_common() -> Path:
    """Folder with Mistral's own SentencePiece models and tekken files."""
    folder = cache_folder() / "tokenizers" / MISTRAL_COMMON
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", MISTRAL_COMMON, "-d", partial]
        subprocess.run(command, check=True)
        (wheel,) = partial.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if (name.startswith("mistral_common/data/") and ".model" in name) or name.endswith(".json"):
                    (partial / Path(name).name).write_bytes(archive.read(name))
        wheel.unlink()
        partial.rename(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "rows", "pre", "expected"),
    [
        ("llama3", 128256, "smaug-bpe", "69a7003804140ff2639394b1f9b449a296b9b9fb2dab72098fc6a693697c961e"),
        ("llama3_1", 128256, "llama-bpe", "55daca5c19c8eeb33142f414c926a0a851bd4c111dcb493b76ce83abed58104e"),
        ("llama3_2", 128256, "llama-bpe", "9c79c64ec2340daf5125bf5fddf74ee6691cd84b2799a1f284b0f8302816c172"),
        ("qwen1_5", 151936, "qwen2", "33d3dc131726b3b9118b3eb5c27da8187c650e09ece58db6078c7e4d41312b73"),
        ("qwen2_5", 152064, "qwen2", "b24d71c83b30aedc10cbfd77e9f7e54950b453c297277a07d025a6f56cbb4926"),
        ("qwen3", 151936, "qwen2", "683f613e24d10b7c2d61e98dd5af6ce6c69fbfff34c1c2b5003855b970c7744e"),
        (
            "mistral_nemo",
            131072,
            "tekken",
            "d37a022161147c407a1328d22b9a67d1adaae97ec9c2193770c616fc19befd55",
        ),
        (
            "deepseek_v3",
            129280,
            "deepseek-v3",
            "86fe7f1186ded022a0b0ee08d8b2a34e4104634848c9ebda04a4e61b44ff9f6c",
        ),
        ("gpt2", 50257, "gpt-2", "20ade0f56ecde50625d030df4266d90bf11c75476c055440d52ac0a8b1f9c840"),
        (
            "gemma3",
            262208,
            "granite-embed-multi-311m",
            "362727c9d68d919282606d9244f888ea7defdd11f412c3cee18a79cf6f3000ba",
        ),
    ],
)
def test_byte_level_vocabularies(name: str, rows: int, pre: str, expected: str) -> None:
    vocab = load_vocab(npm_package(name), {"vocab_size": rows})
    assert values(vocab)["pre"] == pre
    assert vocab.size == rows
    assert digest([[key, value, kind] for key, value, kind in vocab.kvs]) == expected


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [
        ("tokenizer.model.v1", 32000, "99d1ff54f97e200f0d9a96cc7987dd32f25e23c0d7b74fe5ccd277f53af60137"),
        (
            "mistral_instruct_tokenizer_240216.model.v2",
            32768,
            "4d68a4ce6da8220ce0e4cf8dcdd6aab328f925f39f65968e3e3e9497ee1068b4",
        ),
        (
            "mistral_instruct_tokenizer_240323.model.v3",
            32768,
            "83a0b7036ce49874c56eaa42d2af421bb4ae3dbe8ae98dd5ad619fd92b963187",
        ),
        (
            "mistral_instruct_tokenizer_241114.model.v7",
            32800,
            "ba410f45d69f3ec5f1d90be3f2009758352a1ca00d5949918dba064090422e4e",
        ),
    ],
)
def test_sentencepiece_models(
    name: str, rows: int, expected: str, mistral_common: Path, tmp_path: Path
) -> None:
    shutil.copy(mistral_common / name, tmp_path / "tokenizer.model")
    vocab = load_vocab(tmp_path, {"vocab_size": rows}, kinds=LLAMA_KINDS)
    assert digest([[key, value, kind] for key, value, kind in vocab.kvs]) == expected


@pytest.mark.parametrize("name", ["tekken_240718.json", "tekken_240911.json"])
def test_tekken(name: str, mistral_common: Path, tmp_path: Path) -> None:
    shutil.copy(mistral_common / name, tmp_path / "tekken.json")
    found = values(load_vocab(tmp_path, {}, kinds=LLAMA_KINDS))
    table = [found["tokens"], found["token_type"], found["merges"]]
    assert digest(table) == "eec2159c7f75953608ac342ec89af1a6dbfbc55cf23613dd021f386c1b9cc25a"


def test_scores_of_a_tokenizer_json_are_those_of_its_sentencepiece_model(
    mistral_common: Path, tmp_path: Path
) -> None:
    # The reference writes -1000 for every token. The package is named for Llama 2 but holds Mistral's pieces.
    shutil.copy(mistral_common / "tokenizer.model.v1", tmp_path / "tokenizer.model")
    model = values(load_vocab(tmp_path, {}, kinds=("sentencepiece",)))
    found = values(load_vocab(npm_package("llama2"), {"vocab_size": 32000}, kinds=LLAMA_KINDS))
    assert found["tokens"] == model["tokens"]
    assert found["scores"] == model["scores"]


def test_the_references_hash_knows_what_the_structure_does_not(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    tokenizer = json.loads((npm_package("gpt2") / "tokenizer.json").read_text())
    # GPT-2's steps, said in a way that no family uses.
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"String": "\0"}, "behavior": "Isolated", "invert": False},
            tokenizer["pre_tokenizer"],
        ],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert values(load_vocab(tmp_path, {}))["pre"] == "gpt-2"

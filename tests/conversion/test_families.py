"""Checkpoints of many families become the reference's files, byte for byte; in one pass, or in two."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguffast.conversion.architecture import Architecture, Facts
from gguffast.conversion.architectures import all_architectures, find_architecture
from gguffast.conversion.converter import convert
from gguffast.conversion.hparams import Hparams, class_name, read_config
from gguffast.conversion.tensors import is_text, map_tensors
from gguffast.errors import FormatError
from gguffast.quantizer import quantize
from gguffast.sources.checkpoint import open_checkpoint
from gguffast.sources.lazy import LazyTensor
from support import families

RUNS = {name: families.read_runs(name) for name in families.NAMES}
CASES = [
    (name, key)
    for name, runs in RUNS.items()
    for key, run in runs.items()
    if key != "_" and "error" not in run and families.options_of(run["args"]) is not None
]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("name", "key"), CASES)
def test_the_file_is_the_references(
    name: str, key: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    run = RUNS[name][key]
    options: dict[str, Any] = families.options_of(run["args"]) or {}
    result = convert(family(name), tmp_path / "o.gguf", pre=RUNS[name]["_"]["pre"], **options)
    expected = run.get("files") or {"o.gguf": run}
    assert [path.name for path in result.outputs] == list(expected)
    for path, of in zip(result.outputs, expected.values(), strict=True):
        if digest(path) != of["file_sha256"]:
            pairs, tensors = families.describe(path)
            assert pairs == of["kv"]
            differ = {ours[0] for ours, theirs in zip(tensors, of["tensors"], strict=True) if ours != theirs}
            assert differ
            assert differ <= families.INEXACT.get(name, set())


@pytest.mark.parametrize("name", families.NAMES)
def test_one_pass_equals_two_steps(name: str, family: Callable[[str], Path], tmp_path: Path) -> None:
    pre = RUNS[name]["_"]["pre"]
    convert(family(name), tmp_path / "auto.gguf", pre=pre)
    # What comes quantized, as gpt-oss' experts do, is quantized again on demand only.
    quantize(tmp_path / "auto.gguf", tmp_path / "two.gguf", "Q4_K_M", allow_requantize=True)
    convert(family(name), tmp_path / "one.gguf", "Q4_K_M", pre=pre, allow_requantize=True)
    assert digest(tmp_path / "one.gguf") == digest(tmp_path / "two.gguf")


# What checkpoints of these classes may lack, or do lack in some layers.
MAY_BE_MISSING = (
    *("lm_head.weight", "lm_head.bias", ".bias", ".e_score_correction_bias"),
    *(".embed_tokens.weight", ".shared_head.head.weight"),
)


@pytest.mark.parametrize("name", families.NAMES)
def test_what_is_missing_is_named(name: str, family: Callable[[str], Path]) -> None:
    folder = family(name)
    config = read_config(folder)
    checkpoint = open_checkpoint(folder, config.get("quantization_config"))
    text = {key: tensor for key, tensor in checkpoint.tensors.items() if is_text(key)}
    architecture = find_architecture(class_name(config, folder / "config.json"), config)
    hparams = architecture.hparams(config, folder / "config.json", text)
    silent = []
    for key in text:
        rest = {other: tensor for other, tensor in text.items() if other != key}
        error = _refusal(lambda rest=rest: _map(architecture, hparams, rest))
        if error is None:
            silent.append(key)
            continue
        plain = key.replace("language_model.", "")
        renamed = architecture.rename(plain, hparams) if architecture.rename else plain
        assert "is missing" in error
        assert _stem(str(renamed)) in _stem(error)
    left_out = [key for key in silent if not _is_written(architecture, hparams, key)]
    assert all(key.endswith(MAY_BE_MISSING) for key in silent if key not in left_out), silent


def _map(architecture: Architecture, hparams: Hparams, tensors: dict[str, LazyTensor]) -> None:
    """Take a checkpoint's tensors, and the keys that are made of them."""
    map_tensors(architecture, hparams, tensors, 0)
    seen = copy.copy(hparams)
    seen.tensors = tensors
    for key in architecture.early_keys:
        list(key(Facts(architecture.name, seen, 0)))


def _refusal(work: Callable[[], object]) -> str | None:
    try:
        work()
    except FormatError as error:
        return str(error)
    return None


def _stem(text: str) -> str:
    """Names as the message has them: of the ways to store experts the plain one, the first of many."""
    text = re.sub(r"\.\d+(?=\.)|_blocks$", "", text).removeprefix("model.")
    return text.replace("gate_up_proj", "gate_proj")


def _is_written(architecture: Architecture, hparams: Hparams, key: str) -> bool:
    plain = key.replace("language_model.", "")
    return not architecture.rename or architecture.rename(plain, hparams) is not None


def test_the_page_of_models_names_every_class() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    rows = (row.split("|")[1:3] for row in page.splitlines() if row.startswith("| `"))
    named = {(name, arch.strip(" `")) for arch, classes in rows for name in re.findall(r"`(\w+)`", classes)}
    assert named == {(name, found.name) for name, found in all_architectures().items()}

"""Checkpoints of many families become the reference's files, byte for byte; in one pass, or in two."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguffast.conversion.converter import convert
from gguffast.quantizer import quantize
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

"""A real model: the reference's files, one pass against two steps, and llama.cpp understands the result."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gguffast.conversion.converter import convert
from gguffast.demo.llama import answer
from gguffast.quantizer import quantize
from support.checkpoints import DATA
from support.gguf_files import GGUF

DIGESTS = json.loads((DATA / "converted.json").read_text())["smollm2-hf"]


@pytest.mark.parametrize("outtype", ["f16", "q8_0", "auto"])
def test_the_file_is_the_references(outtype: str, checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "out.gguf", outtype)
    with open(tmp_path / "out.gguf", "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == DIGESTS[outtype]


def test_one_pass_equals_two_steps_and_the_model_answers(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "auto.gguf")
    quantize(tmp_path / "auto.gguf", tmp_path / "two.gguf", "Q4_K_M")
    convert(checkpoint, tmp_path / "one.gguf", "Q4_K_M")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()
    importances = {"imatrix": GGUF / "smollm2.imatrix.gguf"}
    quantize(tmp_path / "auto.gguf", tmp_path / "two-i.gguf", "IQ4_XS", **importances)
    convert(checkpoint, tmp_path / "one-i.gguf", "IQ4_XS", **importances)
    assert (tmp_path / "one-i.gguf").read_bytes() == (tmp_path / "two-i.gguf").read_bytes()
    assert "Paris" in answer(tmp_path / "one.gguf", "What is the capital of France?")

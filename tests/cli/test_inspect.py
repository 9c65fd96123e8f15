"""``gguffast inspect`` as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguffast import GGUFFile
from gguffast.gguf import KV, GGUFValueType, kv, serialize_header
from support.gguf_bytes import header, scalar, small_file, tensor, text, with_data
from support.gguf_files import GGUF

V = GGUFValueType


def inspect(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gguffast", "inspect", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def report(path: Path) -> dict[str, Any]:
    done = inspect(path, "--json")
    assert (done.returncode, done.stderr) == (0, "")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(done.stdout, parse_constant=refuse)
    assert isinstance(found, dict)
    return found


def test_says_what_a_person_wants_to_know_first() -> None:
    done = inspect(GGUF / "llama-wide-f16.gguf")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == str(GGUF / "llama-wide-f16.gguf")
    for line in (
        "architecture llama",
        "name Llama Wide",
        "parameters 2.67 M",
        "file type F16",
        "size 5.4 MB (5,364,480 bytes)",
        "bits per weight 16.01",
        "context 512 tokens",
        "embedding 256",
        "layers 4",
        "heads 4 (2 for keys and values)",
        "vocabulary 605 tokens",
        "tokenizer gpt2",
        "chat template yes",
        "F16 30 2.67 M 5.3 MB 99.8%",
    ):
        assert line in lines
    head, _, tensors = done.stdout.partition("tensor  ")
    assert "token_embd.weight" not in head
    assert "256 x 605" in tensors


def test_json_agrees_with_the_file() -> None:
    path = GGUF / "gemma2-f32.gguf"
    found = report(path)
    with GGUFFile(path) as file:
        assert found["path"] == str(path)
        assert found["size_bytes"] == path.stat().st_size
        assert found["architecture"] == "gemma2"
        assert found["parameters"] == sum(t.n_weights for t in file.tensors)
        assert found["bits_per_weight"] == 32
        assert found["file_type"] == "F32"
        assert found["vocabulary_size"] == len(file.metadata["tokenizer.ggml.tokens"])
        assert found["metadata"]["tokenizer.ggml.tokens"] == {"items": 400, "type": "STRING"}
        assert found["metadata"]["gemma2.block_count"] == 2
        assert list(found["metadata"]) == list(file.metadata)
        assert [(t["name"], tuple(t["ne"]), t["offset"]) for t in found["tensors"]] == [
            (t.name, t.ne, t.offset) for t in file.tensors
        ]
    assert [t["type"] for t in found["types"]] == ["F32"]
    assert sum(t["share"] for t in found["types"]) == pytest.approx(1)


def test_an_importance_matrix_has_no_architecture() -> None:
    found = report(GGUF / "smollm2.imatrix.gguf")
    assert found["architecture"] is None
    assert found["metadata"]["imatrix.datasets"] == ["calib.txt"]
    assert "architecture" not in inspect(GGUF / "smollm2.imatrix.gguf").stdout


def model(tmp_path: Path, *pairs: KV) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(serialize_header([kv("general.architecture", "x", V.STRING), *pairs], []))
    return path


def test_hyperparameters_that_differ_by_layer(tmp_path: Path) -> None:
    path = model(
        tmp_path,
        kv("x.attention.head_count", np.array([8, 16, 8], np.uint32), V.ARRAY),
        kv("x.attention.head_count_kv", np.array([2, 2, 2], np.uint32), V.ARRAY),
        kv("x.expert_count", 64, V.UINT32),
        kv("x.expert_used_count", 6, V.UINT32),
        kv("general.file_type", 15 + 1024, V.UINT32),
    )
    found = report(path)
    assert (found["head_count"], found["file_type"]) == ([8, 16, 8], "Q4_K_M")
    words = inspect(path).stdout
    assert "8 to 16, by layer (2 for keys and values)" in words
    assert "64 (6 used)" in words


def test_metadata_of_the_wrong_type_is_left_out(tmp_path: Path) -> None:
    path = model(
        tmp_path,
        kv("general.name", [1, 2], V.ARRAY),
        kv("general.file_type", 999, V.UINT32),
        kv("x.context_length", "many", V.STRING),
        kv("x.block_count", [], V.ARRAY, V.UINT32),
        kv("x.scale", float("nan"), V.FLOAT32),
        kv("x.scales", [float("inf"), 1.0], V.ARRAY),
        kv("tokenizer.ggml.tokens", 3, V.UINT8),
    )
    found = report(path)
    assert found["name"] is None
    assert found["context_length"] is None
    assert found["file_type"] == "unknown (999)"
    assert found["metadata"]["x.scale"] == "nan"
    assert found["metadata"]["x.scales"] == ["inf", 1.0]
    assert inspect(path).returncode == 0


def test_a_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    evil = b"\x1b]0;gotcha\x07\r\n\xff[bold]"
    pairs = [text("general.architecture", evil), text("general.name", evil), scalar("x", 0, 1)]
    path.write_bytes(with_data(header(pairs, [tensor(evil, (8,))]), 32))
    for output in (inspect(path).stdout, on_terminal(path)):
        assert "gotcha" in output
        assert "[bold]" in output
        assert "\x1b]" not in output
        assert "\x07" not in output
    assert report(path)["tensors"][0]["name"] == evil.decode("utf-8", "surrogateescape")


def on_terminal(path: Path) -> str:
    """Run the command with a terminal for stdout."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "gguffast", "inspect", str(path)]
    with subprocess.Popen(
        command, stdout=slave, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    ) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                chunk = os.read(master, 1 << 16)
            except OSError:  # EIO: the other end is closed
                break
            if not chunk:
                break
            shown += chunk
    os.close(master)
    assert process.returncode == 0
    return shown.decode()


def test_on_a_terminal_it_says_the_same() -> None:
    path = GGUF / "gemma2-f32.gguf"
    shown = on_terminal(path)
    assert "\x1b[" in shown
    for word in inspect(path).stdout.split()[1:]:
        assert word in shown


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(small_file()[:99], "damaged or incomplete", id="truncated"),
        pytest.param(b"PK\3\4", "not a GGUF file", id="zip"),
    ],
)
def test_a_bad_file_is_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    for options in ([], ["--json"]):
        done = inspect(path, *options)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count("\n") == 1
        assert str(path) in done.stderr
        assert words in done.stderr


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    done = inspect(tmp_path / "none.gguf")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "no such file" in done.stderr

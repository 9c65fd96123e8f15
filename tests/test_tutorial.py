"""docs/tutorial.md, command by command: the real Ollama, the real Hub client, and a Hub on this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.local_hub import LocalHub, Repo

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
ANSWERS = {
    0: r"\w+",
    1: r"\w+",
    2: r"Q3_K_M",
    3: r"You are a cheerful teacher who answers in one short sentence\.[\s\S]*\n\S",
    4: r"teacher-too[\s\S]*teacher",
}


@pytest.mark.ollama
def test_every_command(server, real_model, checkpoint, tmp_path):
    assert len(BLOCKS) == len(ANSWERS)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "gguffast").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gguffast "$@"\n')
    (bin_folder / "gguffast").chmod(0o755)
    folder = tmp_path / "work"
    folder.mkdir()
    with LocalHub() as hub:
        hub.repos["HuggingFaceTB/SmolLM2-135M-Instruct"] = Repo(
            {path.name: path.read_bytes() for path in checkpoint.iterdir()}
        )
        hub.repos["example/SmolLM2-135M-Instruct-GGUF"] = Repo({real_model.name: real_model.read_bytes()})
        environment = {
            **server.environment,
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "GGUFFAST_CACHE": str(tmp_path / "cache"),
        }
        for number, block in enumerate(BLOCKS):
            done = subprocess.run(
                ["bash", "-eu", "-c", block],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            assert re.search(ANSWERS[number], done.stdout), f"{block}\n{done.stdout}\n{done.stderr}"

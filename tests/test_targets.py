"""Which instruction set is used, and how to choose another."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import gguffast


def test_the_best_target_is_the_default():
    code = "import gguffast; print(gguffast.target(), *gguffast.targets())"
    environment = {name: value for name, value in os.environ.items() if name != "GGUFFAST_TARGET"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert found == [gguffast.targets()[0], *gguffast.targets()]
    assert found[-1] == "portable"


def test_set_target(target):
    assert gguffast.target() == target


@pytest.mark.parametrize("name", ["", "avx1024", "portable "])
def test_unknown_target_changes_nothing(name, target):
    with pytest.raises(gguffast.OptionError, match=f"no target '{name}' here; .* have .*portable"):
        gguffast.set_target(name)
    assert gguffast.target() == target


@pytest.mark.parametrize("target", gguffast.targets())
def test_target_from_the_environment(target):
    command = [sys.executable, "-c", "import gguffast; print(gguffast.target())"]
    environment = {**os.environ, "GGUFFAST_TARGET": target}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == target


def test_unknown_target_from_the_environment():
    command = [sys.executable, "-m", "gguffast", "inspect", "no-such.gguf"]
    environment = {**os.environ, "GGUFFAST_TARGET": "sse9"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("gguffast: error: no target 'sse9' here;")
    assert done.stderr.count("\n") == 1

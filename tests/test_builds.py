"""The package as users may build it: with clang, and with flags that would change bits if they were let."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.kernel_digests import digests

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tests" / "support" / "kernel_digests.py"
# -Ofast reorders sums and flushes denormals, the latter by an object that the linker adds.
BUILDS = {
    "clang": {"CC": "clang"},
    "gcc -Ofast": {"CC": "gcc", "CFLAGS": "-Ofast -march=native"},
    "gcc -ffast-math": {"CC": "gcc", "CFLAGS": "-O3 -ffast-math", "LDFLAGS": "-ffast-math"},
    "clang -Ofast": {"CC": "clang", "CFLAGS": "-Ofast -march=native"},
}


@pytest.mark.toolchain
@pytest.mark.parametrize("build", BUILDS)
def test_the_bits_do_not_depend_on_the_build(build: str, tmp_path: Path) -> None:
    assert shutil.which(BUILDS[build]["CC"]), "a compiler is missing: apt-get install gcc clang"
    source, installed = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name in ("csrc", "src", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        # Without what an earlier build left.
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    for left in (*source.rglob("*.so"), *source.rglob("_core.c")):
        left.unlink()
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(installed),
        str(source),
    ]
    done = subprocess.run(
        command, env={**os.environ, **BUILDS[build]}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]

    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    answer = json.loads(found.stdout)
    assert Path(answer["file"]).is_relative_to(installed), "the build was tested, and not another one"
    assert answer["digests"] == digests()

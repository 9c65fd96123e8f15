"""The package as users may build it: with clang, and with flags that would change bits if they were let."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

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

    answer = run_script(PYTHONPATH=str(installed))
    assert Path(answer["file"]).is_relative_to(installed), "the build was tested, and not another one"
    assert answer["digests"] == digests()


def run_script(*args: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), *args]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.toolchain
def test_the_bits_do_not_depend_on_other_libraries(tmp_path: Path) -> None:
    """One that was linked with -Ofast flushes denormals to zero, in every thread that is started after."""
    source, library = tmp_path / "fast.c", tmp_path / "fast.so"
    source.write_text("int nothing;\n")
    subprocess.run(["gcc", "-shared", "-Ofast", source, "-o", library], check=True)
    flushed = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); print(5e-324 + 0.0 == 0)"
    done = subprocess.run(
        [sys.executable, "-c", flushed, library], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(platform.machine() == "x86_64"), "the library does what is feared"
    assert run_script(str(library))["digests"] == digests()

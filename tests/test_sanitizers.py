"""The C core under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from support.compiled_rows import FLAGS as KERNEL_FLAGS
from support.compiled_rows import build, check
from support.gguf_bytes import small_file
from support.gguf_files import GGUF

ROOT = Path(__file__).parent.parent
# With neither installed "cc" is tried and fails: this test must not vanish silently.
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)] or ["cc"]
SOURCES = ["csrc/gguf.c", "tests/c/fuzz_gguf.c"]
FLAGS = ["-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-Werror"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.mark.toolchain
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_header_parser_is_clean(compiler: str, tmp_path: Path) -> None:
    program = tmp_path / "fuzz_gguf"
    command = [compiler, *FLAGS, *SANITIZE, "-Icsrc", *SOURCES, "-o", str(program)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr

    small = tmp_path / "small.gguf"
    small.write_bytes(small_file())
    for rounds, path in ((100_000, small), (1_000, GGUF / "gemma2-f32.gguf")):
        ran = subprocess.run(
            [program, str(rounds), path],
            env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        accepted, refused = (int(word) for word in ran.stdout.split() if word.isdigit())
        assert accepted + refused == rounds
        assert min(accepted, refused) > rounds // 50, "both sides are exercised"


VECTORS = {"x86_64": {"avx2": ["-mavx2", "-mf16c"]}, "aarch64": {"neon": []}}
KERNELS = {"portable": [], **VECTORS.get(platform.machine(), {})}


@pytest.mark.toolchain
@pytest.mark.parametrize("target", KERNELS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_kernels_are_clean(compiler: str, target: str, tmp_path: Path) -> None:
    """And give llama.cpp's bytes, whichever compiler built them."""
    sanitize = [*SANITIZE, "-fsanitize=float-cast-overflow", "-g"]
    program = build(tmp_path, compiler, target, KERNELS[target], sanitize)
    check([str(program)], every_case=platform.machine() == "x86_64")


@pytest.mark.toolchain
def test_threads_do_not_race(tmp_path: Path) -> None:
    """Above all for the target and the codebooks: any thread may be the first to need them."""
    sanitize = ["-fsanitize=thread", "-g"]
    have = [f"-DGF_HAVE_{target.upper()}" for target in KERNELS]
    units = {
        **{name: ["csrc/target.c", f"-DGF_TARGET={name}", *flags] for name, flags in KERNELS.items()},
        "dispatch": ["csrc/dispatch.c", *have],
        "codebooks": ["csrc/codebooks.c"],
        "threads": ["tests/c/threads.c"],
    }
    for name, arguments in units.items():
        command = ["clang", *KERNEL_FLAGS, *sanitize, "-c", *arguments, "-o", str(tmp_path / f"{name}.o")]
        subprocess.run(command, cwd=ROOT, check=True)
    program = tmp_path / "threads"
    objects = [str(tmp_path / f"{name}.o") for name in units]
    subprocess.run(["clang", *objects, *sanitize, "-lm", "-lpthread", "-o", str(program)], check=True)
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert {*ran.stdout.split()} == {*KERNELS}

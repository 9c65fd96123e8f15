"""The instruction sets that this machine may lack: NEON under qemu, AVX-512 played lane by lane."""

from __future__ import annotations

import platform
import shutil

import pytest

from support.compiled_rows import build, check


@pytest.mark.toolchain
def test_neon(tmp_path):
    """What becomes of NaN inside a search is up to the instruction set; such blocks are refused anyway."""
    if platform.machine() == "aarch64":
        program = build(tmp_path, "cc", "neon", [], [])
        check([str(program)], every_case=False)
        return
    for tool in ("aarch64-linux-gnu-gcc", "qemu-aarch64"):
        assert shutil.which(tool), f"{tool} is missing: apt-get install gcc-aarch64-linux-gnu qemu-user"
    program = build(tmp_path, "aarch64-linux-gnu-gcc", "neon", [], ["-static"])
    check(["qemu-aarch64", str(program)], every_case=False)


@pytest.mark.toolchain
@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX-512 is played on top of AVX2")
def test_avx512(tmp_path):
    flags = ["-mavx2", "-mf16c", "-Wno-psabi", "-Itests/c/emulated"]
    check([str(build(tmp_path, "gcc", "avx512", flags, []))], every_case=True)

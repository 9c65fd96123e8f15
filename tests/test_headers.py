"""Each header of the C core stands alone, for every target, so that an editor opens it without errors."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
HEADERS = sorted(CSRC.rglob("*.h"))
TARGETS = {
    "portable": ["gcc"],
    "avx2": ["gcc", "-mavx2", "-mf16c"],
    "avx512": ["gcc", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
    "neon": ["aarch64-linux-gnu-gcc"],
}


@pytest.mark.toolchain
@pytest.mark.parametrize("target", TARGETS)
def test_a_header_stands_alone(target: str, tmp_path: Path) -> None:
    """Included twice, so that the guards are tried too."""
    compiler, *flags = TARGETS[target]
    assert shutil.which(compiler), f"{compiler} is missing: apt-get install gcc gcc-aarch64-linux-gnu"
    for header in HEADERS:
        if header.parent.name == "lanes" and header.stem not in (target, "lanes"):
            continue
        source = tmp_path / "alone.c"
        source.write_text(f'#include "{header}"\n' * 2)
        command = [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-const-variable"]
        # A codec's functions are static, and here nobody calls them.
        command += ["-Wno-unused-function", f"-DGF_TARGET={target}", "-fsyntax-only", *flags, str(source)]
        done = subprocess.run(command, cwd=CSRC, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{header.relative_to(CSRC)}: {done.stderr}"


def test_editors_know_every_lanes_file() -> None:
    told = (CSRC.parent / ".clangd").read_text()
    for lanes in (CSRC / "lanes").glob("*.h"):
        if lanes.stem not in ("lanes", "portable"):
            assert f"csrc/lanes/{lanes.stem}" in told
            assert f"-DGF_TARGET={lanes.stem}]" in told

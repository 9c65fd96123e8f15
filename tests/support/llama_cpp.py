"""llama.cpp's own programs."""

from __future__ import annotations

from gguffast.files import cache_folder


def program(name: str) -> str:
    """Path of one, such as ``llama-quantize``."""
    path = cache_folder() / "llama.cpp-0.3.36" / "bin" / name
    assert path.exists(), f"{path} is missing: scripts/install-llama-cpp.sh builds it"
    return str(path)

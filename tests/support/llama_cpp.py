"""llama.cpp's own programs, as scripts/install-llama-cpp.sh builds them."""

from __future__ import annotations

import os
from pathlib import Path


def program(name: str) -> str:
    """Path of one, such as ``llama-quantize``."""
    cache = os.environ.get("GGUFFAST_CACHE") or Path.home() / ".cache" / "gguffast"
    path = Path(cache, "llama.cpp-0.3.36", "bin", name)
    assert path.exists(), f"{path} is missing: scripts/install-llama-cpp.sh builds it"
    return str(path)

"""GGUF files and importance matrices of the test data, which are kept compressed."""

from __future__ import annotations

import atexit
import shutil
import tarfile
import tempfile
from pathlib import Path

GGUF = Path(tempfile.mkdtemp(prefix="gguffast-tests-"))
GGUF.chmod(0o755)  # a test reads them as another user
atexit.register(shutil.rmtree, GGUF, ignore_errors=True)
with tarfile.open(Path(__file__).parents[1] / "data" / "gguf.tar.xz") as _archive:
    _archive.extractall(GGUF, filter="data")

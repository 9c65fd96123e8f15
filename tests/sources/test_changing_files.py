"""Weights that are cut short, or written to, while a conversion reads them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import gguffast
from gguffast.engine import Progress
from gguffast.errors import FileError, FormatError
from gguffast.sources.checkpoint import open_checkpoint


@pytest.fixture
def folder(unpacked: Path, tmp_path: Path) -> Path:
    shutil.copytree(unpacked / "gemma", tmp_path / "gemma")
    return tmp_path / "gemma"


@pytest.mark.parametrize("size", [0, 1000, 20_000])
def test_a_file_cut_short_while_it_is_read_is_one_line_and_leaves_nothing(folder: Path, size: int) -> None:
    def cut(progress: Progress) -> None:
        if not progress.done:
            os.truncate(folder / "model.safetensors", size)

    before = sorted(os.listdir(folder))
    with pytest.raises(FormatError, match=r"model\.safetensors: ends inside tensor '.*'; it was cut short"):
        gguffast.convert(folder, folder / "out.gguf", "f16", progress=cut)
    assert sorted(os.listdir(folder)) == before


def test_a_file_written_in_place_is_noticed(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    (weights,) = checkpoint.files
    weights.check_unchanged()
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    os.utime(folder / "model.safetensors", ns=(0, 1))  # clocks of file systems tick slowly
    with pytest.raises(FileError, match=r"model\.safetensors was changed while it was read"):
        weights.check_unchanged()

"""``gguffast link-llama-quantize``."""

from __future__ import annotations

import os
import subprocess

import pytest

from gguffast.cli import main
from support.gguf_files import GGUF

OWN = b"#!/bin/sh\necho the real one\n"


@pytest.fixture
def folder(tmp_path):
    program = tmp_path / "llama-quantize"
    program.write_bytes(OWN)
    program.chmod(0o755)
    return tmp_path


def says(folder, *args):
    done = subprocess.run([folder / "llama-quantize", *args], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_there_and_back(folder, capsys):
    for _ in range(2):  # twice is harmless
        assert main(["link-llama-quantize", str(folder)]) == 0
        assert f"{folder}/llama-quantize is gguffast's now" in capsys.readouterr().out
        assert (folder / "llama-quantize.before-gguffast").read_bytes() == OWN
    code, out = says(folder, GGUF / "gemma2-f32.gguf", folder / "out", "Q4_0")
    assert code == 0
    assert "quantize time" in out
    assert main(["link-llama-quantize", "--undo", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}/llama-quantize is the program's own one again\n"
    assert says(folder) == (0, "the real one\n")
    assert sorted(os.listdir(folder)) == ["llama-quantize", "out"]


def test_an_update_brings_its_own(folder, capsys):
    main(["link-llama-quantize", str(folder)])
    (folder / "llama-quantize").write_bytes(b"the next version")
    assert main(["link-llama-quantize", str(folder)]) == 0
    assert (folder / "llama-quantize.before-gguffast").read_bytes() == b"the next version"


def test_a_link_stays_a_link(folder):
    (folder / "llama-quantize").rename(folder / "llama-quantize-8122")
    (folder / "llama-quantize").symlink_to("llama-quantize-8122")
    main(["link-llama-quantize", str(folder)])
    assert (folder / "llama-quantize-8122").read_bytes() == OWN
    main(["link-llama-quantize", "--undo", str(folder)])
    assert (folder / "llama-quantize").readlink().name == "llama-quantize-8122"


@pytest.mark.parametrize(
    ("args", "prepare", "message"),
    [
        ([], lambda folder: (folder / "llama-quantize").unlink(), "there is no llama-quantize in "),
        (["--undo"], lambda folder: None, "is not gguffast's: there is nothing to undo"),
        (["--undo"], lambda folder: (folder / "llama-quantize").unlink(), "is not gguffast's"),
        ([], lambda folder: os.rename(folder, f"{folder}-gone"), "is not a folder; name the one"),
    ],
)
def test_refusals(folder, capsys, args, prepare, message):
    prepare(folder)
    assert main(["link-llama-quantize", *args, str(folder)]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_undo_without_the_program_s_own(folder, capsys):
    main(["link-llama-quantize", str(folder)])
    (folder / "llama-quantize.before-gguffast").unlink()
    assert main(["link-llama-quantize", "--undo", str(folder)]) == 1
    assert "before-gguffast is gone, which" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(folder, capsys, monkeypatch):
    """The tests may run as root, whom nothing stops: so a system call is made to fail."""

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr("pathlib.Path.rename", refuse)
    assert main(["link-llama-quantize", str(folder)]) == 1
    assert "llama-quantize: Permission denied; are you allowed to write there?" in capsys.readouterr().err
    assert (folder / "llama-quantize").read_bytes() == OWN


def test_the_own_one_runs_where_gguffast_is_gone(folder):
    main(["link-llama-quantize", str(folder)])
    program = folder / "llama-quantize"
    program.write_text(program.read_text().replace("llama_quantize.py", "gone.py"))
    assert says(folder, "in", "out", "Q4_0") == (0, "the real one\n")

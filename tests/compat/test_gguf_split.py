"""gguffast in the place of llama-gguf-split: digests of the real program's files, and the real program."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gguffast.compat.gguf_split import main
from support.gguf_files import GGUF
from support.llama_cpp import program

CASES = json.loads((Path(__file__).parents[1] / "data" / "split.json").read_text())
WIDE = "llama-wide-f16.gguf"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in (WIDE, "gemma2-f32.gguf"):
        shutil.copy(GGUF / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(folder, capfd):
    def called(*args):
        code = main(["llama-gguf-split", *args])
        return (code, *capfd.readouterr())

    return called


def files(folder, besides):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name not in besides
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join([case["in"], *case["args"]]))
def test_files_and_lines_of_the_real_program(folder, call, case):
    before = files(folder, ())
    code, out, err = call(*case["args"], case["in"], "m")
    assert (code, out.splitlines(), err.splitlines()) == (0, case["stdout"], case["stderr"])
    assert files(folder, before) == case["shards"]

    shards = sorted(case["shards"])
    code, out, err = call("--merge", "--delete-splits", shards[0], "whole.gguf")
    assert (code, out) == (0, "")
    assert err.splitlines()[0] == f"gguf_merge: {shards[0]} -> whole.gguf"
    assert files(folder, before) == {"whole.gguf": case["merged"]}


def test_what_stands_there(folder, call):
    """A merge refuses, a split overwrites: so the real program does."""
    (folder / "m-00001-of-00001.gguf").write_text("old")
    assert call(WIDE, "m")[0] == 0
    (folder / "whole.gguf").write_text("old")
    code, _, err = call("--merge", "m-00001-of-00001.gguf", "whole.gguf")
    assert code == 1
    assert "output file whole.gguf already exists" in err
    assert (folder / "whole.gguf").read_text() == "old"


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "bad arguments"),
        ([WIDE], "bad arguments"),
        (["--nope", WIDE, "m"], "unknown argument: --nope"),
        (["--split", "--merge", WIDE, "m"], "not both"),
        (["--split-max-size", "1M", "--split-max-tensors", "3", WIDE, "m"], "not both"),
        (["--split-max-size", "7", WIDE, "m"], "as in 500M"),
        (["--split-max-size", "0M", WIDE, "m"], "as in 500M"),
        (["--split-max-tensors", "0", WIDE, "m"], "a number from 1 up"),
        (["--split-max-tensors"], "invalid parameter for argument: --split-max-tensors"),
    ],
    ids=str,
)
def test_command_lines_that_are_none(folder, call, args, reason):
    before = files(folder, ())
    code, out, err = call(*args)
    assert code == 1
    assert err.startswith("error: ")
    assert reason in err
    assert "usage: llama-gguf-split" in out
    assert files(folder, before) == {}


@pytest.mark.parametrize(
    "args", [["nope.gguf", "m"], ["--merge", WIDE, "whole.gguf"], [WIDE, "no/m"]], ids=str
)
def test_failures_have_their_reason(folder, call, args):
    before = files(folder, ())
    code, _, err = call(*args)
    assert code == 1
    assert re.match(r"gguf_(split|merge):  .+\n$", err.splitlines(keepends=True)[-1])
    assert files(folder, before) == {}


def test_texts(call):
    code, out, _ = call("--help")
    assert code == 0
    assert "--no-tensor-first-split" in out
    code, _, err = call("--version")
    assert (code, err.split(" ")[0]) == (0, "version:")


def test_a_reader_that_went_away_is_no_reason_to_stop(folder):
    command = f"{sys.executable} -m gguffast.compat.gguf_split {WIDE} m | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "m-00001-of-00001.gguf").exists()


COMMAND_LINES = [
    *(case["args"] + [case["in"], "m"] for case in CASES),
    ["--split", "--split_max_tensors", "3", WIDE, "m"],
    ["--dry-run", "--split-max-size", "2M", WIDE, "m"],
    ["--no-tensor-first-split", "gemma2-f32.gguf", "m"],
    ["--merge", "parts-00001-of-00006.gguf", "whole.gguf"],
    ["--merge", "--dry-run", "parts-00001-of-00006.gguf", "whole.gguf"],
    ["--merge", "--delete-splits", "parts-00001-of-00006.gguf", "whole"],
    ["--merge", "parts-00002-of-00006.gguf", "whole.gguf"],
    ["--merge", WIDE, "whole.gguf"],
    ["nope.gguf", "m"],
    ["--version"],
    ["--help"],
    ["-h"],
    [WIDE],
]


@pytest.mark.ollama
@pytest.mark.parametrize("args", COMMAND_LINES, ids=" ".join)
def test_the_same_as_the_real_program(folder, args):
    real = program("llama-gguf-split")
    split = [real, "--split-max-tensors", "7", WIDE, "parts"]

    def outcome(command):
        subprocess.run(split, capture_output=True, check=True)
        before = {WIDE, "gemma2-f32.gguf"}
        done = subprocess.run([*command, *args], capture_output=True, text=True, check=False)
        found = files(folder, before)
        for name in found:
            (folder / name).unlink()
        # On a terminal it goes back over the dots.
        return done.returncode, found, done.stderr.replace("\033[3D", ""), done.stdout

    code, found, err, out = outcome([real])
    ours = outcome([sys.executable, "-m", "gguffast.compat.gguf_split"])
    assert ours[:2] == (code, found)
    if code == 0 and found != {} and args[0] not in ("--version", "--help"):
        assert ours[2:] == (err, out)

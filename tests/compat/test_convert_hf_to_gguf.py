"""gguffast in the place of convert_hf_to_gguf.py: command lines of those who call it, and its log."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gguffast import GGUFFile
from gguffast.compat import convert_hf_to_gguf
from gguffast.compat.convert_hf_to_gguf import main
from gguffast.conversion.architectures import all_architectures
from support import checkpoints
from support.local_hub import Repo

DATA = Path(__file__).parents[1] / "data"
CALLERS = [c for c in json.loads((DATA / "callers.json").read_text()) if "program" in c]
#: What the real script wrote, by checkpoint and type.
DIGESTS = json.loads((DATA / "converted.json").read_text())
NAME = "llama2"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints.unpack(folder)
    return folder / NAME


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def called(*args):
        code = main(["convert_hf_to_gguf.py", *map(str, args)])
        return (code, *capfd.readouterr())

    return called


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller["caller"])
def test_command_lines_of_callers(tmp_path, checkpoint, caller):
    """The file in the script's place, run by a Python: an output that exists is replaced."""
    script = tmp_path / "convert_hf_to_gguf.py"
    shutil.copy(convert_hf_to_gguf.__file__, script)
    out = tmp_path / caller["out"]
    out.write_text("old")
    places = {"CHECKPOINT": str(checkpoint), "OUT": str(out)}
    args = [places.get(arg, arg) for arg in caller["args"]]
    done = subprocess.run(
        [sys.executable, script, *args], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert sha256(out) == DIGESTS[NAME][args[args.index("--outtype") + 1]]
    if "progress" in caller:
        seen = [int(percent) for percent in re.findall(caller["progress"], done.stderr)]
        assert seen == sorted(seen)
        assert (seen[0], seen[-1]) == (0, 100)


def test_the_log(call, checkpoint, tmp_path):
    code, out, err = call(checkpoint, "--outfile", "model-{ftype}.gguf", "--outtype", "f16")
    assert (code, out) == (0, "")
    lines = [line for line in re.split("[\r\n]+", err) if line and not line.startswith("Writing: ")]
    with GGUFFile("model-f16.gguf") as file:
        size = sum(tensor.nbytes for tensor in file.tensors)
        n = len(file.tensors)
    assert lines == [
        f"INFO:hf-to-gguf:Loading model: {NAME}",
        "INFO:hf-to-gguf:Model architecture: LlamaForCausalLM",
        "INFO:hf-to-gguf:Exporting model...",
        "INFO:gguf.gguf_writer:Writing the following files:",
        f"INFO:gguf.gguf_writer:model-f16.gguf: n_tensors = {n}, total_size = {size / 1000:.1f}K",
        "INFO:hf-to-gguf:Model successfully exported to model-f16.gguf",
    ]


def test_shards_and_a_dry_run(call, checkpoint, tmp_path):
    args = [checkpoint, "--outfile", "m.gguf", "--split-max-tensors", "8"]
    code, out, err = call(*args, "--dry-run")
    assert code == 0
    assert out.split() == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert "INFO:gguf.gguf_writer:Dry run, not writing files" in err
    assert not list(tmp_path.iterdir())
    code, _, err = call(*args)
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == out.split()
    assert err.endswith("Model successfully exported to ./\n")


def test_the_vocabulary_alone(call, checkpoint, tmp_path):
    code, _, err = call(checkpoint, "--vocab-only", "--outfile", "v.gguf", "--verbose", "--no-lazy")
    assert code == 0
    assert "v.gguf: n_tensors = 0, total_size = negligible - metadata only\n" in err
    assert err.endswith("Model vocab successfully exported to v.gguf\n")


def test_the_models_that_are_supported(call):
    code, _, err = call("--print-supported-models")
    assert code == 0
    assert re.findall(r"^ERROR:hf-to-gguf:  - (.*)$", err, re.MULTILINE) == list(all_architectures())


def test_a_repo_of_the_hub(hub, hub_environment, checkpoint, tmp_path):
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    hub.repos["ada/llama"] = Repo(files)
    command = [sys.executable, convert_hf_to_gguf.__file__, "--remote", "ada/llama", "--outtype", "f16"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=hub_environment
    )
    assert done.returncode == 0, done.stderr
    with GGUFFile(tmp_path / "ada-llama-f16.gguf") as file:
        assert file.metadata["general.name"] == "ada/llama"
        assert file.metadata["general.file_type"] == 1


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["nope"], "nope is not a directory"),
        (["."], "no config.json"),
        (["CHECKPOINT", "--mtp", "--no-nextn"], "mutually exclusive"),
        (["CHECKPOINT", "--outtype", "tq2_0"], "gguffast convert --outtype TQ2_0"),
        (["CHECKPOINT", "--split-max-size", "4X"], "--split-max-size"),
        (["CHECKPOINT", "--bigendian"], "--bigendian is not supported; use llama.cpp's own script"),
        (["CHECKPOINT", "--outfile", "no/m.gguf"], "no"),
    ],
    ids=str,
)
def test_failures_have_their_reason(call, checkpoint, tmp_path, args, reason):
    code, out, err = call(*(checkpoint if arg == "CHECKPOINT" else arg for arg in args))
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("ERROR:hf-to-gguf:")
    assert reason in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("args", [[], ["--nope", "x"], ["x", "--outtype", "q4_k_m"]], ids=str)
def test_malformed_command_lines(call, args):
    code, _, err = call(*args)
    assert code == 2
    assert err.startswith("usage: convert_hf_to_gguf.py")

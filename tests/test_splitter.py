"""Splitting and merging: gguf-split's bytes, and what shards that do not belong together give."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

import gguffast
from gguffast import FileError, FormatError, OptionError
from gguffast.cli import main
from support.gguf_files import GGUF

#: What llama.cpp's gguf-split made of these files, and of its shards again.
CASES = json.loads((Path(__file__).parent / "data" / "split.json").read_text())
WIDE = GGUF / "llama-wide-f16.gguf"


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join([case["in"], *case["args"]]))
def test_the_bytes_of_gguf_split(tmp_path, case):
    assert main(["split", "--quiet", *case["args"], str(GGUF / case["in"]), str(tmp_path / "m")]) == 0
    assert {path.name: sha256(path) for path in tmp_path.iterdir()} == case["shards"]
    whole = tmp_path / "whole.gguf"
    assert main(["merge", "--quiet", str(tmp_path / min(case["shards"])), str(whole)]) == 0
    assert sha256(whole) == case["merged"]


@pytest.fixture
def shards(tmp_path):
    return list(gguffast.split(WIDE, tmp_path / "m", split_max_tensors=20).outputs)


def test_what_is_split_is_split_anew(tmp_path, shards):
    anew = gguffast.split(shards[0], tmp_path / "n", split_max_tensors=7).outputs
    expected = next(case for case in CASES if case["args"] == ["--split-max-tensors", "7"])
    assert [sha256(path) for path in anew] == list(expected["shards"].values())


def test_a_tensor_larger_than_the_limit_has_its_own_shard(tmp_path):
    result = gguffast.split(WIDE, tmp_path / "m", split_max_size=1)
    assert len(result.outputs) == result.n_tensors == 39


def test_the_summary(tmp_path, shards, capsys):
    assert main(["merge", str(shards[0]), str(tmp_path / "whole.gguf")]) == 0
    assert f"{tmp_path}/whole.gguf\n  size " in capsys.readouterr().out


def test_a_dry_run_writes_nothing(tmp_path):
    assert len(gguffast.split(WIDE, tmp_path / "m", split_max_tensors=20, dry_run=True).outputs) == 2
    assert not list(tmp_path.iterdir())


def left_alone(folder, before):
    assert sorted(folder.iterdir()) == sorted(before)


def test_a_missing_shard(tmp_path, shards):
    shards[1].unlink()
    with pytest.raises(FileError, match="m-00002-of-00002"):
        gguffast.merge(shards[0], tmp_path / "whole.gguf")
    left_alone(tmp_path, shards[:1])


def test_a_doubled_shard(tmp_path):
    shards = gguffast.split(WIDE, tmp_path / "m", split_max_tensors=13).outputs
    shutil.copy(shards[1], shards[2])
    with pytest.raises(FormatError, match=r"m-00003-of-00003\.gguf: split\.no is 1, expected 2"):
        gguffast.merge(shards[0], tmp_path / "whole.gguf")
    left_alone(tmp_path, shards)


def test_a_foreign_shard(tmp_path, shards):
    other = gguffast.split(GGUF / "gemma2-f32.gguf", tmp_path / "n", split_max_tensors=20).outputs
    shutil.move(other[1], shards[1])
    with pytest.raises(FormatError, match=r"tensors\.count is 24, but 39 .* different models"):
        gguffast.merge(shards[0], tmp_path / "whole.gguf")


def test_a_whole_model_has_nothing_to_merge(tmp_path, shards):
    for whole in (WIDE, gguffast.merge(shards[0], tmp_path / "whole.gguf").dst):
        with pytest.raises(FormatError, match="nothing to merge"):
            gguffast.merge(whole, tmp_path / "again.gguf")


def test_not_the_first_shard(tmp_path, shards):
    with pytest.raises(FormatError, match="not the first of 2 shards; give the first one"):
        gguffast.merge(shards[1], tmp_path / "whole.gguf")


def test_no_input_is_overwritten(tmp_path, shards):
    before = [sha256(path) for path in shards]
    with pytest.raises(OptionError):
        gguffast.merge(shards[0], shards[1], force=True)
    with pytest.raises(OptionError):
        gguffast.split(shards[0], tmp_path / "m", split_max_tensors=20, force=True)
    with pytest.raises(FileError, match="exists"):
        gguffast.split(WIDE, tmp_path / "m", split_max_tensors=20)
    assert [sha256(path) for path in shards] == before


@pytest.mark.parametrize("option", [{"split_max_tensors": -1}, {"split_max_size": "4X"}], ids=str)
def test_limits_that_make_no_sense(tmp_path, option):
    with pytest.raises(OptionError, match=f"`{next(iter(option))}`"):
        gguffast.split(WIDE, tmp_path / "m", **option)
    assert not list(tmp_path.iterdir())

"""Names of shards: taken apart, put together, grouped."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguffast.shards import ShardName, group_shards, parse_shard_name, shard_paths


@pytest.mark.parametrize("name", ["m-00002-of-00003.gguf", "a/b-c-00001-of-00010.safetensors"])
def test_a_name_survives_being_taken_apart(name: str) -> None:
    assert str(parse_shard_name(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "m.gguf",
        "m-1-of-3.gguf",
        "m-00001-of-00003",
        "m-00001-of-00003.gguf.part",
        "m-0000\u0661-of-00003.gguf",
        "m-00001-of-00003.gguf\n",
    ],
)
def test_other_names_are_no_shards(name: str) -> None:
    assert parse_shard_name(name) is None


def test_parts_of_a_name() -> None:
    shard = parse_shard_name("m-00002-of-00003.gguf")
    assert shard == ShardName("m", 2, 3)
    assert shard.whole == "m.gguf"
    assert shard.all == ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"]


def test_shards_of_a_model_are_grouped_in_their_order() -> None:
    names = ["b.gguf", "x/a-00001-of-00002.gguf", "a-00001-of-00001.gguf", "x/a-00002-of-00002.gguf"]
    assert group_shards(names) == {
        "b.gguf": ["b.gguf"],
        "x/a.gguf": ["x/a-00001-of-00002.gguf", "x/a-00002-of-00002.gguf"],
        "a.gguf": ["a-00001-of-00001.gguf"],
    }


def test_one_file_is_no_shard() -> None:
    assert shard_paths(Path("d/m.gguf"), 1) == [Path("d/m.gguf")]
    assert shard_paths(Path("d/m.gguf"), 2) == [
        Path("d/m-00001-of-00002.gguf"),
        Path("d/m-00002-of-00002.gguf"),
    ]

"""Opening checkpoint folders: real files against the reference, and every way parts can disagree."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from gguffast.errors import FileError, FormatError
from gguffast.sources.checkpoint import guess_dtype, open_checkpoint
from gguffast.sources.lazy import DType, HeldTensor, LazyTensor, permute_rows
from support.handmade import Storage, dumps, tensor, write_index, write_safetensors, zip_bytes

DATA = Path(__file__).parents[1] / "data"
DIGESTS = json.loads((DATA / "checkpoint_digests.json").read_text())


def reference_digest(name: str, tensor: LazyTensor, heads: int, kv_heads: int) -> str:
    """Digest as in the reference's F32 file, where the rows of queries and keys are in another order."""
    n = heads if "q_proj" in name else kv_heads if "k_proj" in name else 0
    if n:
        order = np.arange(tensor.shape[0]).reshape(n, 2, -1).swapaxes(1, 2).ravel()
        tensor = permute_rows(tensor, order)
    return hashlib.sha256(tensor.values().tobytes()).hexdigest()


@pytest.mark.parametrize(("name", "kv_heads"), [("llama-bin", 1), ("llama-bin-legacy", 4)])
def test_real_torch_files_give_the_references_tensors_in_its_order(name: str, kv_heads: int) -> None:
    checkpoint = open_checkpoint(DATA / "checkpoints" / name)
    found = {n: reference_digest(n, t, 4, kv_heads) for n, t in checkpoint.tensors.items()}
    assert found == DIGESTS[name]
    assert list(found) == list(DIGESTS[name])


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_real_bitsandbytes_files_give_bitsandbytes_own_values(name: str, tmp_path: Path) -> None:
    os.symlink(DATA / "bitsandbytes" / f"{name}.safetensors", tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert all(t.dtype is DType.BF16 and len(t.shape) in (1, 2) for t in checkpoint.tensors.values())
    found = {
        n: reference_digest(n, t, 4, 2) for n, t in checkpoint.tensors.items() if not n.startswith("lm_head")
    }
    assert found == DIGESTS[name]
    assert len(checkpoint.stored) > len(checkpoint.tensors) == len(found) + 1


# --- Parts and their index --------------------------------------------------------------------------------

ONE = {"b.weight": np.ones((2, 2), "f4"), "a.weight": np.zeros(2, "f2")}
TWO = {"layers.10.weight": np.ones((2, 2), "f4"), "layers.2.weight": np.ones((2, 3), "f4")}
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def shards(folder: Path) -> dict[str, str]:
    """Write two shards; return the index that fits them."""
    write_safetensors(folder / FIRST, ONE)
    write_safetensors(folder / SECOND, TWO)
    return {**dict.fromkeys(ONE, FIRST), **dict.fromkeys(TWO, SECOND)}


def test_shards_are_read_in_order_and_names_sorted_as_strings_inside_each(tmp_path: Path) -> None:
    write_index(tmp_path / "model.safetensors.index.json", shards(tmp_path))
    checkpoint = open_checkpoint(str(tmp_path))
    assert list(checkpoint.tensors) == ["a.weight", "b.weight", "layers.10.weight", "layers.2.weight"]
    assert checkpoint.tensors == checkpoint.stored
    assert [Path(file.name).name for file in checkpoint.files] == [FIRST, SECOND]
    assert checkpoint.tensors["a.weight"].shape == (2,)
    np.testing.assert_array_equal(checkpoint.tensors["layers.2.weight"].numpy(), TWO["layers.2.weight"])


def test_shards_need_no_index(tmp_path: Path) -> None:
    shards(tmp_path)
    assert len(open_checkpoint(tmp_path).tensors) == 4


def test_safetensors_win_over_torch_files(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", ONE)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    assert list(open_checkpoint(tmp_path).tensors) == ["a.weight", "b.weight"]


def test_sharded_torch_files_keep_the_order_of_their_dictionaries(tmp_path: Path) -> None:
    storage = Storage("FloatStorage", "0", np.arange(6, dtype="f4").tobytes(), 4)
    names = {"pytorch_model-00001-of-00002.bin": ["z", "b"], "pytorch_model-00002-of-00002.bin": ["c", "a"]}
    for part, keys in names.items():
        pickled = dumps({key: tensor(storage, (2, 3)) for key in keys})
        (tmp_path / part).write_bytes(zip_bytes(pickled, {"0": storage.data}))
    weight_map = {key: part for part, keys in names.items() for key in sorted(keys)}
    write_index(tmp_path / "pytorch_model.bin.index.json", weight_map)
    assert list(open_checkpoint(tmp_path).tensors) == ["z", "b", "c", "a"]


def test_the_first_half_precision_matrix_decides_the_output_type() -> None:
    def lazy(shape: tuple[int, ...], dtype: DType) -> LazyTensor:
        return HeldTensor("x", np.empty(shape, dtype.storage), dtype)

    vector, single = lazy((4,), DType.BF16), lazy((2, 2), DType.F32)
    assert guess_dtype([vector, single]) is DType.F16
    assert guess_dtype([vector, single, lazy((2, 2), DType.BF16), lazy((2, 2), DType.F16)]) is DType.BF16


def refuse(folder: Path, *words: str) -> None:
    """The folder is refused in one line that has all of ``words``."""
    with pytest.raises(FormatError) as caught:
        open_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    for word in words:
        assert word in message


def test_an_empty_folder_says_what_it_lacks(tmp_path: Path) -> None:
    refuse(tmp_path, "no weights", "model*.safetensors")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nowhere"):
        open_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("missing", [FIRST, SECOND])
def test_a_missing_shard_is_named(tmp_path: Path, missing: str) -> None:
    weight_map = shards(tmp_path)
    (tmp_path / missing).unlink()
    refuse(tmp_path, "missing", missing)
    write_index(tmp_path / "model.safetensors.index.json", weight_map)
    refuse(tmp_path, "missing", missing)


def test_a_surplus_shard_is_named(tmp_path: Path) -> None:
    write_index(tmp_path / "model.safetensors.index.json", shards(tmp_path))
    write_safetensors(tmp_path / "model-00003-of-00003.safetensors", {"x": np.ones(1, "f4")})
    refuse(tmp_path, "does not name", "model-00003-of-00003.safetensors")


def test_a_tensor_that_only_the_index_knows(tmp_path: Path) -> None:
    weight_map = shards(tmp_path)
    write_index(tmp_path / "model.safetensors.index.json", weight_map | {"lost.weight": SECOND})
    refuse(tmp_path, "'lost.weight'", SECOND)


def test_a_tensor_that_only_a_shard_knows(tmp_path: Path) -> None:
    weight_map = shards(tmp_path)
    del weight_map["layers.2.weight"]
    write_index(tmp_path / "model.safetensors.index.json", weight_map)
    refuse(tmp_path, "does not name", "'layers.2.weight'")


def test_a_tensor_in_another_shard_than_the_index_says(tmp_path: Path) -> None:
    write_index(tmp_path / "model.safetensors.index.json", shards(tmp_path) | {"a.weight": SECOND})
    refuse(tmp_path, "'a.weight'", FIRST, SECOND)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    write_safetensors(tmp_path / FIRST, ONE)
    write_safetensors(tmp_path / SECOND, ONE)
    refuse(tmp_path, "'a.weight'", FIRST, SECOND)


def test_long_lists_of_names_are_cut(tmp_path: Path) -> None:
    weight_map = shards(tmp_path) | {f"lost.{i}": FIRST for i in range(1000)}
    write_index(tmp_path / "model.safetensors.index.json", weight_map)
    with pytest.raises(FormatError, match="and 995 more") as caught:
        open_checkpoint(tmp_path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "../model.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": "a\\u0000"}}',
        '{"weight_map": {"a": ".."}}',
        "[" * 100_000,
        "1" * 10_000,
        '{"weight_map": {"\\ud800": "model-1.safetensors"}}',
    ],
    ids=range(15),
)
def test_a_malformed_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    refuse(tmp_path, "index.json")


def test_an_index_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(b"\xff\xfe{")
    refuse(tmp_path, "not UTF-8")


def test_a_file_without_tensors(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {})
    refuse(tmp_path, "no tensors")

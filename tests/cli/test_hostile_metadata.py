"""Keys that hold anything: each command reads the file or refuses it in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gguffast import GGMLQuantizationType, cli, imatrix
from gguffast.errors import GGUFFastError
from gguffast.gguf import KV, GGUFFile, GGUFValueType, kv, serialize_header
from support.bounded import run_bounded

V = GGUFValueType
RANGES = {V.UINT8: (0, 8), V.UINT16: (0, 16), V.UINT32: (0, 32), V.UINT64: (0, 64)}
RANGES |= {V.INT8: (7, 7), V.INT16: (15, 15), V.INT32: (31, 31), V.INT64: (63, 63)}
EDGES = [-(2**63), -(2**31), -1, 0, 1, 2, 80, 255, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1]


def _integers(kind: V) -> st.SearchStrategy[int]:
    below, above = RANGES[kind]
    low, high = -(2**below) if below else 0, 2**above - 1
    return st.sampled_from([edge for edge in EDGES if low <= edge <= high]) | st.integers(low, high)


ITEMS: dict[V, st.SearchStrategy[Any]] = {
    **{kind: _integers(kind) for kind in RANGES},
    V.FLOAT32: st.floats(width=32),
    V.FLOAT64: st.floats(),
    V.BOOL: st.booleans(),
    # \udcff stands for a byte that is not UTF-8.
    V.STRING: st.sampled_from(["", "llama", "clip", "\0", "\udcff", "x" * 300])
    | st.text(st.characters(codec="utf-8"), max_size=5),
}
KINDS = st.sampled_from(list(ITEMS))


def _any_value(key: str) -> st.SearchStrategy[KV]:
    scalar = KINDS.flatmap(lambda kind: ITEMS[kind].map(lambda value: kv(key, value, kind)))
    array = KINDS.flatmap(
        lambda kind: st.lists(ITEMS[kind], max_size=4).map(lambda items: kv(key, items, V.ARRAY, kind))
    )
    return scalar | array


#: What the commands look at, and what a sound file has there.
SOUND = {
    "general.architecture": kv("general.architecture", "llama", V.STRING),
    "general.file_type": kv("general.file_type", 1, V.UINT32),
    "general.type": kv("general.type", "model", V.STRING),
    "general.name": kv("general.name", "A name", V.STRING),
    "llama.block_count": kv("llama.block_count", 1, V.UINT32),
    "llama.nextn_predict_layers": kv("llama.nextn_predict_layers", 0, V.UINT32),
    "llama.expert_count": kv("llama.expert_count", 0, V.UINT32),
    "llama.attention.head_count": kv("llama.attention.head_count", 4, V.UINT32),
    "llama.attention.head_count_kv": kv("llama.attention.head_count_kv", 2, V.UINT32),
    "llama.context_length": kv("llama.context_length", 512, V.UINT32),
    "split.no": kv("split.no", 0, V.UINT16),
    "split.count": kv("split.count", 1, V.UINT16),
    "split.tensors.count": kv("split.tensors.count", 3, V.INT32),
    "tokenizer.ggml.model": kv("tokenizer.ggml.model", "llama", V.STRING),
    "tokenizer.ggml.tokens": kv("tokenizer.ggml.tokens", ["a"], V.ARRAY, V.STRING),
    "tokenizer.chat_template": kv("tokenizer.chat_template", "{{ x }}", V.STRING),
    "quantize.imatrix.entries_count": kv("quantize.imatrix.entries_count", 1, V.INT32),
}
IMATRIX = {
    "imatrix.datasets": kv("imatrix.datasets", ["t"], V.ARRAY, V.STRING),
    "imatrix.chunk_count": kv("imatrix.chunk_count", 1, V.UINT32),
    "imatrix.chunk_size": kv("imatrix.chunk_size", 512, V.UINT32),
}


def _metadata(sound: dict[str, KV]) -> st.SearchStrategy[list[KV]]:
    """A few keys changed, a few missing."""
    changes = st.lists(st.sampled_from(list(sound)).flatmap(_any_value), min_size=1, max_size=3)
    missing = st.sets(st.sampled_from(list(sound)), max_size=2)

    def apply(drawn: tuple[list[KV], set[str]]) -> list[KV]:
        changed, absent = drawn
        merged = {**sound, **{pair.key: pair for pair in changed}}
        return [pair for key, pair in merged.items() if key not in absent]

    return st.tuples(changes, missing).map(apply)


fuzzed = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("command", ["inspect FILE", "inspect --json FILE", "quantize --dry-run FILE Q3_K_M"])
@fuzzed
@given(kvs=_metadata(SOUND))
@example(kvs=[*SOUND.values(), kv("llama.head_count", [], V.ARRAY, V.INT8)])
def test_a_model_is_read_or_refused_in_one_line(
    command: str, kvs: list[KV], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.gguf"
    names = ("token_embd.weight", "blk.0.attn_v.weight", "output.weight")
    tensors = [(name, (256, 1), GGMLQuantizationType.F16, 512 * i) for i, name in enumerate(names)]
    path.write_bytes(serialize_header(kvs, tensors) + bytes(512 * len(names)))
    code = cli.main(command.replace("FILE", str(path)).split())
    said = capsys.readouterr().err
    assert "should not happen" not in said
    if code:
        assert said.startswith("gguffast: error: ")
        assert said.count("\n") == 1
        assert str(path) in said, "the file is named"


@fuzzed
@given(kvs=_metadata(IMATRIX))
def test_an_importance_matrix_is_read_or_refused(kvs: list[KV], tmp_path: Path) -> None:
    path = tmp_path / "some.imatrix"
    tensors = [
        ("a.in_sum2", (1,), GGMLQuantizationType.F32, 0),
        ("a.counts", (1,), GGMLQuantizationType.F32, 32),
    ]
    path.write_bytes(serialize_header(kvs, tensors) + bytes(64))
    _load(path)


COUNTS = st.sampled_from([-1, 0, 1, 2, 4, 2**16, 2**31 - 1, -(2**31)]) | st.integers(0, 9)


@fuzzed
@given(counts=st.lists(COUNTS, max_size=12), noise=st.binary(max_size=30))
def test_an_older_importance_matrix_is_read_or_refused(
    counts: list[int], noise: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "some.dat"
    path.write_bytes(b"".join(n.to_bytes(4, "little", signed=True) for n in counts) + noise)
    _load(path)


def _load(path: Path) -> None:
    try:
        imatrix.load(path).kvs()
    except GGUFFastError as error:
        said = str(error)
    else:
        return
    assert str(path) in said
    assert "\n" not in said


def test_empty_tensors_with_endless_rows_cost_little(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shapes = [(2**60, 0), (256, 2**40, 0), (0, 2**60)]
    tensors = [(f"blk.{i}.ffn_up.weight", ne, GGMLQuantizationType.F32, 0) for i, ne in enumerate(shapes)]
    path.write_bytes(
        serialize_header([SOUND["general.architecture"], kv("llama.block_count", 3, V.UINT32)], tensors)
    )
    command = ["quantize", str(path), str(tmp_path / "out.gguf"), "Q8_0", "--quiet"]
    assert run_bounded(cli.main, command, file_bytes=path.stat().st_size) == 0
    with GGUFFile(tmp_path / "out.gguf") as made:
        assert [tensor.ne for tensor in made.tensors] == shapes


def test_a_list_of_millions_of_layers_costs_little(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    kvs = [SOUND["general.architecture"], kv("llama.block_count", np.zeros(2**24, np.uint8), V.ARRAY)]
    path.write_bytes(serialize_header(kvs, []))
    assert run_bounded(cli.main, ["inspect", str(path)], file_bytes=path.stat().st_size) == 0

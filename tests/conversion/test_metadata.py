"""What the configuration and the model card say about a model, as metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gguffast.conversion.architectures import all_architectures, find_architecture
from gguffast.conversion.converter import convert
from gguffast.gguf import GGUFFile
from support.checkpoints import DATA, NAMES, PRE

Copy = Callable[[str], Path]
DIGESTS = json.loads((DATA / "converted.json").read_text())


def metadata_of(folder: Path, **options: Any) -> dict[str, Any]:
    """Convert; give the decoded metadata but the tokenizer's, in file order."""
    result = convert(folder, folder / "out.gguf", "f16", force=True, **options)
    with GGUFFile(result.dst) as file:
        return {pair.key: pair.value for pair in file.kvs if not pair.key.startswith("tokenizer.")}


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    value = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not ...}))


def f32(value: float) -> float:
    return float(np.float32(value))


# --- Configuration -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_key_means_the_classes_default(name: str, copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of(name)
    config = json.loads((folder / "config.json").read_text())
    architecture = find_architecture(config["architectures"][0], config)
    full = architecture.hparams(config, folder / "config.json")
    without = {key: value for key, value in config.items() if key not in architecture.defaults}
    bare = architecture.hparams(without, folder / "config.json")
    redundant = {
        key: ... for key in architecture.defaults if key in config and bare.get(key) == full.get(key)
    }
    assert "rope_theta" in redundant or name in ("llama3", "gemma", "gemma2")
    edit_config(folder, **redundant)
    convert(folder, tmp_path / "out.gguf", "f16", pre=PRE[name])
    import hashlib

    assert hashlib.sha256((tmp_path / "out.gguf").read_bytes()).hexdigest() == DIGESTS[name]["f16"]


def test_the_text_models_configuration_counts_more_than_the_outer_one(copy_of: Copy) -> None:
    folder = copy_of("llama2")
    edit_config(folder, rms_norm_eps=0.5, text_config={"rms_norm_eps": 0.25})
    assert metadata_of(folder)["llama.attention.layer_norm_rms_epsilon"] == 0.25


@pytest.mark.parametrize("old", [True, False])
def test_linear_rope_scaling(old: bool, copy_of: Copy) -> None:
    folder = copy_of("llama2")
    scaling = {"type" if old else "rope_type": "linear", "factor": 4}
    edit_config(folder, **{"rope_scaling" if old else "rope_parameters": scaling})
    found = metadata_of(folder)
    assert found["llama.rope.scaling.type"] == "linear"
    assert found["llama.rope.scaling.factor"] == 4.0
    keys = list(found)
    # Between the head counts and the base frequency.
    at = keys.index("llama.rope.scaling.type")
    assert keys[at - 1 : at + 3] == [
        "llama.attention.head_count_kv",
        "llama.rope.scaling.type",
        "llama.rope.scaling.factor",
        "llama.rope.freq_base",
    ]


def test_yarn(copy_of: Copy) -> None:
    folder = copy_of("qwen2")
    scaling = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "attention_factor": 0.5,
        "beta_fast": 16,
    }
    edit_config(folder, rope_scaling=scaling)
    found = {
        key.removeprefix("qwen2.rope.scaling."): value
        for key, value in metadata_of(folder, pre="qwen2").items()
        if key.startswith("qwen2.rope.scaling.")
    }
    assert found == {
        "type": "yarn",
        "factor": 4.0,
        "original_context_length": 128,
        "yarn_attn_factor": 0.5,
        "yarn_beta_fast": 16.0,
    }


def test_a_sliding_window_of_olmo2(copy_of: Copy) -> None:
    folder = copy_of("olmo2")
    edit_config(folder, sliding_window=64)
    found = metadata_of(folder, pre="llama-bpe")
    assert found["olmo2.attention.sliding_window"] == 64
    assert found["olmo2.attention.sliding_window_pattern"].tolist() == [True, True]
    edit_config(folder, layer_types=["sliding_attention", "full_attention"])
    found = metadata_of(folder, pre="llama-bpe")
    assert found["olmo2.attention.sliding_window_pattern"].tolist() == [True, False]


def test_rope_parameters_by_kind_of_attention(copy_of: Copy) -> None:
    folder = copy_of("gemma3")
    groups = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    edit_config(folder, rope_parameters=groups, rope_theta=..., rope_local_base_freq=...)
    found = metadata_of(folder)
    assert found["gemma3.rope.freq_base"] == 5e5
    assert found["gemma3.rope.freq_base_swa"] == 2e4
    assert found["gemma3.rope.scaling.factor"] == 8.0


def test_llama3_factors_follow_the_head_dimension(copy_of: Copy, tmp_path: Path) -> None:
    # With head_dim given, the frequencies are those of a head of that width, whatever hidden_size says.
    folder = copy_of("llama3")
    edit_config(folder, num_attention_heads=2, num_key_value_heads=1, head_dim=32)
    convert(folder, tmp_path / "out.gguf", pre="llama-bpe")
    with GGUFFile(tmp_path / "out.gguf") as file:
        factors = file.tensors["rope_freqs.weight"].data
    waves = [2 * math.pi * 500000.0 ** (2 * i / 32) for i in range(16)]
    assert len(factors) == 16
    assert [float(f) for w, f in zip(waves, factors, strict=True) if w < 256 / 4] == [1.0] * 3
    assert all(f == 8.0 for w, f in zip(waves, factors, strict=True) if w > 256)
    blended = [(w, float(f)) for w, f in zip(waves, factors, strict=True) if 64 < w < 256]
    for wave, factor in blended:
        smooth = (256 / wave - 1) / 3
        assert factor == pytest.approx(1 / ((1 - smooth) / 8 + smooth), rel=1e-6)
    assert len(blended) == 2


def test_every_declared_name_is_one_that_llama_cpp_knows() -> None:
    known = {name.replace("{bid}", "{i}") for name in gguf.TENSOR_NAMES.values()}
    for architecture in all_architectures().values():
        for rule in architecture.tensors.values():
            if rule is not None:
                names = {rule.name} if isinstance(rule.name, str) else set(rule.name)
                assert names <= known, architecture.hf_class


# --- Model card and overrides ----------------------------------------------------------------------------

CARD = """---
license: apache-2.0
base_model:
- Some-Org/Big-Model-7B-v1.5
tags:
- chat
pipeline_tag: text-generation
language:
- en
- no
datasets:
- Some-Org/data-set
---
# A model
"""


def test_the_model_card(copy_of: Copy) -> None:
    folder = copy_of("llama2")
    (folder / "README.md").write_text(CARD)
    found = metadata_of(folder)
    start = list(found).index("general.name")
    assert list(found.items())[start : list(found).index("llama.block_count")] == [
        ("general.name", "Llama2"),
        ("general.size_label", "146K"),
        ("general.license", "apache-2.0"),
        ("general.base_model.count", 1),
        ("general.base_model.0.name", "Big Model 7B v1.5"),
        ("general.base_model.0.version", "v1.5"),
        ("general.base_model.0.organization", "Some Org"),
        ("general.base_model.0.repo_url", "https://huggingface.co/Some-Org/Big-Model-7B-v1.5"),
        ("general.dataset.count", 1),
        ("general.dataset.0.name", "Data Set"),
        ("general.dataset.0.organization", "Some Org"),
        ("general.dataset.0.repo_url", "https://huggingface.co/Some-Org/data-set"),
        ("general.tags", ["chat", "text-generation"]),
        ("general.languages", ["en", "no"]),
    ]


def test_a_name_in_the_configuration(copy_of: Copy) -> None:
    folder = copy_of("llama2")
    edit_config(folder, _name_or_path="some-org/Nice-Model-Instruct")
    found = metadata_of(folder)
    assert found["general.name"] == "Nice Model Instruct"
    assert found["general.organization"] == "Some Org"
    assert found["general.finetune"] == "Instruct"
    assert found["general.basename"] == "Nice-Model"
    result = convert(folder, None, "q4_0", dry_run=True)
    assert result.dst.name.startswith("Nice-Model-")
    assert result.dst.name.endswith("-Instruct-Q4_0.gguf")


def test_overrides(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("llama2")
    override = tmp_path / "override.json"
    override.write_text(
        json.dumps({"general.author": "Me", "general.name": "X", "general.sampling.top_p": 0.25})
    )
    found = metadata_of(folder, metadata=override)
    assert (found["general.author"], found["general.name"]) == ("Me", "X")
    assert found["general.sampling.top_p"] == 0.25
    assert found["general.sampling.temp"] == f32(0.6)
    assert metadata_of(folder, metadata=override, model_name="Y")["general.name"] == "Y"


def test_the_folders_name_counts_even_when_it_is_given_as_a_dot(
    copy_of: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of("llama2")
    monkeypatch.chdir(folder)
    assert convert(".", None, dry_run=True).dst == folder / "Llama2-146K-BF16.gguf"

"""LoRA adapters become the reference's files, byte for byte; those of another base are refused in words."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gguffast.cli import main
from gguffast.conversion.converter import convert
from gguffast.conversion.lora import convert_lora
from gguffast.errors import FileError, FormatError, OptionError
from gguffast.gguf import GGUFFile
from gguffast.sources.lora import LoraMerge, parse_merge
from support import families

NAMES = sorted(path.name.removesuffix(".tar.xz") for path in families.ADAPTERS.glob("*.tar.xz"))
RUNS = {name: families.read_runs(name, families.ADAPTERS) for name in NAMES}
CASES = [(name, key) for name, runs in RUNS.items() for key in runs if key != "_"]
PREFIX = "base_model.model.model.layers.0."


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[[str], Path]:
    """Unpacks an adapter to where a test may break it."""

    def unpack(name: str) -> Path:
        with tarfile.open(families.ADAPTERS / f"{name}.tar.xz") as archive:
            archive.extractall(tmp_path, filter="data")
        return tmp_path / name

    return unpack


@pytest.fixture
def base_of(unpacked: Path, family: Callable[[str], Path]) -> Callable[[str], Path]:
    """Gives the folder of an adapter's base."""

    def find(name: str) -> Path:
        base = RUNS[name]["_"]["base"]
        return unpacked / base if (unpacked / base).exists() else family(base)

    return find


@pytest.mark.parametrize(("name", "key"), CASES)
def test_the_file_is_the_references(
    name: str, key: str, adapter: Callable[[str], Path], base_of: Callable[[str], Path], tmp_path: Path
) -> None:
    run = RUNS[name][key]
    result = convert_lora(adapter(name), tmp_path / "o.gguf", run["args"][1], base=base_of(name))
    assert families.describe(result.dst) == (run["kv"], run["tensors"])
    assert hashlib.sha256(result.dst.read_bytes()).hexdigest() == run["file_sha256"]


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def alpha(path: Path) -> float:
    with GGUFFile(path) as file:
        return float(file.metadata["adapter.lora.alpha"])


def test_rslora_is_scaled_as_it_was_trained_on_demand(
    adapter: Callable[[str], Path], unpacked: Path, tmp_path: Path
) -> None:
    folder = adapter("lora-llama3")
    base = unpacked / "llama3"
    with pytest.raises(OptionError, match="does not say this is"):
        convert_lora(folder, tmp_path / "o.gguf", base=base, rslora=True)
    change_config(folder, use_rslora=True)
    plain = convert_lora(folder, tmp_path / "plain.gguf", base=base)
    assert "2.828 times less" in plain.warnings[0]
    assert alpha(plain.dst) == 16
    right = convert_lora(folder, tmp_path / "right.gguf", base=base, rslora=True)
    assert not right.warnings
    assert alpha(right.dst) / 8 == pytest.approx(16 / 8**0.5)
    change_config(folder, rank_pattern={"q_proj": 4})
    with pytest.raises(OptionError, match="rank_pattern"):
        convert_lora(folder, tmp_path / "other.gguf", base=base, rslora=True)


def test_the_file_is_named_after_its_folder(adapter: Callable[[str], Path], unpacked: Path) -> None:
    folder = adapter("lora-llama3")
    result = convert_lora(folder, file_type="auto", base=unpacked / "llama3")
    assert (result.dst.parent, result.dst.name) == (folder, "Lora-Llama3-F16-LoRA.gguf")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, '"use_dora" is True; .*DoRA.*merge_and_unload'),
        ({"peft_type": "IA3"}, '"peft_type".*"LORA"'),
        ({"r": 16}, r'tensor base_model.*rank 8, but .*adapter_config.json says 16 \("r"\)'),
        ({"lora_alpha": None}, '"lora_alpha" is missing'),
        ({"lora_alpha": 1e300}, '"lora_alpha"'),
        ({"r": 0}, '"r" is 0'),
        ({"rank_pattern": {"x": "y"}}, '"rank_pattern.x"'),
        ({"invocation_string": "hello"}, '"alora_invocation_tokens"'),
        ({"alora_invocation_tokens": ["a"]}, '"alora_invocation_tokens"'),
    ],
)
def test_what_the_configuration_may_not_say(
    config: dict[str, Any], message: str, adapter: Callable[[str], Path], unpacked: Path, tmp_path: Path
) -> None:
    folder = adapter("lora-llama3")
    change_config(folder, **config)
    with pytest.raises(FormatError, match=message):
        convert_lora(folder, tmp_path / "o.gguf", base=unpacked / "llama3")
    assert not (tmp_path / "o.gguf").exists()


def _rename(old: str, new: str) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors.update({PREFIX + new: tensors.pop(PREFIX + old)})


def _add(name: str, *shape: int) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors.update({name: np.ones(shape, np.float32)})


HALF = "self_attn.k_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(PREFIX + HALF), "k_proj.lora_B.weight: its other half is missing"),
        (_rename(HALF, "self_attn.k_proj.lora_C.weight"), "neither half of a LoRA pair"),
        (_add("base_model.model.model.embed_tokens.weight", 384, 64), "modules_to_save"),
        (_add("base_model.model.lm_head.weight", 384, 64), "modules_to_save"),
        (_add(PREFIX + "self_attn.k_proj.lora_magnitude_vector", 32), "DoRA"),
        (
            _add(PREFIX + HALF, 8, 63),
            r"not fit its base.*k_proj.weight: shape \[32, 63\], but .*config.json makes it \[32, 64\]",
        ),
        (_add(PREFIX + HALF, 7, 64), "is of rank 7, .* of rank 8"),
        (_add(PREFIX + HALF, 64), "expected a matrix"),
        (_add(PREFIX + "input_layernorm.weight", 63), r"input_layernorm.weight: shape \[63\]"),
        (
            lambda tensors: (
                _add(PREFIX + "mlp.x.lora_A.weight", 8, 64)(tensors),
                _add(PREFIX + "mlp.x.lora_B.weight", 9, 8)(tensors),
            ),
            "LlamaForCausalLM has no such tensor",
        ),
    ],
)
def test_what_the_tensors_may_not_be(
    change: Callable[[dict[str, Any]], object],
    message: str,
    adapter: Callable[[str], Path],
    unpacked: Path,
    tmp_path: Path,
) -> None:
    folder = adapter("lora-llama3")
    change_tensors(folder, change)
    with pytest.raises(FormatError, match=message):
        convert_lora(folder, tmp_path / "o.gguf", base=unpacked / "llama3")
    assert not (tmp_path / "o.gguf").exists()


def test_an_adapter_of_more_layers_is_refused(
    adapter: Callable[[str], Path], copy_of: Callable[[str], Path], tmp_path: Path
) -> None:
    base = copy_of("llama3")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(
        FormatError, match=r"does not fit its base: .*layer 1, but .*config.json says there are 1"
    ):
        convert_lora(adapter("lora-llama3"), tmp_path / "o.gguf", base=base)


def test_files_and_types_that_are_not_there(adapter: Callable[[str], Path], unpacked: Path) -> None:
    folder = adapter("lora-llama3")
    with pytest.raises(OptionError, match="an adapter is not written as Q4_K_M"):
        convert_lora(folder, file_type="q4_k_m", base=unpacked / "llama3")
    with pytest.raises(FileError, match=r"no adapter_config\.json"):
        convert_lora(unpacked / "llama3", base=unpacked / "llama3")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileError, match=r"adapter_model\.safetensors or adapter_model\.bin"):
        convert_lora(folder, base=unpacked / "llama3")


def test_the_command(
    adapter: Callable[[str], Path], unpacked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["convert-lora", str(adapter("lora-llama3")), "--outfile", str(tmp_path / "{ftype}.gguf")]
    assert main([*words, "--base", str(unpacked / "llama3"), "--outtype", "bf16"]) == 0
    assert "bf16.gguf" in capsys.readouterr().out
    path = tmp_path / "bf16.gguf"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == RUNS["lora-llama3"]["bf16"]["file_sha256"]
    assert main([*words, "--base", str(unpacked / "qwen3"), "--outtype", "bf16", "--force"]) == 1
    assert "does not fit its base" in capsys.readouterr().err


@pytest.mark.parametrize("rslora", [False, True])
def test_merged_is_converted_from_the_sum(
    rslora: bool, adapter: Callable[[str], Path], copy_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, base = adapter("lora-qwen3"), copy_of("qwen3")
    change_config(folder, use_rslora=rslora)
    result = convert(
        base, tmp_path / "o.gguf", "f32", pre="qwen2", merge_lora=[LoraMerge(folder, 0.5), LoraMerge(folder)]
    )
    plain = convert(base, tmp_path / "p.gguf", "f32", pre="qwen2")
    lora = convert_lora(folder, tmp_path / "l.gguf", base=base)
    scale = 1.5 * 8 / (2 if rslora else 4)
    with GGUFFile(result.dst) as ours, GGUFFile(plain.dst) as before, GGUFFile(lora.dst) as halves:
        changed = {name.rpartition(".")[0] for name in (tensor.name for tensor in halves.tensors)}
        assert len(changed) == 10
        for name in (tensor.name for tensor in before.tensors):
            expected = before.tensors[name].data.astype(np.float64)
            if name in changed:
                a, b = (halves.tensors[f"{name}.lora_{half}"].data.astype(np.float64) for half in "ab")
                expected = expected + scale * b @ a
                np.testing.assert_allclose(ours.tensors[name].data, expected, rtol=1e-5, atol=1e-6)
            else:
                np.testing.assert_array_equal(ours.tensors[name].data, expected)


def test_an_adapter_of_another_base_is_not_merged(
    adapter: Callable[[str], Path], unpacked: Path, tmp_path: Path
) -> None:
    folder = adapter("lora-llama3")
    with pytest.raises(FormatError, match=r"does not fit its base: tensor .*makes .*, but .* is "):
        convert(unpacked / "qwen3", tmp_path / "o.gguf", pre="qwen2", merge_lora=[LoraMerge(folder)])
    change_config(folder, alpha_pattern={"q_proj": 4})
    with pytest.raises(FormatError, match="alpha_pattern"):
        convert(unpacked / "llama3", tmp_path / "o.gguf", pre="llama-bpe", merge_lora=[LoraMerge(folder)])
    with pytest.raises(OptionError, match="leaves nothing to merge"):
        convert(unpacked / "llama3", tmp_path / "o.gguf", vocab_only=True, merge_lora=[LoraMerge(folder)])


def test_a_merge_is_told_in_words() -> None:
    assert parse_merge("a/b") == LoraMerge("a/b", 1.0)
    assert parse_merge("a/b:-0.5") == LoraMerge("a/b", -0.5)
    assert parse_merge("a:b") == LoraMerge("a:b", 1.0)

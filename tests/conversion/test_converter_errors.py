"""What is wrong with a checkpoint is said in one line, and nothing is left behind."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguffast.cli import main
from gguffast.conversion.converter import convert
from gguffast.errors import DataError, FileError, FormatError, GGUFFastError, OptionError
from support.checkpoints import PRE, edit_json, read_safetensors
from support.handmade import Raw, write_safetensors

Copy = Callable[[str], Path]


def edit_weights(folder: Path, **changes: Raw | None) -> None:
    """Set tensors by name with _ for the dots; None removes one."""
    path = folder / "model.safetensors"
    weights: dict[str, Raw | None] = {**read_safetensors(path), **changes}
    write_safetensors(path, {name: value for name, value in weights.items() if value is not None})


def widened(raw: Raw) -> Raw:
    """Give a BF16 tensor as F32, another as it is."""
    if raw.dtype != "BF16":
        return raw
    bits = np.frombuffer(raw.data, np.uint16).astype(np.uint32) << 16
    return Raw("F32", raw.shape, bits.tobytes())


def remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", **changes)


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def weights(changes: dict[str, Raw | None]) -> Callable[[Path], None]:
    return lambda folder: edit_weights(folder, **changes)


def files(*names: str) -> Callable[[Path], None]:
    return lambda folder: remove(folder, *names)


NAN = Raw("BF16", (64,), (np.full(64, 0x3F80, np.uint16)).tobytes()[:-2] + b"\xc0\x7f")
Q = "model.layers.1.self_attn.q_proj.weight"

CASES: dict[str, tuple[Callable[[Path], None], type[GGUFFastError], str]] = {
    "no config": (files("config.json"), FileError, "no config.json"),
    "config is not JSON": (
        text("config.json", '{"a": 1,\n "b" 2}'),
        FormatError,
        r"config.json.* line 2, column 6",
    ),
    "config is not UTF-8": (text("config.json", b'{"a": "\xff"}'), FormatError, "config.json.*not UTF-8"),
    "config is a list": (text("config.json", "[1]"), FormatError, "expected a JSON object.*found a list"),
    "config is deep": (text("config.json", "[" * 100_000), FormatError, "config.json"),
    "no class": (config(architectures=...), FormatError, '"architectures"'),
    "class of a wrong kind": (config(architectures=[7]), FormatError, '"architectures"'),
    "unknown class": (
        config(architectures=["XForCausalLM"]),
        OptionError,
        "'XForCausalLM' is none of .*; nearest are \\w+ForCausalLM",
    ),
    "layers in words": (
        config(num_hidden_layers="two"),
        FormatError,
        '"num_hidden_layers" is .two.; expected a whole',
    ),
    "no heads": (
        config(num_attention_heads=0),
        FormatError,
        '"num_attention_heads" is 0; expected a whole number',
    ),
    "more layers than there are": (
        config(num_hidden_layers=10**9),
        FormatError,
        '"num_hidden_layers" is 1000000000; expected a whole number from 1 to 512',
    ),
    "one layer more than there are": (
        config(num_hidden_layers=3),
        FormatError,
        r"model\.layers\.2\.[\w.]+ is missing",
    ),
    "fewer layers than there are": (
        config(num_hidden_layers=1),
        FormatError,
        r"layer 1, but .*config.json says .* 1",
    ),
    "epsilon in words": (
        config(rms_norm_eps="small"),
        FormatError,
        '"rms_norm_eps" is .small.; expected a number',
    ),
    "rope of a wrong kind": (config(rope_scaling=[1]), FormatError, '"rope_scaling".*expected an object'),
    "unknown rope": (config(rope_scaling={"type": "x"}), OptionError, "rope type .x. is not supported"),
    "rope without factor": (
        config(rope_scaling={"type": "linear"}),
        FormatError,
        "rope_scaling.factor.* is missing",
    ),
    "heads that do not fit": (config(hidden_size=60), FormatError, r"shape \[\d+, 64\], but .* makes it"),
    "odd heads": (
        config(num_attention_heads=64, num_key_value_heads=64, head_dim=1),
        FormatError,
        "64 heads of even",
    ),
    "no weights": (files("model.safetensors"), FormatError, "model.*safetensors"),
    "missing tensor": (weights({Q: None}), FormatError, f"tensor {Q} is missing"),
    "missing head": (weights({"lm_head.weight": None}), FormatError, "tensor lm_head.weight is missing"),
    "unknown tensor": (
        weights({"model.layers.0.x.weight": NAN}),
        FormatError,
        "model.layers.0.x.weight.*no such tensor",
    ),
    "tensor of another shape": (
        weights({Q: Raw("BF16", (32, 64), bytes(4096))}),
        FormatError,
        rf"tensor {Q}: shape \[32, 64\], but .*config.json makes it \[64, 64\]",
    ),
    "tensor of another rank": (
        weights({Q: Raw("BF16", (4096,), bytes(8192))}),
        FormatError,
        rf"tensor {Q}: shape",
    ),
    "NaN": (
        weights({"model.norm.weight": NAN}),
        DataError,
        "tensor 'output_norm.weight', row 0: NaN or infinity",
    ),
    "no tokenizer": (files("tokenizer.model"), FormatError, "tokenizer"),
    "model card that is not YAML": (
        text("README.md", "---\na: b\nlicense: [x\n---\n"),
        FormatError,
        "README.md, line",
    ),
    "model card of a wrong kind": (
        text("README.md", "---\nlicense: {a: 1}\n---\n"),
        FormatError,
        "README.md: .license. is .*; expected text, or a list of it",
    ),
}


ODD_VALUES: tuple[Any, ...] = (
    None,
    "x",
    -1,
    0,
    1e99,
    [1],
    {"type": 3},
    {"rope_type": "llama3", "factor": "x"},
    {"full_attention": 3},
    {"sliding_attention": 3, "full_attention": {"rope_theta": []}},
)


@pytest.mark.parametrize("name", ["llama3", "gemma3", "phi3", "olmo2"])
def test_odd_values_in_the_configuration_are_never_a_crash(name: str, copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of(name)
    original = (folder / "config.json").read_text()
    known = [*json.loads(original), "rope_parameters", "quantization_config", "text_config", "layer_types"]
    refused = []
    for key in known:
        for value in ODD_VALUES:
            (folder / "config.json").write_text(json.dumps({**json.loads(original), key: value}))
            try:
                convert(folder, tmp_path / "x.gguf", pre=PRE[name], dry_run=True)
            except GGUFFastError as error:
                refused.append(str(error))
    assert 100 < len(refused) < len(known) * len(ODD_VALUES)
    assert not [message for message in refused if "\n" in message]


@pytest.mark.parametrize("case", CASES)
def test_a_broken_checkpoint(case: str, copy_of: Copy, tmp_path: Path) -> None:
    breaking, error, message = CASES[case]
    folder = copy_of("llama2")
    breaking(folder)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(error, match=message) as caught:
        convert(folder, out / "x.gguf", "q8_0")
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []


def test_a_missing_expert(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("qwen2moe")
    name = "model.layers.1.mlp.experts.4.down_proj.weight"
    edit_weights(folder, **{name: None})
    with pytest.raises(FormatError, match=f"tensor {name} is missing"):
        convert(folder, tmp_path / "x.gguf", pre="qwen2")


def test_an_expert_too_many(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("qwen2moe")
    edit_json(folder / "config.json", num_experts=5)
    with pytest.raises(FormatError, match=r"experts\.5\.\w+_proj\.weight: expert 5, but .* says there are 5"):
        convert(folder, tmp_path / "x.gguf", pre="qwen2")


def test_a_missing_bias(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("qwen2")
    edit_weights(folder, **{"model.layers.1.self_attn.k_proj.bias": None})
    with pytest.raises(FormatError, match=r"tensor model\.layers\.1\.self_attn\.k_proj\.bias is missing"):
        convert(folder, tmp_path / "x.gguf", pre="qwen2")


def test_a_vocabulary_larger_than_the_embedding(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("llama3")
    edit_json(folder / "config.json", vocab_size=600)
    weights = read_safetensors(folder / "model.safetensors")
    short = {
        name: Raw("BF16", (600, 64), weights[name].data[: 600 * 64 * 2])
        for name in ("lm_head.weight", "model.embed_tokens.weight")
    }
    edit_weights(folder, **short)
    with pytest.raises(FormatError, match=r"60\d.*600"):
        convert(folder, tmp_path / "x.gguf", pre="llama-bpe")


def test_a_layer_of_5000_digits(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("llama2")
    edit_weights(folder, **{f"model.layers.{'9' * 5000}.mlp.up_proj.weight": Raw("F32", [4, 4], bytes(64))})
    with pytest.raises(FormatError, match=r"tensor model\.layers\.9+\.\.\.: .* has no such tensor") as caught:
        convert(folder, tmp_path / "x.gguf")
    assert len(str(caught.value)) < 400


def test_a_tensor_under_two_names(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("gemma3")
    name = "model.norm.weight"
    twin = {"language_model.model.norm.weight": read_safetensors(folder / "model.safetensors")[name]}
    edit_weights(folder, **twin)
    with pytest.raises(FormatError, match=r"model\.norm\.weight is there twice"):
        convert(folder, tmp_path / "x.gguf")


def test_weights_too_large_for_f16(copy_of: Copy, tmp_path: Path) -> None:
    # The reference writes infinity here.
    folder = copy_of("llama2")
    big = np.full((64, 64), 1e5, np.float32)
    edit_weights(folder, **{Q: Raw("F32", (64, 64), big.tobytes())})
    with pytest.raises(DataError, match=r"tensor 'blk\.1\.attn_q\.weight', row 0 .*too large .* F16"):
        convert(folder, tmp_path / "x.gguf", "f16")
    # An F32 checkpoint would be an F16 file first, so that one pass cannot quantize it either.
    path = folder / "model.safetensors"
    wide = {name: widened(raw) for name, raw in read_safetensors(path).items()}
    write_safetensors(path, wide)
    with pytest.raises(DataError, match=r"tensor 'blk\.1\.attn_q\.weight', row 0 .* BF16 has their range"):
        convert(folder, tmp_path / "x.gguf", "q4_0")
    assert [p for p in tmp_path.iterdir() if p != folder] == []
    convert(folder, tmp_path / "x.gguf", "bf16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file_type": "q4km"}, "unknown file type 'q4km'; did you mean"),
        ({"pure": True}, "need a quantized `file_type`"),
        ({"file_type": "f16", "override_kv": {"a": 1}}, "need a quantized `file_type`"),
        ({"split_max_size": "4T"}, "`split_max_size`: size '4T'"),
        ({"split_max_size": "-1"}, "size '-1'"),
        ({"split_max_size": ""}, "size ''"),
        ({"split_max_tensors": -1}, "`split_max_tensors` must be 0 or more"),
        ({"vocab_only": True, "split_max_tensors": 3}, "nothing to split"),
        ({"threads": 0}, "`threads` must be at least 1"),
        ({"file_type": "q4_0", "include_weights": ["x"]}, "need an importance matrix"),
    ],
)
def test_options_that_make_no_sense(
    options: dict[str, Any], message: str, unpacked: Path, tmp_path: Path
) -> None:
    with pytest.raises(GGUFFastError, match=message):
        convert(unpacked / "llama2", tmp_path / "x.gguf", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["{x}.gguf", "{ftype", "{0.x}.gguf", "{1}.gguf", "{ftype:99999999999}"])
def test_a_template_that_makes_no_sense(name: str, unpacked: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="braces can hold"):
        convert(unpacked / "llama2", tmp_path / name)


def test_metadata_that_is_not_there(unpacked: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="`metadata`"):
        convert(unpacked / "llama2", tmp_path / "x.gguf", metadata=tmp_path / "m.json")
    (tmp_path / "m.json").write_text("[]")
    with pytest.raises(FormatError, match=r"m\.json: expected a JSON object"):
        convert(unpacked / "llama2", tmp_path / "x.gguf", metadata=tmp_path / "m.json")


def test_an_output_that_exists_is_kept(unpacked: Path, tmp_path: Path) -> None:
    output = tmp_path / "x-00002-of-00005.gguf"
    output.write_bytes(b"mine")
    with pytest.raises(FileError, match="already exists"):
        convert(unpacked / "llama2", tmp_path / "x.gguf", split_max_tensors=5)
    assert [p.name for p in tmp_path.iterdir()] == [output.name]
    assert output.read_bytes() == b"mine"
    convert(unpacked / "llama2", tmp_path / "x.gguf", split_max_tensors=5, force=True)
    assert len(list(tmp_path.iterdir())) == 5


def test_an_output_that_is_a_weight_file_is_kept(copy_of: Copy) -> None:
    folder = copy_of("llama2")
    with pytest.raises(OptionError, match="same file"):
        convert(folder, folder / "model.safetensors", force=True)


def test_an_error_in_a_late_shard_leaves_no_shard(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("llama2")
    edit_weights(folder, **{"model.norm.weight": NAN})
    with pytest.raises(DataError, match="NaN"):
        convert(folder, tmp_path / "x.gguf", split_max_tensors=1)
    assert [p for p in tmp_path.iterdir() if p != folder] == []


def test_a_failure_to_name_the_last_shard_leaves_no_shard(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, names = os.link, []

    def fail(source: str, target: str) -> None:
        names.append(target)
        if len(names) == 3:
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(FileError, match="Input/output error"):
        convert(unpacked / "llama2", tmp_path / "x.gguf", split_max_tensors=5)
    assert list(tmp_path.iterdir()) == []


def test_stopping_leaves_nothing(unpacked: Path, tmp_path: Path) -> None:
    def stop(progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(unpacked / "llama-wide", tmp_path / "x.gguf", "q4_k_m", pre="llama-bpe", progress=stop)
    assert list(tmp_path.iterdir()) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("gguffast")]


def test_the_command_says_it_in_one_line(
    copy_of: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of("llama2")
    edit_weights(folder, **{Q: None})
    assert main(["convert", str(folder), "--outfile", str(tmp_path / "x.gguf")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"gguffast: error: {folder}: tensor {Q} is missing; is the checkpoint complete?\n"
    assert [p for p in tmp_path.iterdir() if p != folder] == []

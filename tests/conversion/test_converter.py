"""Converted files against the digests of the reference's, and one pass against two steps."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

import gguffast
from gguffast.cli import main
from gguffast.conversion.converter import convert
from gguffast.gguf import GGUFFile
from gguffast.quantizer import quantize
from support.checkpoints import DATA, LLAMA_NAMES, NAMES, PRE, edit_json, read_safetensors
from support.handmade import Raw, write_index, write_safetensors

DIGESTS = json.loads((DATA / "converted.json").read_text())
PROJECTIONS = ("gate", "up", "down")
OUTTYPES = ("f32", "f16", "bf16", "q8_0", "auto")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("outtype", OUTTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_the_references(name: str, outtype: str, unpacked: Path, tmp_path: Path) -> None:
    result = convert(unpacked / name, tmp_path / "out.gguf", outtype, pre=PRE[name])
    assert digest(tmp_path / "out.gguf") == DIGESTS[name][outtype]
    assert result.outputs == (tmp_path / "out.gguf",)
    assert result.size_out == (tmp_path / "out.gguf").stat().st_size


@pytest.mark.parametrize("name", NAMES)
def test_one_pass_equals_two_steps(name: str, unpacked: Path, tmp_path: Path) -> None:
    convert(unpacked / name, tmp_path / "auto.gguf", pre=PRE[name])
    for file_type, threads in (("Q4_K_M", 1), ("Q3_K_M", 4)):
        quantize(tmp_path / "auto.gguf", tmp_path / f"{file_type}-two.gguf", file_type)
        convert(unpacked / name, tmp_path / f"{file_type}.gguf", file_type, pre=PRE[name], threads=threads)
        two_steps = (tmp_path / f"{file_type}-two.gguf").read_bytes()
        assert (tmp_path / f"{file_type}.gguf").read_bytes() == two_steps


def test_weights_are_rounded_as_the_auto_file_would_have_them(unpacked: Path, tmp_path: Path) -> None:
    # F32 weights become F16 in the auto file: quantizing the F32 weights themselves would give other bits.
    source = unpacked / "llama-bin-legacy"
    convert(source, tmp_path / "f32.gguf", "f32")
    quantize(tmp_path / "f32.gguf", tmp_path / "from-f32.gguf", "Q4_0")
    convert(source, tmp_path / "one-pass.gguf", "Q4_0")
    with GGUFFile(tmp_path / "from-f32.gguf") as other, GGUFFile(tmp_path / "one-pass.gguf") as ours:
        differ = [t.name for t in ours.tensors if not np.array_equal(t.data, other.tensors[t.name].data)]
    assert "blk.0.attn_v.weight" in differ


def test_the_number_of_threads_changes_nothing(unpacked: Path, tmp_path: Path) -> None:
    for threads in (1, 4):
        convert(
            unpacked / "llama-wide", tmp_path / f"{threads}.gguf", "f16", pre="llama-bpe", threads=threads
        )
    assert digest(tmp_path / "1.gguf") == digest(tmp_path / "4.gguf")


def test_recipe_options_are_those_of_quantize(unpacked: Path, tmp_path: Path) -> None:
    options = {
        "pure": True,
        "tensor_type": [("attn_v", "q8_0")],
        "override_kv": {"general.quantized_by": "me"},
    }
    convert(unpacked / "llama2", tmp_path / "auto.gguf")
    quantize(tmp_path / "auto.gguf", tmp_path / "two.gguf", "Q5_1", **options)
    convert(unpacked / "llama2", tmp_path / "one.gguf", "Q5_1", **options)
    assert digest(tmp_path / "one.gguf") == digest(tmp_path / "two.gguf")


# --- Several files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [{"split_max_size": "100K"}, {"split_max_tensors": 5}])
def test_shards_hold_the_model(limit: dict[str, int | str], unpacked: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    convert(unpacked / "llama2", whole)
    result = convert(unpacked / "llama2", tmp_path / "m-{ftype}.gguf", **limit)
    count = len(result.outputs)
    assert count > 2
    assert [p.name for p in result.outputs] == [
        f"m-bf16-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1)
    ]
    one = gguf.GGUFReader(whole)
    parts = [gguf.GGUFReader(path) for path in result.outputs]
    tensors = [tensor for part in parts for tensor in part.tensors]
    assert [t.name for t in tensors] == [t.name for t in one.tensors]
    assert all(np.array_equal(a.data, b.data) for a, b in zip(tensors, one.tensors, strict=True))
    for i, part in enumerate(parts):
        keys = [key for key in part.fields if not key.startswith("GGUF.")]
        assert keys[-3:] == ["split.no", "split.count", "split.tensors.count"]
        assert len(keys) == 3 or i == 0
        assert (
            part.fields["split.no"].types == part.fields["split.count"].types == [gguf.GGUFValueType.UINT16]
        )
        assert part.fields["split.tensors.count"].types == [gguf.GGUFValueType.INT32]
        assert [part.fields[key].contents() for key in keys[-3:]] == [i, count, len(tensors)]
    if "split_max_size" in limit:
        assert all(sum(t.n_bytes for t in p.tensors) <= 100_000 for p in parts)
    else:
        assert [len(p.tensors) for p in parts] == [5, 5, 5, 5, 1]
    # The shards are a model that `quantize` reads.
    quantize(result.outputs[0], tmp_path / "a.gguf", "Q8_0")
    quantize(whole, tmp_path / "b.gguf", "Q8_0")
    assert digest(tmp_path / "a.gguf") == digest(tmp_path / "b.gguf")


def test_a_tensor_larger_than_the_limit_has_a_shard_of_its_own(unpacked: Path, tmp_path: Path) -> None:
    result = convert(unpacked / "llama2", tmp_path / "m.gguf", split_max_size=1)
    assert len(result.outputs) == result.n_tensors


def test_a_limit_that_is_not_reached_gives_the_usual_file(unpacked: Path, tmp_path: Path) -> None:
    result = convert(unpacked / "llama2", tmp_path / "m.gguf", split_max_size="1G")
    assert result.outputs == (tmp_path / "m.gguf",)
    assert digest(tmp_path / "m.gguf") == DIGESTS["llama2"]["auto"]


# --- Names and kinds of output -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outtype", "name"),
    [
        ("auto", "Gemma2-112K-BF16.gguf"),
        ("q8_0", "Gemma2-112K-Q8_0.gguf"),
        ("q4_k_m", "Gemma2-112K-Q4_K_M.gguf"),
    ],
)
def test_a_file_is_named_by_the_gguf_naming_convention(
    outtype: str, name: str, unpacked: Path, tmp_path: Path
) -> None:
    assert convert(unpacked / "gemma2", tmp_path, outtype, dry_run=True).dst == tmp_path / name
    assert convert(unpacked / "gemma2", None, outtype, dry_run=True).dst == unpacked / "gemma2" / name


def test_a_file_has_a_name_where_the_configurations_is_empty(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("gemma2")
    edit_json(folder / "config.json", _name_or_path="")
    assert convert(folder, None, "f16", dry_run=True).dst.name == "ggml-model-112K-F16.gguf"


@pytest.mark.parametrize(
    ("template", "name"),
    [("a-{ftype}.gguf", "a-bf16.gguf"), ("{OUTTYPE}.gguf", "BF16.gguf"), ("x.gguf", "x.gguf")],
)
def test_the_type_can_stand_in_the_outputs_name(
    template: str, name: str, unpacked: Path, tmp_path: Path
) -> None:
    assert convert(unpacked / "gemma2", tmp_path / template, dry_run=True).dst == tmp_path / name


@pytest.mark.parametrize("name", ["a{1}b", "{ftype}", "{", "{ftype:99999999999}"])
def test_braces_of_folders_and_of_what_is_there_are_only_names(
    name: str, unpacked: Path, tmp_path: Path
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for dst, expected in ((folder, "Gemma2-112K-BF16.gguf"), (folder / "{ftype}.gguf", "bf16.gguf")):
        assert convert(unpacked / "gemma2", dst, dry_run=True).dst == folder / expected
    (folder / "x{1}.gguf").touch()
    assert convert(unpacked / "gemma2", folder / "x{1}.gguf", dry_run=True).dst == folder / "x{1}.gguf"


def test_a_dry_run_writes_nothing(unpacked: Path, tmp_path: Path) -> None:
    before = sorted((unpacked / "gemma2").iterdir())
    result = convert(unpacked / "gemma2", tmp_path / "x.gguf", "q4_k_m", dry_run=True)
    assert result.dry_run
    assert list(tmp_path.iterdir()) == []
    assert sorted((unpacked / "gemma2").iterdir()) == before


def test_a_vocabulary_alone(unpacked: Path, tmp_path: Path) -> None:
    result = convert(unpacked / "llama3", tmp_path, vocab_only=True, pre="llama-bpe")
    assert result.dst == tmp_path / "Llama3-vocab.gguf"
    convert(unpacked / "llama3", tmp_path / "whole.gguf", pre="llama-bpe")
    with GGUFFile(result.dst) as vocabulary, GGUFFile(tmp_path / "whole.gguf") as whole:
        assert len(vocabulary.tensors) == 0
        assert [kv for kv in whole.kvs if kv.key != "general.size_label"] == vocabulary.kvs


# --- Other tensors than the fixtures have ---------------------------------------------------------------


# --- Other tensors than the fixtures have --------------------------------------------------------------


def test_experts_may_be_stacked_already(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = copy_of("qwen3moe")
    convert(source, tmp_path / "apart.gguf", pre="qwen2")
    weights = read_safetensors(source / "model.safetensors")
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            [weights.pop(f"{prefix}.{e}.{p}_proj.weight") for e in range(4)] for p in PROJECTIONS
        )
        both = b"".join(g.data + u.data for g, u in zip(gate, up, strict=True))
        weights[f"{prefix}.gate_up_proj"] = Raw("BF16", (4, 64, 64), both)
        weights[f"{prefix}.down_proj"] = Raw("BF16", (4, 64, 32), b"".join(d.data for d in down))
    write_safetensors(source / "model.safetensors", weights)
    convert(source, tmp_path / "stacked.gguf", pre="qwen2")
    with GGUFFile(tmp_path / "apart.gguf") as one, GGUFFile(tmp_path / "stacked.gguf") as other:
        assert sorted(t.name for t in one.tensors) == sorted(t.name for t in other.tensors)
        assert all(np.array_equal(t.data, other.tensors[t.name].data) for t in one.tensors)


def test_experts_and_layers_are_ordered_by_number_across_shards(
    copy_of: Callable[[str], Path], tmp_path: Path
) -> None:
    # Names sort as strings and shards cut between experts: the stack is in the experts' order all the same.
    source = copy_of("mixtral")
    convert(source, tmp_path / "one.gguf")
    weights = read_safetensors(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"model-1.safetensors": names[1::2], "model-2.safetensors": names[::2]}
    for part, chosen in parts.items():
        write_safetensors(source / part, {name: weights[name] for name in chosen})
    write_index(
        source / "model.safetensors.index.json",
        {name: part for part, chosen in parts.items() for name in chosen},
    )
    convert(source, tmp_path / "two.gguf")
    with GGUFFile(tmp_path / "one.gguf") as one, GGUFFile(tmp_path / "two.gguf") as other:
        assert [t.name for t in one.tensors] != [t.name for t in other.tensors]
        assert all(np.array_equal(t.data, other.tensors[t.name].data) for t in one.tensors)


def test_a_multimodal_models_text_part(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = copy_of("gemma3")
    convert(source, tmp_path / "text.gguf", model_name="m")
    weights = read_safetensors(source / "model.safetensors")
    moved = {name.replace("model.", "language_model.model.", 1): value for name, value in weights.items()}
    moved["vision_tower.vision_model.embeddings.position_embedding.weight"] = Raw("F32", (1, 1), bytes(4))
    moved["multi_modal_projector.mm_soft_emb_norm.weight"] = Raw("F32", (1,), bytes(4))
    # Rows for image tokens, which the tokenizer does not have.
    embedding = moved["language_model.model.embed_tokens.weight"]
    longer = Raw("BF16", (464, 64), embedding.data + bytes(2 * 64 * 64))
    moved["language_model.model.embed_tokens.weight"] = longer
    write_safetensors(source / "model.safetensors", moved)
    config = json.loads((source / "config.json").read_text())
    del config["architectures"]
    outer = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {**config, "vocab_size": 464},
    }
    (source / "config.json").write_text(json.dumps(outer))
    convert(source, tmp_path / "part.gguf", model_name="m")
    with GGUFFile(tmp_path / "text.gguf") as one, GGUFFile(tmp_path / "part.gguf") as other:
        assert {t.name: t.data.tobytes() for t in one.tensors}.items() <= {
            t.name: t.data.tobytes() for t in other.tensors if t.name != "token_embd.weight"
        }.items() | {("token_embd.weight", one.tensors["token_embd.weight"].data.tobytes())}
        rows = other.tensors["token_embd.weight"].ne[1]
        assert rows == len(other.metadata["tokenizer.ggml.tokens"])


def test_long_context_factors_of_phi3(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = copy_of("phi3")
    config = json.loads((source / "config.json").read_text())
    config["max_position_embeddings"] = 4096
    config["rope_scaling"] = {"type": "su", "long_factor": [1.5] * 8, "short_factor": [1, 1.25] * 4}
    (source / "config.json").write_text(json.dumps(config))
    convert(source, tmp_path / "out.gguf")
    with GGUFFile(tmp_path / "out.gguf") as file:
        keys = [kv.key for kv in file.kvs]
        # The reference adds this key while it makes the tensors: before all others but the architecture.
        assert keys[:3] == ["general.architecture", "phi3.rope.scaling.attn_factor", "general.type"]
        expected = np.float32(math.sqrt(1 + math.log(8) / math.log(512)))
        assert file.metadata["phi3.rope.scaling.attn_factor"] == expected
        assert [t.name for t in file.tensors][:2] == ["rope_factors_long.weight", "rope_factors_short.weight"]
        assert file.tensors["rope_factors_short.weight"].data.tolist() == [1, 1.25] * 4


def test_norms_of_an_f16_gemma_are_added_to_in_f16(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = copy_of("gemma")
    weights = read_safetensors(source / "model.safetensors")
    name = "model.norm.weight"
    values = np.linspace(-0.003, 0.003, 64).astype(np.float16)
    weights[name] = Raw("F16", (64,), values.tobytes())
    write_safetensors(source / "model.safetensors", weights)
    convert(source, tmp_path / "out.gguf")
    with GGUFFile(tmp_path / "out.gguf") as file:
        found = file.tensors["output_norm.weight"].data
    assert found.tolist() == (values + np.float16(1)).astype(np.float32).tolist()
    assert found.tolist() != (values.astype(np.float32) + 1).tolist()


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_bitsandbytes_weights_become_what_bitsandbytes_makes_of_them(
    method: str, copy_of: Callable[[str], Path], tmp_path: Path
) -> None:
    source = copy_of("llama-wide")
    plain = {
        name: raw for part in source.glob("*.safetensors") for name, raw in read_safetensors(part).items()
    }
    for part in source.glob("*.safetensors*"):
        part.unlink()
    stored = read_safetensors(DATA / "bitsandbytes" / f"{method}.safetensors")
    layer = {name: raw for name, raw in stored.items() if name.startswith("model.layers.0.")}
    write_safetensors(source / "model.safetensors", {**plain, **layer})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": method == "nf4"}
    (source / "config.json").write_text(json.dumps(config))
    convert(source, tmp_path / "f32.gguf", "f32", pre="llama-bpe")
    expected = json.loads((DATA / "checkpoint_digests.json").read_text())[method]
    with GGUFFile(tmp_path / "f32.gguf") as file:
        found = {
            f"model.layers.0.{LLAMA_NAMES[t.name.split('.')[2]]}.weight": hashlib.sha256(
                t.data.tobytes()
            ).hexdigest()
            for t in file.tensors
            if t.name.startswith("blk.0.")
        }
    of_layer = {name: value for name, value in expected.items() if name.startswith("model.layers.0.")}
    assert len(of_layer) >= 5
    assert of_layer.items() <= found.items()
    # BF16 weights, dequantized to BF16: what the auto file holds, and quantization starts from.
    assert convert(source, tmp_path / "x.gguf", pre="llama-bpe", dry_run=True).file_type == "BF16"


# --- The command ----------------------------------------------------------------------------------------


def test_the_command(unpacked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = str(unpacked / "gemma2"), tmp_path / "g-{ftype}.gguf"
    options = [
        "--outfile",
        str(output),
        "--outtype",
        "q4_k_m",
        "--json",
        "--threads",
        "1",
        "--model-name",
        "G",
    ]
    assert main(["convert", source, *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["dst"] == str(tmp_path / "g-q4_k_m.gguf")
    assert said["file_type"] == "Q4_K_M"
    with GGUFFile(said["dst"]) as file:
        assert file.metadata["general.name"] == "G"
    assert main(["convert", source, *options]) == 1
    assert "already exists" in capsys.readouterr().err
    assert main(["convert", source, *options, "--force", "--split-max-tensors", "20", "--quiet"]) == 0
    assert len(json.loads(capsys.readouterr().out)["outputs"]) == 2


def test_the_commands_summary(unpacked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(unpacked / "gemma2"), "--outfile", str(tmp_path), "--outtype", "q8_0"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == str(tmp_path / "Gemma2-112K-Q8_0.gguf")
    assert main(["convert", str(unpacked / "gemma2"), "--outfile", str(tmp_path), "--vocab-only"]) == 0
    assert "Gemma2-vocab.gguf" in capsys.readouterr().out


def test_the_public_name() -> None:
    assert gguffast.convert is convert

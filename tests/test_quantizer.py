"""Whole files against what llama-quantize wrote, and what quantize() does with odd requests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

import gguffast
from gguffast.errors import DataError, FileError, FormatError, OptionError
from gguffast.gguf import GGUFFile, GGUFValueType, kv, serialize_header
from gguffast.quantizer import default_output, quantize
from support import gguf_bytes
from support.checkpoints import DATA
from support.gguf_files import GGUF

WIDE = GGUF / "llama-wide-f16.gguf"  # every row a multiple of 256
GEMMA = GGUF / "gemma2-f32.gguf"  # rows of 64: fallbacks everywhere

# The options that the digests' `args` stand for.
OPTIONS = {
    "": {},
    "--pure": {"pure": True},
    "--allow-requantize": {"allow_requantize": True},
    "--leave-output-tensor --token-embedding-type q8_0": {
        "leave_output_tensor": True,
        "token_embedding_type": "q8_0",
    },
    "--tensor-type attn_v=q8_0 --tensor-type ffn_(up|gate)=q5_k --output-tensor-type q4_k": {
        "tensor_type": [("attn_v", "q8_0"), ("ffn_(up|gate)", "q5_k")],
        "output_tensor_type": "q4_k",
    },
}


def digests(*names):
    """What the reference made: input, type, options, and the output's sha256 or None for an error."""
    found = []
    for name in names:
        document = json.loads((DATA / "quantized" / f"{name}.json").read_text())
        options = dict(OPTIONS[document["args"]])
        if document["imatrix"]:
            options["imatrix"] = f"smollm2.imatrix.{'dat' if name.endswith('dat') else 'gguf'}"
        for source in filter(lambda key: key.endswith(".gguf"), document):
            for ftype, made in document[source].items():
                if ftype != "input_sha256":
                    case = (source, ftype, options, made.get("file_sha256"))
                    found.append(pytest.param(*case, id=f"{name}-{source.split('-')[0]}-{ftype}"))
    return found


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(source, ftype, options, sha, out, threads):
    if sha is None:
        with pytest.raises(DataError, match="needs an importance matrix"):
            quantize(source, out, ftype, threads=threads, **options)
        assert not out.exists()
    else:
        quantize(source, out, ftype, threads=threads, **options)
        assert sha256(out) == sha
        out.unlink()


SMALL = ("plain", "pure", "leave-output", "tensor-type")


@pytest.mark.parametrize(("source", "ftype", "options", "sha"), digests(*SMALL))
def test_file_equals_the_reference(tmp_path, target, source, ftype, options, sha):
    check_digest(GGUF / source, ftype, options, sha, tmp_path / "out.gguf", threads=1)


@pytest.mark.parametrize(("source", "ftype", "options", "sha"), digests("plain"))
def test_file_equals_the_reference_for_four_threads(tmp_path, source, ftype, options, sha):
    check_digest(GGUF / source, ftype, options, sha, tmp_path / "out.gguf", threads=4)


@pytest.mark.parametrize(("source", "ftype", "options", "sha"), digests("requantize"))
def test_real_model_requantized_equals_the_reference(tmp_path, real_model, source, ftype, options, sha):
    assert real_model.name == source
    check_digest(real_model, ftype, options, sha, tmp_path / "out.gguf", threads=2)


@pytest.mark.parametrize(("source", "ftype", "options", "sha"), digests("smollm2"))
def test_real_model_equals_the_reference(tmp_path, real_model_f16, source, ftype, options, sha):
    assert real_model_f16.name == source
    check_digest(real_model_f16, ftype, options, sha, tmp_path / "out.gguf", threads=2)


@pytest.mark.parametrize(
    ("source", "ftype", "options", "sha"), digests("smollm2-imatrix", "smollm2-imatrix-dat")
)
def test_real_model_with_imatrix_equals_the_reference(
    tmp_path, monkeypatch, real_model_f16, source, ftype, options, sha
):
    monkeypatch.chdir(GGUF)  # the matrix's path is stored as it is given
    check_digest(real_model_f16, ftype, options, sha, tmp_path / "out.gguf", threads=2)


# ---- what is reported ------------------------------------------------------------------------------------


def test_result(tmp_path):
    result = quantize(GEMMA, tmp_path / "out.gguf", "q4_k_m", threads=2)
    before, after = gguf.GGUFReader(GEMMA), gguf.GGUFReader(tmp_path / "out.gguf")
    assert result.src == GEMMA
    assert result.dst == tmp_path / "out.gguf"
    assert result.file_type == "Q4_K_M"
    assert (result.size_in, result.size_out) == (GEMMA.stat().st_size, result.dst.stat().st_size)
    assert result.n_tensors == len(before.tensors)
    assert result.n_weights == sum(int(t.n_elements) for t in before.tensors)
    assert result.tensor_bytes_in == sum(int(t.n_bytes) for t in before.tensors)
    assert result.tensor_bytes_out == sum(int(t.n_bytes) for t in after.tensors)
    assert result.bpw_in == 32
    assert result.bpw_out == pytest.approx(8 * result.tensor_bytes_out / result.n_weights)
    assert {name: share.tensors for name, share in result.types.items()} == {
        name: sum(t.tensor_type.name == name for t in after.tensors) for name in result.types
    }
    assert {f.tensor: f.type.name for f in result.fallbacks}.items() <= {
        t.name: t.tensor_type.name for t in after.tensors
    }.items()
    assert {f.wanted.name for f in result.fallbacks} == {"Q4_K", "Q6_K"}
    assert (result.n_requantized, result.imatrix_used, result.imatrix_missing) == (0, 0, ())
    assert result.threads == 2
    assert result.weights_per_second == result.n_weights / result.seconds


def test_imatrix_entries_are_counted(real_model):
    matrix = GGUF / "smollm2.imatrix.gguf"
    options = {"imatrix": matrix, "allow_requantize": True, "dry_run": True}
    result = quantize(real_model, None, "q6_k", **options)
    assert (result.n_requantized, result.imatrix_used, result.imatrix_missing) == (210, 210, ())
    result = quantize(real_model, None, "q6_k", **options, token_embedding_type="q5_0")
    assert (result.n_requantized, result.imatrix_used, result.imatrix_missing) == (
        211,
        210,
        ("token_embd.weight",),
    )


def test_dry_run_tells_the_size_and_writes_nothing(tmp_path):
    source = tmp_path / "model-F16.gguf"
    shutil.copy(WIDE, source)
    planned = quantize(source, None, "Q4_K_M", dry_run=True)
    assert os.listdir(tmp_path) == ["model-F16.gguf"]
    assert planned.dry_run
    done = quantize(source, None, "Q4_K_M")
    assert done.dst == tmp_path / "model-Q4_K_M.gguf"
    assert (planned.dst, planned.size_out, planned.types) == (done.dst, done.size_out, done.types)
    assert done.dst.stat().st_size == done.size_out


@pytest.mark.parametrize(
    ("source", "ftype", "expected"),
    [
        ("Qwen2-0.5B-F16.gguf", "Q4_K_M", "Qwen2-0.5B-Q4_K_M.gguf"),
        ("Qwen2-0.5B-BF16.gguf", "IQ4_XS", "Qwen2-0.5B-IQ4_XS.gguf"),
        ("qwen2-0_5b-instruct-fp16.gguf", "Q4_K_M", "qwen2-0_5b-instruct-q4_k_m.gguf"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "F16", "SmolLM2-135M-Instruct.F16.gguf"),
        ("ggml-model-f32.gguf", "Q8_0", "ggml-model-q8_0.gguf"),
        ("gemma-2b-it-IQ2_XXS.gguf", "F16", "gemma-2b-it-F16.gguf"),
        ("gpt-oss-20b-MXFP4_MOE.gguf", "F16", "gpt-oss-20b-F16.gguf"),
        ("Qwen2-0.5B.gguf", "Q4_K_M", "Qwen2-0.5B-Q4_K_M.gguf"),
        ("model.gguf", "Q4_K_M", "model-Q4_K_M.gguf"),
        ("f16.gguf", "Q4_K_M", "f16-Q4_K_M.gguf"),
        ("model-F16.GGUF", "Q4_K_M", "model-Q4_K_M.gguf"),
        ("blob", "Q4_K_M", "blob-Q4_K_M.gguf"),
        ("Grok-F16-00001-of-00003.gguf", "Q2_K", "Grok-Q2_K.gguf"),
        ("Qwen2-0.5B-F16.gguf", "COPY", "Qwen2-0.5B-F16-COPY.gguf"),
    ],
)
def test_default_output(source, ftype, expected):
    assert default_output(Path("models") / source, ftype) == Path("models") / expected


# ---- requests --------------------------------------------------------------------------------------------


def test_file_type_by_number_and_by_name_in_any_case(tmp_path):
    files = []
    for i, ftype in enumerate(["Q4_K_M", "q4_k", 15, "15", gguffast.LlamaFileType.MOSTLY_Q4_K_M]):
        files.append(quantize(GEMMA, tmp_path / f"{i}.gguf", ftype).dst.read_bytes())
    assert len(set(files)) == 1


def test_types_as_enum_members(tmp_path):
    types = gguffast.GGMLQuantizationType
    quantize(
        WIDE,
        tmp_path / "out.gguf",
        "Q4_K_M",
        output_tensor_type=types.Q8_0,
        tensor_type=[("attn_v", types.Q5_0)],
    )
    got = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    assert got["output.weight"] == "Q8_0"
    assert got["blk.1.attn_v.weight"] == "Q5_0"


def test_metadata_is_kept_and_overridden(tmp_path):
    overrides = {"general.name": "Übung", "llama.context_length": 7, "own.flag": True, "own.share": 0.5}
    quantize(WIDE, tmp_path / "out.gguf", "Q8_0", override_kv=overrides)
    with GGUFFile(WIDE) as before, GGUFFile(tmp_path / "out.gguf") as after:
        for key, value in overrides.items():
            assert after.metadata[key] == value
        assert list(after.metadata)[-4:] == list(overrides)
        changed = {*overrides, "general.file_type", "general.quantization_version"}
        for pair in before.kvs:
            if pair.key not in changed:
                assert after.metadata.raw(pair.key) == pair


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_must_be_positive(threads):
    with pytest.raises(OptionError, match=f"`threads` must be at least 1, found {threads}"):
        quantize(WIDE, None, "Q8_0", threads=threads, dry_run=True)


def test_include_and_exclude_weights(tmp_path, real_model):
    def used(**options):
        result = quantize(
            real_model,
            None,
            "q5_0",
            imatrix=GGUF / "smollm2.imatrix.gguf",
            allow_requantize=True,
            dry_run=True,
            **options,
        )
        return result.imatrix_used

    assert used() == 210
    assert used(include_weights=["attn_v", "ffn_down"]) == 60
    assert used(exclude_weights=["attn_v"]) == 180
    with pytest.raises(OptionError, match="cannot be used together"):
        used(include_weights=["a"], exclude_weights=["b"])


def test_weights_to_include_need_a_matrix():
    with pytest.raises(OptionError, match="need an importance matrix"):
        quantize(WIDE, None, "Q8_0", include_weights=["attn"], dry_run=True)


def test_requantizing_must_be_allowed(tmp_path):
    quantize(WIDE, tmp_path / "q8.gguf", "Q8_0")
    with pytest.raises(DataError, match=r"quantized already .*`allow_requantize=True`"):
        quantize(tmp_path / "q8.gguf", tmp_path / "out.gguf", "Q4_0")
    assert not (tmp_path / "out.gguf").exists()
    quantize(tmp_path / "q8.gguf", tmp_path / "out.gguf", "Q8_0")
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "q8.gguf").read_bytes()


def test_matrix_of_another_model(tmp_path):
    with pytest.raises(DataError, match=r"smollm2\.imatrix\.gguf: .*another model"):
        quantize(WIDE, tmp_path / "out.gguf", "Q4_K_M", imatrix=GGUF / "smollm2.imatrix.gguf")
    assert not (tmp_path / "out.gguf").exists()


def plant(path, tensor, index, value):
    """Overwrite one weight of an F16 or F32 tensor."""
    with GGUFFile(path) as file:
        info = file.tensors[tensor]
        offset, dtype = info.offset + index * info.data.itemsize, info.data.dtype
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(np.array(value, dtype).tobytes())


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tensor", ["blk.1.ffn_down.weight", "output_norm.weight"])
def test_nan_is_refused(tmp_path, threads, value, tensor):
    source = tmp_path / "in.gguf"
    shutil.copyfile(WIDE, source)
    with GGUFFile(source) as file:
        row, columns = min(5, file.tensors[tensor].n_rows - 1), file.tensors[tensor].ne[0]
    plant(source, tensor, row * columns + 3, value)
    with pytest.raises(DataError, match=rf"^tensor '{tensor}', row {row}: NaN or infinity"):
        quantize(source, tmp_path / "out.gguf", "Q4_K_M", threads=threads)
    assert os.listdir(tmp_path) == ["in.gguf"]


def test_file_cut_short_while_it_is_read(tmp_path):
    source = tmp_path / "in.gguf"
    shutil.copyfile(WIDE, source)

    def cut(progress):
        os.truncate(source, source.stat().st_size // 2)

    with pytest.raises(FormatError, match=r"in\.gguf: ends inside tensor '.*'; it was cut short"):
        quantize(source, tmp_path / "out.gguf", "Q8_0", progress=cut)
    assert os.listdir(tmp_path) == ["in.gguf"]


def test_existing_output_stands_until_the_new_one_is_complete(tmp_path):
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    with pytest.raises(FileError, match="already exists"):
        quantize(GEMMA, out, "Q8_0")

    def stop(progress):
        assert out.read_bytes() == b"old"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        quantize(GEMMA, out, "Q8_0", force=True, progress=stop)
    assert out.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.gguf"]
    quantize(GEMMA, out, "Q8_0", force=True)
    assert out.read_bytes()[:4] == b"GGUF"


# ---- layouts that llama-quantize does not write ----------------------------------------------------------


@pytest.mark.parametrize("alignment", [8, 64, 256, 4096])
def test_alignment_of_the_input_is_kept(tmp_path, alignment):
    with GGUFFile(GEMMA) as file:
        pairs = [*file.kvs, kv("general.alignment", alignment, GGUFValueType.UINT32)]
        write_gguf(tmp_path / "in.gguf", pairs, file.tensors, alignment)
    quantize(tmp_path / "in.gguf", tmp_path / "out.gguf", "Q4_0")
    quantize(GEMMA, tmp_path / "expected.gguf", "Q4_0")
    got, expected = gguf.GGUFReader(tmp_path / "out.gguf"), gguf.GGUFReader(tmp_path / "expected.gguf")
    assert got.alignment == alignment
    assert [t.name for t in got.tensors] == [t.name for t in expected.tensors]
    for ours, theirs in zip(got.tensors, expected.tensors, strict=True):
        assert ours.data_offset % alignment == 0
        np.testing.assert_array_equal(ours.data, theirs.data)


def write_gguf(path, pairs, tensors, alignment=32):
    infos, data = [], b""
    for tensor in tensors:
        infos.append((tensor.name, tensor.ne, tensor.type, len(data)))
        data += tensor.data.tobytes()
        data += bytes(-len(data) % alignment)
    path.write_bytes(serialize_header(pairs, infos, alignment) + data)


def write_shards(folder, count):
    """llama-wide in several files, as gguf-split makes them."""
    with GGUFFile(WIDE) as file:
        n = len(file.tensors)
        for i in range(count):
            split = [
                kv("split.no", i, GGUFValueType.UINT16),
                kv("split.count", count, GGUFValueType.UINT16),
                kv("split.tensors.count", n, GGUFValueType.INT32),
            ]
            part = list(file.tensors)[n * i // count : n * (i + 1) // count]
            path = folder / f"wide-F16-{i + 1:05}-of-{count:05}.gguf"
            write_gguf(path, [*(file.kvs if i == 0 else []), *split], part)
    return sorted(folder.glob("wide-*"))


def test_shards_become_one_file(tmp_path):
    shards = write_shards(tmp_path, 3)
    result = quantize(shards[0], None, "Q4_K_M")
    assert result.dst == tmp_path / "wide-Q4_K_M.gguf"
    assert result.size_in == sum(path.stat().st_size for path in shards)
    quantize(WIDE, tmp_path / "expected.gguf", "Q4_K_M")
    assert sha256(result.dst) == sha256(tmp_path / "expected.gguf")


def test_second_shard_is_not_the_model(tmp_path):
    shards = write_shards(tmp_path, 3)
    with pytest.raises(
        FormatError, match=r"not the first of 3 shards; give the first one, wide-F16-00001-of"
    ):
        quantize(shards[1], None, "Q4_K_M")


def test_shard_is_missing(tmp_path):
    shards = write_shards(tmp_path, 3)
    shards[2].unlink()
    with pytest.raises(FileError, match="wide-F16-00003-of-00003"):
        quantize(shards[0], None, "Q4_K_M")


def test_shards_in_the_wrong_order(tmp_path):
    shards = write_shards(tmp_path, 3)
    shards[1].rename(tmp_path / "x")
    shards[2].rename(shards[1])
    (tmp_path / "x").rename(shards[2])
    with pytest.raises(FormatError, match=r"split\.no is 2, expected 1"):
        quantize(shards[0], None, "Q4_K_M")


def test_shard_under_another_name(tmp_path):
    shards = write_shards(tmp_path, 2)
    shards[0].rename(tmp_path / "model.gguf")
    with pytest.raises(FormatError, match=r"one of 2 shards, .* give all shards their names back"):
        quantize(tmp_path / "model.gguf", None, "Q4_K_M")


def test_shard_of_another_model(tmp_path):
    shards = write_shards(tmp_path, 2)
    split = [kv("split.no", 1, GGUFValueType.UINT16), kv("split.count", 2, GGUFValueType.UINT16)]
    with GGUFFile(WIDE) as file:
        write_gguf(shards[1], split, [file.tensors["token_embd.weight"]])
    with pytest.raises(FormatError, match="they belong to different models"):
        quantize(shards[0], None, "Q4_K_M")


def test_output_may_not_be_any_shard(tmp_path):
    shards = write_shards(tmp_path, 2)
    before = shards[1].read_bytes()
    with pytest.raises(OptionError, match="the same file"):
        quantize(shards[0], shards[1], "Q4_K_M", force=True)
    assert shards[1].read_bytes() == before


def test_no_tensors(tmp_path):
    pairs = [gguf_bytes.text("general.architecture", "llama"), gguf_bytes.scalar("llama.block_count", 4, 1)]
    (tmp_path / "vocab.gguf").write_bytes(gguf_bytes.with_data(gguf_bytes.header(pairs), 0))
    result = quantize(tmp_path / "vocab.gguf", None, "Q4_K_M")
    assert (result.n_weights, result.bpw_out) == (0, 0)
    with GGUFFile(result.dst) as file:
        assert len(file.tensors) == 0
        assert file.metadata["general.file_type"] == 15


# ---- memory ----------------------------------------------------------------------------------------------

RUN = "import sys, gguffast; gguffast.quantize(sys.argv[1], sys.argv[2], 'Q4_0', threads=int(sys.argv[3]))"


def peak_memory(source, out, threads):
    """Bytes that a process needed at most to quantize."""
    process = subprocess.Popen([sys.executable, "-c", RUN, source, out, str(threads)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    out.unlink()
    return usage.ru_maxrss * 1024


def sparse_model(path, rows, columns):
    """A model of one F32 tensor of zeros that takes no disk."""
    info = gguf_bytes.tensor("blk.0.ffn_up.weight", (columns, rows))
    pairs = [gguf_bytes.text("general.architecture", "llama"), gguf_bytes.scalar("llama.block_count", 4, 1)]
    head = gguf_bytes.with_data(gguf_bytes.header(pairs, [info]), 0)
    path.write_bytes(head)
    os.truncate(path, len(head) + struct.calcsize("f") * rows * columns)


@pytest.mark.parametrize("threads", [1, 4])
def test_memory_does_not_grow_with_the_model(tmp_path, threads):
    source, out = tmp_path / "in.gguf", tmp_path / "out.gguf"
    sparse_model(source, 1, 32)
    base = peak_memory(source, out, threads)
    sparse_model(source, 24 * 1024, 4096)  # 384 MiB
    assert peak_memory(source, out, threads) - base < threads * 32 * 2**20

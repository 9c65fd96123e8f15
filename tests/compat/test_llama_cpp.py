"""llama.cpp's C function over our engine: every field of its parameters, and what it returns."""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

import gguffast
from gguffast.compat import llama_cpp
from gguffast.compat.llama_quantize import main
from support.gguf_files import GGUF

PLAIN = json.loads((Path(__file__).parents[1] / "data" / "quantized" / "plain.json").read_text())
WIDE = GGUF / "llama-wide-f16.gguf"
Q4_K_M = 15


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def call(tmp_path, capfd):
    """Quantize, by parameters that differ from the default ones; give the output."""

    def called(out="out.gguf", src=WIDE, code=0, **fields):
        params = llama_cpp.llama_model_quantize_default_params()
        for name, value in fields.items():
            setattr(params, name, value)
        path = tmp_path / out
        reference = ctypes.byref(params)
        assert llama_cpp.llama_model_quantize(bytes(src), bytes(path), reference) == code
        out, err = capfd.readouterr()
        assert out == ""
        assert len(err.splitlines()) == code
        return err if code else path

    return called


@pytest.fixture
def quantized(tmp_path, capfd):
    """What the program makes of the same request; other tests hold it to llama.cpp's bytes."""

    def made(*args):
        out = tmp_path / "expected.gguf"
        assert main(["llama-quantize", *args[:-1], str(WIDE), str(out), args[-1]]) == 0
        capfd.readouterr()
        return sha256(out)

    return made


def test_the_size_of_the_struct():
    """As the C compiler lays it out."""
    assert ctypes.sizeof(llama_cpp.llama_model_quantize_params) == 64
    assert ctypes.sizeof(llama_cpp.llama_model_kv_override) == 264
    assert ctypes.sizeof(llama_cpp.llama_model_imatrix_data) == 24


def test_the_default(call):
    assert sha256(call()) == PLAIN[WIDE.name]["Q8_0"]["file_sha256"]


def test_a_file_type_and_threads(call):
    assert sha256(call(ftype=Q4_K_M, nthread=1)) == PLAIN[WIDE.name]["Q4_K_M"]["file_sha256"]


def test_a_struct_of_its_own_a_pointer_and_paths(tmp_path):
    params = llama_cpp.llama_model_quantize_default_params()
    for given in (params, ctypes.pointer(params)):
        assert llama_cpp.llama_model_quantize(WIDE, tmp_path / "out.gguf", given) == 0
        assert sha256(tmp_path / "out.gguf") == PLAIN[WIDE.name]["Q8_0"]["file_sha256"]


@pytest.mark.parametrize(
    ("fields", "args"),
    [
        ({"pure": True}, ["--pure"]),
        ({"quantize_output_tensor": False}, ["--leave-output-tensor"]),
        (
            {"output_tensor_type": 8, "token_embedding_type": 1},
            ["--output-tensor-type", "q8_0", "--token-embedding-type", "f16"],
        ),
        ({"prune_layers": (ctypes.c_int32 * 2)(1, -1)}, ["--prune-layers", "1"]),
        (
            {
                "tt_overrides": (llama_cpp.llama_model_tensor_override * 3)(
                    (b"attn_v", 8), (b"ffn_(up|gate)", 14), (None, 0)
                )
            },
            ["--tensor-type", "attn_v=q8_0", "--tensor-type", "ffn_(up|gate)=q6_k"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_fields(call, quantized, fields, args):
    assert sha256(call(ftype=Q4_K_M, **fields)) == quantized(*args, "Q4_K_M")


def test_overrides_of_metadata(call, quantized):
    kinds = llama_cpp.llama_model_kv_override
    overrides = (kinds * 5)(*(kinds(tag, key) for tag, key in enumerate((b"a.i", b"a.f", b"a.b", b"a.s"))))
    overrides[0].value.val_i64 = 7
    overrides[1].value.val_f64 = 0.5
    overrides[2].value.val_bool = True
    overrides[3].value.val_str = b"seven"
    args = [f"--override-kv a.{text}" for text in ("i=int:7", "f=float:0.5", "b=bool:true", "s=str:seven")]
    expected = quantized(*" ".join(args).split(), "Q4_K_M")
    assert sha256(call(ftype=Q4_K_M, kv_overrides=overrides)) == expected


def test_an_importance_matrix(call, tmp_path):
    rng = np.random.default_rng(3)
    with gguffast.GGUFFile(WIDE) as file:
        names = {t.name: t.ne[0] for t in file.tensors if len(t.ne) > 1}
    entries = {name: rng.exponential(size=n).astype(np.float32) for name, n in names.items()}
    kind = llama_cpp.llama_model_imatrix_data
    pointer = ctypes.POINTER(ctypes.c_float)
    matrix = (kind * (len(entries) + 1))(
        *(kind(name.encode(), x.ctypes.data_as(pointer), x.size) for name, x in entries.items())
    )
    out = call(ftype=Q4_K_M, imatrix=matrix, pure=True)
    with gguffast.GGUFFile(out) as file, gguffast.GGUFFile(WIDE) as source:
        assert not [key for key in file.metadata if "imatrix" in key]
        tensor = file.tensors["blk.0.ffn_up.weight"]
        weights = source.tensors[tensor.name].data.astype(np.float32)
        expected = gguffast.quants.quantize(weights, tensor.type, entries[tensor.name])
        np.testing.assert_array_equal(tensor.data, expected)
    entries["blk.0.ffn_up.weight"][3] = np.nan
    assert "blk.0.ffn_up.weight holds NaN" in call(code=1, ftype=Q4_K_M, imatrix=matrix)


def test_copies_shards_and_dry_runs(call, tmp_path):
    assert sha256(call(only_copy=True)) == PLAIN[WIDE.name]["COPY"]["file_sha256"]
    shards = gguffast.split(WIDE, tmp_path / "in", split_max_tensors=20).outputs
    assert sha256(call(src=shards[0], ftype=Q4_K_M)) == PLAIN[WIDE.name]["Q4_K_M"]["file_sha256"]
    call("kept", src=shards[0], ftype=Q4_K_M, keep_split=True)
    assert len(list(tmp_path.glob("kept-0000?-of-00002.gguf"))) == 2
    assert not call("dry.gguf", dry_run=True).exists()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"src": Path("/nope.gguf")}, r"/nope\.gguf"),
        ({"ftype": 99}, "99"),
        ({"output_tensor_type": 77}, "tensor type 77 is unknown; 43 means none"),
        ({"ftype": 20}, "importance matrix"),
        ({"out": "no/out.gguf"}, "no"),
    ],
    ids=str,
)
def test_failures_return_one_and_say_why(call, tmp_path, fields, reason):
    assert re.match(f"llama_model_quantize: failed to quantize: .*{reason}", call(code=1, **fields))
    assert not list(tmp_path.iterdir())


def test_no_parameters(tmp_path, capfd):
    assert llama_cpp.llama_model_quantize(bytes(WIDE), bytes(tmp_path / "out.gguf"), None) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "llama_model_quantize_default_params() makes some" in err
    assert not list(tmp_path.iterdir())

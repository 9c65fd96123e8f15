"""gguf-py with our kernels: the same attributes, the same arrays, and scripts that know nothing of us."""

from __future__ import annotations

import copy
import subprocess
import sys

import gguf
import numpy as np
import pytest

import gguffast
from gguffast import OptionError, quants
from gguffast.compat import gguf_py
from gguffast.compat.gguf_reader import Reader
from gguffast.demo.llama import answer
from gguffast.demo.small_model import write_small_model
from support.gguf_files import GGUF

Q = gguf.GGMLQuantizationType
ORIGINALS = (gguf.quants.quantize, gguf.quants.dequantize, gguf.GGUFReader)
WEIGHTS = np.random.default_rng(5).standard_normal((6, 512), np.float32)


@pytest.fixture
def installed():
    gguf_py.install()
    yield
    gguf_py.uninstall()


@pytest.fixture(scope="module")
def every_value(tmp_path_factory):
    """A file with a key of every type."""
    path = tmp_path_factory.mktemp("gguf") / "values.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        getattr(writer, f"add_{name}")(f"a.{name}", 7)
    writer.add_float32("a.f32", 0.5)
    writer.add_float64("a.f64", 0.25)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "grün")
    writer.add_string("a.nothing", "")
    writer.add_array("a.texts", ["", "ä", "<s>"])
    writer.add_array("a.floats", [0.5, -1.0])
    writer.add_array("a.ints", list(range(300)))
    writer.add_array("a.bools", [True, False])
    writer.add_custom_alignment(64)
    writer.add_tensor("one", np.arange(5, dtype=np.float32))
    writer.add_tensor("two", np.arange(6, dtype=np.float16).reshape(2, 3))
    writer.add_tensor("i64", np.arange(4, dtype=np.int64).reshape(2, 2, 1))
    writer.add_tensor("q", quants.quantize(WEIGHTS, "Q4_K"), raw_dtype=Q.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(params=["values", "llama-wide-f16.gguf", "gemma2-f32.gguf", "smollm2.imatrix.gguf"])
def path(request, every_value):
    return every_value if request.param == "values" else GGUF / request.param


# ---- the reader --------------------------------------------------------------------------------------------


def same_arrays(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(mine, other)


def same_field(ours, theirs):
    assert isinstance(ours, gguf.ReaderField)
    assert (ours.offset, ours.name, ours.types) == (theirs.offset, theirs.name, theirs.types)
    assert ours.contents() == theirs.contents()
    assert ours.data == theirs.data
    assert isinstance(ours.parts, list)
    same_arrays(ours.parts, theirs.parts)
    offset, name, parts, data, types = ours
    assert (offset, name, data, types) == (theirs[0], theirs[1], theirs[3], theirs[4])
    assert ours[2] is parts is ours.parts


def test_every_attribute_of_the_reader(path):
    ours, theirs = Reader(path), gguf.GGUFReader(path)
    for name in ("byte_order", "alignment", "data_offset", "endianess"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert vars(ours).keys() == vars(theirs).keys() | {"alignment"}
    assert type(ours.data) is type(theirs.data)
    np.testing.assert_array_equal(ours.data, theirs.data)
    assert list(ours.fields) == list(theirs.fields)
    for name, field in ours.fields.items():
        same_field(field, theirs.fields[name])
        assert ours.get_field(name) is field
    assert ours.get_field("nope") is None
    assert len(ours.tensors) == len(theirs.tensors)
    for i, (mine, other) in enumerate(zip(ours.tensors, theirs.tensors, strict=True)):
        assert isinstance(mine, gguf.ReaderTensor)
        for name in ("name", "tensor_type", "n_elements", "n_bytes", "data_offset"):
            assert getattr(mine, name) == getattr(other, name)
            assert type(getattr(mine, name)) is type(getattr(other, name))
        same_arrays([mine.shape, mine.data], [other.shape, other.data])
        same_field(mine.field, other.field)
        assert ours.get_tensor(i) is mine


@pytest.mark.parametrize("which", [0, -1, slice(1, 3), slice(None, None, 2)], ids=str)
@pytest.mark.parametrize("mode", ["r", "c"])
def test_some_of_the_contents(every_value, which, mode):
    ours, theirs = Reader(every_value, mode), gguf.GGUFReader(every_value, mode)
    for name in ("a.texts", "a.floats", "a.ints", "a.bools", "a.text", "a.uint8"):
        mine, other = ours.fields[name].contents(which), theirs.fields[name].contents(which)
        assert mine == other
        assert type(mine) is type(other)


def test_fields_can_be_copied(every_value):
    field = Reader(every_value).fields["a.texts"]
    same_field(copy.copy(field), field)
    assert field._replace(name="b").name == "b"
    assert field._replace(name="b").contents() == ["", "ä", "<s>"]


def test_values_can_be_written(every_value, tmp_path):
    path = tmp_path / "copy.gguf"
    path.write_bytes(every_value.read_bytes())
    reader = Reader(path, "r+")
    field = reader.fields["a.ints"]
    field.parts[field.data[2]][0] = 99
    letter = reader.fields["a.texts"]
    letter.parts[letter.data[2]][:] = list(b"<x>")
    assert (field.contents(2), letter.contents(2)) == (99, "<x>")
    reader.tensors[0].data[1] = 42
    again = gguf.GGUFReader(path)
    assert again.fields["a.ints"].contents(2) == 99
    assert again.tensors[0].data[1] == 42


def test_the_other_byte_order(tmp_path):
    path = tmp_path / "big.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_uint32("a.number", 7)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    reader = Reader(path)
    assert (reader.byte_order, reader.endianess) == ("S", gguf.GGUFEndian.BIG)
    assert reader.fields["a.number"].contents() == 7


@pytest.mark.parametrize("content", [b"", b"GGUF", b"nope" * 20, b"GGUF\3\0\0\0" + b"\xff" * 40], ids=str)
def test_what_is_no_model(tmp_path, content):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(Exception) as theirs:  # noqa: PT011 (whatever it is)
        gguf.GGUFReader(path)
    with pytest.raises(theirs.type) as ours:
        Reader(path)
    assert str(ours.value) == str(theirs.value)


# ---- the kernels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_k_types(installed, name):
    packed = gguf.quants.quantize(WEIGHTS, Q[name])
    np.testing.assert_array_equal(packed, quants.quantize(WEIGHTS, name))
    np.testing.assert_array_equal(gguf.dequantize(packed, Q[name]), quants.dequantize(packed, name))
    np.testing.assert_array_equal(getattr(gguf.quants, name).quantize(WEIGHTS), packed)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q4_0", "TQ1_0", "MXFP4"])
def test_what_gguf_py_computes_too(installed, name):
    theirs = ORIGINALS[0](WEIGHTS, Q[name])
    ours = gguf.quantize(WEIGHTS, Q[name])
    same_arrays([ours], [theirs])
    same_arrays([gguf.dequantize(ours, Q[name])], [ORIGINALS[1](theirs, Q[name])])


def test_lazy_tensors_stay_lazy(installed):
    asked = []

    def read(weights):
        asked.append(1)
        return weights

    lazy = gguf.LazyNumpyTensor
    meta = lazy.meta_with_dtype_and_shape(np.float32, WEIGHTS.shape)
    tensor = lazy(meta=meta, args=(WEIGHTS,), func=read)
    for name in ("Q4_K", "Q8_0", "BF16", "F16", "F32"):
        for quantize in (gguf.quants.quantize, quants.quantize):
            packed = quantize(tensor, Q[name])
            assert isinstance(packed, lazy)
            back = gguf.quants.dequantize(packed, Q[name]) if name != "F32" else packed
            assert isinstance(back, lazy)
            assert (packed.shape[0], back.shape) == (6, WEIGHTS.shape)
            same_arrays([lazy.to_eager(packed)], [quants.quantize(WEIGHTS, name)])
    assert len(asked) == 1
    assert isinstance(quants.dequantize(quants.quantize(tensor, "Q4_K"), "Q4_K"), lazy)


def test_errors_are_those_that_callers_catch(installed):
    with pytest.raises(gguf.QuantError):
        gguf.quants.quantize(WEIGHTS[:, :100], Q.Q8_0)
    with pytest.raises(gguf.QuantError, match="importance matrix"):
        gguf.quants.quantize(WEIGHTS, Q.IQ2_XXS)
    with pytest.raises(NotImplementedError):
        gguf.quants.quantize(WEIGHTS, Q.Q8_K)
    with pytest.raises(gguffast.DataError, match="row"):
        gguf.quants.quantize(np.full((1, 256), np.nan, np.float32), Q.Q4_K)


def state():
    kinds = [vars(kind).get(name) for kind in gguf.quants._type_traits.values() for name in ("quantize",)]
    return gguf.quants.quantize, gguf.quantize, gguf.GGUFReader, gguf.gguf_reader.GGUFReader, *kinds


def test_uninstall_undoes_it():
    before = state()
    gguf_py.uninstall()
    assert state() == before
    gguf_py.install()
    between = state()
    gguf_py.install()
    assert state() == between
    assert all(a is not b for a, b in zip(before, between, strict=True))
    gguf_py.uninstall()
    assert state() == before
    assert (gguf.quants.quantize, gguf.quants.dequantize, gguf.GGUFReader) == ORIGINALS


def test_another_version_is_left_alone(monkeypatch):
    before = state()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.18.0")
    with pytest.raises(OptionError, match=r"is version 0\.18\.0, this was made for 0\.19\.0; nothing was ch"):
        gguf_py.install()
    assert state() == before


def test_a_tree_of_llama_cpp_tells_its_version(monkeypatch, tmp_path):
    (tmp_path / "gguf").mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.poetry]\nname = "gguf"\nversion = "0.17.1"\n')
    monkeypatch.setattr(gguf, "__file__", str(tmp_path / "gguf" / "__init__.py"))
    with pytest.raises(OptionError, match=r"0\.17\.1"):
        gguf_py.install()


SCRIPT = """
import sys
import gguf

reader = gguf.GGUFReader(sys.argv[1])
writer = gguf.GGUFWriter(sys.argv[2], reader.fields["general.architecture"].contents())
for name, field in reader.fields.items():
    if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
        continue
    kind, item = field.types[0], field.types[-1]
    writer.add_key_value(name, field.contents(), kind, item if kind == gguf.GGUFValueType.ARRAY else None)
writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
for tensor in reader.tensors:
    if len(tensor.shape) == 1:
        writer.add_tensor(tensor.name, tensor.data)
        continue
    kind = gguf.GGMLQuantizationType.Q4_K
    weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    writer.add_tensor(tensor.name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


def test_a_script_that_knows_of_gguf_py_alone(tmp_path):
    """It cannot make a Q4_K file; with one call before it, it can, and llama.cpp loads that and answers."""
    model, out, script = tmp_path / "in.gguf", tmp_path / "out.gguf", tmp_path / "script.py"
    script.write_text(SCRIPT)
    write_small_model(model)
    words = [str(script), str(model), str(out)]
    alone = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert "NotImplementedError" in alone.stderr

    code = (
        "import runpy, sys; from gguffast.compat import gguf_py; gguf_py.install(); del sys.argv[0]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    subprocess.run([sys.executable, "-c", code, *words], check=True)
    by_us = gguffast.quantize(model, tmp_path / "us.gguf", "Q4_K_M", pure=True).dst
    with gguffast.GGUFFile(out) as theirs, gguffast.GGUFFile(by_us) as ours:
        for tensor in theirs.tensors:
            if tensor.name != "output.weight":
                np.testing.assert_array_equal(tensor.data, ours.tensors[tensor.name].data)
    assert answer(out, "Hello", 4) is not None

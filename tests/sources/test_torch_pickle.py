"""PyTorch files: strided views, damage, and pickles that would run code if anybody let them."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguffast.errors import FormatError, GGUFFastError
from gguffast.sources.common import open_weights
from gguffast.sources.lazy import DType, LazyTensor
from gguffast.sources.torch_pickle import read_torch
from support.handmade import (
    PARAMETER,
    REBUILD,
    REBUILD_V3,
    Call,
    Name,
    Storage,
    dumps,
    legacy_bytes,
    mutations,
    tensor,
    zip_bytes,
)

DATA = Path(__file__).parents[1] / "data" / "checkpoints"
NUMBERS = np.arange(24, dtype="f4")
STORAGE = Storage("FloatStorage", "0", NUMBERS.tobytes(), 4)


def read(folder: Path, content: bytes) -> dict[str, LazyTensor]:
    path = folder / "pytorch_model.bin"
    path.write_bytes(content)
    return read_torch(open_weights(path))


def both(state: object, storages: list[Storage]) -> list[bytes]:
    """The state in either container."""
    data = {storage.key: storage.data for storage in storages}
    return [zip_bytes(dumps(state), data), legacy_bytes(state, storages)]


# --- What torch writes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", [0, 1], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("kind", "dtype", "array"),
    [
        ("FloatStorage", DType.F32, np.array([[1, 2, 3]], "f4")),
        ("HalfStorage", DType.F16, np.array([[1, 2, 3]], "f2")),
        ("BFloat16Storage", DType.BF16, np.array([[1, 2, 3]], "u2")),
        ("DoubleStorage", DType.F64, np.array([[1, 2, 3]], "f8")),
        ("ByteStorage", DType.U8, np.array([[1, 2, 3]], "u1")),
        ("CharStorage", DType.I8, np.array([[1, 2, 3]], "i1")),
        ("ShortStorage", DType.I16, np.array([[1, 2, 3]], "i2")),
        ("IntStorage", DType.I32, np.array([[1, 2, 3]], "i4")),
        ("LongStorage", DType.I64, np.array([[1, 2, 3]], "i8")),
        ("BoolStorage", DType.BOOL, np.array([[True, False, True]])),
    ],
)
def test_every_storage(tmp_path: Path, container: int, kind: str, dtype: DType, array: np.ndarray) -> None:
    storage = Storage(kind, "0", array.tobytes(), array.itemsize)
    result = read(tmp_path, both({"x": tensor(storage, array.shape)}, [storage])[container])["x"]
    assert (result.dtype, result.shape) == (dtype, array.shape)
    np.testing.assert_array_equal(result.numpy(), array)


@pytest.mark.parametrize("container", [0, 1], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((2, 3), (3, 1), 18),
        ((3, 8), (8, 1), 0),
        ((8, 3), (1, 8), 0),
        ((2, 4), (12, 2), 3),
        ((2, 3, 4), (4, 8, 1), 0),
        ((4, 3, 2), (1, 8, 4), 0),
        ((5,), (4,), 2),
        ((1, 24), (77, 1), 0),
        ((), (), 23),
        ((0, 3), (3, 1), 24),
    ],
)
def test_any_view_of_a_storage(
    tmp_path: Path, container: int, shape: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> None:
    expected = np.lib.stride_tricks.as_strided(NUMBERS[offset:], shape, [4 * step for step in stride])
    content = both({"x": tensor(STORAGE, shape, stride, offset)}, [STORAGE])[container]
    result = read(tmp_path, content)["x"]
    np.testing.assert_array_equal(result.numpy(), expected)
    for first in range(result.n_rows):
        rows = result.rows(first, result.n_rows - first)
        np.testing.assert_array_equal(rows, expected.reshape(result.n_rows, -1)[first:])


def test_parameters_shared_storages_and_metadata(tmp_path: Path) -> None:
    state: OrderedDict[str, object] = OrderedDict()
    state["head"] = Call(PARAMETER, (tensor(STORAGE, (2, 3)), True, OrderedDict()))
    state["embed"] = tensor(STORAGE, (4, 6))
    state._metadata = OrderedDict([("", {"version": 1})])  # type: ignore[attr-defined]
    for content in both(state, [STORAGE]):
        tensors = read(tmp_path, content)
        assert list(tensors) == ["head", "embed"]
        np.testing.assert_array_equal(tensors["embed"].numpy(), NUMBERS.reshape(4, 6))


def test_untyped_storages_take_the_tensors_type(tmp_path: Path) -> None:
    storage = Storage("UntypedStorage", "0", bytes(range(12)), 1)
    arguments = (storage, 1, (2, 2), (2, 1), False, OrderedDict(), Name("torch", "float16"))
    content = zip_bytes(dumps({"x": Call(REBUILD_V3, arguments)}), {"0": storage.data})
    expected = np.frombuffer(storage.data, "f2")[1:5].reshape(2, 2)
    np.testing.assert_array_equal(read(tmp_path, content)["x"].numpy(), expected)


def test_legacy_views_of_a_storage(tmp_path: Path) -> None:
    view = STORAGE._replace(view=("1", 6, 12))
    state = {"x": tensor(view, (2, 3), offset=3)}
    result = read(tmp_path, legacy_bytes(state, [STORAGE]))["x"]
    np.testing.assert_array_equal(result.numpy(), NUMBERS[9:15].reshape(2, 3))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_binary_protocol(tmp_path: Path, protocol: int) -> None:
    content = zip_bytes(dumps({"x": tensor(STORAGE, (4, 6))}, protocol), {"0": STORAGE.data})
    assert read(tmp_path, content)["x"].shape == (4, 6)


# --- Code -------------------------------------------------------------------------------------------------


class Evil:
    """Pickles to a call of ``function``."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def g(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


MARKER = "code-was-executed"
TOUCH = f"open({MARKER!r}, 'w')"
ARGUMENT = b"(X" + struct.pack("<I", len(TOUCH)) + TOUCH.encode() + b"t"
EVIL = {
    "os.system": (pickle.dumps(Evil(os.system, f"touch {MARKER}"), 2), "posix.system"),
    "eval": (pickle.dumps(Evil(eval, TOUCH), 2), "__builtin__.eval"),
    "exec, protocol 4": (pickle.dumps(Evil(exec, TOUCH), 4), "builtins.exec"),
    "exec, protocol 0": (pickle.dumps(Evil(exec, TOUCH), 0), "__builtin__.exec"),
    "getattr": (b"\x80\x02" + g("builtins", "getattr") + b")R.", "builtins.getattr"),
    "REDUCE": (b"\x80\x02" + g("builtins", "eval") + ARGUMENT + b"R.", "builtins.eval"),
    "STACK_GLOBAL": (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93" + ARGUMENT + b"R.", "builtins.eval"),
    "INST": (b"(X\x01\x00\x00\x001ios\nsystem\n.", "os.system"),
    "OBJ": (b"\x80\x02(" + g("subprocess", "Popen") + b"o.", "subprocess.Popen"),
    "NEWOBJ": (b"\x80\x02" + g("subprocess", "Popen") + b")\x81.", "subprocess.Popen"),
    "BUILD": (
        b"\x80\x02" + g("torch.nn.modules.linear", "Linear") + b")\x81}b.",
        "torch.nn.modules.linear.Linear",
    ),
    "torch.load": (b"\x80\x02" + g("torch.serialization", "load") + b")R.", "torch.serialization.load"),
    "torch hub": (b"\x80\x02" + g("torch.hub", "load") + b")R.", "torch.hub.load"),
    "rebuild from type": (
        b"\x80\x02" + g("torch._tensor", "_rebuild_from_type_v2") + b")R.",
        "_rebuild_from_type_v2",
    ),
    "a dotted name": (b"\x80\x04\x8c\x0btorch._util\x8c\x08s.os.sys\x93.", "torch._util.s.os.sys"),
    "a prefix of an allowed name": (
        b"\x80\x02" + g("torch", "FloatStorage.__class__") + b".",
        "FloatStorage.__class__",
    ),
    "a name with line breaks": (b"\x80\x04\x8c\x03a\nb\x8c\x03\x1b[2\x93.", "'a\\nb.\\x1b[2'"),
    "EXT1": (b"\x80\x02\x82\x01.", "EXT1"),
    "EXT2": (b"\x80\x02\x83\x01\x00.", "EXT2"),
    "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
    "PERSID": (b"Pstorage\n.", "PERSID"),
    "NEWOBJ_EX": (b"\x80\x04" + g("collections", "OrderedDict") + b")}\x92.", "NEWOBJ_EX"),
    "NEXT_BUFFER": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "an opcode that is none": (b"\x80\x02\xff.", "0xff"),
}


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("attack", EVIL)
def test_code_is_refused_by_name_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, container: str
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled, name = EVIL[attack]
    if container == "zip":
        content = zip_bytes(pickled, {})
    else:
        head = legacy_bytes({}, [])
        content = head[: head.index(pickle.dumps([], 2)) - len(dumps({}))] + pickled + pickle.dumps([], 2)
    before = set(sys.modules)
    with pytest.raises(FormatError) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert name in message
    assert message.isprintable()
    assert not (tmp_path / MARKER).exists()
    assert not {module for module in set(sys.modules) - before if module != "pickletools"}


def test_evil_between_tensors_is_refused(tmp_path: Path) -> None:
    state = {"x": tensor(STORAGE, (4, 6)), "y": Call(Name("os", "system"), ("true",))}
    for content in both(state, [STORAGE]):
        with pytest.raises(FormatError, match=r"'os\.system'"):
            read(tmp_path, content)


# --- Lies -------------------------------------------------------------------------------------------------

DICT = g("collections", "OrderedDict")
FLOATS, HALF = Name("torch", "FloatStorage"), Name("torch", "float16")
UNTYPED = STORAGE._replace(kind="UntypedStorage")


def persistent(*parts: object) -> bytes:
    return dumps(("storage", *parts))[:-1] + b"Q."


def rebuilt(*arguments: object, function: Name = REBUILD) -> bytes:
    return dumps({"x": Call(function, arguments)})


MALFORMED = {
    "nothing": b"",
    "only a stop": b".",
    "no stop": b"\x80\x02}",
    "empty stack": b"\x80\x02R.",
    "tuple of nothing": b"\x80\x02\x87.",
    "no mark": b"\x80\x02}t.",
    "unknown memo": b"\x80\x02h\x05.",
    "memo of nothing": b"\x80\x02q\x00.",
    "calls a dictionary": b"\x80\x02})R.",
    "calls a storage class": b"\x80\x02" + g("torch", "FloatStorage") + b")R.",
    "calls with a list": b"\x80\x02" + DICT + b"]R.",
    "calls with too much": b"\x80\x02" + DICT + b"K\x01\x85R.",
    "instance of an allowed function": b"(icollections\nOrderedDict\n.",
    "state of a list": b"\x80\x02]}b.",
    "appends to a dictionary": b"\x80\x02}K\x01a.",
    "items of a list": b"\x80\x02]K\x01K\x02s.",
    "items without value": b"\x80\x02}(K\x01u.",
    "key that is a list": b"\x80\x02}]K\x01s.",
    "key that is a tuple": b"\x80\x02})K\x01s.",
    "deep tuple as a key": b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"K\x01s.",
    "doubled tuple as a key": b"\x80\x02})" + b"q\x00h\x00\x86" * 100 + b"K\x01s.",
    "string of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
    "bytes of 16 EB": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
    "frame of 16 EB": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff",
    "memo number 4 billion": b"\x80\x02}r\xff\xff\xff\xff0.",
    "DUP for ever": b"\x80\x02]" + b"2" * 1000 + b".",
    "not UTF-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "name without end": b"\x80\x02c" + b"a" * 5000,
    "global of numbers": b"\x80\x04K\x01K\x02\x93.",
    "persistent id of nothing": b"\x80\x02NQ.",
    "persistent id too short": b"\x80\x02X\x07\x00\x00\x00storage\x85Q.",
    "persistent id without class": persistent("FloatStorage", "0", "cpu", 1),
    "persistent id with a list as key": persistent(FLOATS, [], "cpu", 1),
    "persistent id with a negative length": persistent(FLOATS, "0", "cpu", -1),
    "persistent id with a view that is none": persistent(FLOATS, "0", "cpu", 4, 5),
    "persistent id with a view outside": persistent(FLOATS, "0", "cpu", 4, ("1", 3, 2)),
    "a list": dumps([]),
    "a tensor": dumps(tensor(STORAGE, (4, 6))),
    "itself": b"\x80\x02}q\x00X\x01\x00\x00\x00xh\x00s.",
    "a number": dumps({"x": 1}),
    "key that is a number": dumps({1: tensor(STORAGE, (4, 6))}),
    "wrapped": dumps({"state_dict": {"x": tensor(STORAGE, (4, 6))}}),
    "parameter of nothing": dumps({"x": Call(PARAMETER, (None, True, OrderedDict()))}),
    "tensor without storage": rebuilt(1, 0, (), (), False, None),
    "tensor with too few arguments": rebuilt(STORAGE),
    "typed storage as untyped": rebuilt(STORAGE, 0, (), (), False, None, HALF, function=REBUILD_V3),
    "dtype that is none": rebuilt(UNTYPED, 0, (), (), False, None, 5, function=REBUILD_V3),
    "beyond the storage": dumps({"x": tensor(STORAGE, (5, 6))}),
    "offset beyond the storage": dumps({"x": tensor(STORAGE, (4, 6), offset=1)}),
    "strides beyond the storage": dumps({"x": tensor(STORAGE, (4, 6), (7, 1))}),
    "expanded to a petabyte": dumps({"x": tensor(STORAGE, (2**40, 2**10), (0, 0))}),
    "negative stride": dumps({"x": tensor(STORAGE, (4, 6), (-6, 1), 18)}),
    "negative shape": dumps({"x": tensor(STORAGE, (-4, -6), (6, 1))}),
    "huge shape": dumps({"x": tensor(STORAGE, (2**63 - 1,) * 8)}),
    "shape of truth": dumps({"x": tensor(STORAGE, (True,), (1,))}),
    "shape that is a number": rebuilt(STORAGE, 0, 4, 1, False, None),
    "shape and strides differ": dumps({"x": tensor(STORAGE, (4, 6), (1,))}),
    "axes without end": dumps({"x": tensor(STORAGE, (1,) * 1000)}),
    "unknown storage": dumps({"x": tensor(STORAGE._replace(key="77"), (4, 6))}),
    "storage in two lengths": dumps([STORAGE, STORAGE._replace(data=bytes(4))]),
    "storage longer than its bytes": dumps({"x": tensor(STORAGE._replace(data=bytes(4000)), (1,))}),
    "storage that is complex": dumps({"x": tensor(STORAGE._replace(kind="ComplexFloatStorage"), (1,))}),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_pickle_is_one_clear_line(tmp_path: Path, case: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(tmp_path, zip_bytes(MALFORMED[case], {"0": STORAGE.data}))
    assert str(caught.value).startswith(f"{tmp_path / 'pytorch_model.bin'}: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_wrapped_state_dict_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="entry 'state_dict' is a value of type dict"):
        read(tmp_path, zip_bytes(MALFORMED["wrapped"], {"0": STORAGE.data}))


def test_a_pickle_without_end_is_given_up(tmp_path: Path) -> None:
    megabyte = b"X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20)
    with pytest.raises(FormatError, match="longer than 16777216 bytes"):
        read(tmp_path, zip_bytes(b"\x80\x02" + megabyte * 17, {}))


GOOD = dumps({"x": tensor(STORAGE, (4, 6))})


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (zip_bytes(GOOD, {"0": STORAGE.data}, {"byteorder": b"big"}), "byte order 'big'"),
        (zip_bytes(GOOD, {"0": STORAGE.data}, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (zip_bytes(GOOD, {}), "storage '0' is missing"),
        (zip_bytes(GOOD, {"0": bytes(95)}), "has 95 bytes of 96"),
        (zip_bytes(GOOD, {"0": STORAGE.data})[:-1], "zip archive"),
        (zip_bytes(GOOD, {"0": STORAGE.data})[:200], "zip archive"),
        (zip_bytes(GOOD, {"0": STORAGE.data}, {"x/data.pkl": GOOD}), ""),
        (legacy_bytes({"x": tensor(STORAGE, (4, 6))}, [STORAGE], little_endian=False), "big-endian"),
        (legacy_bytes({"x": tensor(STORAGE, (4, 6))}, [STORAGE])[:-1], "cut short"),
        (legacy_bytes({"x": tensor(STORAGE, (4, 6))}, []), "storage '0' is missing"),
        (legacy_bytes({}, [STORAGE]), "not as described"),
        (legacy_bytes({"x": tensor(STORAGE, (4, 6))}, [STORAGE])[:40], "cut short"),
        (b"PK\x03\x04", "zip archive"),
        (b"\x80\x02}q\x00.", "neither of PyTorch's"),
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
    ids=range(16),
)
def test_a_container_that_lies(tmp_path: Path, content: bytes, word: str) -> None:
    if not word:
        # Other pickles in the archive are nobody's business.
        assert list(read(tmp_path, content)) == ["x"]
        return
    with pytest.raises(FormatError, match=word):
        read(tmp_path, content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(zip_bytes(GOOD, {"0": STORAGE.data}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data.pkl", dumps({}))
    with pytest.raises(FormatError, match=r"'archive/data\.pkl' twice"):
        read_torch(open_weights(path))


def test_members_that_lie_about_their_place(tmp_path: Path) -> None:
    content = bytearray(zip_bytes(GOOD, {"0": STORAGE.data}))
    directory = content.index(b"PK\x01\x02")
    for at in (20, 24, 42):  # compressed size, size, place of the local header
        lying = bytearray(content)
        struct.pack_into("<I", lying, directory + at, 0x7FFFFFFF)
        with pytest.raises(FormatError, match=r"does not lie where|zip archive"):
            read(tmp_path, bytes(lying))


# --- Fuzzing ----------------------------------------------------------------------------------------------


def read_any(folder: Path, content: bytes) -> None:
    """Read what may be damaged: tensors that can be walked, or an error that was raised on purpose."""
    try:
        tensors = read(folder, content)
    except GGUFFastError:
        return
    for found in tensors.values():
        assert found.numpy().shape == found.shape


def test_damaged_pickles_never_surprise(tmp_path: Path) -> None:
    state = OrderedDict(x=tensor(STORAGE, (4, 6)), y=tensor(STORAGE, (6, 4), (1, 6)))
    state["z"] = Call(PARAMETER, (tensor(STORAGE, (2, 3, 4), (12, 1, 3)), True, OrderedDict()))
    for protocol in (2, 4):
        pickled = dumps(state, protocol)
        for damaged in mutations(pickled, 700, seed=protocol, reach=len(pickled)):
            read_any(tmp_path, zip_bytes(damaged, {"0": STORAGE.data}))


def test_damaged_containers_never_surprise(tmp_path: Path) -> None:
    for content in both({"x": tensor(STORAGE, (4, 6)), "y": tensor(STORAGE, (6, 4), (1, 6))}, [STORAGE]):
        for damaged in mutations(content, 700, seed=3, reach=len(content)):
            read_any(tmp_path, damaged)


def test_damaged_real_files_never_surprise(tmp_path: Path) -> None:
    for name, reach in (("llama-bin", 4096), ("llama-bin-legacy", 6000)):
        content = (DATA / name / "pytorch_model.bin").read_bytes()
        for damaged in mutations(content, 60, seed=4, reach=reach):
            read_any(tmp_path, damaged)


OPCODES = st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes])
PIECES = st.sampled_from(
    [
        g("torch", "FloatStorage"),
        DICT,
        g("torch._utils", "_rebuild_tensor_v2"),
        b"X\x01\x00\x00\x000",
        b"K\x02",
        b"(",
        b")",
    ]
)


@given(st.lists(OPCODES | PIECES | st.binary(max_size=3), max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_program_never_surprises(tmp_path_factory: pytest.TempPathFactory, program: list[bytes]) -> None:
    read_any(tmp_path_factory.getbasetemp(), zip_bytes(b"".join(program) + b".", {"0": STORAGE.data}))

"""Damaged headers: never a crash, and the same verdict as llama.cpp."""

from __future__ import annotations

import ctypes
import random
import re
import struct
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gguffast import FormatError, GGMLQuantizationType, GGUFFile
from gguffast.gguf import GGUFValueType, kv, serialize_header
from support.gguf_bytes import small_file
from support.gguf_files import GGUF
from support.oracle import library

# What a length, count, dimension, offset or type id is most likely to be mishandled at.
NUMBERS = [
    0,
    1,
    2,
    7,
    8,
    9,
    31,
    32,
    33,
    64,
    255,
    2**15,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**61,
    2**62,
    2**63 - 1,
    2**63,
]
NUMBERS += [2**64 - n for n in (1, 2, 8, 32, 64)]


def mutants(original: bytes, count: int, seed: int, header_size: int) -> Iterator[bytes]:
    """Files that differ from a sound one in a few places of its header."""
    rng = random.Random(seed)
    for _ in range(count):
        content = bytearray(original)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            at = rng.randrange(4, header_size)
            match rng.randrange(6):
                case 0:
                    content[at] ^= 1 << rng.randrange(8)
                case 1:
                    content[at] = rng.randrange(256)
                case 2:
                    content[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
                case 3:
                    content[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) % 2**32)
                case 4:
                    del content[at : at + rng.randrange(1, 40)]
                case 5:
                    start = rng.randrange(4, header_size)
                    content[at:at] = content[start : start + rng.randrange(1, 40)]
        yield bytes(content)


def is_read(path: Path) -> bool:
    """Open a file and touch all that it tells; False if it is refused, in one line."""
    try:
        file = GGUFFile(path)
    except FormatError as error:
        message = str(error)
    else:
        use_everything(file)
        return True
    assert message.isprintable()
    return False


def use_everything(opened: GGUFFile) -> None:
    with opened as file:
        for key in file.metadata:
            file.metadata[key]
        for info in file.tensors:
            assert info.data.nbytes == info.nbytes
            info.data.tobytes()
        repr(file)


def test_mutants_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "mutant.gguf"
    original = small_file()
    header_size = len(original) - 176
    outcomes = Counter[bool]()
    for content in mutants(original, 3000, 1, header_size):
        path.write_bytes(content)
        outcomes[is_read(path)] += 1
    assert min(outcomes[True], outcomes[False]) > 300, "both sides are exercised"


# --- llama.cpp's verdict ------------------------------------------------------------------------------------


class InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


@cache
def llama_cpp() -> ctypes.CDLL:
    lib = library()
    lib.gguf_init_from_file.restype = ctypes.c_void_p
    lib.gguf_init_from_file.argtypes = [ctypes.c_char_p, InitParams]
    lib.gguf_free.argtypes = [ctypes.c_void_p]
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    lib.ggml_log_set(silent, None)
    lib.keep_alive = silent
    return lib


def llama_cpp_reads(path: Path) -> bool:
    # Without a context it reads the header alone and does not look whether the data is there.
    context = llama_cpp().gguf_init_from_file(str(path).encode(), InitParams(True, None))
    if context:
        llama_cpp().gguf_free(context)
    return bool(context)


def lies_back_to_back(file: GGUFFile) -> bool:
    """Tell if the tensors' data has no gaps and the order of the header; llama.cpp reads nothing else."""
    end = file.data_offset
    for info in file.tensors:
        if info.offset != end:
            return False
        end += -(-info.nbytes // file.alignment) * file.alignment
    return True


# What llama.cpp checks later, when it loads the data, and a type that a newer one may know.
LATER = re.compile(r"has data up to byte|the unknown type id|more bytes than 63 bits")


def verdicts_differ(path: Path) -> str | None:
    try:
        with GGUFFile(path) as file:
            if llama_cpp_reads(path) or not lies_back_to_back(file):
                return None
            return "only gguffast reads it"
    except FormatError as error:
        if not llama_cpp_reads(path) or LATER.search(str(error)):
            return None
        return f"only llama.cpp reads it: {error}"


@pytest.mark.parametrize("name", ["gemma2-f32.gguf", "llama-wide-f16.gguf", "smollm2.imatrix.gguf"])
def test_llama_cpp_reads_the_fixtures(name: str) -> None:
    assert llama_cpp_reads(GGUF / name)


@pytest.mark.parametrize("seed", range(3))
def test_the_verdict_is_that_of_llama_cpp(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "mutant.gguf"
    original = small_file()
    for number, content in enumerate(mutants(original, 1500, 100 + seed, len(original) - 176)):
        path.write_bytes(content)
        assert verdicts_differ(path) is None, f"seed {seed}, mutant {number}"


def test_the_verdict_is_that_of_llama_cpp_on_a_model(tmp_path: Path) -> None:
    path = tmp_path / "mutant.gguf"
    original = (GGUF / "gemma2-f32.gguf").read_bytes()
    for number, content in enumerate(mutants(original, 300, 7, 11104)):
        path.write_bytes(content)
        assert verdicts_differ(path) is None, f"mutant {number}"


# --- hypothesis ---------------------------------------------------------------------------------------------

V = GGUFValueType
INTEGERS = {V.UINT8: 8, V.UINT16: 16, V.UINT32: 32, V.UINT64: 64}
SIGNED = {V.INT8: 8, V.INT16: 16, V.INT32: 32, V.INT64: 64}
ITEMS = {
    **{kind: st.integers(0, 2**bits - 1) for kind, bits in INTEGERS.items()},
    **{kind: st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for kind, bits in SIGNED.items()},
    V.FLOAT32: st.floats(width=32, allow_nan=False),
    V.FLOAT64: st.floats(allow_nan=False),
    V.BOOL: st.booleans(),
    V.STRING: st.text(st.characters(codec="utf-8"), max_size=20),
}
KINDS = st.sampled_from(list(ITEMS))
SCALAR = KINDS.flatmap(lambda kind: st.tuples(ITEMS[kind], st.just(kind), st.none()))
ARRAY = KINDS.flatmap(
    lambda kind: st.tuples(st.lists(ITEMS[kind], max_size=5), st.just(V.ARRAY), st.just(kind))
)
KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=10).filter(
    lambda key: key != "general.alignment"
)
PAIRS = st.dictionaries(KEYS, SCALAR | ARRAY, max_size=6)
NAMES = st.text(st.characters(codec="utf-8"), max_size=15)
TYPES = st.sampled_from(list(GGMLQuantizationType))
SHAPES = st.lists(st.integers(0, 3), max_size=3)
TENSORS = st.dictionaries(NAMES, st.tuples(TYPES, st.integers(0, 2), SHAPES), max_size=4)

fuzzed = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@fuzzed
@given(pairs=PAIRS, tensors=TENSORS, alignment=st.sampled_from([1, 8, 32, 256]))
def test_what_is_written_is_read_back(
    pairs: dict[str, tuple[object, V, V | None]],
    tensors: dict[str, tuple[GGMLQuantizationType, int, list[int]]],
    alignment: int,
    tmp_path: Path,
) -> None:
    kvs = [kv("general.alignment", alignment, V.UINT32)]
    kvs += [kv(key, *value) for key, value in pairs.items()]
    entries, end = [], 0
    for name, (kind, blocks, rest) in tensors.items():
        ne = (blocks * kind.info.block_size, *rest)
        entries.append((name, ne, kind, end))
        nbytes = kind.nbytes(ne[0])
        for n in rest:
            nbytes *= n
        end += -(-nbytes // alignment) * alignment
    path = tmp_path / "written.gguf"
    path.write_bytes(serialize_header(kvs, entries, alignment) + bytes(end))
    with GGUFFile(path) as file:
        assert file.kvs == kvs
        for key, (value, kind, _) in pairs.items():
            found = file.metadata[key]
            assert (list(found) if kind is V.ARRAY else found) == value
        assert len(file.tensors) == len(entries)
        for info, (name, ne, kind, offset) in zip(file.tensors, entries, strict=True):
            assert (info.name, info.type, info.offset) == (name, kind, file.data_offset + offset)
            padded = (*ne, 1, 1, 1)[:4]
            assert (*info.ne, 1, 1, 1)[:4] == padded
            assert info.data.nbytes == info.nbytes


@fuzzed
@given(content=st.binary(max_size=300), magic=st.sampled_from([b"", b"GGUF\3\0\0\0"]))
def test_noise_is_refused_in_words(content: bytes, magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(magic + content)
    is_read(path)

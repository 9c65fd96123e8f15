"""Checkpoint files made by hand: safetensors, and PyTorch's formats spelled with the pickle module."""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NUMPY = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1"}


class Raw(NamedTuple):
    """A tensor of any format, by its bytes."""

    dtype: str
    shape: Sequence[int]
    data: bytes


def raw(array: np.ndarray) -> Raw:
    """An array in the format of its dtype; uint16 stands for BF16."""
    names = {np.dtype(value).name: name for name, value in NUMPY.items()} | {"uint16": "BF16", "bool": "BOOL"}
    return Raw(names[array.dtype.name], array.shape, array.tobytes())


def safetensors_bytes(tensors: Mapping[str, Raw | np.ndarray]) -> bytes:
    header: dict[str, Any] = {}
    data = b""
    for name, tensor in tensors.items():
        tensor = raw(tensor) if isinstance(tensor, np.ndarray) else tensor
        end = len(data) + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [len(data), end]}
        data += tensor.data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write_safetensors(path: Path, tensors: Mapping[str, Raw | np.ndarray]) -> Path:
    path.write_bytes(safetensors_bytes(tensors))
    return path


def write_index(path: Path, weight_map: Mapping[str, str]) -> None:
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


# --- Pickles that PyTorch could have written --------------------------------------------------------------


class Storage(NamedTuple):
    """A storage: its class in torch, its key and its bytes; ``view`` for legacy views."""

    kind: str
    key: str
    data: bytes
    itemsize: int
    view: tuple[str, int, int] | None = None

    @property
    def numel(self) -> int:
        return len(self.data) // self.itemsize


class Name(NamedTuple):
    """Something that is pickled as a global."""

    module: str
    name: str


class Call(NamedTuple):
    """Something that is pickled as a call of a global."""

    function: Name
    arguments: tuple[Any, ...]


REBUILD = Name("torch._utils", "_rebuild_tensor_v2")
REBUILD_V3 = Name("torch._utils", "_rebuild_tensor_v3")
PARAMETER = Name("torch._utils", "_rebuild_parameter")


def tensor(
    storage: Storage, shape: Sequence[int], stride: Sequence[int] | None = None, offset: int = 0
) -> Call:
    """A tensor as torch.save writes it."""
    if stride is None:
        stride = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    return Call(REBUILD, (storage, offset, tuple(shape), tuple(stride), False, OrderedDict()))


def dumps(value: object, protocol: int = 2, legacy: bool = False) -> bytes:
    """Pickle a value in which Name, Call and Storage stand for what torch would have put there."""
    out = io.BytesIO()
    pickler = _Pickler(out, protocol)
    pickler.legacy = legacy
    pickler.dump(value)
    return out.getvalue()


class _Pickler(pickle._Pickler):  # the one in Python can be taught to write globals that do not exist here
    legacy = False

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if type(obj) is Name:
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif type(obj) is Call:
            self.save(obj.function)
            self.save(tuple(obj.arguments))
            self.write(pickle.REDUCE)
        elif type(obj) is Storage:
            view = (obj.view,) if self.legacy else ()
            self.save(("storage", Name("torch", obj.kind), obj.key, "cpu", obj.numel, *view))
            self.write(pickle.BINPERSID)
        else:
            super().save(obj)


def zip_bytes(
    pickled: bytes,
    storages: Mapping[str, bytes],
    extra: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in (extra or {"byteorder": b"little"}).items():
            archive.writestr(f"archive/{name}", data)
    return out.getvalue()


def legacy_bytes(value: object, storages: Sequence[Storage], *, little_endian: bool = True) -> bytes:
    system = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"int": 4}}
    head = [0x1950A86A20F9469CFC6C, 1001, system]
    parts = [pickle.dumps(item, 2) for item in head]
    parts += [dumps(value, legacy=True), pickle.dumps([storage.key for storage in storages], 2)]
    for storage in storages:
        parts.append(struct.pack("<q", storage.numel) + storage.data)
    return b"".join(parts)


# --- Damage -----------------------------------------------------------------------------------------------


def mutations(data: bytes, count: int, seed: int, reach: int) -> Iterator[bytes]:
    """``count`` damaged copies: bytes flipped, removed, repeated or overwritten, in the first ``reach``."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        copy = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(0, min(reach, len(copy))))
            n = int(rng.integers(1, 9))
            match int(rng.integers(0, 5)):
                case 0:
                    copy[at] ^= 1 << int(rng.integers(0, 8))
                case 1:
                    copy[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, *b'"{}[],:0(.RQqhbs']))
                case 2:
                    del copy[at : at + n]
                case 3:
                    copy[at:at] = copy[at : at + n]
                case 4:
                    copy[at : at + n] = rng.bytes(n)
        yield bytes(copy)

"""Reading files by position: what is read, and every way in which a file can fail to be what it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gguffast.errors import FileError, FormatError
from gguffast.reading import LocalFile
from support.bounded import TooExpensive, peak_memory, run_bounded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(200)))
    return path


def test_bytes_come_from_where_they_lie(path: Path) -> None:
    file = LocalFile(path)
    assert (file.name, file.size) == (str(path), 200)
    assert file.read(10, 5) == bytes(range(10, 15))
    assert file.read(200, 0) == b""
    buffer = bytearray(8)
    file.read_into(192, memoryview(buffer))
    assert buffer == bytes(range(192, 200))


@pytest.mark.parametrize(("offset", "size"), [(0, 201), (200, 1), (-1, 2), (1 << 70, 1), (0, 1 << 70)])
def test_sizes_beyond_the_file_are_refused_before_memory_is_taken(path: Path, offset: int, size: int) -> None:
    with pytest.raises(FormatError, match="file: ends inside tensor 'x'"):
        LocalFile(path).read(offset, size, "tensor 'x'")


def test_a_file_that_is_cut_short_meanwhile(path: Path) -> None:
    file = LocalFile(path)
    os.truncate(path, 100)
    with pytest.raises(FormatError, match="file: ends inside tensor 'x'; it was cut short"):
        file.read(50, 100, "tensor 'x'")
    with pytest.raises(FileError, match="was changed"):
        file.check_unchanged()


def test_a_file_that_is_written_in_place_meanwhile(path: Path) -> None:
    file = LocalFile(path)
    file.check_unchanged()
    stamp = os.stat(path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    with pytest.raises(FileError, match="was changed while it was read"):
        file.check_unchanged()


def test_a_file_that_is_replaced_is_still_the_old_one(path: Path) -> None:
    file = LocalFile(path)
    (path.parent / "new").write_bytes(b"new")
    os.replace(path.parent / "new", path)
    os.unlink(path)
    file.check_unchanged()
    assert file.read(0, 2) == b"\0\1"


def test_pipes_devices_and_folders_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "nothing", tmp_path / "a\0b"):
        with pytest.raises(FileError, match="cannot read"):
            LocalFile(name)


def test_descriptors_go_with_the_object(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    files = [LocalFile(path) for _ in range(3)]
    assert len(os.listdir("/proc/self/fd")) == before + 3
    files.clear()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_measure_of_a_call() -> None:
    def take(n: int) -> int:
        return len(b"x" * n) - n

    def fail() -> None:
        raise FormatError("said so")

    assert run_bounded(take, 1 << 20, file_bytes=0) == 0
    with pytest.raises(TooExpensive, match="MiB for a file of"):
        run_bounded(take, 80 << 20, file_bytes=0)
    assert run_bounded(take, 80 << 20, file_bytes=20 << 20) == 0
    with pytest.raises(FormatError, match="said so"):
        run_bounded(fail, file_bytes=0)
    with pytest.raises(MemoryError):
        run_bounded(take, 4 << 30, file_bytes=0)
    assert 60 << 20 < peak_memory(take, 64 << 20) < 80 << 20

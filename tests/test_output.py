"""Output: files that are complete or not there at all."""

from __future__ import annotations

import os
import resource
import stat
import threading
from pathlib import Path

import pytest

from gguffast import output as module
from gguffast.errors import FileError, OptionError
from gguffast.output import Output, check_output


def one(path: Path, size: int) -> Output:
    return Output([(path, size)], replace=True)


def write(path: Path, data: bytes) -> None:
    with one(path, len(data)) as output:
        output.write(data, 0)
        output.commit()


def test_appears_when_committed(tmp_path):
    path = tmp_path / "out"
    with one(path, 10) as output:
        output.write(b"world", 5)
        output.write(b"hello", 0)
        assert not path.exists()
        assert len(os.listdir(tmp_path)) == 1
        output.commit()
    assert path.read_bytes() == b"helloworld"
    assert os.listdir(tmp_path) == ["out"]


def test_what_is_not_written_is_zero(tmp_path):
    with one(tmp_path / "out", 9) as output:
        output.write(b"x", 4)
        output.commit()
    assert (tmp_path / "out").read_bytes() == b"\0\0\0\0x\0\0\0\0"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def fail():
        with one(path, 3) as output:
            output.write(b"new", 0)
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_without_commit_nothing_is_left(tmp_path):
    with one(tmp_path / "out", 3) as output:
        output.write(b"new", 0)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o000])
def test_permissions_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write(tmp_path / "out", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o666 & ~mask


def test_symbolic_link_stays(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "blob").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("store/blob")
    write(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "store" / "blob").read_bytes() == b"new"


def test_threads_write_at_once(tmp_path):
    pieces = [bytes([i]) * 1000 for i in range(64)]
    with one(tmp_path / "out", 64000) as output:
        threads = [threading.Thread(target=output.write, args=(p, 1000 * i)) for i, p in enumerate(pieces)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        output.commit()
    assert (tmp_path / "out").read_bytes() == b"".join(pieces)


def test_longest_file_name(tmp_path):
    name = "n" * os.pathconf(tmp_path, "PC_NAME_MAX")
    write(tmp_path / name, b"x")
    assert os.listdir(tmp_path) == [name]


def test_disk_too_small(tmp_path):
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    output = one(tmp_path / "out", free + (1 << 50))
    with (
        pytest.raises(FileError, match=r"not enough disk space for .*/out: \S+ TB needed, .* free in"),
        output,
    ):
        pass
    assert os.listdir(tmp_path) == []


@pytest.fixture
def size_limit():
    """Set a limit on the size of files, a full disk for any user: writing beyond it is an error (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda n: resource.setrlimit(resource.RLIMIT_FSIZE, (n, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_size_refused_at_the_start(tmp_path, size_limit):
    size_limit(100)
    with pytest.raises(FileError, match="File too large"), one(tmp_path / "out", 101):
        pass
    size_limit(resource.RLIM_INFINITY)
    assert os.listdir(tmp_path) == []


def test_write_refused_midway(tmp_path, size_limit):
    (tmp_path / "out").write_bytes(b"old")
    with one(tmp_path / "out", 200) as output:
        size_limit(100)
        # A part fits: the rest must be tried, and its failure noticed.
        with pytest.raises(FileError, match=r"cannot write .*/out: File too large; nothing was left behind"):
            output.write(b"x" * 200, 0)
    size_limit(resource.RLIM_INFINITY)
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"old"


def test_check_accepts_a_new_file(tmp_path):
    check_output(tmp_path / "new", [], replace=False)


def test_check_refuses_an_existing_file(tmp_path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(FileError, match=r"already exists; .*`force=True`"):
        check_output(tmp_path / "out", [], replace=False)
    check_output(tmp_path / "out", [], replace=True)


@pytest.mark.parametrize("how", ["same", "symlink", "hardlink", "dots"])
def test_check_refuses_the_input(tmp_path, how):
    path = tmp_path / "in"
    path.write_bytes(b"")
    out = tmp_path / "out"
    match how:
        case "same":
            out = path
        case "symlink":
            out.symlink_to(path)
        case "hardlink":
            out.hardlink_to(path)
        case "dots":
            out = tmp_path / ".." / tmp_path.name / "in"
    with pytest.raises(OptionError, match="input and output are the same file"):
        check_output(out, [path], replace=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".", "is a folder"),
        ("pipe", "not a regular file"),
        ("missing/out", "folder .*/missing does not exist"),
        ("file/out", "Not a directory"),
        ("n" * 300, "File name too long"),
        ("loop", "symbolic links"),
    ],
)
def test_check_refuses_what_cannot_be_a_file(tmp_path, name, words):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileError, match=words):
        check_output(tmp_path / name, [], replace=True)


def test_folder_that_takes_no_files():
    # Not even root may create files there, unlike in a folder without write permission.
    with (
        pytest.raises(FileError, match="cannot write into the folder /proc"),
        one(Path("/proc/out"), 0),
    ):
        pass


def test_interrupted_while_it_is_created(tmp_path, monkeypatch):
    def interrupted(fd, size):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "ftruncate", interrupted)
    with pytest.raises(KeyboardInterrupt), one(tmp_path / "out", 1):
        pass
    assert os.listdir(tmp_path) == []

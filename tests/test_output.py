"""Output: files that are complete or not there at all."""

from __future__ import annotations

import os
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gguffast import output as module
from gguffast.errors import FileError, OptionError
from gguffast.output import InPlace, Output, check_output


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


# --- several files ------------------------------------------------------------------------------------------


def paths(folder, count=3):
    return [folder / f"x-{i}" for i in range(count)]


def write_all(folder, *, replace):
    with Output([(path, 3) for path in paths(folder)], replace=replace) as output:
        assert output.starts == [0, 3, 6]
        output.write(b"new", 6)
        output.write(b"new", 0)
        output.write(b"new", 3)
        output.commit()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("replace", [False, True])
def test_shards_appear_together(tmp_path, replace):
    write_all(tmp_path, replace=replace)
    assert contents(tmp_path) == {f"x-{i}": b"new" for i in range(3)}


def fail_at(monkeypatch, function, n, error=None):
    """Let the n-th call of a function of `os` that puts a file in place fail."""
    real, calls = getattr(os, function), []

    def failing(src, dst, **options):
        if Path(dst).name.startswith("x-"):
            calls.append(dst)
            if len(calls) == n:
                raise error or OSError(5, "Input/output error")
        return real(src, dst, **options)

    monkeypatch.setattr(module.os, function, failing)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("there", [(0, 1, 2), (1,), ()])
def test_old_shards_stand_again_when_one_cannot_be_replaced(tmp_path, monkeypatch, n, links, there):
    old = {f"x-{i}": b"old" for i in there}
    for name, data in old.items():
        (tmp_path / name).write_bytes(data)
    if not links:
        monkeypatch.setattr(module.os, "link", no_links)
    fail_at(monkeypatch, "replace", n)
    with pytest.raises(FileError, match=r"cannot write .*x-\d: Input/output error; nothing was written"):
        write_all(tmp_path, replace=True)
    assert contents(tmp_path) == old


def no_links(src, dst):
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_shard_is_left_when_one_cannot_be_named(tmp_path, monkeypatch, n):
    fail_at(monkeypatch, "link", n)
    with pytest.raises(FileError, match=r"nothing was written to .*x-0 \(and 2 more\)"):
        write_all(tmp_path, replace=False)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("links", [True, False])
def test_a_shard_that_came_meanwhile_is_kept(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(module.os, "link", no_links)
    with Output([(path, 3) for path in paths(tmp_path)], replace=False) as output:
        (tmp_path / "x-1").write_bytes(b"other")
        with pytest.raises(FileError, match="x-1 was made by another program meanwhile"):
            output.commit()
    assert contents(tmp_path) == {"x-1": b"other"}


def test_what_cannot_be_undone_is_told(tmp_path, monkeypatch):
    for path in paths(tmp_path):
        path.write_bytes(b"old")
    real, calls = os.replace, []

    def broken(src, dst):
        calls.append(dst)
        if len(calls) > 1:
            raise OSError(30, "Read-only file system")
        real(src, dst)

    monkeypatch.setattr(module.os, "replace", broken)
    with pytest.raises(FileError) as caught:
        write_all(tmp_path, replace=True)
    [old] = [p for p in tmp_path.iterdir() if p.name.endswith(".old") and (p.stat().st_nlink == 1)]
    assert old.read_bytes() == b"old"
    assert f"this could not be undone: {tmp_path / 'x-0'} is new (the old one is {old})" in str(caught.value)
    assert (tmp_path / "x-0").read_bytes() == b"new"
    assert (tmp_path / "x-1").read_bytes() == (tmp_path / "x-2").read_bytes() == b"old"


def test_space_is_counted_for_all_shards(tmp_path):
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    files = [(path, free // 2 + 1) for path in paths(tmp_path, 2)]
    with pytest.raises(FileError, match="not enough disk space"), Output(files, replace=False):
        pass
    assert contents(tmp_path) == {}


# --- what killed runs leave ---------------------------------------------------------------------------------


def killed(folder, then=""):
    """Begin to write in another process, and kill it."""
    code = (
        "import os, sys; from pathlib import Path; from gguffast.output import Output;"
        "output = Output([(Path(sys.argv[1]), 10)], replace=False).__enter__(); print(flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(folder / "out")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    process = killed(tmp_path)
    write(tmp_path / "meanwhile", b"x")
    assert len(os.listdir(tmp_path)) == 2  # somebody is at work on it
    process.kill()
    process.communicate()
    assert len(os.listdir(tmp_path)) == 2
    write(tmp_path / "then", b"x")
    assert sorted(os.listdir(tmp_path)) == ["meanwhile", "then"]


def kill_while_replacing(folder, n):
    """Replace three shards in another process, and kill it when the n-th has got its name."""
    code = (
        "import os, signal, sys; from pathlib import Path; from gguffast import output\n"
        "real, calls = os.replace, []\n"
        "def replace(src, dst):\n"
        "    real(src, dst); calls.append(dst)\n"
        "    if len(calls) == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.replace = replace\n"
        "files = [(Path(sys.argv[1]) / f'x-{i}', 3) for i in range(3)]\n"
        "with output.Output(files, replace=True) as out:\n"
        "    for start in out.starts: out.write(b'mid', start)\n"
        "    out.commit()"
    )
    assert subprocess.run([sys.executable, "-c", code, folder, str(n)]).returncode == -signal.SIGKILL


@pytest.mark.parametrize("n", [1, 2, 3])
def test_old_shards_of_a_killed_run_are_kept_as_long_as_they_are_needed(tmp_path, n):
    for path in paths(tmp_path):
        path.write_bytes(b"old")
    kill_while_replacing(tmp_path, n)
    with Output([(tmp_path / "other", 1)], replace=False) as output:
        output.commit()
    # Said by each run until somebody has cared for them.
    assert len(output.warnings) == (n < 3)
    assert module.remove_leftovers(tmp_path) == output.warnings
    for text in output.warnings:
        new, old = (
            tuple(tmp_path.glob(word)) for word in re.findall(r"\.gguffast-[-\w]+-\*\.\w+", text)[::-1]
        )
        assert (len(old), len(new)) == (n, 3 - n)
    kept = [data for name, data in contents(tmp_path).items() if name.startswith(".gguffast-")]
    # Of the shards that have their names, the old ones; of the others, the new ones; unless all have them.
    assert sorted(kept) == ([] if n == 3 else [b"mid"] * (3 - n) + [b"old"] * n)
    assert [path.read_bytes() for path in paths(tmp_path)] == [b"mid"] * n + [b"old"] * (3 - n)


def test_leftovers_of_other_systems_are_kept_for_a_day(tmp_path):
    path = tmp_path / ".gguffast-00000000-0123456789abcdef-01234567.tmp"
    path.write_bytes(b"")
    write(tmp_path / "a", b"x")
    assert path.exists()
    os.utime(path, (time.time() - 90_000,) * 2)
    write(tmp_path / "b", b"x")
    assert not path.exists()


def test_what_only_looks_like_a_leftover_is_kept(tmp_path):
    (tmp_path / "target").write_bytes(b"x")
    os.utime(tmp_path / "target", (1, 1))
    (tmp_path / ".gguffast-00000000-1.tmp").symlink_to("target")
    os.mkfifo(tmp_path / ".gguffast-00000000-2.tmp")
    os.utime(tmp_path / ".gguffast-00000000-2.tmp", (1, 1))
    (tmp_path / ".gguffast-00000000-3.tmp").mkdir()
    before = sorted(os.listdir(tmp_path))
    write(tmp_path / "target", b"x")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_run_that_removes_leftovers_takes_no_fresh_file(tmp_path, monkeypatch):
    # Between its creation and its lock, a new file looks like a leftover.
    real, removed = module.fcntl.flock, []

    def flock(fd, operation):
        if not removed:
            removed.append(fd)
            monkeypatch.setattr(module.fcntl, "flock", real)
            module.remove_leftovers(tmp_path)
            assert os.listdir(tmp_path) == []
        real(fd, operation)

    monkeypatch.setattr(module.fcntl, "flock", flock)
    write(tmp_path / "out", b"x")
    assert contents(tmp_path) == {"out": b"x"}


# --- interrupts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "while", "after"])
def test_an_interrupt_tells_what_stands_there(tmp_path, monkeypatch, when):
    real = os.link

    def link(src, dst):
        real(src, dst)
        if when == "while":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(module.os, "link", link)

    def run():
        with Output([(tmp_path / "out", 1)], replace=False) as output:
            if when == "before":
                signal.raise_signal(signal.SIGINT)
            output.commit()
            if when == "after":
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        run()
    complete = when != "before"
    assert caught.value.__notes__ == [
        f"{tmp_path / 'out'} is complete" if complete else f"nothing was written to {tmp_path / 'out'}"
    ]
    assert os.listdir(tmp_path) == (["out"] if complete else [])


# ---- in place ----------------------------------------------------------------------------------------------


def test_in_place_keeps_the_file_and_shows_its_head_last(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"something longer than that")
    with path.open("rb") as held, InPlace([(path, 10)], replace=True) as output:
        output.write(b"GGUF", 0)
        output.write(b"worlds", 4)
        assert held.read() == b"\0\0\0\0worlds"
        output.commit()
        held.seek(0)
        assert held.read() == b"GGUFworlds"


def test_in_place_leaves_an_empty_file_after_an_error(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def fail():
        with InPlace([(path, 6)], replace=True) as output:
            output.write(b"GGUF", 0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b""


def test_in_place_leaves_a_file_alone_that_does_not_fit_on_the_disk(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(FileError, match="not enough disk space"), InPlace([(path, 1 << 60)], replace=True):
        pass
    assert path.read_bytes() == b"old"


def test_in_place_a_new_file_appears_when_committed(tmp_path):
    path = tmp_path / "out"
    with InPlace([(path, 4)], replace=True) as output:
        output.write(b"GGUF", 0)
        assert not path.exists()
        output.commit()
    assert path.read_bytes() == b"GGUF"


def test_in_place_the_first_of_two_is_emptied_if_the_second_fails(tmp_path, monkeypatch):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(b"old")
    pwrite = os.pwrite

    def failing(fd, data, offset):
        if offset == 0 and os.path.samestat(os.fstat(fd), paths[1].stat()):
            raise OSError(5, "Input/output error")
        return pwrite(fd, data, offset)

    def fail():
        with InPlace([(path, 4) for path in paths], replace=True) as output:
            output.write(b"GGUF", 0)
            output.write(b"GGUF", 4)
            monkeypatch.setattr(os, "pwrite", failing)
            output.commit()

    with pytest.raises(FileError, match="Input/output error; nothing was written"):
        fail()
    assert [path.read_bytes() for path in paths] == [b"", b""]

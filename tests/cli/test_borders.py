"""The command line's borders: odd arguments, closed streams, an interrupt before anything has begun."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.gguf_files import GGUF

WIDE = GGUF / "llama-wide-f16.gguf"
PROGRAM = [sys.executable, "-m", "gguffast"]


def run(*args: str | bytes | Path, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*PROGRAM, *args], cwd=cwd, capture_output=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copyfile(WIDE, tmp_path / "in.gguf")
    return tmp_path


def test_names_that_begin_with_a_dash(folder: Path) -> None:
    (folder / "in.gguf").rename(folder / "-q.gguf")
    done = run("quantize", "--quiet", "--", "-q.gguf", "-o.gguf", "q8_0", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (folder / "-o.gguf").exists()
    done = run("inspect", "--", "-o.gguf", cwd=folder)
    assert done.stdout.startswith(b"-o.gguf\n")


def test_names_that_are_no_utf8(folder: Path) -> None:
    done = run("quantize", "in.gguf", b"o\xff.gguf", "q8_0", "--override-kv", b"a\xff=str:\xfe", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"o\\udcff.gguf\n")
    done = run("inspect", "--json", b"o\xff.gguf", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    done = run("quantize", "in.gguf", b"q\xff", cwd=folder)
    assert done.stderr.startswith(b"gguffast: error: unknown file type 'q\\udcff'")


@pytest.mark.parametrize(
    "args",
    [
        ["9" * 5000],
        ["q8_0", "9" * 5000],
        ["q8_0", "9" * 50],
        ["q8_0", "--threads", "99999999999999"],
        ["q8_0", "--tensor-type", "a{99999999999}=q8_0"],
        ["q8_0", "--tensor-type", "(" * 3000 + ")" * 3000 + "=q8_0"],
        ["q8_0", "--override-kv", "a=int:" + "9" * 5000],
        ["q8_0", "--imatrix", "/dev/zero"],
        ["q8_0", "--tensor-type-file", "/dev/zero"],
    ],
    ids=lambda args: " ".join(args)[:40],
)
def test_odd_arguments_are_one_line(folder: Path, args: list[str]) -> None:
    done = run("quantize", "in.gguf", "out.gguf", *args, cwd=folder)
    assert done.returncode == 1
    assert done.stderr.startswith(b"gguffast: error: ")
    assert done.stderr.count(b"\n") == 1
    assert len(done.stderr) < 1000
    assert b"should not happen" not in done.stderr
    assert not (folder / "out.gguf").exists()


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["quantize in.gguf out.gguf q8_0", "inspect in.gguf", "--help"])
def test_closed_streams(folder: Path, command: str, closed: str) -> None:
    # The number of a closed stream must not become that of the output: what is printed would be in it.
    line = f'"$0" -m gguffast {command} {closed}'
    done = subprocess.run(["sh", "-c", line, sys.executable], cwd=folder, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    if command.startswith("quantize"):
        run("quantize", "in.gguf", "expected.gguf", "q8_0", cwd=folder)
        assert (folder / "out.gguf").read_bytes() == (folder / "expected.gguf").read_bytes()


def test_an_interrupt_while_modules_are_imported() -> None:
    code = (
        "import signal, sys\n"
        # A shell lets what it runs in the background ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'gguffast.cli': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from gguffast.__main__ import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "gguffast: interrupted\n")


def test_an_interrupt_that_numpy_turns_into_another_error() -> None:
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name != 'gguffast.quantizer': return\n"
        "        try: signal.raise_signal(signal.SIGINT)\n"
        "        except KeyboardInterrupt: raise ImportError('could not import module datetime')\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from gguffast.__main__ import main\n"
        "sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "quantize", "in.gguf", "q8_0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "gguffast: interrupted\n")

"""The commands as a user runs them, against a stub."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

import gguffast
from support.ollama_servers import Stub, serving


def run(
    stub: Stub, *args: object, stdin: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gguffast", *map(str, args), "--host", stub.host]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, cwd=cwd)


def answer(stub: Stub, text: str) -> None:
    line = {"message": {"role": "assistant", "content": text}, "done": True}
    stub.answers["/api/chat"] = (200, json.dumps(line).encode() + b"\n")


def test_a_question_and_what_is_piped_are_one_prompt(stub: Stub) -> None:
    answer(stub, "Forty-\x1b]0;two\x07")
    found = run(stub, "run", "m", "Sum", "up:", stdin="a text\n")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == "Forty-]0;two\n"  # nothing that a terminal would obey
    (body,) = [body for _, path, body in stub.requests if path == "/api/chat"]
    assert body["messages"] == [{"role": "user", "content": "Sum up:\n\na text\n"}]


def test_a_conversation(stub: Stub) -> None:
    answer(stub, "Hello!")
    stub.answers["/api/show"] = (200, b'{"model_info":{}}')
    user, terminal = pty.openpty()
    command = [sys.executable, "-m", "gguffast", "run", "m", "--host", stub.host]
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment()
    ) as process:
        os.close(terminal)
        limit = threading.Timer(60, process.kill)
        limit.start()
        seen = b""
        for prompts, line in enumerate((b"Hi\n", b"Again\n", b"\n", b"/clear\n", b"New\n", b"\x04"), 1):
            while seen.count(b">>> ") < prompts:
                seen += os.read(user, 4096)
            os.write(user, line)
        process.wait()
        limit.cancel()
    os.close(user)
    assert process.returncode == 0, seen
    bodies = [body["messages"] for _, path, body in stub.requests if path == "/api/chat"]
    contents = [[message["content"] for message in messages] for messages in bodies]
    assert contents == [["Hi"], ["Hi", "Hello!", "Again"], ["New"]]


PIECE = b'{"message":{"content":"and so on "}}\n'
ENDLESS = (b"HTTP/1.1 200 OK\r\n\r\n", PIECE)


def environment() -> dict[str, str]:
    return {**os.environ, "TERM": "dumb"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_answer_without_an_end_is_stopped(number: signal.Signals) -> None:
    with serving(*ENDLESS, forever=PIECE) as host:
        command = [sys.executable, "-m", "gguffast", "run", "m", "Hi", "--host", host]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        seen = process.stdout.read(99)
        process.send_signal(number)
        rest, stderr = process.communicate()
    assert (process.returncode, stderr) == (1, "gguffast: interrupted; the answer is not complete\n")
    assert (seen + rest).startswith("and so on and so on ")
    assert rest.endswith("\n")


def test_ctrl_c_ends_an_answer_and_not_the_conversation(stub: Stub) -> None:
    stub.answers["/api/show"] = (200, b"{}")
    stub.endless["/api/chat"] = PIECE
    user, terminal = pty.openpty()
    command = [sys.executable, "-m", "gguffast", "run", "m", "--host", stub.host]
    with subprocess.Popen(
        command,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment(),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(terminal)
        limit = threading.Timer(60, process.kill)
        limit.start()
        _read_until(user, b">>> ")
        while not select.select([user], [], [], 0.5)[0]:  # one that comes before readline waits is lost
            os.write(user, b"\x03")
        _read_until(user, b"/bye ends")
        for line in (b"Hi\n", b"Again\n"):
            _read_until(user, b">>> ")
            os.write(user, line)
            _read_until(user, b"and so on and so on")
            os.write(user, b"\x03")
        _read_until(user, b">>> ")
        os.write(user, b"\x04")
        with contextlib.suppress(OSError):
            while os.read(user, 4096):
                pass
        process.wait()
        limit.cancel()
    os.close(user)
    assert process.returncode == 0
    first, second = (body["messages"] for _, path, body in stub.requests if path == "/api/chat")
    assert [message["content"] for message in first] == ["Hi"]
    question, partial, again = (message["content"] for message in second)
    assert (question, again) == ("Hi", "Again")
    assert partial.startswith("and so on and")


def _read_until(user: int, end: bytes) -> None:
    seen = b""
    while not seen.endswith(end):  # byte by byte: what follows is for the next
        seen += os.read(user, 1)


def test_how_long_an_answer_may_be(stub: Stub) -> None:
    answer(stub, "Yes")
    assert run(stub, "run", "m", "Hi", "--num-predict", "3").stdout == "Yes\n"
    (body,) = [body for _, path, body in stub.requests if path == "/api/chat"]
    assert body["options"] == {"num_predict": 3}
    found = run(stub, "run", "m", "Hi", "--num-predict", "0")
    assert found.stderr.startswith("gguffast: error: --num-predict 0: it must be at least 1")


def test_standard_input_that_is_no_question(stub: Stub) -> None:
    command = [sys.executable, "-m", "gguffast", "run", "m", "--host", stub.host]
    for data, message in ((b"\xff", "is not UTF-8 text (byte 0)"), (bytes(17 << 20), "more than 16 MiB")):
        found = subprocess.run(command, input=data, capture_output=True, check=False)
        assert (found.returncode, found.stdout) == (1, b"")
        assert message in found.stderr.decode()


def test_list_and_show(stub: Stub) -> None:
    model = {
        "model": "m:latest",
        "size": 98_362_432,
        "modified_at": "2026-01-02T03:04:05Z",
        "details": {"quantization_level": "Q4_1"},
    }
    stub.answers["/api/tags"] = (200, json.dumps({"models": [model, {"model": "other:x"}]}).encode())
    assert run(stub, "list").stdout.splitlines() == [
        "name         size  type  modified",
        "m:latest  98.4 MB  Q4_1  2026-01-02 03:04",
        "other:x       0 B  -     -",
    ]
    modelfile = 'FROM /x\nSYSTEM """a\nb"""'
    facts = {"modelfile": modelfile, "system": "a\nb", "model_info": {"llama.context_length": 8192}}
    stub.answers["/api/show"] = (200, json.dumps(facts).encode())
    assert run(stub, "show", "m").stdout.splitlines() == [
        "model       m",
        "context     8192 tokens",
        "system      a",
        "            b",
    ]
    assert run(stub, "show", "m", "--modelfile").stdout == 'FROM /x\nSYSTEM """a\nb"""\n'
    assert json.loads(run(stub, "show", "m", "--json").stdout)["model_info"] == {"llama.context_length": 8192}


def test_create_says_what_was_done(stub: Stub, tmp_path: Path) -> None:
    found = run(stub, "create", "m", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (
        1,
        "gguffast: error: there is no Modelfile; write one (FROM ./model.gguf), or say where it is with -f\n",
    )
    (tmp_path / "Modelfile").write_text("FROM base\nPARAMETER mirostat 1")
    found = run(stub, "create", "m", cwd=tmp_path)
    assert found.stdout == "m\n  run it with    gguffast run m\n"
    assert found.stderr == (
        "gguffast: warning: line 2: the parameter mirostat is deprecated and has no effect\n"
    )
    found = run(stub, "create", "m", "--quiet", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("create", "no name"), "'no name' is no model name"),
        (("create", "m", "-q", "Q9_K"), "Q9_K"),
        (("run", "m", "Hi"), "running m: "),
        (("rm", "m"), "removing m: "),
        (("show", "../m"), "is no model name"),
        (("list", "--host", "ftp://x"), "what stands before :// is not http or https"),
    ],
)
def test_every_error_is_one_line(args: tuple[str, ...], message: str, stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text("FROM base")
    command = [sys.executable, "-m", "gguffast", *args, *(() if "--host" in args else ("--host", stub.host))]
    found = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("gguffast: error: ")
    assert found.stderr.count("\n") == 1
    assert message in found.stderr


def test_the_package_offers_it() -> None:
    assert gguffast.ollama.Client is not None
    assert gguffast.ollama.Modelfile is not None

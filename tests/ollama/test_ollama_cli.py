"""The commands as a user runs them, against a stub."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import gguffast
from support.ollama_servers import Stub


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
    environment = {**os.environ, "TERM": "dumb"}
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment
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
    facts = {"modelfile": 'FROM /x\nSYSTEM """a\nb"""', "model_info": {"llama.context_length": 8192}}
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
        (("list", "--host", "ftp://x"), "is not http:// or https://"),
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

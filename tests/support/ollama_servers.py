"""A real Ollama server, and a stub that answers as versions do which cannot be built here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import gguffast
from gguffast.demo.real_checkpoint import write_checkpoint


class Server:
    """An Ollama server on a free port with a store of its own."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.models = folder / "models"
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{probe.getsockname()[1]}"

    @property
    def environment(self) -> dict[str, str]:
        # Proxies must not be asked for the loopback; HOME keeps the server's key out of the user's.
        keep = {k: v for k, v in os.environ.items() if not k.startswith("OLLAMA_")}
        own = {"OLLAMA_HOST": self.host, "OLLAMA_MODELS": str(self.models), "HOME": str(self._folder)}
        return {**keep, **own, "NO_COLOR": "1"}

    def start(self) -> None:
        with open(self._folder / "log", "ab") as log:
            command = [self._program, "serve"]
            self._process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://{self.host}/api/version").close()
                return
            except urllib.error.URLError:
                time.sleep(0.1)
        pytest.fail(f"the Ollama server did not start: {(self._folder / 'log').read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def gguffast(self, *args: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gguffast", *map(str, args)]
        environment = {**self.environment, "HOME": os.environ.get("HOME", "/")}
        return subprocess.run(
            command, env=environment, input=stdin, capture_output=True, text=True, check=False
        )

    def blobs(self) -> list[Path]:
        folder = self.models / "blobs"
        return sorted(folder.iterdir()) if folder.exists() else []


def _program() -> Path | None:
    go = shutil.which("go")
    path = go and subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=True).stdout
    places = [
        os.environ.get("GGUFFAST_OLLAMA"),
        shutil.which("ollama"),
        path and f"{path.strip()}/bin/ollama",
    ]
    return next((Path(place) for place in places if place and os.access(place, os.X_OK)), None)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = _program()
    if program is None:
        message = "no Ollama: scripts/install-ollama.sh builds one, or GGUFFAST_OLLAMA says where it is"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    server = Server(program, tmp_path_factory.mktemp("ollama"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def checkpoint(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 as a Hugging Face checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint") / "smollm2-hf"
    write_checkpoint(real_model, folder)
    return folder


@pytest.fixture(scope="session")
def bf16(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as a GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "smollm2-BF16.gguf"
    gguffast.convert(checkpoint, path)
    return path


class Stub:
    """Answers with what a test has written down, and remembers what it was asked."""

    def __init__(self) -> None:
        self.version = "0.30.0"
        self.create: list[dict[str, Any]] = [{"status": "success"}]
        self.create_status = 200
        self.blob_status = 201
        self.blobs: dict[str, int] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.on_create: Callable[[], object] = lambda: None
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self._handle()

            do_HEAD = do_POST = do_DELETE = do_GET

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.removeprefix("/prefix")
                is_json = not path.startswith("/api/blobs") and body
                stub.requests.append((self.command, path, json.loads(body) if is_json else len(body)))
                self._answer(*stub.answer(self.command, path, body))

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_port}"

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if path in self.answers:
            return self.answers[path]
        if path == "/api/version":
            return 200, json.dumps({"version": self.version}).encode()
        if path.startswith("/api/blobs/"):
            digest = path.removeprefix("/api/blobs/")
            if method == "HEAD":
                return (200 if digest in self.blobs else 404), b""
            if self.blob_status == 201:
                self.blobs[digest] = len(body)
                return 201, b""
            return self.blob_status, b'{"error":"digest mismatch, expected \\"a\\", got \\"b\\""}'
        if path == "/api/create":
            self.on_create()
            return self.create_status, b"".join(json.dumps(line).encode() + b"\n" for line in self.create)
        return 404, b"404 page not found"

    def created(self) -> dict[str, Any]:
        """The body of the only request to create."""
        (body,) = [body for _, path, body in self.requests if path == "/api/create"]
        assert isinstance(body, dict)
        return body

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stub]:
    # Its store is nowhere, not even when the one who runs the tests has one.
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "no-store"))
    stub = Stub()
    yield stub
    stub.close()

"""Real Ollama servers, and a stub that answers as versions do which cannot be built here."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
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
from gguffast.files import cache_folder
from support import llama_cpp


class Server:
    """An Ollama server on a free port with a store of its own."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.version = program.parents[1].name.removeprefix("ollama-")
        self.models = folder / "models"
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._session = -1
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{probe.getsockname()[1]}"

    @property
    def is_new(self) -> bool:
        """Whether it is one of those that call llama.cpp's programs."""
        return tuple(map(int, self.version.split("."))) >= (0, 30)

    @property
    def environment(self) -> dict[str, str]:
        # Proxies must not be asked for the loopback; HOME keeps the server's key out of the user's.
        keep = {k: v for k, v in os.environ.items() if not k.startswith("OLLAMA_")}
        own = {"OLLAMA_HOST": self.host, "OLLAMA_MODELS": str(self.models), "HOME": str(self._folder)}
        # What the newer would look up elsewhere, and a context that needs little memory.
        return {**keep, **own, "OLLAMA_NO_CLOUD": "1", "OLLAMA_CONTEXT_LENGTH": "2048", "NO_COLOR": "1"}

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def start(self) -> None:
        with open(self._folder / "log", "ab") as log:
            # In a session of its own: the programs that it starts can be ended with it.
            self._process = subprocess.Popen(
                [self._program, "serve"],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._session = self._process.pid
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://{self.host}/api/version").close()
                return
            except urllib.error.URLError:
                time.sleep(0.1)
        pytest.fail(f"the Ollama server did not start: {self.log}")

    def processes(self) -> dict[int, str]:
        """The server and all that it has started, by number: their command lines."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                # Behind the program's name, which may hold anything.
                state, _, _, session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(session) == self._session and state != "Z":
                    found[int(folder.name)] = (folder / "cmdline").read_text()
        return found

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the server, and then what it leaves running."""
        if not self._process:
            return
        self._process.send_signal(number)
        self._process.wait()
        while left := self.processes():
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)
        self._process = None

    def gguffast(self, *args: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gguffast", *map(str, args)]
        environment = {**self.environment, "HOME": os.environ.get("HOME", "/")}
        return subprocess.run(
            command, env=environment, input=stdin, capture_output=True, text=True, check=False
        )

    def models_in_store(self) -> list[Path]:
        """Those of its files that are models, by their size."""
        return [path for path in self.blobs() if path.stat().st_size > 10_000_000]

    def blobs(self) -> list[Path]:
        folder = self.models / "blobs"
        return sorted(folder.iterdir()) if folder.exists() else []


# The last that builds and runs by itself, and one that calls llama.cpp's programs.
VERSIONS = ("0.11.4", "0.33.0")


def installed(version: str) -> Path:
    """Where scripts/install-ollama.sh puts a server."""
    program = cache_folder() / f"ollama-{version}" / "bin" / "ollama"
    if not program.exists():
        message = f"no Ollama {version} in {cache_folder()}: scripts/install-ollama.sh builds it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return program


def split(model: Path, folder: Path) -> Path:
    """Give the first of several shards of a model, made by llama.cpp's own program."""
    command = [
        llama_cpp.program("llama-gguf-split"),
        "--split",
        "--split-max-tensors",
        "100",
        model,
        folder / "part",
    ]
    subprocess.run(command, capture_output=True, check=True)
    return min(folder.glob("part-00001-of-*.gguf"))


@contextlib.contextmanager
def running(program: Path, folder: Path) -> Iterator[Server]:
    server = Server(program, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session", params=VERSIONS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each of the real servers."""
    with running(installed(request.param), tmp_path_factory.mktemp("ollama")) as server:
        yield server


@pytest.fixture(scope="session")
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The one that calls llama.cpp's programs."""
    with running(installed(VERSIONS[-1]), tmp_path_factory.mktemp("ollama")) as server:
        yield server


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
        self.headers: dict[str, str] = {}
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.endless: dict[str, bytes] = {}
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
                stub.headers = dict(self.headers)
                path = self.path.removeprefix("/prefix")
                is_json = not path.startswith("/api/blobs") and body
                stub.requests.append((self.command, path, json.loads(body) if is_json else len(body)))
                if path in stub.endless:
                    self._go_on_for_ever(stub.endless[path])
                else:
                    self._answer(*stub.answer(self.command, path, body))

            def _go_on_for_ever(self, line: bytes) -> None:
                self.send_response(200)
                self.end_headers()
                self.close_connection = True
                with contextlib.suppress(OSError):
                    while True:
                        self.wfile.write(line)
                        time.sleep(0.01)

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


@contextlib.contextmanager
def serving(*pieces: bytes, forever: bytes = b"", pause: float = 0) -> Iterator[str]:
    """A server that sends the same to everybody, byte by byte if there shall be pauses."""

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(1 << 16)
            for piece in itertools.chain(pieces, itertools.repeat(forever) if forever else ()):
                for byte in [piece] if not pause else [bytes([b]) for b in piece]:
                    connection.sendall(byte)
                    time.sleep(pause)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)

"""The client against a stub: spellings of the host, both forms of errors, servers that are old or strange."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from gguffast.errors import OptionError, ServerError
from gguffast.ollama import Client
from gguffast.ollama.client import RefusedError, check_name, parse_host
from support.ollama_servers import Stub


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (None, "http://127.0.0.1:11434"),
        ("", "http://127.0.0.1:11434"),
        (" '10.0.0.1' ", "http://10.0.0.1:11434"),
        ("example.com", "http://example.com:11434"),
        ("example.com:80", "http://example.com:80"),
        (":5000", "http://127.0.0.1:5000"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:5000", "http://127.0.0.1:5000"),
        ("http://example.com", "http://example.com:80"),
        ("https://example.com", "https://example.com:443"),
        ("https://example.com:8443/ollama/", "https://example.com:8443/ollama"),
        ("example.com/a/b", "http://example.com:11434/a/b"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("[::]:5000", "http://[::1]:5000"),
        ("http://[2001:db8::1]/x", "http://[2001:db8::1]:80/x"),
    ],
)
def test_every_spelling_of_a_host(text: str | None, url: str) -> None:
    assert parse_host(text) == url


@pytest.mark.parametrize(
    "text", ["ftp://example.com", "example.com:port", "a b", "example.com:99999", "[::1"]
)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(OptionError, match="Ollama host"):
        parse_host(text)


@pytest.mark.parametrize(
    "name", ["m", "my-model:q4", "me/model", "hf.co/me/model:Q4_K_M", "localhost:5000/a/b:c"]
)
def test_model_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "-m", "m:", "a/b/c/d", "m:a/b", "m" * 81, "../m", "m\n", "é"])
def test_what_is_no_model_name(name: str) -> None:
    with pytest.raises(OptionError, match="is no model name"):
        check_name(name)


def test_a_password_is_not_shown() -> None:
    with Client("http://user:secret@127.0.0.1:1") as client, pytest.raises(ServerError) as error:
        _ = client.version
    assert "http://127.0.0.1:1 " in str(error.value)
    assert "secret" not in str(error.value)


def test_the_path_of_a_host_comes_first(stub: Stub) -> None:
    with Client(f"http://{stub.host}/prefix/") as client:
        assert client.version == "0.30.0"
        assert not client.has_blob("sha256:" + "0" * 64)


def test_no_server() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{closed.getsockname()[1]}"
        with Client(host) as client, pytest.raises(ServerError) as error:
            client.list()
    assert str(error.value).startswith(
        f"no Ollama server answers at http://{host} (Connection refused); start"
    )


def test_a_server_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            Client(host, timeout=0.2) as client,
            pytest.raises(ServerError, match=r"did not answer in 0\.2 s"),
        ):
            _ = client.version


def test_what_is_no_ollama_server(stub: Stub) -> None:
    stub.answers["/api/version"] = (200, b"<html>Welcome</html>")
    stub.answers["/api/tags"] = (200, b"[1]")
    with Client(stub.host) as client:
        with pytest.raises(ServerError, match="is no Ollama server"):
            _ = client.version
        with pytest.raises(ServerError, match="is no Ollama server"):
            client.list()
        with pytest.raises(ServerError, match="it may be too old, or no Ollama server"):
            client.show("m")


@pytest.mark.parametrize(
    ("version", "before"),
    [("0.5.4", True), ("0.5.5-rc0", False), ("v0.30.0", False), ("0.0.0", None), ("x", None)],
)
def test_versions(version: str, before: bool | None, stub: Stub) -> None:
    stub.version = version
    with Client(stub.host) as client:
        assert client.is_before(0, 5, 5) is before


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize(
    ("says", "means"),
    [
        ("write /x: no space left on device", "the server's disk is full"),
        ("digest mismatch, expected a, got b", "the file arrived damaged"),
        ("invalid model name", "the server does not allow this model name"),
        ("template: :1: unexpected EOF", "the server refuses the TEMPLATE"),
        ("unknown model architecture: 'x'", "the server is too old"),
        ("path or Modelfile are required", "update Ollama"),
        ("something else", "says: something else"),
    ],
)
def test_both_forms_of_errors(says: str, means: str, status: int, stub: Stub) -> None:
    stub.create = (
        [{"status": "validating GGUF model"}, {"error": says}] if status == 200 else [{"error": says}]
    )
    stub.create_status = status
    with Client(stub.host) as client, pytest.raises(RefusedError) as error:
        client.create("m", {"from": "x"})
    assert str(error.value).startswith("creating m: ")
    assert means in str(error.value)
    assert says in str(error.value)


def test_an_answer_that_ends_too_soon_is_no_success(stub: Stub) -> None:
    stub.create = [{"status": "writing manifest"}]
    with Client(stub.host) as client, pytest.raises(ServerError, match="stopped half-way"):
        client.create("m", {"from": "x"})


def test_lines_that_are_not_json(stub: Stub) -> None:
    stub.answers["/api/create"] = (200, b'{"status":"x"}\n<html>\n')
    with Client(stub.host) as client, pytest.raises(ServerError, match="is no Ollama server"):
        client.create("m", {"from": "x"})


def test_an_upload_says_how_far_it_is(stub: Stub, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3 << 20))
    digest = f"sha256:{hashlib.sha256(bytes(3 << 20)).hexdigest()}"
    seen: list[tuple[int, int]] = []
    with Client(stub.host) as client:
        assert not client.has_blob(digest)
        client.upload(path, digest, lambda done, total: seen.append((done, total)))
        assert client.has_blob(digest)
        stub.blob_status = 400
        with pytest.raises(RefusedError, match="arrived damaged, or was changed meanwhile"):
            client.upload(path, digest)
    assert seen == [(n << 20, 3 << 20) for n in (1, 2, 3)]
    assert stub.blobs == {digest: 3 << 20}


def test_a_server_that_refuses_before_it_has_read_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(32 << 20))
    error = b'{"error":"write /x: no space left on device"}'
    answer = b"HTTP/1.1 500 x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(error), error)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass

        server = threading.Thread(target=refuse)
        server.start()
        with (
            Client(f"127.0.0.1:{listener.getsockname()[1]}") as client,
            pytest.raises(RefusedError, match="the server's disk is full"),
        ):
            client.upload(path, "sha256:" + "0" * 64)
        server.join()


def _lines(*parts: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(part).encode() + b"\n" for part in parts)


def test_an_answer_comes_in_pieces_and_may_end_in_an_error(stub: Stub) -> None:
    pieces = [{"message": {"role": "assistant", "content": text}, "done": False} for text in ("Hel", "lo")]
    stub.answers["/api/chat"] = (200, _lines(*pieces, {"done": True}))
    with Client(stub.host) as client:
        assert list(client.chat("m", [{"role": "user", "content": "Hi"}])) == ["Hel", "lo"]
        stub.answers["/api/chat"] = (200, _lines(*pieces, {"error": "model runner has stopped"}))
        with pytest.raises(ServerError, match="model runner has stopped"):
            list(client.chat("m", []))
        stub.answers["/api/chat"] = (200, _lines(*pieces))
        with pytest.raises(ServerError, match="stopped half-way"):
            list(client.chat("m", []))
        stub.answers["/api/chat"] = (404, b'{"error":"model \\"m\\" not found, try pulling it first"}')
        with pytest.raises(ServerError, match="the server has no such model; `gguffast list`"):
            list(client.chat("m", []))

"""Servers that never stop, never start, or lie: each is one line, in time, and costs little."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguffast.errors import GGUFFastError, OptionError, ServerError
from gguffast.ollama import Client
from support.bounded import run_bounded
from support.ollama_servers import Stub, serving

DIGEST = "sha256:" + "0" * 64
ASKED: dict[str, Callable[[Client], object]] = {
    "version": lambda client: client.version,
    "list": lambda client: client.list(),
    "show": lambda client: client.show("m"),
    "delete": lambda client: client.delete("m"),
    "chat": lambda client: list(client.chat("m", [])),
    "create": lambda client: client._stream("creating m", "api/create", {}).__next__(),
    "has_blob": lambda client: client.has_blob(DIGEST),
}
# One for each way of reading an answer: all of it, line by line, its head alone.
WHOLE, LINES, HEAD_ONLY = "show", "chat", "has_blob"
WAYS = (WHOLE, LINES, HEAD_ONLY)


HEAD = b"HTTP/1.1 200 OK\r\n"
ERROR = b"HTTP/1.1 500 x\r\n\r\n"


def said(host: str, what: str, timeout: float = 20.0) -> str:
    """What the client says, in a process whose memory and time are counted."""

    def ask() -> None:
        with Client(host, timeout=timeout) as client:
            ASKED[what](client)

    with pytest.raises(ServerError) as error:
        run_bounded(ask, file_bytes=8 << 20)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    return str(error.value)


@pytest.mark.parametrize("what", WAYS)
@pytest.mark.parametrize(
    ("before", "drip"), [(b"", HEAD + b"X: " + b"x" * 999), (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99)]
)
def test_a_head_that_comes_byte_by_byte(what: str, before: bytes, drip: bytes) -> None:
    # Each byte comes in time, all of them do not. While a model works 120 times as long is waited.
    timeout = 0.004 if what == LINES else 0.4
    with serving(before, drip, pause=0.02) as host:
        assert " did not answer in 0.4" in said(host, what, timeout)


@pytest.mark.parametrize("what", [WHOLE, LINES])
def test_a_body_that_comes_byte_by_byte(what: str) -> None:
    timeout = 0.004 if what == LINES else 0.4
    with serving(HEAD + b"\r\n", b" " * 999, pause=0.02) as host:
        assert " did not answer in 0.4" in said(host, what, timeout)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_without_an_end(chunked: bool) -> None:
    data = b"[" * (1 << 16)
    forever = b"%x\r\n%s\r\n" % (len(data), data) if chunked else data
    with serving(
        HEAD, b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n", forever=forever
    ) as host:
        assert ": the answer has more than 4 MiB;" in said(host, WHOLE)


def test_a_line_without_an_end() -> None:
    with serving(HEAD + b"\r\n", forever=b" " * (1 << 16)) as host:
        assert ": a line of the answer has more than 1048576 bytes;" in said(host, LINES)


def test_lines_of_nothing() -> None:
    with serving(HEAD + b"\r\n", forever=b"\n" * (1 << 16)) as host:
        assert "; it is no Ollama server" in said(host, LINES)


@pytest.mark.parametrize("what", WAYS)
def test_a_head_without_an_end(what: str) -> None:
    with serving(HEAD, forever=b"X: y\r\n" * 100) as host:
        assert "; it is no Ollama server" in said(host, what)
    with serving(HEAD, forever=b"x" * (1 << 16)) as host:
        assert "; it is no Ollama server" in said(host, what)


@pytest.mark.parametrize("what", WAYS)
def test_errors_without_an_end(what: str) -> None:
    with serving(ERROR, forever=b"what a pity " * 1000) as host:
        message = said(host, what)
    assert ("says: what a pity" in message) == (what != HEAD_ONLY)  # which asks for a status only


@pytest.mark.parametrize("what", WAYS)
def test_compressed_answers(what: str) -> None:
    with serving(HEAD + b"Content-Encoding: gzip\r\n\r\n", b"\x1f\x8b") as host:
        assert ": the answer is compressed (gzip), which was not asked for;" in said(host, what)


@pytest.mark.parametrize(("what", "status"), [(WHOLE, 301), (LINES, 307), (HEAD_ONLY, 308)])
def test_redirections(what: str, status: int) -> None:
    with serving(b"HTTP/1.1 %d x\r\nLocation: http://127.0.0.1:1/\r\n\r\n" % status) as host:
        assert f"ask elsewhere (HTTP {status}); give that address as the host" in said(host, what)


def test_an_upload_follows_no_redirection(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(9 << 20))
    with serving(HEAD + b"\r\n") as other:
        answer = b"HTTP/1.1 307 x\r\nLocation: http://%s/\r\n\r\n" % other.encode()
        with serving(answer) as host, pytest.raises(ServerError, match="ask elsewhere"):
            Client(host).upload(tmp_path / "file", DIGEST)


def test_an_upload_that_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(32 << 20))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
        with pytest.raises(ServerError, match=r"did not answer in 0\.2 s; if it, or the way to it, is slow"):
            client.upload(tmp_path / "file", DIGEST)


@pytest.mark.parametrize("what", [WHOLE, LINES])
@pytest.mark.parametrize(
    "text", [b"[" * 900_000, b'{"a":' * 90_000, b"1" * 9999, b'"\xff"', b"{" * 500, b"nul"]
)
def test_strange_json(what: str, text: bytes) -> None:
    with serving(HEAD + b"\r\n", text + b"\n") as host:
        assert "; it is no Ollama server" in said(host, what)
    with serving(ERROR, text + b"\n") as host:
        said(host, what)


@pytest.mark.parametrize("what", [WHOLE, LINES])
def test_answers_that_are_cut(what: str) -> None:
    with serving(HEAD + b"Content-Length: 999\r\n\r\n", b'{"status":') as host:
        assert "went away" in said(host, what) or what == LINES
    with serving(b"") as host:
        assert "went away" in said(host, what)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
ANSWERS: dict[str, tuple[str, Any]] = {
    "version": ("/api/version", {"version": "0.33.0"}),
    "list": (
        "/api/tags",
        {
            "models": [
                {
                    "model": "m",
                    "name": "m",
                    "size": 1,
                    "modified_at": "2026-01-02T03:04:05.123456789-07:00",
                    "details": {"quantization_level": "F16"},
                }
            ]
        },
    ),
    "show": (
        "/api/show",
        {
            "details": {"family": "llama", "parameter_size": "7B", "quantization_level": "F16"},
            "model_info": {"llama.context_length": 8192},
            "capabilities": ["completion"],
            **dict.fromkeys(("parameters", "template", "system", "license", "modelfile"), "text"),
        },
    ),
    "chat": ("/api/chat", {"message": {"content": "text"}, "done": True, "error": ""}),
    "create": ("/api/create", {"status": "success", "completed": 1, "total": 2, "error": ""}),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value, the whole of it included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, entry in inner for place in places(entry, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


@pytest.fixture(scope="module")
def own_stub() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.close()


@pytest.mark.parametrize("what", ANSWERS)
@given(data=st.data())
def test_any_value_in_any_field(what: str, data: st.DataObject, own_stub: Stub) -> None:
    path, good = ANSWERS[what]
    bad = put(good, data.draw(st.sampled_from(places(good))), data.draw(JSON))
    own_stub.answers = {path: (200, json.dumps(bad).encode() + b"\n")}
    client = Client(own_stub.host)
    client.__dict__["version"] = "0.33.0" if what != "version" else client.__dict__.pop("version", None)
    if what == "version":
        del client.__dict__["version"]
    try:
        client.create("m", {}) if what == "create" else ASKED[what](client)
    except ServerError as error:
        assert len(str(error)) < 1000  # noqa: PT017


@pytest.mark.parametrize("what", ANSWERS)
def test_the_good_value_in_every_field(what: str, own_stub: Stub) -> None:
    path, good = ANSWERS[what]
    own_stub.answers = {path: (200, json.dumps(good).encode() + b"\n")}
    ASKED[what](Client(own_stub.host))


PASSWORDS = [
    "http://user:secret@127.0.0.1:1",
    "user:secret@127.0.0.1:1",
    "user:secret@ftp://127.0.0.1",
    "http://user:secret@[::1",
    "http://user:secret@127.0.0.1:port",
    "http://user:secret@a b",
    "http://user:1/secret@127.0.0.1:1",
    "http://user:sec/secret@127.0.0.1:1",
    "http://user:se#secret@127.0.0.1:1",
    "http://user:se?secret@127.0.0.1:1",
    "http://user:secret@" + "x" * 70,
    "http://user:secret@127.0.0.1:1/a b",
    "https://user:secret@127.0.0.1:1",
]


@pytest.mark.parametrize("host", PASSWORDS)
def test_no_error_shows_a_password(host: str) -> None:
    with pytest.raises(GGUFFastError) as error:
        _ = Client(host).version
    assert "secret" not in str(error.value)
    assert "user" not in str(error.value)


def test_user_and_password_are_sent() -> None:
    stub = Stub()
    try:
        assert Client(f"http://us%40er:sec%2Fret@{stub.host}").version == "0.30.0"
        assert stub.headers["Authorization"] == "Basic dXNAZXI6c2VjL3JldA=="
    finally:
        stub.close()


def test_a_key_is_sent_and_never_shown(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", " key\n")
    assert Client(stub.host).version == "0.30.0"
    assert stub.headers["Authorization"] == "Bearer key"
    monkeypatch.setenv("OLLAMA_API_KEY", "ke\ny")
    with pytest.raises(OptionError, match="OLLAMA_API_KEY holds a character that no key has"):
        Client(stub.host)


def test_a_proxy_of_the_environment(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://me:secret@{stub.host}")
    stub.answers["http://ollama.invalid:11434/api/version"] = (200, b'{"version":"1.2.3"}')
    assert Client("ollama.invalid").version == "1.2.3"
    assert stub.headers["Proxy-Authorization"] == "Basic bWU6c2VjcmV0"
    assert stub.headers["Host"] == "ollama.invalid:11434"
    assert Client(stub.host).version == "0.30.0"  # this machine is reached without
    monkeypatch.setenv("no_proxy", "ollama.invalid")
    with pytest.raises(ServerError, match=r"no Ollama server answers at http://ollama\.invalid:11434 \("):
        _ = Client("ollama.invalid").version
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", "socks5://me:secret@localhost:1")
    with pytest.raises(ServerError, match="the proxy that the environment names is not of the form"):
        _ = Client("ollama.invalid").version


def test_a_server_without_tls(stub: Stub) -> None:
    with pytest.raises(ServerError, match=r"\(no trusted connection: "):
        _ = Client(f"https://{stub.host}").version


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", "1e9"])
def test_how_long_to_wait(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUFFAST_OLLAMA_TIMEOUT", "0.2")
    with serving(forever=b"", pause=1) as host, pytest.raises(ServerError):
        _ = Client(host).version
    monkeypatch.setenv("GGUFFAST_OLLAMA_TIMEOUT", text)
    with pytest.raises(OptionError, match="GGUFFAST_OLLAMA_TIMEOUT: a number of seconds is needed"):
        Client()

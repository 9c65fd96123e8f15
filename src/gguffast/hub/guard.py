"""What comes from the Hub is bounded and checked before the client sees it.

``huggingface_hub`` waits for ever where it is not told otherwise, reads answers whole whatever their size,
and makes paths of a commit's hash and a file's ETag. Its HTTP client has hooks for requests and responses.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gguffast.documents import parse_json
from gguffast.errors import FormatError

_ANSWER_BYTES = 64 << 20  # the list of a repo's files: 200 bytes for each
_ERROR_BYTES = 1 << 20
_UNSTATED_BYTES = 1 << 30  # a file whose size the Hub does not state
_PIECE = 1 << 20

# The Hub is heard within HF_HUB_DOWNLOAD_TIMEOUT (10 s); what it works on may take longer, and so may the
# whole of an answer. It may ask to wait, but not for longer than someone would.
_PATIENCE = 12
_LONGEST_WAIT = 300

_IS_FILE = "gguffast.is_file"

_HASH = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_ETAG = re.compile(r"(?:W/)?\"?[\w=+-][\w.=+-]{0,199}\"?", re.ASCII)

_lock = threading.Lock()
_inside = 0
_users_factory: Any = None


@contextlib.contextmanager
def guarded(client: Any) -> Iterator[None]:
    """Guard all requests that ``huggingface_hub`` makes until the ``with`` block ends.

    Parameters
    ----------
    client : module
        ``huggingface_hub``.
    """
    global _inside, _users_factory
    with _lock:
        _inside += 1
        if _inside == 1:
            # A user's own one, with proxies or certificates, still makes the HTTP client.
            factory = _users_factory = client.utils._http._GLOBAL_CLIENT_FACTORY
            client.set_client_factory(lambda: _Guard(client).add_to(factory()))
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                client.set_client_factory(_users_factory)


def http_library(client: Any) -> Any:
    """Give the HTTP library of the client, which depends on the client's version."""
    base = next(c for c in client.errors.HfHubHTTPError.__mro__ if c.__module__.startswith("httpx"))
    return sys.modules[base.__module__.partition(".")[0]]


class _Guard:
    def __init__(self, client: Any) -> None:
        self._http = http_library(client)
        self._seconds = float(client.constants.HF_HUB_DOWNLOAD_TIMEOUT)
        self._sizes: dict[str, int] = {}

    def add_to(self, client: Any) -> Any:
        hooks = client.event_hooks
        hooks["request"].append(self._on_request)
        hooks["response"].append(self._on_response)
        client.event_hooks = hooks
        return client

    def _on_request(self, request: Any) -> None:
        longer = 1 if request.method in ("GET", "HEAD") else _PATIENCE
        given = request.extensions.get("timeout") or {}
        most = self._seconds * longer
        limits = {key: min(given.get(key) or most, most) for key in ("connect", "read", "write")}
        # A redirected request has the extensions of the first one, and so stays what it was.
        is_file = request.extensions.get(
            _IS_FILE, request.method == "GET" and "/api/" not in request.url.path
        )
        request.extensions = {**request.extensions, "timeout": {**given, **limits}, _IS_FILE: is_file}
        request.headers["Accept-Encoding"] = "identity"

    def _on_response(self, response: Any) -> None:
        request = response.request
        self._check_headers(response.headers, request.method == "HEAD")
        if request.method == "HEAD":
            self._note_size(response)
        elif response.is_error or response.has_redirect_location:
            self._bound(response, _ERROR_BYTES, cut=True, deadline=True)
        elif request.extensions[_IS_FILE]:
            stated = self._sizes.get(str(request.url), _number(response.headers.get("Content-Length")))
            self._bound(response, _UNSTATED_BYTES if stated is None else stated)
        else:
            self._bound(response, _ANSWER_BYTES, deadline=True)
            if request.method == "GET" and "/api/models/" in request.url.path:
                response.read()
                _check_answer(response.content, request.url.path)

    def _check_headers(self, headers: Any, become_paths: bool) -> None:
        commit = headers.get("X-Repo-Commit")
        if commit is not None and not _HASH.fullmatch(commit):
            raise _odd(f"the commit {commit!r:.80}")
        for name in ("ETag", "X-Linked-ETag"):
            etag = headers.get(name) if become_paths else None
            if etag is not None and not _ETAG.fullmatch(etag):
                raise _odd(f"the {name} {etag!r:.80}")
        for name in ("Content-Length", "X-Linked-Size"):
            if headers.get(name) is not None and _number(headers[name]) is None:
                raise _odd(f"the {name} {headers[name]!r:.80}")
        # The client would sleep for as long as it is told.
        waits = re.findall(r"\d+", f"{headers.get('Retry-After')} {headers.get('RateLimit')}")
        if any(len(seconds) > 9 or int(seconds) > _LONGEST_WAIT for seconds in waits):
            for name in ("Retry-After", "RateLimit"):
                headers.pop(name, None)

    def _note_size(self, response: Any) -> None:
        headers, url = response.headers, response.request.url
        if response.has_redirect_location:  # the client fetches the file from there
            stated, url = headers.get("X-Linked-Size"), url.join(headers["Location"])
        else:
            stated = headers.get("X-Linked-Size") or headers.get("Content-Length")
        if stated:
            self._sizes[str(url)] = int(stated)

    def _bound(self, response: Any, limit: int, *, cut: bool = False, deadline: bool = False) -> None:
        """Let the body be no longer than `limit`: cut it, or raise; and no slower than is bearable."""
        until = time.monotonic() + _PATIENCE * self._seconds if deadline else None
        pieces: Iterable[bytes] = response.stream
        encoding = response.headers.pop("Content-Encoding", "identity").lower()
        if encoding in ("gzip", "x-gzip", "deflate"):  # though it was not asked for
            response.headers.pop("Content-Length", None)
            pieces = _unpacked(response.stream)
        elif encoding != "identity":
            raise _odd(f"the encoding {encoding!r:.40}")
        stream, http, seconds = response.stream, self._http, self._seconds

        class Bounded(http.SyncByteStream):  # type: ignore[misc, name-defined]
            def __iter__(self) -> Iterator[bytes]:
                left = limit
                for piece in pieces:
                    if until is not None and time.monotonic() > until:
                        raise http.ReadTimeout(f"the answer is not whole after {_PATIENCE * seconds:g} s")
                    left -= len(piece)
                    if left >= 0:
                        yield piece
                    elif cut:
                        return
                    else:
                        raise _odd(f"more than the {limit} bytes that were to come")

            def close(self) -> None:
                stream.close()

        response.stream = Bounded()


def _unpacked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress gzip or zlib, no more at a time than is asked for."""
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        for piece in pieces:
            while piece:
                yield decoder.decompress(piece, _PIECE)
                piece = decoder.unconsumed_tail
    except zlib.error:
        raise _odd("a compressed file that is damaged") from None


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text) else None


def _odd(what: str) -> FormatError:
    return FormatError(f"the Hub sent {what}; it is broken, or no Hub: check HF_ENDPOINT, or try again later")


# ---- answers -----------------------------------------------------------------------------------------------


def _check_answer(content: bytes, path: str) -> None:
    """Refuse what is no answer about a repo: the client believes it."""
    try:
        answer = parse_json(content, path)
    except FormatError as error:
        raise _odd(f"what is no answer ({error})") from None
    if isinstance(answer, list):
        for entry in answer:
            _check_entry(_of(dict, entry, "a file's entry"))
    elif "siblings" in _of(dict, answer, "the answer"):
        _check_hash(answer.get("sha"), "the commit")
        for file in _of(list, answer["siblings"], "siblings"):
            _of(str, _of(dict, file, "a file's entry").get("rfilename"), "a file's name")


def _check_entry(entry: dict[str, Any]) -> None:
    _of(str, entry.get("path"), "a file's path")
    _check_hash(entry.get("oid"), "a file's hash")
    if entry.get("type") == "file" and _of(int, entry.get("size"), "a file's size") < 0:
        raise _odd("a size below zero")
    if entry.get("lfs") is not None:
        lfs = _of(dict, entry["lfs"], "lfs")
        _check_hash(lfs.get("oid"), "a file's hash")
        _of(int, lfs.get("size"), "a file's size")
    if entry.get("xetHash") is not None:
        _check_hash(entry["xetHash"], "a file's hash")


def _check_hash(value: Any, what: str) -> None:
    if not _HASH.fullmatch(_of(str, value, what)):
        raise _odd(f"{value!r:.80} for {what}")


def _of(kind: Callable[..., Any], value: Any, what: str) -> Any:
    if type(value) is not kind:
        raise _odd(f"{value!r:.80} for {what}")
    return value

"""Talks to an Ollama server: the official client where it does the job, plain HTTP for what it lacks."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from gguffast.errors import GGUFFastError, OptionError, ServerError

if TYPE_CHECKING:
    import httpx

    import ollama

# Of what the server answers at once. An answer that is worked on, by a model or for one, may take any time.
_ANSWER_SECONDS = 30.0
_CONNECT_SECONDS = 10.0

_PIECE = 1 << 20

# Four parts, HOST/NAMESPACE/MODEL:TAG, of which only the model's name is needed; Ollama's own limits.
_NAME = re.compile(
    r"(?:(?:[A-Za-z0-9_][-A-Za-z0-9_.:]{0,349}/)?[A-Za-z0-9_][-A-Za-z0-9_]{0,79}/)?"
    r"[A-Za-z0-9_][-A-Za-z0-9_.]{0,79}(?::[A-Za-z0-9_][-A-Za-z0-9_.]{0,79})?"
)

Message = Mapping[str, str]
Version = tuple[int, ...]


def check_name(name: str) -> str:
    """Refuse a model name that Ollama would refuse.

    Raises
    ------
    OptionError
        It is not of the form ``[[HOST/]NAMESPACE/]MODEL[:TAG]``.
    """
    if not _NAME.fullmatch(name):
        raise OptionError(
            f"{name!r} is no model name; one is made of letters, digits, '-', '_' and '.', "
            "as in my-model or my-model:q4"
        )
    return name


def parse_host(text: str | None) -> str:
    """Make a URL of any spelling of OLLAMA_HOST.

    Parameters
    ----------
    text : str or None
        ``host``, ``host:port``, ``:port``, an IPv6 address with or without brackets, each with or without
        ``http://`` or ``https://`` before it and a path behind; None or empty is Ollama's own default.

    Returns
    -------
    str
        Such as ``http://127.0.0.1:11434``. An address to listen on (``0.0.0.0``, ``::``) becomes the one to
        connect to.

    Raises
    ------
    OptionError
        It is none of these.
    """
    text = (text or "").strip().strip("\"'")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    if scheme not in ("http", "https"):
        raise OptionError(f"Ollama host: {scheme}:// is not http:// or https://")
    port = {"http": 80, "https": 443}[scheme] if separator else 11434
    place, _, path = rest.partition("/")
    user, at, place = place.rpartition("@")
    if place.count(":") > 1 and not place.startswith("["):
        place = f"[{place}]"
    try:
        parts = urllib.parse.urlsplit(f"//{place}")
        host, port = parts.hostname or "127.0.0.1", port if parts.port is None else parts.port
        host = _host(host)
    except ValueError:
        raise OptionError(
            f"Ollama host: cannot make sense of {place!r}; write HOST:PORT or http://HOST:PORT"
        ) from None
    path = path.strip("/")
    return f"{scheme}://{user}{at}{host}:{port}{f'/{path}' if path else ''}"


def _host(host: str) -> str:
    if re.search(r"[\s?#%]", host):
        raise ValueError(host)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"[{address}]" if address.version == 6 else str(address)


class RefusedError(ServerError):
    """The server answered that it will not, or cannot."""


class Client:
    """An Ollama server.

    Parameters
    ----------
    host : str, optional
        Where it is, in any spelling that OLLAMA_HOST may have; by default what OLLAMA_HOST says, and then
        ``127.0.0.1:11434``.
    timeout : float
        Seconds to wait for what the server can answer at once. What takes a model's time is waited for.

    Raises
    ------
    OptionError
        ``host`` is no host, or the extra ``ollama`` is not installed.
    """

    def __init__(self, host: str | None = None, *, timeout: float = _ANSWER_SECONDS) -> None:
        self._http_module = _import("httpx")
        self._package = _import("ollama")
        self._address = parse_host(host or os.environ.get("OLLAMA_HOST"))
        split = urllib.parse.urlsplit(self._address)
        self.url = self._address.replace(f"{split.netloc.rpartition('@')[0]}@", "")
        self.is_local = _is_loopback(split.hostname or "")
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for name in ("_http", "_quick", "_patient"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()

    @cached_property
    def version(self) -> str:
        """The server's version; ``0.0.0`` if it was built without one."""
        with self._errors("asking for the version"):
            answer = self._http.get("api/version")
            answer.raise_for_status()
            return str(answer.json()["version"])

    def is_before(self, *version: int) -> bool | None:
        """Tell whether the server is older than a version; None if it does not know its own."""
        numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", self.version)
        own: Version = tuple(map(int, numbers.groups())) if numbers else (0, 0, 0)
        return own < version if any(own) else None

    def list(self) -> ollama.ListResponse:
        """Give the models that the server has."""
        with self._errors("listing the models"):
            return self._quick.list()

    def show(self, name: str) -> ollama.ShowResponse:
        """Give what the server knows of a model."""
        with self._errors(f"asking about {check_name(name)}"):
            return self._quick.show(name)

    def delete(self, name: str) -> None:
        """Remove a model."""
        with self._errors(f"removing {check_name(name)}"):
            self._quick.delete(name)

    def chat(self, name: str, messages: Sequence[Message]) -> Iterator[str]:
        """Give a model's answer to a conversation, piece by piece as it comes.

        Parameters
        ----------
        name : str
            The model.
        messages : sequence of mapping
            ``{"role": "user", "content": "Hello"}``, the last of them the one to answer.
        """
        with self._errors(f"running {check_name(name)}"):
            for part in self._patient.chat(name, messages, stream=True):
                yield part.message.content or ""

    def has_blob(self, digest: str) -> bool:
        """Tell whether the server has a file already, by its ``sha256:`` digest."""
        with self._errors("asking for a file"):
            answer = self._http.head(f"api/blobs/{digest}")
            if answer.status_code != 404:
                answer.raise_for_status()
            return answer.status_code != 404

    def upload(self, path: Path, digest: str, progress: Callable[[int, int], object] | None = None) -> None:
        """Give the server a file.

        Parameters
        ----------
        path : Path
        digest : str
            Its ``sha256:`` digest; the server checks it.
        progress : callable, optional
            Called with the bytes sent and their total. What it raises stops the upload.
        """
        with open(path, "rb") as file, self._errors(f"uploading {path.name}"):
            size = os.fstat(file.fileno()).st_size

            def pieces() -> Iterator[bytes]:
                sent = 0
                while piece := file.read(_PIECE):
                    yield piece
                    sent += len(piece)
                    if progress:
                        progress(sent, size)

            # With its length, so that the server can tell a whole file from one that was cut.
            self._http.post(
                f"api/blobs/{digest}",
                content=pieces(),
                headers={"Content-Length": str(size)},
                timeout=self._limits(None),
            ).raise_for_status()

    def create(
        self,
        name: str,
        fields: Mapping[str, Any],
        modelfile: str = "",
        progress: Callable[[Mapping[str, Any]], object] | None = None,
    ) -> None:
        """Register a model.

        Parameters
        ----------
        name : str
        fields : mapping
            Of the server's ``/api/create``: ``files``, ``from``, ``template``, ``parameters`` and others.
        modelfile : str
            The same for servers before 0.5.5, with ``FROM @sha256:...``.
        progress : callable, optional
            Called with each line of the answer: ``status``, and ``completed`` and ``total`` in some.
        """
        body: dict[str, Any] = {"model": check_name(name), "stream": True, **fields}
        if self.is_before(0, 5, 5) is not False:
            # A server ignores what it does not know, so that one request serves both kinds.
            body |= {"name": name, "modelfile": modelfile}
        status = ""
        with (
            self._errors(f"creating {name}"),
            self._http.stream("POST", "api/create", json=body, timeout=self._limits(None)) as answer,
        ):
            if answer.is_error:
                answer.read()
                answer.raise_for_status()
            for line in filter(None, answer.iter_lines()):
                part = json.loads(line)
                if part.get("error"):
                    raise self._refused(f"creating {name}", str(part["error"]))
                status = part.get("status", "")
                if progress:
                    progress(part)
        if status != "success":
            raise ServerError(f"creating {name}: the Ollama server at {self.url} stopped half-way; try again")

    @cached_property
    def _http(self) -> httpx.Client:
        client: httpx.Client = self._http_module.Client(
            base_url=self._address, headers=_authorization(), **self._settings(self._timeout)
        )
        return client

    @cached_property
    def _quick(self) -> ollama.Client:
        return self._official(self._timeout)

    @cached_property
    def _patient(self) -> ollama.Client:
        return self._official(None)

    def _official(self, seconds: float | None) -> ollama.Client:
        client: ollama.Client = self._package.Client(self._address, **self._settings(seconds))
        return client

    def _settings(self, seconds: float | None) -> dict[str, Any]:
        # A proxy from the environment cannot reach this machine's loopback.
        return {"timeout": self._limits(seconds), "trust_env": not self.is_local, "follow_redirects": True}

    def _limits(self, seconds: float | None) -> httpx.Timeout:
        limits: httpx.Timeout = self._http_module.Timeout(
            seconds, connect=min(_CONNECT_SECONDS, self._timeout), write=self._timeout
        )
        return limits

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Say in words what went wrong while doing something."""
        http = self._http_module
        try:
            yield
        except GGUFFastError:
            raise
        except (ConnectionError, http.ConnectError, http.ConnectTimeout) as error:
            raise ServerError(
                f"no Ollama server answers at {self.url}; start one with `ollama serve`, "
                "or say where it is with `host` or OLLAMA_HOST"
            ) from error
        except http.TimeoutException as error:
            raise ServerError(
                f"{doing}: the Ollama server at {self.url} did not answer in {self._timeout:g} s"
            ) from error
        except self._package.ResponseError as error:
            raise self._refused(doing, error.error, error.status_code) from error
        except http.HTTPStatusError as error:
            raise self._refused(doing, _error_text(error.response), error.response.status_code) from error
        except http.TransportError as error:
            raise ServerError(
                f"{doing}: the Ollama server at {self.url} went away; see that it runs, then try again"
            ) from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ServerError(
                f"{doing}: what answers at {self.url} is no Ollama server, or one of an unknown version"
            ) from error

    def _refused(self, doing: str, text: str, status: int = 0) -> RefusedError:
        text = text.strip() or f"HTTP status {status}"
        for pattern, meaning in _MEANINGS:
            if re.search(pattern, text, re.IGNORECASE):
                return RefusedError(f"{doing}: {meaning} (the Ollama server says: {text})")
        if status == 404:
            text = f"it knows no such request (HTTP 404: {text}); it may be too old, or no Ollama server"
        return RefusedError(f"{doing}: the Ollama server at {self.url} says: {text}")


_NO_SPACE = os.strerror(errno.ENOSPC)
_MEANINGS = (
    (_NO_SPACE, "the server's disk is full; remove models with `gguffast rm` or free some space there"),
    ("digest mismatch", "the file arrived damaged, or was changed meanwhile; try again"),
    ("invalid model name", "the server does not allow this model name"),
    (
        "neither 'from' or 'files' was specified|path or modelfile are required",
        "the server does not understand the request; update Ollama",
    ),
    (
        r"^template|bad template|template error",
        "the server refuses the TEMPLATE; it must be Go's text/template",
    ),
    (
        "newer version of ollama|requires a newer|unknown model architecture",
        "the server is too old for this model; update Ollama",
    ),
    ("model.*not found|no such model", "the server has no such model; `gguffast list` shows those it has"),
)


def _error_text(answer: httpx.Response) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        return str(answer.json().get("error") or answer.text)
    return answer.text[:500]


def _authorization() -> dict[str, str]:
    # As the official client does, for servers behind a key.
    key = os.environ.get("OLLAMA_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _import(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise OptionError(
            f"Ollama needs the package {name}; install it with: pip install 'gguffast[ollama]'"
        ) from None

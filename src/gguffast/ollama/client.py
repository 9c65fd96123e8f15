"""Talks to an Ollama server."""

from __future__ import annotations

import contextlib
import errno
import http.client
import ipaddress
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from gguffast.documents import Values, json_object
from gguffast.errors import FormatError, GGUFFastError, OptionError, ServerError
from gguffast.ollama.http import Exchange, NotReached, TooSlow, Unexpected
from gguffast.reading import LocalFile

# For what the server answers at once, and how many times as long for each line of what is worked on: loading
# a model, reading a long question, copying or quantizing a file without a word.
_ANSWER_SECONDS = 30.0
_PATIENCE = 120
_MOST_SECONDS = 86400

# Bytes. A list of 10,000 models and what is known of a model with 10,000 tensors have 2 million.
_MOST_ANSWER = 4 << 20
_MOST_LINE = 1 << 20
_MOST_ERROR = 1 << 16
_MOST_SHOWN = 500  # letters of an error

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
        raise OptionError("Ollama host: what stands before :// is not http or https")
    port = {"http": 80, "https": 443}[scheme] if separator else 11434
    place, _, path = rest.partition("/")
    user, at, place = place.rpartition("@")
    user = urllib.parse.quote(user, safe="%:!$&'()*+,;=")
    # No message shows what may be a part of a password.
    if "@" in path or re.search(r"[\s?#]|[^ -~]", path):
        raise OptionError("Ollama host: its path, or a password before it, holds what must be written as %XX")
    if place.count(":") > 1 and not place.startswith("["):
        place = f"[{place}]"
    try:
        parts = urllib.parse.urlsplit(f"//{place}")
        host, port = parts.hostname or "127.0.0.1", port if parts.port is None else parts.port
        host = _host(host)
    except ValueError:
        found = "the host" if at else repr(place[:100])
        raise OptionError(
            f"Ollama host: cannot make sense of {found}; write HOST:PORT or http://HOST:PORT"
        ) from None
    path = path.strip("/")
    return f"{scheme}://{user}{at}{host}:{port}{f'/{path}' if path else ''}"


def _host(host: str) -> str:
    if re.search(r"[\s?#%]", host):
        raise ValueError(host)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        host.encode("idna")
        return host
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"[{address}]" if address.version == 6 else str(address)


class RefusedError(ServerError):
    """The server answered that it will not, or cannot."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the server has.

    Attributes
    ----------
    name : str
        With its tag.
    size : int
        Bytes of its files.
    type : str
        The file type of its weights; empty if the server does not know.
    modified : datetime, optional
        When it was made.
    """

    name: str
    size: int
    type: str
    modified: datetime | None


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """What the server knows of a model; what it does not know is empty.

    Attributes
    ----------
    family, weights, type : str
        Architecture, number of weights in words (``7B``), file type.
    context : int
        Tokens; 0 if unknown.
    capabilities : tuple of str
        What it can: ``completion``, ``tools``, ``vision``.
    parameters, template, system, license, modelfile : str
        As a Modelfile has them.
    answer : dict
        The server's answer, whole.
    """

    family: str
    weights: str
    type: str
    context: int
    capabilities: tuple[str, ...]
    parameters: str
    template: str
    system: str
    license: str
    modelfile: str
    answer: dict[str, Any]


class Client:
    """An Ollama server.

    An answer of more than 4 MiB, a line of one of more than 1 MiB, a compressed one and a redirection are
    errors.

    Parameters
    ----------
    host : str, optional
        Where it is, in any spelling that OLLAMA_HOST may have; by default what OLLAMA_HOST says, and then
        ``127.0.0.1:11434``.
    timeout : float, optional
        Seconds to wait for an answer that the server can give at once, and for it to take more of an upload;
        by default what GGUFFAST_OLLAMA_TIMEOUT says, and then 30. While a model answers or is made, each line
        of the answer may take 120 times as long.

    Raises
    ------
    OptionError
        ``host`` is no host, or GGUFFAST_OLLAMA_TIMEOUT no number of seconds.
    """

    def __init__(self, host: str | None = None, *, timeout: float | None = None) -> None:
        self._address = parse_host(host or os.environ.get("OLLAMA_HOST"))
        split = urllib.parse.urlsplit(self._address)
        self.url = split._replace(netloc=split.netloc.rpartition("@")[2]).geturl()
        self.is_local = _is_loopback(split.hostname or "")
        self._timeout = _seconds() if timeout is None else timeout
        self._authorization = _authorization()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @cached_property
    def version(self) -> str:
        """The server's version; ``0.0.0`` if it was built without one."""
        doing = "asking for the version"
        answer = self._ask(doing, "GET", "api/version")
        with self._errors(doing):
            version = answer.text("version")
            if not version.isprintable() or not 0 < len(version) <= 100:
                answer.refuse("version", "a version")
            return version

    def is_before(self, *version: int) -> bool | None:
        """Tell whether the server is older than a version; None if it does not know its own."""
        numbers = re.match(r"v?(\d{1,9})\.(\d{1,9})\.(\d{1,9})", self.version)
        own: Version = tuple(map(int, numbers.groups())) if numbers else (0, 0, 0)
        return own < version if any(own) else None

    def list(self) -> list[Model]:
        """Give the models that the server has."""
        doing = "listing the models"
        answer = self._ask(doing, "GET", "api/tags")
        with self._errors(doing):
            entries = answer.items("models", default=[])
            if not all(isinstance(entry, dict) for entry in entries):
                answer.refuse("models", "a list of objects")
            return [_model(Values(entry, self._who)) for entry in entries]

    def show(self, name: str) -> ModelDetails:
        """Give what the server knows of a model."""
        doing = f"asking about {check_name(name)}"
        answer = self._ask(doing, "POST", "api/show", {"model": name, "name": name})
        with self._errors(doing):
            return _details(answer)

    def delete(self, name: str) -> None:
        """Remove a model."""
        self._ask(f"removing {check_name(name)}", "DELETE", "api/delete", {"model": name, "name": name})

    def chat(
        self, name: str, messages: Sequence[Message], *, num_predict: int | None = None
    ) -> Generator[str, None, None]:
        """Give a model's answer to a conversation, piece by piece as it comes.

        Closing the iterator makes the server stop.

        Parameters
        ----------
        name : str
            The model.
        messages : sequence of mapping
            ``{"role": "user", "content": "Hello"}``, the last of them the one to answer.
        num_predict : int, optional
            The most tokens that the answer may have; by default what the model's own parameters say.
        """
        doing = f"running {check_name(name)}"
        body: dict[str, Any] = {"model": name, "messages": list(messages), "stream": True}
        if num_predict is not None:
            body["options"] = {"num_predict": num_predict}
        for part in self._stream(doing, "api/chat", body):
            with self._errors(doing):
                text = part.within("message").text("content", default="")
                is_last = part.flag("done", default=False)
            if text:
                yield text
            if is_last:
                return
        raise self._half_way(doing)

    def has_blob(self, digest: str) -> bool:
        """Tell whether the server has a file already, by its ``sha256:`` digest."""
        doing = "asking for a file"
        with self._open(doing, "HEAD", f"api/blobs/{digest}") as exchange, self._errors(doing):
            status = exchange.answer().status
            if status not in (200, 404):
                raise self._refusal(doing, exchange, status)
            return status == 200

    def upload(self, path: Path, digest: str, progress: Callable[[int, int], object] | None = None) -> None:
        """Give the server a file.

        Parameters
        ----------
        path : Path
        digest : str
            Its ``sha256:`` digest; the server checks it.
        progress : callable, optional
            Called with the bytes sent and their total. What it raises stops the upload.

        Raises
        ------
        FileError
            The file cannot be read.
        """
        doing = f"uploading {path.name}"
        file = LocalFile(path)
        # With its length, so that the server can tell a whole file from one that was cut. It checks the file
        # when it has all of it, which takes the time of a hash.
        with self._open(doing, "POST", f"api/blobs/{digest}", file.size, patient=True) as exchange:
            for offset in range(0, file.size, _PIECE):
                piece = file.read(offset, min(_PIECE, file.size - offset))
                with self._errors(doing):
                    if not exchange.send(piece):
                        break
                if progress:
                    progress(offset + len(piece), file.size)
            with self._errors(doing):
                status = exchange.answer().status
                if status not in (200, 201):
                    raise self._refusal(doing, exchange, status)

    def create(
        self,
        name: str,
        fields: Mapping[str, Any],
        modelfile: str = "",
        progress: Callable[[str, int, int], object] | None = None,
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
            Called for each line of the answer with what the server does, and how much of how many bytes of it
            are done: 0 of 0 where it does not say.
        """
        doing = f"creating {check_name(name)}"
        body: dict[str, Any] = {"model": name, "stream": True, **fields}
        if self.is_before(0, 5, 5) is not False:
            # A server ignores what it does not know, so that one request serves both kinds.
            body |= {"name": name, "modelfile": modelfile}
        for part in self._stream(doing, "api/create", body):
            with self._errors(doing):
                status = part.text("status", default="")
                done, total = _size(part, "completed"), _size(part, "total")
            if progress:
                progress(status, done, total)
            if status == "success":
                return
        raise self._half_way(doing)

    def _ask(self, doing: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> Values:
        """Give the JSON object that is the answer; an empty one if there is none."""
        data = b"" if body is None else json.dumps(body).encode()
        with self._open(doing, method, path, len(data)) as exchange, self._errors(doing):
            exchange.send(data)
            status = exchange.answer().status
            if status != 200:
                raise self._refusal(doing, exchange, status)
            text = exchange.read(_MOST_ANSWER)
            if len(text) > _MOST_ANSWER:
                raise Unexpected(f"the answer has more than {_MOST_ANSWER >> 20} MiB")
            return self._values(text or b"{}")

    def _stream(self, doing: str, path: str, body: Mapping[str, Any]) -> Iterator[Values]:
        """Give the lines of an answer that is worked on, each a JSON object."""
        data = json.dumps(body).encode()
        with self._open(doing, "POST", path, len(data), patient=True) as exchange:
            with self._errors(doing):
                exchange.send(data)
                status = exchange.answer().status
                if status != 200:
                    raise self._refusal(doing, exchange, status)
                lines = exchange.lines(_MOST_LINE)
            while True:
                with self._errors(doing):
                    line = next(lines, None)
                    if line is None:
                        return
                    part = self._values(line)
                    error = part.text("error", default="")
                if error:
                    raise self._refused(doing, error)
                yield part

    def _open(
        self, doing: str, method: str, path: str, length: int = 0, *, patient: bool = False
    ) -> Exchange:
        with self._errors(doing):
            return Exchange(
                self._address,
                method,
                path,
                length=length,
                headers=self._authorization,
                direct=self.is_local,  # a proxy cannot reach this machine's loopback
                timeout=self._timeout,
                wait=self._timeout * (_PATIENCE if patient else 1),
            )

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Say in words what went wrong while doing something."""
        try:
            yield
        except FormatError as error:
            raise ServerError(
                f"{doing}: {error}; it is no Ollama server, or one of an unknown version"
            ) from error
        except GGUFFastError:
            raise
        except NotReached as error:
            raise ServerError(
                f"no Ollama server answers at {self.url} ({error}); start one with `ollama serve`, "
                "or say where it is with `host` or OLLAMA_HOST"
            ) from error
        except TooSlow as error:
            raise ServerError(
                f"{doing}: the Ollama server at {self.url} did not answer in {error}; if it, or the way to "
                "it, is slow, allow more seconds with GGUFFAST_OLLAMA_TIMEOUT"
            ) from error
        except (OSError, http.client.IncompleteRead) as error:
            raise ServerError(
                f"{doing}: the Ollama server at {self.url} went away; see that it runs, then try again"
            ) from error
        except (http.client.HTTPException, ValueError) as error:
            why = str(error) if isinstance(error, Unexpected) else "the answer is no HTTP"
            raise ServerError(
                f"{doing}: {self._who}: {why}; it is no Ollama server, or one of an unknown version"
            ) from error

    @property
    def _who(self) -> str:
        return f"what answers at {self.url}"

    def _values(self, text: bytes) -> Values:
        return Values(json_object(text, self._who), self._who)

    def _half_way(self, doing: str) -> ServerError:
        return ServerError(f"{doing}: the Ollama server at {self.url} stopped half-way; try again")

    def _refusal(self, doing: str, exchange: Exchange, status: int) -> RefusedError:
        """Read what the server says about a request that it refuses."""
        text = exchange.read(_MOST_ERROR).decode(errors="replace")
        with contextlib.suppress(FormatError):
            text = self._values(text.encode()).text("error")
        return self._refused(doing, text, status)

    def _refused(self, doing: str, text: str, status: int = 0) -> RefusedError:
        text = text.strip() or f"HTTP status {status}"
        text = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
        for pattern, meaning in _MEANINGS:
            if re.search(pattern, text, re.IGNORECASE):
                return RefusedError(f"{doing}: {meaning} (the Ollama server says: {text})")
        if 300 <= status < 400:
            text = f"ask elsewhere (HTTP {status}); give that address as the host"
        elif status == 404:
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


def _size(values: Values, key: str) -> int:
    return values.integer(key, maximum=2**63 - 1, default=0)


def _model(entry: Values) -> Model:
    modified = entry.text("modified_at", default="")
    try:
        when = datetime.fromisoformat(modified) if modified else None
    except ValueError:
        entry.refuse("modified_at", "a date")
    name = entry.text("model", default="") or entry.text("name", default="")
    type_ = entry.within("details").text("quantization_level", default="")
    return Model(name, _size(entry, "size"), type_, when)


def _details(answer: Values) -> ModelDetails:
    details, facts = answer.within("details"), answer.within("model_info")
    context = next((key for key in facts.values if key.endswith(".context_length")), "")
    capabilities = answer.items("capabilities", default=[])
    if not all(isinstance(capability, str) for capability in capabilities):
        answer.refuse("capabilities", "a list of texts")
    texts = ("parameters", "template", "system", "license", "modelfile")
    return ModelDetails(
        family=details.text("family", default=""),
        weights=details.text("parameter_size", default=""),
        type=details.text("quantization_level", default=""),
        context=_size(facts, context),
        capabilities=tuple(capabilities),
        **{key: answer.text(key, default="") for key in texts},
        answer=dict(answer.values),
    )


def _authorization() -> dict[str, str]:
    # As the official client does, for servers behind a key.
    key = os.environ.get("OLLAMA_API_KEY", "").strip()
    if not key.isascii() or not key.isprintable():
        raise OptionError("OLLAMA_API_KEY holds a character that no key has")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _seconds() -> float:
    text = os.environ.get("GGUFFAST_OLLAMA_TIMEOUT", "")
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text or _ANSWER_SECONDS)) <= _MOST_SECONDS:
            return seconds
    raise OptionError(f"GGUFFAST_OLLAMA_TIMEOUT: a number of seconds is needed, at most {_MOST_SECONDS}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

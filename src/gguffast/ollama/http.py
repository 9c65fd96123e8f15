"""A question to a server and its answer, over HTTP, with a bound on everything that the server decides.

The standard library's client speaks the protocol. It decodes nothing (a short compressed body can become one
of any length) and follows no redirection (which would hand a model, or a password, to somebody else).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import socket
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

_CONNECT_SECONDS = 10.0

# What is offered to the socket at once. A slow link takes some of it, and any of it counts as progress.
_PIECE = 1 << 16


class NotReached(Exception):
    """There is no connection; the message says why."""


class TooSlow(Exception):
    """Time was up; the message says after how long."""


class Unexpected(ValueError):
    """The answer is not what such a server sends; the message says how."""


class Exchange:
    """One question and its answer, on a connection of their own.

    Parameters
    ----------
    address : str
        ``http://host:port/path``, perhaps with a user and password.
    method, path : str
        Of the request; ``path`` goes behind that of the address.
    length : int
        Bytes of the body, which :meth:`send` sends.
    headers : mapping
        More of them.
    direct : bool
        True if a proxy that the environment names shall not be used.
    timeout : float
        Seconds for the connection (10 at most) and for the server to take any bytes of the body.
    wait : float
        Seconds for the whole answer, or for each of its :meth:`lines`.

    Raises
    ------
    NotReached
        There is no connection.
    TooSlow
        Here and in the methods: time was up.
    OSError, http.client.HTTPException
        Here and in the methods: the connection broke, or what came is no HTTP.
    """

    def __init__(
        self,
        address: str,
        method: str,
        path: str,
        *,
        length: int,
        headers: Mapping[str, str],
        direct: bool,
        timeout: float,
        wait: float,
    ) -> None:
        url = urllib.parse.urlsplit(address)
        self._clock = _Clock(wait)
        self._response: http.client.HTTPResponse | None = None
        proxy = None if direct else _proxy(url)
        self._connection = _Connection(url, proxy, timeout, self._clock)
        target = f"{url.path.rstrip('/')}/{path}"
        if proxy and url.scheme == "http":
            target = f"http://{url.netloc.rpartition('@')[2]}{target}"
            headers = {**headers, **_credentials(proxy, "Proxy-Authorization")}
        headers = {**headers, **_credentials(url, "Authorization"), "Connection": "close"}
        if length or method == "POST":
            headers["Content-Length"] = str(length)
        try:
            self._connection.connect()
            self._connection.putrequest(method, target)
            for name, value in headers.items():
                self._connection.putheader(name, value)
            self._connection.endheaders()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        if self._response:
            self._response.close()

    def send(self, data: bytes | bytearray) -> bool:
        """Send a piece of the body; false if the server takes no more, because it has answered already."""
        try:
            self._connection.send(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def answer(self) -> http.client.HTTPResponse:
        """Wait for the status and the headers of the answer.

        Raises
        ------
        Unexpected
            Its body is compressed, though nobody asked for that.
        """
        self._clock.restart()
        self._response = self._connection.getresponse()
        encoding = self._response.getheader("Content-Encoding", "identity")
        if encoding != "identity":
            raise Unexpected(f"the answer is compressed ({encoding[:20]}), which was not asked for")
        return self._response

    def read(self, most: int) -> bytes:
        """Read the body of the answer; no more of it than ``most`` bytes and one."""
        assert self._response
        data = self._response.read(most + 1)
        if self._response.length and len(data) <= most:
            raise http.client.IncompleteRead(data, self._response.length)
        return data

    def lines(self, most: int) -> Iterator[bytes]:
        """Give the lines of the answer as they come.

        Raises
        ------
        Unexpected
            One has more bytes than ``most``.
        """
        assert self._response
        while True:
            self._clock.restart()
            line = self._response.readline(most + 1)
            if len(line) > most:
                raise Unexpected(f"a line of the answer has more than {most} bytes")
            if not line:
                return
            yield line


class _Clock:
    """When an answer must be there."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        self._end = time.monotonic() + self._seconds

    def left(self) -> float:
        """Seconds, of which none are left when TooSlow is raised."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TooSlow(f"{self._seconds:g} s")
        return left


class _Connection(http.client.HTTPConnection):
    """A connection, through a proxy or not, whose socket keeps to the clock."""

    def __init__(
        self,
        url: urllib.parse.SplitResult,
        proxy: urllib.parse.SplitResult | None,
        timeout: float,
        clock: _Clock,
    ) -> None:
        via = proxy or url
        assert via.hostname
        super().__init__(via.hostname, via.port, timeout=min(timeout, _CONNECT_SECONDS))
        self._tls_name = url.hostname if url.scheme == "https" else None
        self._seconds = timeout
        self._clock = clock
        if proxy and self._tls_name:
            self.set_tunnel(self._tls_name, url.port, _credentials(proxy, "Proxy-Authorization"))

    def connect(self) -> None:
        try:
            super().connect()
            if self._tls_name:
                context = ssl.create_default_context()
                self.sock = context.wrap_socket(self.sock, server_hostname=self._tls_name)
        except ssl.SSLError as error:
            raise NotReached(f"no trusted connection: {error.reason or error}") from error
        except (OSError, http.client.HTTPException) as error:
            raise NotReached(getattr(error, "strerror", None) or str(error)) from error
        self.sock = _Socket(self.sock, self._seconds, self._clock)


class _Socket:
    """What the standard library's client uses of a socket, with an end to every wait."""

    def __init__(self, own: socket.socket, seconds: float, clock: _Clock) -> None:
        self._own = own
        self._seconds = seconds
        self._clock = clock

    def sendall(self, data: bytes | bytearray) -> None:
        self._own.settimeout(self._seconds)
        left = memoryview(data)
        try:
            while left:
                left = left[self._own.send(left[:_PIECE]) :]
        except TimeoutError as error:
            raise TooSlow(f"{self._seconds:g} s") from error

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_Reader(self._own, self._clock))

    def close(self) -> None:
        self._own.close()


class _Reader(io.RawIOBase):
    """Reads from a socket until the clock says stop, also when every single byte comes in time."""

    def __init__(self, own: socket.socket, clock: _Clock) -> None:
        self._own = own
        self._file = own.makefile("rb", buffering=0)  # keeps the socket open as long as it is
        self._clock = clock

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int | None:
        while True:
            self._own.settimeout(self._clock.left())
            with contextlib.suppress(TimeoutError):
                return self._file.readinto(into)

    def close(self) -> None:
        self._file.close()
        super().close()


def _proxy(url: urllib.parse.SplitResult) -> urllib.parse.SplitResult | None:
    """Find the proxy that the environment names for a server."""
    proxies = urllib.request.getproxies()
    named = proxies.get(url.scheme) or proxies.get("all")
    if not named or urllib.request.proxy_bypass(url.hostname or ""):
        return None
    proxy = urllib.parse.urlsplit(named if "://" in named else f"http://{named}")
    try:
        usable = proxy.scheme == "http" and proxy.hostname and (proxy.port or True)
    except ValueError:
        usable = False
    if not usable:
        raise NotReached("the proxy that the environment names is not of the form http://HOST:PORT")
    return proxy


def _credentials(url: urllib.parse.SplitResult, header: str) -> dict[str, str]:
    """Give the header that says the user and password of an address."""
    if url.username is None:
        return {}
    text = f"{urllib.parse.unquote(url.username)}:{urllib.parse.unquote(url.password or '')}"
    return {header: f"Basic {base64.b64encode(text.encode()).decode()}"}

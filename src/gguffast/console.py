"""What every program of ours does with its streams and signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

_interrupted = False


def one_line(text: object) -> str:
    """Escape line breaks and terminal control codes, which a file's name or metadata may hold."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def open_streams() -> None:
    """Make sure that there are three streams, which print any name."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # The lowest free number, which is that of the closed stream: no file of ours must get it.
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Make SIGTERM and SIGHUP what Ctrl-C is: an exception, so that everything is cleaned up."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    caught = [
        s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN
    ]

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        global _interrupted
        _interrupted = True
        # Only once: a second signal must not cut the cleaning up short.
        for s in caught:
            signal.signal(s, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(s, interrupt) for s in caught]
    try:
        yield
    finally:
        for s, handler in zip(caught, before, strict=True):
            signal.signal(s, handler)


def is_interrupt(error: BaseException) -> bool:
    """Tell whether an error is an interrupt, or what NumPy made of one that came while it was set up."""
    return isinstance(error, KeyboardInterrupt) or (
        _interrupted and isinstance(error, (ImportError, SystemError))
    )

"""How the faces speak: whole lines at once, and failures in words, in the spelling of command lines."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Any

from gguffast.console import is_interrupt, one_line
from gguffast.errors import GGUFFastError


def say(*lines: str) -> None:
    """Print on stderr. A line stays one, whatever names are in it."""
    _write(sys.stderr, _joined(lines))


def print_(*lines: str) -> None:
    """Print on stdout."""
    _write(sys.stdout, _joined(lines))


def draw(line: str) -> None:
    """Print a line on stderr over the one that stands there."""
    _write(sys.stderr, f"\r{one_line(line)}")


def _joined(lines: Iterable[str]) -> str:
    return "".join(f"{one_line(line)}\n" for line in lines)


def _write(stream: Any, text: str) -> None:
    """Print and flush. A reader that went away is no reason to stop."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def flag_of(name: str) -> str:
    """Spell an argument as command lines do: ``--tensor-type`` for `tensor_type`."""
    return f"--{name.replace('_', '-')}"


def reason_of(error: BaseException) -> str:
    """Say why something failed."""
    if is_interrupt(error):
        return "; ".join(["interrupted", *getattr(error, "__notes__", ())])
    if isinstance(error, MemoryError):
        return "out of memory; fewer threads need less"
    # Libraries name `arguments`.
    reason = re.sub(r"`(\w+)(?:=True)?`", lambda found: flag_of(found[1]), str(error))
    if isinstance(error, (GGUFFastError, OSError)):
        return reason
    return f"{type(error).__name__}: {error}; this should not happen: please report it"

"""How the faces speak: whole lines at once, and failures in words, in the spelling of command lines."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from gguffast.console import one_line
from gguffast.errors import GGUFFastError


def say(text: str) -> None:
    """Print on stderr."""
    _write(sys.stderr, text)


def print_(text: str) -> None:
    """Print on stdout."""
    _write(sys.stdout, text)


def _write(stream: Any, text: str) -> None:
    """Print and flush. A reader that went away is no reason to stop."""
    try:
        stream.write("\n".join(map(one_line, text.split("\n"))) + "\n")
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
    if isinstance(error, KeyboardInterrupt):
        return "; ".join(["interrupted", *getattr(error, "__notes__", ())])
    if isinstance(error, MemoryError):
        return "out of memory; fewer threads need less"
    # Libraries name `arguments`.
    reason = re.sub(r"`(\w+)(?:=True)?`", lambda found: flag_of(found[1]), str(error))
    if isinstance(error, (GGUFFastError, OSError)):
        return reason
    return f"{type(error).__name__}: {error}; this should not happen: please report it"

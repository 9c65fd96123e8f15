"""What can go wrong, said so that the user knows what to do next.

Every message names the place (file, tensor, row or option), what was found and the way on. The command line
prints it on one line; no traceback reaches its user.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class GGUFFastError(Exception):
    """Base of every error that gguffast raises on purpose."""


class FormatError(GGUFFastError, ValueError):
    """A file is not what it says it is: damaged, truncated, of an unknown version, or with lying lengths."""


class DataError(GGUFFastError, ValueError):
    """Weights that cannot be quantized: NaN, infinity, or already quantized."""


class OptionError(GGUFFastError, ValueError):
    """A call or a command line that asks for something that does not exist or does not fit together."""


class FileError(GGUFFastError, OSError):
    """The file system said no: missing, not readable, not writable, or full."""


class HubError(GGUFFastError, OSError):
    """The Hugging Face Hub refused, or cannot be reached."""


class Interrupted(GGUFFastError):
    """The work was stopped by the user (Ctrl-C) or by SIGTERM; nothing was left behind."""


class ServerError(GGUFFastError, OSError):
    """A server is not there, went away in the middle, or refused."""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Suggest what a mistyped name may be; all that are known if none is near."""
    import difflib

    spelled = {each.upper(): each for each in known}
    near = [spelled[each] for each in difflib.get_close_matches(name.upper(), spelled, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"


def quote(name: str) -> str:
    """Show a name that a file chose: in quotes, on one line, not too long."""
    text = repr(name[:120])
    return text if len(text) <= 120 else f"{text[:100]}...{text[-1]}"


def quote_some(names: Iterable[str]) -> str:
    """Show the first few of many names."""
    names = list(names)
    shown = ", ".join(quote(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"

"""What a call costs, measured in a process of its own: hostile files must be cheap.

The rule: 64 MiB and four times the file's size of memory, 2 s of processor time for each 10 MB. The time is a
limit that ends the child, with room for a loaded machine; nothing here compares times.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

_START_SECONDS = 10


class TooExpensive(AssertionError):
    """A call that took more memory or time than its input warrants."""


def run_bounded(function: Callable[..., Any], *args: Any, file_bytes: int) -> Any:
    """Call in a child process; give what the call gives, raise what it raises (both must pickle).

    Parameters
    ----------
    function, *args
        The call. The child is a fork, so closures are fine; files written before are there.
    file_bytes : int
        Size of the input, which sets how much memory and time are allowed.

    Raises
    ------
    TooExpensive
        More memory than 64 MiB + 4 * ``file_bytes`` at its peak, or more time than its size warrants.
    """
    allowed = (64 << 20) + 4 * file_bytes
    seconds = _START_SECONDS + file_bytes // 5_000_000
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        _child(function, args, allowed, seconds, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        answer = file.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) or not answer:
        died = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status >> 8}"
        raise TooExpensive(f"the call ended with {died}; {seconds} s and {allowed >> 20} MiB were allowed")
    ok, value, grown = pickle.loads(answer)
    if grown > allowed:
        raise TooExpensive(
            f"{grown >> 20} MiB for a file of {file_bytes} bytes; {allowed >> 20} MiB are allowed"
        )
    if ok:
        return value
    raise value


def peak_memory(function: Callable[..., Any], *args: Any) -> int:
    """Bytes that a call adds to the memory of a process, at its peak; raises what the call raises."""
    ok, value, grown = run_bounded(_measure, function, args, file_bytes=1 << 40)
    if not ok:
        raise value
    assert isinstance(grown, int)
    return grown


def _child(
    function: Callable[..., Any], args: tuple[Any, ...], allowed: int, seconds: int, writer: int
) -> NoReturn:
    """Measure one call, send the outcome, and leave without anything that the parent would do at its end."""
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        signal.alarm(30 + 10 * seconds)  # and for one that waits for something
        # What threads reserve (stacks, arenas) counts as address space: the limit only protects the machine.
        if allowed < 1 << 36:
            limit = _status("VmSize") + allowed + (2 << 30)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        outcome = _measure(function, args)
        with os.fdopen(writer, "wb") as file:
            file.write(pickle.dumps(outcome))
    except BaseException as error:
        print(f"in the measured process: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def _measure(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bool, Any, int]:
    # Start to count the peak anew.
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = _status("VmRSS")
    try:
        ok, value = True, function(*args)
    except BaseException as error:
        ok, value = False, error.with_traceback(None)
        error.__cause__ = error.__context__ = None
    return ok, value, max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    """A figure of this process, in bytes."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    raise KeyError(key)

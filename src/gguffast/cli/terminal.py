"""Progress: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gguffast.console import one_line
from gguffast.files import format_bytes

if TYPE_CHECKING:
    from gguffast.engine import Progress

Show = Callable[["Progress"], None]

# A log of a short run needs no lines, one of a long run not too many.
_LOG_SECONDS = 5.0


@contextlib.contextmanager
def show_progress(*, hidden: bool) -> Iterator[Show | None]:
    """Give a callable that shows progress on stderr, or None if there is nothing to show."""
    if hidden:
        yield None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar() as show:
            yield show
    else:
        yield _Log()


@contextlib.contextmanager
def _bar() -> Iterator[Show]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")

        def show(progress: Progress) -> None:
            name = escape(one_line(progress.tensor))
            if progress.done < bar.tasks[0].completed:  # the next of several steps
                bar.reset(task)
            bar.update(task, completed=progress.done, total=progress.total, description=name)

        yield show


class _Log:
    def __init__(self) -> None:
        self._started = self._shown = time.monotonic()
        self._done = 0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.done < self._done:  # the next of several steps
            self._started = now
        self._done = progress.done
        if now - self._shown < _LOG_SECONDS or not progress.done or now == self._started:
            return
        self._shown = now
        elapsed = now - self._started
        left = elapsed * (progress.total - progress.done) / progress.done
        print(
            f"{100 * progress.done // progress.total:3d} %  {format_bytes(progress.done)} of "
            f"{format_bytes(progress.total)}, {format_bytes(progress.done / elapsed)}/s, {left:.0f} s left, "
            f"{one_line(progress.tensor)}",
            file=sys.stderr,
            flush=True,
        )

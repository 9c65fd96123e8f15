"""The one writer: a file or the shards of one, that are complete or not there at all.

Until everything is written, each file has a hidden name in its folder. Then all of them are put in place; if
that fails for one, those before it are taken back and what stood there stands again. A hidden file is locked
as long as somebody writes it, so that the next run can tell what a killed one left behind, and removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import threading
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gguffast.errors import FileError, OptionError
from gguffast.files import format_bytes

_PREFIX, _SUFFIX, _ASIDE = ".gguffast-", ".tmp", ".old"
#: What file systems say that have no hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_HEAD = 4  # bytes that say what a file is
_DAY = 24 * 60 * 60


class Output:
    """Files of known sizes, written by any thread at any offset, that get their names when all are complete.

    Leaving the ``with`` block without :meth:`commit` (an error, Ctrl-C) removes what was written; what stood
    under the final names still stands. To the exception of a Ctrl-C a note is added that says which of both
    is the case.

    Parameters
    ----------
    files : sequence of (Path, int)
        Final names, and bytes of the finished files. What is never written reads as zeros.
    replace : bool
        True if files that stand there may be replaced. A new one keeps the permissions of the old one.

    Attributes
    ----------
    starts : list of int
        Where each file begins if all of them lie one behind the other: so :meth:`write` counts.
    warnings : list of str
        What the user should know about the folders: files of a killed run that may be needed.

    Raises
    ------
    FileError
        A folder is not writable, or the disk has not enough space.
    """

    def __init__(self, files: Sequence[tuple[Path, int]], *, replace: bool) -> None:
        self._drafts = [self._draft(path, size, replace) for path, size in files]
        run = os.urandom(8).hex()
        for draft in self._drafts:
            draft.run = run
        self.starts = [0]
        for _, size in files[:-1]:
            self.starts.append(self.starts[-1] + size)
        self.warnings: list[str] = []
        self._committed = False

    @staticmethod
    def _draft(path: Path, size: int, replace: bool) -> _Draft:
        return _Draft(path, size, replace)

    def __enter__(self) -> Self:
        try:
            for folder in {draft.folder for draft in self._drafts}:
                self.warnings += remove_leftovers(folder)
            for draft in self._drafts:
                draft.open()
            self._check_space()
            for draft in self._drafts:
                draft.set_size()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()
        if isinstance(error, KeyboardInterrupt):
            error.add_note(f"{self._name} is complete" if self._committed else self._nothing)

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``; may be called from several threads at once."""
        i = bisect_right(self.starts, offset) - 1
        self._drafts[i].write(data, offset - self.starts[i])

    def commit(self) -> None:
        """Put the files on the disk and under their names.

        Raises
        ------
        FileError
            That failed. Nothing has changed, or the message says what stands where.
        """
        for draft in self._drafts:
            # Before it is named: otherwise a crash could leave the name on a file without its contents.
            draft.sync()
        with _undisturbed():
            self._publish()
            self._committed = True

    def _publish(self) -> None:
        done: list[_Draft] = []
        try:
            for draft in self._drafts:
                # One file takes another's place in one step; of several, the old ones are needed until the
                # last step is done.
                draft.publish(keep_old=len(self._drafts) > 1)
                done.append(draft)
        except OSError as error:
            raise self._taken_back(done, error) from error
        for folder in {draft.folder for draft in self._drafts}:
            _sync_folder(folder)
        for draft in self._drafts:
            draft.forget_old()

    def _taken_back(self, done: list[_Draft], error: OSError) -> FileError:
        failed = self._drafts[len(done)]
        stuck = [draft for draft in (failed, *reversed(done)) if not draft.take_back()]
        if isinstance(error, FileExistsError):
            reason = f"{failed.path} was made by another program meanwhile; name another output"
        else:
            reason = f"cannot write {failed.path}: {error.strerror}"
        if not stuck:
            return FileError(f"{reason}; {self._nothing}")
        places = ", ".join(f"{draft.path} is new{draft.where_old}" for draft in stuck)
        return FileError(f"{reason}; this could not be undone: {places}")

    @property
    def _name(self) -> str:
        more = len(self._drafts) - 1
        return f"{self._drafts[0].path}{f' (and {more} more)' if more else ''}"

    @property
    def _nothing(self) -> str:
        return f"nothing was written to {self._name}"

    def _check_space(self) -> None:
        needed: dict[int, int] = defaultdict(int)
        for draft in self._drafts:
            device, free = draft.disk()
            needed[device] += draft.size
            if free is not None and needed[device] > free:
                raise FileError(
                    f"not enough disk space for {self._name}: "
                    f"{format_bytes(sum(draft.size for draft in self._drafts))} needed, "
                    f"{format_bytes(free)} free in {draft.folder}; free some space or write elsewhere"
                )

    def _discard(self) -> None:
        with _undisturbed():
            for draft in self._drafts:
                draft.discard()


class _Draft:
    """One file under its hidden name."""

    def __init__(self, path: Path, size: int, replace: bool) -> None:
        self.path = path
        self.size = size
        self._replace = replace
        self._target = _target(path)
        self.folder = self._target.parent
        self._temp = self._old = self.folder
        self._has_old = False
        self._fd = -1
        self.run = ""

    def open(self) -> None:
        """Create the hidden file, and lock it."""
        while self._fd < 0:
            name = f"{_PREFIX}{_kernel()}-{self.run}-{os.urandom(4).hex()}"
            self._temp = self.folder / f"{name}{_SUFFIX}"
            self._old = self.folder / f"{name}{_ASIDE}"
            try:
                # 0o666 and no chmod: the umask, or the folder's default ACL, decides as for any new file.
                self._fd = os.open(self._temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise FileError(f"cannot write into the folder {self.folder}: {error.strerror}") from error
            if not self._lock():
                self.discard()
        if self._replace:
            with contextlib.suppress(OSError):
                os.fchmod(self._fd, stat.S_IMODE(os.stat(self._target).st_mode) & 0o777)

    def _lock(self) -> bool:
        """Lock the file; False if a run that removes leftovers was faster."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: nobody can take it for a leftover there
            return True
        return _is_at(self._fd, self._temp)

    def disk(self) -> tuple[int, int | None]:
        """Device, and its free bytes; None if it does not tell (some file systems in user space)."""
        found = os.fstatvfs(self._fd)
        return os.fstat(self._fd).st_dev, found.f_bavail * found.f_frsize if found.f_blocks else None

    def set_size(self) -> None:
        """Give the file its length."""
        with self._explained():
            os.ftruncate(self._fd, self.size)

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of ``data``."""
        view = memoryview(data)
        with self._explained():
            while view:
                done = os.pwrite(self._fd, view, offset)
                view = view[done:]
                offset += done

    def sync(self) -> None:
        """Put the contents on the disk."""
        with self._explained():
            os.fsync(self._fd)

    def publish(self, *, keep_old: bool) -> None:
        """Give the file its name."""
        if not self._replace:
            self._publish_new()
            return
        if keep_old:
            self._keep_old()
        os.replace(self._temp, self._target)

    def _publish_new(self) -> None:
        """Take the name only if nobody has it."""
        try:
            os.link(self._temp, self._target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # An empty file holds the name for the moment.
            os.close(os.open(self._target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            try:
                os.replace(self._temp, self._target)
            except OSError:
                os.unlink(self._target)
                raise
        else:
            with contextlib.suppress(OSError):
                os.unlink(self._temp)

    def _keep_old(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            try:
                os.link(self._target, self._old)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                os.replace(self._target, self._old)
            self._has_old = True

    def take_back(self) -> bool:
        """Undo :meth:`publish`, as far as it came; False if that fails."""
        try:
            if self._has_old:
                if not (self._target.exists() and self._target.samefile(self._old)):
                    os.replace(self._old, self._target)
                self.forget_old()
            elif _is_at(self._fd, self._target):
                os.unlink(self._target)
        except OSError:
            return False
        return True

    @property
    def where_old(self) -> str:
        """Say where the old file is, if there was one."""
        return f" (the old one is {self._old})" if self._has_old else ""

    def forget_old(self) -> None:
        """Remove the file that was replaced."""
        if self._has_old:
            with contextlib.suppress(OSError):
                os.unlink(self._old)
            self._has_old = False

    def discard(self) -> None:
        """Remove the hidden file, unless it has got its name."""
        if self._fd < 0:
            return
        if _is_at(self._fd, self._temp):
            with contextlib.suppress(OSError):
                os.unlink(self._temp)
        os.close(self._fd)
        self._fd = -1

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FileError(f"cannot write {self.path}: {error.strerror}; {self._left}") from error

    _left = "nothing was left behind"


class InPlace(Output):
    """Output that is written where it stands, if it does: its caller may hold it open.

    Such a file stays the same file, under the same inode. If it cannot be completed it is left empty; and if
    this process is killed it lacks its first bytes, so that nobody takes it for what it should have become.
    """

    @staticmethod
    def _draft(path: Path, size: int, replace: bool) -> _Draft:
        return (_Rewrite if path.exists() else _Draft)(path, size, replace)


class _Rewrite(_Draft):
    """One file that is there already."""

    _head = b""
    _begun = False
    _left = "it is empty now"

    def open(self) -> None:
        """Open the file."""
        try:
            self._fd = os.open(self._target, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise FileError(f"cannot write {self.path}: {error.strerror}") from error

    def disk(self) -> tuple[int, int | None]:
        """Device, and its free bytes together with those of the file."""
        device, free = super().disk()
        return device, None if free is None else free + 512 * os.fstat(self._fd).st_blocks

    def set_size(self) -> None:
        """Empty the file, and give it its length."""
        self._begun = True
        with self._explained():
            os.ftruncate(self._fd, 0)
        super().set_size()

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write ``data``, but keep the first bytes of the file back."""
        if offset == 0:
            self._head = bytes(data[:_HEAD])
            data, offset = memoryview(data)[_HEAD:], _HEAD
        super().write(data, offset)

    def publish(self, *, keep_old: bool) -> None:
        """Write the first bytes."""
        os.pwrite(self._fd, self._head, 0)
        os.fsync(self._fd)
        self._begun = False

    def take_back(self) -> bool:
        """Empty the file; what was in it is lost."""
        self._begun = True
        return True

    def discard(self) -> None:
        """Close the file, and empty it unless it is complete."""
        if self._fd < 0:
            return
        if self._begun:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
        os.close(self._fd)
        self._fd = -1


def check_output(path: Path, inputs: Iterable[Path], *, replace: bool) -> None:
    """Refuse an output path that cannot or must not be written, before any work is done.

    Parameters
    ----------
    path : Path
        Where the file shall stand.
    inputs : iterable of Path
        Files that are read; none of them may be the output, not even by another name.
    replace : bool
        True if an existing file may be replaced.

    Raises
    ------
    OptionError
        ``path`` is one of ``inputs``.
    FileError
        It exists and ``replace`` is false, is not a regular file, or its folder does not exist.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        _check_folder(path)
        return
    except (OSError, ValueError) as error:
        raise FileError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise FileError(f"{path} is a folder; name the file to write")
    for name in inputs:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(found, os.stat(name)):
                raise OptionError(f"input and output are the same file: {path}; name another output")
    if not stat.S_ISREG(found.st_mode):
        raise FileError(f"{path} is not a regular file; the output must be one")
    if not replace:
        raise FileError(f"{path} already exists; name another output, or replace it with `force=True`")


def remove_leftovers(folder: Path) -> list[str]:
    """Remove the hidden files of runs that were killed, as far as that is sure; say which are needed."""
    needed = []
    runs: dict[str, list[Path]] = defaultdict(list)
    for path in folder.glob(f"{_PREFIX}*-*"):
        runs[path.stem.split("-")[2]].append(path)
    for paths in runs.values():
        new = [path for path in paths if path.suffix == _SUFFIX]
        old = [path for path in paths if path.suffix == _ASIDE]
        if new and any(_links(path) == 1 for path in old):
            # Killed after one file got its name, before another one did: both sets are needed.
            if all(map(_is_leftover, new)):
                run = old[0].stem.rpartition("-")[0]
                needed.append(
                    f"a run was killed while it replaced shards in {folder}: some are new there, "
                    f"{run}-*{_ASIDE} are the old ones in their place, "
                    f"and {run}-*{_SUFFIX} new ones without a name; "
                    "write that model again, or name them, and remove what is left"
                )
            continue
        for path in new:
            _remove_leftover(path)
        if not any(map(os.path.lexists, new)):
            for path in old:
                _remove_leftover(path)
    return needed


def _links(path: Path) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_nlink
    except OSError:
        return 0


def _remove_leftover(path: Path) -> None:
    with contextlib.suppress(OSError), _leftover(path) as is_one:
        if is_one:
            os.unlink(path)


def _is_leftover(path: Path) -> bool:
    try:
        with _leftover(path) as is_one:
            return is_one
    except OSError:
        return False


@contextlib.contextmanager
def _leftover(path: Path) -> Iterator[bool]:
    """Hold a hidden file, and tell whether its maker is surely gone; if it is at work, that is an error."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        # A lock may be unknown to other machines that share the folder: of theirs, only what is old.
        ours = path.name.startswith(f"{_PREFIX}{_kernel()}-")
        surely = stat.S_ISREG(found.st_mode) and (ours or time.time() - found.st_mtime > _DAY)
        if surely:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield surely and _is_at(fd, path)
    finally:
        os.close(fd)


def _kernel() -> str:
    """Name the running system, within which all know of a lock; if it has no name, another each time."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read(8)
    except OSError:
        return os.urandom(4).hex()


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _check_folder(path: Path) -> None:
    folder = _target(path).parent
    if not folder.exists():
        raise FileError(f"cannot write {path}: the folder {folder} does not exist; create it first")
    if not folder.is_dir():
        raise FileError(f"cannot write {path}: {folder} is not a folder")


def _target(path: Path) -> Path:
    """Follow symbolic links, as open() does: a link stays, what it points to is replaced."""
    return Path(os.path.realpath(path))


def _sync_folder(path: Path) -> None:
    # The files are complete; that a file system cannot sync a folder is no reason to say otherwise.
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off what Ctrl-C, SIGTERM and SIGHUP do until the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # only that one is disturbed
        yield
        return
    came: list[int] = []
    handlers: dict[int, Any] = {}
    numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        handler = signal.getsignal(number)
        if handler not in (signal.SIG_IGN, None):  # None: not Python's, which cannot be put back
            handlers[number] = handler
            signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in came[:1]:
        signal.raise_signal(number)

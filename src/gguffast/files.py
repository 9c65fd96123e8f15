"""Output files that are complete or not there at all."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from gguffast.errors import FileError, FormatError, OptionError


def check_output(path: Path, inputs: list[Path], *, force: bool) -> None:
    """Refuse an output path that cannot or must not be written, before any work is done.

    Parameters
    ----------
    path : Path
        Where the file shall stand.
    inputs : list of Path
        Files that are read meanwhile; none of them may be the output, not even by another name.
    force : bool
        True if an existing file may be replaced.

    Raises
    ------
    OptionError
        ``path`` is one of ``inputs``.
    FileError
        It exists and ``force`` is false, is not a regular file, or its folder does not exist.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        _check_folder(path)
        return
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror}") from error
    if stat.S_ISDIR(found.st_mode):
        raise FileError(f"{path} is a folder; name the file to write")
    for name in inputs:
        if os.path.samestat(found, os.stat(name)):
            raise OptionError(f"input and output are the same file: {path}; name another output")
    if not stat.S_ISREG(found.st_mode):
        raise FileError(f"{path} is not a regular file; the output must be one")
    if not force:
        raise FileError(
            f"{path} already exists; name another output, or replace it with --force (force=True)"
        )


def _check_folder(path: Path) -> None:
    folder = _target(path).parent
    if not folder.exists():
        raise FileError(f"cannot write {path}: the folder {folder} does not exist; create it first")
    if not folder.is_dir():
        raise FileError(f"cannot write {path}: {folder} is not a folder")


def _target(path: Path) -> Path:
    """Follow symbolic links, as open() does: a link stays, what it points to is replaced."""
    return Path(os.path.realpath(path))


class OutputFile:
    """A file of known size, written by any thread at any offset, that gets its name when it is complete.

    Until :meth:`commit` it has a hidden, unique name in the same folder; leaving the ``with`` block without
    it (an error, Ctrl-C) removes it, and what stood under the final name still stands.

    Parameters
    ----------
    path : Path
        The final name. An existing file is replaced; see :func:`check_output`.
    size : int
        Bytes of the finished file. What is never written reads as zeros.

    Raises
    ------
    FileError
        The folder is not writable, or the disk has not enough space.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._target = _target(path)
        self._temp = self._target.parent / f".gguffast-{os.urandom(8).hex()}.tmp"
        self._fd = -1

    def __enter__(self) -> Self:
        try:
            # 0o666 and no chmod: the umask, or the folder's default ACL, decides as for any new file.
            self._fd = os.open(self._temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            folder = self._target.parent
            raise FileError(f"cannot write into the folder {folder}: {error.strerror}") from error
        try:
            self._set_size()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``; may be called from several threads at once."""
        view = memoryview(data)
        try:
            while view:
                done = os.pwrite(self._fd, view, offset)
                view = view[done:]
                offset += done
        except OSError as error:
            raise self._failure(error) from error

    def commit(self) -> None:
        """Put the file on the disk and under its name."""
        try:
            # Before the rename: otherwise a crash could leave the name on a file without its contents.
            os.fsync(self._fd)
            os.replace(self._temp, self._target)
        except OSError as error:
            raise self._failure(error) from error
        # The file is complete; that a file system cannot sync a folder is no reason to say otherwise.
        with contextlib.suppress(OSError):
            folder = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _set_size(self) -> None:
        disk = os.fstatvfs(self._fd)
        free = disk.f_bavail * disk.f_frsize
        # A file system of no blocks does not tell (some in user space).
        if disk.f_blocks and self.size > free:
            raise FileError(
                f"not enough disk space for {self.path}: {format_bytes(self.size)} needed, "
                f"{format_bytes(free)} free in {self._target.parent}; free some space or write elsewhere"
            )
        try:
            os.ftruncate(self._fd, self.size)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> FileError:
        return FileError(f"cannot write {self.path}: {error.strerror}; nothing was left behind")

    def _discard(self) -> None:
        """Remove the hidden file, unless it has got its final name."""
        if self._fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temp)
            os.close(self._fd)
            self._fd = -1


def read_file(path: str | os.PathLike[str], what: str, limit: int = 64 << 20) -> bytes:
    """Read a small file whole: options, configuration, templates.

    Parameters
    ----------
    path : path-like
        A regular file: a pipe would block, a device never ends.
    what : str
        What it should be, for messages: ``"the Modelfile"``.
    limit : int
        Most bytes that such a file may have.

    Raises
    ------
    FileError
        It is missing, no regular file, or cannot be read.
    FormatError
        It is too large to be what it should be.
    """
    from gguffast.reading import LocalFile

    file = LocalFile(path)
    try:
        if file.size > limit:
            raise FormatError(
                f"{path}: {format_bytes(file.size)} are more than {what} can have "
                f"({format_bytes(limit)}); is it the right file?"
            )
        return bytes(file.read(0, file.size, what))
    finally:
        file.close()


def cache_folder() -> Path:
    """Folder for downloads and unfinished work: ``$GGUFFAST_CACHE``, or ``~/.cache/gguffast``."""
    return Path(os.environ.get("GGUFFAST_CACHE") or Path.home() / ".cache" / "gguffast")


def format_bytes(n: float) -> str:
    """Bytes for people: ``93.1 MB`` (decimal units, as disks and downloads are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 999.95:
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"

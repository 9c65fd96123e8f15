"""The Ollama server's folder of models, when it is on this machine: files are linked there, not copied.

Several programs may work there at once: the server, which knows nothing of the others, and registrations,
which tell each other by locks on the files that they need.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from gguffast.errors import FileError
from gguffast.reading import LocalFile

_PIECE = 1 << 20

# Linux: ioctl number that makes one file share the other's blocks until one of them is written (btrfs, XFS).
_FICLONE = 0x40049409

# Where the Linux installer's service, a user of its own, has it.
_SERVICE_STORE = Path("/usr/share/ollama/.ollama/models")

# Tries, 10 ms apart, to lock a file that somebody else is removing.
_TRIES = 100
_MOST_MANIFEST = 1 << 20


class HashedFile:
    """A file and its digest, and whether it is still the file that was read for it.

    Parameters
    ----------
    path : Path
    progress : callable, optional
        Called with the bytes read and their total. What it raises stops the reading.

    Raises
    ------
    FileError
        It cannot be read, or is changed at the same time.
    FormatError
        It becomes shorter meanwhile.
    """

    def __init__(self, path: Path, progress: Callable[[int, int], object] | None = None) -> None:
        self.path = path
        sha256 = hashlib.sha256()
        file = LocalFile(path)
        try:
            self._identity = _identity(path.stat())
            buffer = memoryview(bytearray(_PIECE))
            for offset in range(0, file.size, _PIECE):
                piece = buffer[: min(_PIECE, file.size - offset)]
                file.read_into(offset, piece, "its data")
                sha256.update(piece)
                if progress:
                    progress(offset + len(piece), file.size)
            file.check_unchanged()
            if not self.is_unchanged(path):
                raise FileError(f"{path} was replaced while it was read; try again when it is complete")
        except FileNotFoundError as error:
            raise FileError(f"{path} was removed while it was read") from error
        finally:
            file.close()
        self.size = file.size
        self.digest = f"sha256:{sha256.hexdigest()}"

    def is_unchanged(self, path: Path | int) -> bool:
        """Tell whether a path, or a descriptor, is the very file that the digest is of, unchanged since."""
        return _identity(os.stat(path)) == self._identity


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Store:
    """The models folder of a server on this machine, for the time of one registration.

    Leaving its ``with`` block takes back what was linked, unless :meth:`keep` was called or somebody else
    needs it by now.

    Parameters
    ----------
    folder : Path
        It holds ``blobs`` and ``manifests``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}
        self._linked: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for digest in list(self._linked):
            self.unlink(digest)
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def hold(self, digest: str) -> bool:
        """Keep other registrations from taking a file back; false if it is not there, or cannot be read."""
        path = self._path(digest)
        for _ in range(_TRIES):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                return False
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), path.stat(follow_symlinks=False)):
                    self._held[digest], fd = fd, self._held.get(digest, -1)
                    return True
            except FileNotFoundError:
                return False
            except OSError:  # somebody is removing it
                time.sleep(0.01)
            finally:
                if fd >= 0:
                    os.close(fd)
        return False

    def link(self, file: HashedFile) -> bool:
        """Put a file among the server's without copying it, and hold it.

        A clone that shares the blocks is made where the file system can; else a hard link, which is the same
        file under a second name: replacing or deleting the first leaves the store as it is, only a program
        that writes *into* the file would damage the model.

        Returns
        -------
        bool
            False if it was there before, or cannot be made: another file system, no permission, or the
            server's user could not read it.

        Raises
        ------
        FileError
            The file is not what it was when its digest was computed.
        """
        path = self._path(file.digest)
        if not (_clone(file, path) or _hard_link(file, path)):
            return False
        self._linked.append(file.digest)
        self.hold(file.digest)
        return True

    def unlink(self, digest: str) -> None:
        """Take back a file that was linked, unless another registration holds it or a model is made of it."""
        self._linked.remove(digest)
        fd = self._held.get(digest)
        with contextlib.suppress(OSError):
            if fd is not None:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not self._is_named(digest):
                    self._path(digest).unlink()

    def keep(self) -> None:
        """Leave what was linked where it is."""
        self._linked.clear()

    def _path(self, digest: str) -> Path:
        return self._folder / "blobs" / digest.replace(":", "-")

    def _is_named(self, digest: str) -> bool:
        """Tell whether a model of the server is made of a file."""
        for path in (self._folder / "manifests").rglob("*"):
            found = path.stat()
            is_manifest = stat.S_ISREG(found.st_mode) and found.st_size <= _MOST_MANIFEST
            if is_manifest and digest.encode() in path.read_bytes():
                return True
        return False


def find_store() -> Path | None:
    """Find the models folder that a server on this machine most likely uses, if files can be added to it."""
    named = os.environ.get("OLLAMA_MODELS", "").strip().strip("\"'")
    places = [Path(named)] if named else [Path.home() / ".ollama" / "models", _SERVICE_STORE]
    for place in places:
        blobs = place / "blobs"
        if blobs.is_dir() and os.access(blobs, os.W_OK | os.X_OK):
            return place
    return None


def _hard_link(file: HashedFile, target: Path) -> bool:
    try:
        found = file.path.stat()
        if found.st_uid != target.parent.stat().st_uid and not found.st_mode & stat.S_IROTH:
            return False
        # Of the file itself: a link to a symbolic link would be one.
        os.link(file.path.resolve(), target)
    except OSError:
        return False
    if file.is_unchanged(target):
        return True
    target.unlink()
    raise FileError(f"{file.path} was changed meanwhile; try again when it is complete")


def _clone(file: HashedFile, target: Path) -> bool:
    """Make a file of the same blocks, which has no name until it is whole."""
    try:
        with open(file.path, "rb") as source, contextlib.ExitStack() as stack:
            folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, folder)
            clone = os.open(target.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o644)
            stack.callback(os.close, clone)
            fcntl.ioctl(clone, _FICLONE, source.fileno())
            if not file.is_unchanged(source.fileno()):
                return False
            os.fchmod(clone, 0o644)  # whatever the umask: the server's user reads it
            os.link(f"/proc/self/fd/{clone}", target.name, dst_dir_fd=folder)
    except OSError:
        return False
    return True

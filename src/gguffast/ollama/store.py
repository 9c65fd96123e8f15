"""The Ollama server's folder of models, when it is on this machine: files are linked there, not copied."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from gguffast.errors import FileError

_PIECE = 1 << 20

# Linux: ioctl number that makes one file share the other's blocks until one of them is written (btrfs, XFS).
_FICLONE = 0x40049409

# Where the Linux installer's service, a user of its own, has it.
_SERVICE_STORE = Path("/usr/share/ollama/.ollama/models")


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
    """

    def __init__(self, path: Path, progress: Callable[[int, int], object] | None = None) -> None:
        self.path = path
        sha256 = hashlib.sha256()
        try:
            with open(path, "rb", buffering=0) as file:
                before = os.fstat(file.fileno())
                done = 0
                while piece := file.read(_PIECE):
                    sha256.update(piece)
                    done += len(piece)
                    if progress:
                        progress(done, before.st_size)
                self._identity = _identity(os.fstat(file.fileno()))
        except OSError as error:
            raise FileError(f"cannot read {path}: {error.strerror}") from error
        if self._identity != _identity(before):
            raise FileError(f"{path} is being written at this moment; try again when it is complete")
        self.size = before.st_size
        self.digest = f"sha256:{sha256.hexdigest()}"

    def is_unchanged(self, path: Path) -> bool:
        """Tell whether ``path`` names the very file that the digest is of, unchanged since."""
        return _identity(path.stat()) == self._identity


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def find_store() -> Path | None:
    """Find the models folder that a server on this machine most likely uses, if files can be added to it."""
    named = os.environ.get("OLLAMA_MODELS", "").strip().strip("\"'")
    places = [Path(named)] if named else [Path.home() / ".ollama" / "models", _SERVICE_STORE]
    for place in places:
        blobs = place / "blobs"
        if blobs.is_dir() and os.access(blobs, os.W_OK | os.X_OK):
            return place
    return None


def link(file: HashedFile, store: Path) -> Path | None:
    """Put a file among the store's blobs without copying it.

    A clone that shares the blocks is made where the file system can; else a hard link, which is the same file
    under a second name: replacing or deleting the first leaves the store as it is, only a program that writes
    *into* the file would damage the model.

    Returns
    -------
    Path or None
        The blob, which was not there before. None if it cannot be made: another file system, no permission,
        or the server's user could not read it.

    Raises
    ------
    FileError
        The file is not what it was when its digest was computed.
    """
    blobs = store / "blobs"
    target = blobs / file.digest.replace(":", "-")
    return target if _clone(file, target) or _hard_link(file, target, blobs) else None


def _hard_link(file: HashedFile, target: Path, blobs: Path) -> bool:
    try:
        found = file.path.stat()
        if found.st_uid != blobs.stat().st_uid and not found.st_mode & stat.S_IROTH:
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
    try:
        import fcntl
    except ImportError:  # no such thing there
        return False
    temp = target.with_name(f".gguffast-{os.urandom(8).hex()}.tmp")
    try:
        with open(file.path, "rb") as source:
            if _identity(os.fstat(source.fileno())) != file._identity or target.exists():
                return False
            with open(temp, "xb") as clone:
                fcntl.ioctl(clone.fileno(), _FICLONE, source.fileno())
                if not file.is_unchanged(file.path):
                    return False
                os.chmod(clone.fileno(), 0o644)
        os.rename(temp, target)
        return True
    except OSError:
        return False
    finally:
        temp.unlink(missing_ok=True)

"""The folder in which a GGUF file waits for the steps after it, with a note of what it was made of."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gguffast import hub
from gguffast.documents import read_json
from gguffast.errors import FileError
from gguffast.files import cache_folder
from gguffast.obtain import Named
from gguffast.recipe.options import Options

# What a note raises that is none of ours, or was damaged: then there is no former import.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)


class Work:
    """The work folder of one source, type and recipe.

    Parameters
    ----------
    source : Named
    file_type : str
    options : Options
        What else decides the file.
    keep : path-like, optional
        Folder in which the file stays; by default one in the cache, which is removed in the end.
    """

    def __init__(
        self, source: Named, file_type: str, options: Options, keep: str | os.PathLike[str] | None
    ) -> None:
        self._source = source
        self._type = file_type
        self._options = [Path(os.path.abspath(path)) for path in options.files]
        self._keep = keep is not None
        # A path of an importance matrix, too, since it becomes metadata as it is given.
        said = "\n".join(filter(None, [source.label, file_type, options.key]))
        key = hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._folder = cache_folder() / "imports" / key if keep is None else Path(os.path.abspath(keep))
        self._note = self._folder / f".gguffast-{key}.json"
        place = self._folder.parent if keep is None else self._folder
        self._lock = place / f".gguffast-{key}.lock"

    @contextlib.contextmanager
    def alone(self, wait: Callable[[], object]) -> Iterator[None]:
        """Let nobody else work in the folder until the ``with`` block ends.

        Parameters
        ----------
        wait : callable
            Called if somebody does, before they are waited for.

        Raises
        ------
        FileError
            The folder cannot be written.
        """
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            fd = self._take(wait)
        except OSError as error:
            raise FileError(f"cannot write into the folder {self._lock.parent}: {error.strerror}") from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self._lock.unlink()
            if not self._keep:
                with contextlib.suppress(OSError):
                    self._folder.rmdir()  # nothing was made
            os.close(fd)

    def _take(self, wait: Callable[[], object]) -> int:
        """Lock the lock file; the lock goes when the descriptor is closed, or the process ends in any way."""
        while True:
            fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    wait()
                    fcntl.flock(fd, fcntl.LOCK_EX)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), os.stat(self._lock)):
                        return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # who held it has removed the file: take the next one

    def ready(self, token: str | None) -> Path | None:
        """Give the GGUF file of a former import, if its source is still the same."""
        try:
            note = read_json(self._note)
            path = self._folder / Path(note["output"]).name
            same = _stamp(path) == note["made"] and _stamps(self._options) == note["options"]
            if not same or not self._is_unchanged(note, token):
                return None
        except _UNREADABLE:
            return None
        return path

    def _is_unchanged(self, note: Mapping[str, Any], token: str | None) -> bool:
        if self._source.repo is None:
            return all(_stamp(Path(path)) == stamp for path, stamp in note["inputs"].items())
        commit = hub.latest_commit(self._source.repo, token)
        return commit is None or commit == note["commit"]

    def output(self, name: str) -> Path:
        """Give the path of the file to be made."""
        path = self._folder / name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"cannot make the folder {self._folder}: {error.strerror}") from error
        if path.exists() and self._named_output() != name:
            raise FileError(
                f"{path} already exists and is not from a former import with the same options; "
                "move it, or keep elsewhere"
            )
        return path

    def noting(self, output: Path, inputs: Sequence[Path]) -> _Noting:
        """Write the note when the ``with`` block has made `output` of `inputs`."""
        # As they are before they are read: what changes meanwhile is found changed the next time.
        note = {
            "source": self._source.label,
            "type": self._type,
            "output": output.name,
            "inputs": _stamps(inputs),
            "options": _stamps(self._options),
            "commit": _commit(inputs[0]) if self._source.repo else None,
        }
        return _Noting(self._note, output, note)

    def finish(self, path: Path) -> Path | None:
        """Remove what was only needed on the way; return the file if it stays."""
        if self._keep or self._folder not in path.parents:
            return path
        shutil.rmtree(self._folder, ignore_errors=True)
        return None

    def _named_output(self) -> str | None:
        try:
            name: str = read_json(self._note)["output"]
        except _UNREADABLE:
            return None
        return name


class _Noting:
    def __init__(self, path: Path, output: Path, note: dict[str, Any]) -> None:
        self._path = path
        self._output = output
        self._contents = note

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            return
        temp = self._path.with_suffix(".tmp")
        try:
            temp.write_text(json.dumps(self._contents | {"made": _stamp(self._output)}, indent=1))
            temp.replace(self._path)
        except OSError as reason:
            raise FileError(f"cannot write {self._path}: {reason.strerror}") from reason


def _commit(path: Path) -> str | None:
    """Commit of a file in the Hub client's cache, where it lies in ``snapshots/COMMIT``."""
    folders = dict(zip(path.parts, path.parts[1:], strict=False))
    return folders.get("snapshots")


def _stamps(paths: Iterable[Path]) -> dict[str, list[int]]:
    return {str(path): _stamp(path) for path in paths}


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]

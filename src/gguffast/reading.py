"""The one way in which files are read: positional reads, which notice a file that is cut short or changed.

Never memory maps: there an I/O error, or a file that somebody cuts short meanwhile, is a SIGBUS that kills
the process without a word.
"""

from __future__ import annotations

import contextlib
import os
import stat
from abc import ABC, abstractmethod
from pathlib import Path

from gguffast.errors import FileError, FormatError


class ReadableFile(ABC):
    """Bytes at offsets, for any thread: a file on this machine, or one behind a server.

    Attributes
    ----------
    name : str
        What messages call it: its path, or its address.
    size : int
        Its bytes when it was opened.
    """

    name: str
    size: int

    @abstractmethod
    def read_into(self, offset: int, into: memoryview, what: str = "") -> None:
        """Fill ``into`` with the bytes from ``offset`` on.

        Parameters
        ----------
        offset : int
            Where to begin, in bytes.
        into : memoryview
            Writable bytes; all of them are filled.
        what : str, optional
            What is read, for messages: ``"tensor 'x'"``.

        Raises
        ------
        FormatError
            The file ends before.
        FileError
            The file system, or the server, said no.
        """

    @abstractmethod
    def check_unchanged(self) -> None:
        """Make sure that everything read so far comes from one and the same content.

        Raises
        ------
        FileError
            The file has changed since it was opened.
        """

    def read(self, offset: int, size: int, what: str = "") -> bytearray:
        """Bytes ``offset`` to ``offset + size - 1``, errors as in `read_into`; ``size`` is checked first."""
        if not 0 <= offset <= offset + size <= self.size:
            raise self._ends(what)
        data = bytearray(size)
        self.read_into(offset, memoryview(data), what)
        return data

    def _ends(self, what: str) -> FormatError:
        return FormatError(
            f"{self.name}: ends inside {what or 'its header'}; it was cut short: wait until it is complete, "
            "or download it again"
        )


class LocalFile(ReadableFile):
    """A regular file, open as long as the object lives (or until :meth:`close`).

    Parameters
    ----------
    path : path-like
        The file.

    Raises
    ------
    FileError
        It cannot be opened, or is no regular file (a pipe would block, a device never ends).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = str(path)
        self._fd = -1
        try:
            # Not blocking: open() would wait for somebody to write into a pipe.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            found = os.fstat(self._fd)
        except FileNotFoundError:
            raise FileError(f"cannot read {self.name}: there is no such file; check the path") from None
        except (OSError, ValueError) as error:
            hint = "; check its permissions" if isinstance(error, PermissionError) else ""
            said = getattr(error, "strerror", None) or error
            raise FileError(f"cannot read {self.name}: {said}{hint}") from error
        if not stat.S_ISREG(found.st_mode):
            self.close()
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
            raise FileError(f"cannot read {self.name}: it is {kind}; name a file")
        self.size = found.st_size
        self._stamp = (found.st_size, found.st_mtime_ns)

    def read_into(self, offset: int, into: memoryview, what: str = "") -> None:
        """See :meth:`ReadableFile.read_into`."""
        done = 0
        while done < len(into):
            try:
                n = os.preadv(self._fd, [into[done:]], offset + done)
            except OSError as error:
                place = f" ({what})" if what else ""
                raise FileError(f"cannot read {self.name}: {error.strerror}{place}") from error
            if n == 0:
                raise self._ends(what)
            done += n

    def check_unchanged(self) -> None:
        """See :meth:`ReadableFile.check_unchanged`; goes by size and time of modification."""
        found = os.fstat(self._fd)
        if (found.st_size, found.st_mtime_ns) != self._stamp:
            raise FileError(
                f"{self.name} was changed while it was read; wait until it is complete, then repeat"
            )

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()

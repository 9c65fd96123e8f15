"""Whether what has come is what the Hub said it would be."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gguffast.errors import FileError, FormatError


def verify(repo: str, folder: Path, etags: Mapping[str, str]) -> None:
    """Compare files with their ETags: a large file's SHA-256, or the SHA-1 that git has of a small one.

    Parameters
    ----------
    repo : str
        For messages.
    folder : Path
        Where the files lie.
    etags : mapping of str to str
        By file name. One that is no such digest, as a mirror may have it, says nothing.

    Raises
    ------
    FormatError
        A file is not what it should be. It is removed, so that the next download gets it anew.
    FileError
        A file cannot be read.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = pool.map(lambda item: _digest(folder / item[0], item[1]), etags.items())
        for (name, etag), digest in zip(etags.items(), digests, strict=True):
            if digest not in (None, etag):
                path = folder / name
                for wrong in (path.resolve(), path):
                    wrong.unlink(missing_ok=True)
                raise FormatError(
                    f"{repo}: {name} came damaged: its digest is {digest}, but the Hub states {etag}; "
                    "it was removed, run the command again"
                )


def _digest(path: Path, etag: str) -> str | None:
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):
        return None
    try:
        with open(path, "rb") as file:
            if len(etag) == 64:
                return hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
            return hashlib.file_digest(file, lambda: hashlib.sha1(b"blob %d\0" % size)).hexdigest()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}") from error

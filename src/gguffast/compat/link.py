"""Our llama-quantize in the place of a program's own."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from gguffast.errors import FileError, OptionError

NAME = "llama-quantize"
_ASIDE = f"{NAME}.before-gguffast"
_MARK = "# Made by gguffast link-llama-quantize, which also undoes it (--undo)."


def link_llama_quantize(folder: str | os.PathLike[str]) -> Path:
    """Put gguffast's llama-quantize where a program has its own, which is kept beside it.

    Doing it twice is harmless; after the program brought its own back, as an update does, that one is kept.

    Parameters
    ----------
    folder : path-like
        The folder that holds ``llama-quantize``, such as Ollama's ``lib/ollama``.

    Returns
    -------
    Path
        Where the program's own one is now.

    Raises
    ------
    OptionError
        There is no ``llama-quantize`` in the folder.
    FileError
        The folder cannot be written.
    """
    program, aside = _places(folder)
    if not os.path.lexists(program):
        raise OptionError(
            f"there is no {NAME} in {folder}; name the folder in which the program that calls it keeps it"
        )
    with _explained(program):
        if not _is_ours(program):
            _keep(program, aside)
        fresh = program.with_name(f".{NAME}-{os.urandom(8).hex()}")
        try:
            fresh.write_text(_script())
            fresh.chmod(0o755)
            fresh.replace(program)
        finally:
            fresh.unlink(missing_ok=True)
    return aside


def unlink_llama_quantize(folder: str | os.PathLike[str]) -> Path:
    """Put the program's own llama-quantize back.

    Returns
    -------
    Path
        Where it is.

    Raises
    ------
    OptionError
        What stands there is not gguffast's, or the program's own one is gone.
    FileError
        The folder cannot be written.
    """
    program, aside = _places(folder)
    if not _is_ours(program):
        raise OptionError(f"{program} is not gguffast's: there is nothing to undo")
    if not os.path.lexists(aside):
        raise OptionError(
            f"{aside} is gone, which {program} replaced; install the program that it is of anew"
        )
    with _explained(program):
        aside.replace(program)
    return program


def _script() -> str:
    """Call gguffast; or the program's own one, where gguffast is gone or closed to who calls."""
    python, face = sys.executable, Path(__file__).with_name("llama_quantize.py")
    return f"""#!/bin/sh
{_MARK}
if [ -x {shlex.quote(python)} ] && [ -r {shlex.quote(str(face))} ]; then
    exec {shlex.quote(python)} -P -m gguffast.compat.llama_quantize "$@"
fi
exec "$(dirname "$0")/{_ASIDE}" "$@"
"""


def _places(folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    if not os.path.isdir(folder):
        raise OptionError(f"{os.fspath(folder)} is not a folder; name the one that holds {NAME}")
    return Path(folder, NAME), Path(folder, _ASIDE)


def _is_ours(program: Path) -> bool:
    try:
        with program.open("rb") as file:
            return _MARK.encode() in file.read(200)
    except OSError:
        return False


def _keep(program: Path, aside: Path) -> None:
    """Give the program another name too; without hard links, that name alone."""
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    try:
        os.link(program, aside, follow_symlinks=False)
    except OSError:
        program.rename(aside)


@contextlib.contextmanager
def _explained(program: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(
            f"cannot replace {program}: {error.strerror}; are you allowed to write there?"
        ) from error

"""From whatever a person names to one GGUF file of a type.

A GGUF file, the first shard of a split one, a folder, a repo on the Hub (``owner/name``) or one model of it
(``owner/name:Q8_0``) becomes a :class:`Model` on this machine; and that, converted, quantized, joined, or as
it is, one file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from gguffast import hub
from gguffast.errors import FileError, OptionError
from gguffast.hub.select import gguf_models, some
from gguffast.recipe.options import said_of_recipe

if TYPE_CHECKING:
    from gguffast.conversion.options import ConvertOptions
    from gguffast.engine import Progress
    from gguffast.filetypes import FileType
    from gguffast.job import MakeOptions, Result

_LIKE_A_PATH = re.compile(r"[./~\\]|[^:]*\.(?:gguf|bin|safetensors)$", re.IGNORECASE)

_SCRATCH, _HOUR = ".scratch", 60 * 60


@dataclass(frozen=True, slots=True)
class Named:
    """What a person named.

    Attributes
    ----------
    path : Path or None
        A file or folder of this machine, or
    repo, tag : str or None
        a repo on the Hub, and what picks one of its GGUF models.
    """

    path: Path | None
    repo: str | None = None
    tag: str | None = None

    @property
    def label(self) -> str:
        """How to name it again."""
        return str(self.path) if self.path else f"{self.repo}{f':{self.tag}' if self.tag else ''}"


def parse_name(source: str | os.PathLike[str]) -> Named:
    """Tell what a person means: what exists on this machine is no repo.

    Raises
    ------
    FileError
        It looks like a path, and there is nothing.
    OptionError
        It is neither a path nor the name of a repo.
    """
    text = os.fspath(source)
    path = expand(text)
    if path.exists():
        return Named(Path(os.path.abspath(path)))
    if isinstance(source, os.PathLike) or is_like_a_path(text):
        raise FileError(f"{text}: there is no such file or folder; give one, or a Hub repo as owner/name")
    return Named(None, *hub.parse_repo(text))


def is_like_a_path(text: str) -> bool:
    """Tell whether nothing but a path can be meant."""
    return _LIKE_A_PATH.match(text) is not None


def expand(text: str) -> Path:
    """Put a home folder in the place of ``~``.

    Raises
    ------
    FileError
        There is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise FileError(f"{text}: there is no such user, so that ~ means nothing") from None


@dataclass(frozen=True, slots=True)
class Model:
    """A model on this machine.

    Attributes
    ----------
    path : Path
        A checkpoint's folder, a GGUF file, or the first shard of one.
    paths : tuple of Path
        The files that it is read from.
    name : str
        What it is called, for naming what is made of it.
    is_checkpoint : bool
        False if it is GGUF.
    is_whole_model : bool
        False for what goes with a model: an image projector, an adapter. These are never quantized.
    file_type : int or None
        What ``general.file_type`` of a GGUF says.
    """

    path: Path
    paths: tuple[Path, ...]
    name: str
    is_checkpoint: bool
    is_whole_model: bool = True
    file_type: int | None = None

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.paths)

    def is_of(self, file_type: FileType | None) -> bool:
        """Tell whether there is nothing to convert or to quantize; None is any type."""
        if self.is_checkpoint:
            return False
        return file_type is None or not self.is_whole_model or self.file_type == file_type.number

    def is_ready(self, file_type: FileType | None, options: MakeOptions) -> bool:
        """Tell whether the model is one GGUF file of the type already, and nothing else is wanted of it."""
        wanted = self.is_whole_model and said_of_recipe(options)
        return self.is_of(file_type) and len(self.paths) == 1 and not wanted

    def file_name(self, file_type: FileType) -> str:
        """Name the file of a type that is made of it."""
        from gguffast.quantizer import default_output

        if self.is_checkpoint:
            return f"{self.name}-{file_type.name}.gguf"
        return default_output(self.path, file_type.name).name

    def make(self, output: Path, file_type: FileType | None, options: MakeOptions) -> Result:
        """Make one GGUF file of a type; see :func:`gguffast.convert` and :func:`gguffast.quantize`.

        It is as :func:`is_copied` wants it.

        Parameters
        ----------
        output : Path
            Is replaced if it exists.
        file_type : FileType, optional
            By default, the type that the model has.
        options : MakeOptions
            As there; those of the recipe are for whole models.
        """
        if self.is_checkpoint:
            return self._convert(
                output,
                file_type.name if file_type else "auto",
                cast("ConvertOptions", {**options, "force": True}),
            )
        from gguffast.filetypes import FILE_TYPES
        from gguffast.quantizer import quantize

        if not self.is_whole_model:
            options = {"threads": options.get("threads"), "progress": options.get("progress")}
        if file_type is None or (self.is_of(file_type) and not said_of_recipe(options)):
            file_type = FILE_TYPES["COPY"]
        return quantize(self.path, output, file_type, **options, force=True)

    def _convert(self, output: Path, file_type: str, options: ConvertOptions) -> Result:
        from gguffast.conversion import converter

        if self.path.name == self.name:
            return converter.run(self.path, output, file_type, options, copied=True)
        with tempfile.TemporaryDirectory(prefix="gguffast-") as temp:
            # A model is named after its folder, which in the Hub client's cache is that of a commit.
            named = Path(temp) / self.name
            named.symlink_to(self.path)
            return converter.run(named, output, file_type, options, copied=True)


def is_copied(path: Path) -> bool:
    """Tell whether a GGUF file is what llama-quantize's COPY makes of it: files that quantize wrote are.

    Ollama 0.30 and newer run COPY over every file that they are given, and keep what comes out. A file of
    another order, as converters write it, would lie there twice.
    """
    from gguffast.filetypes import FILE_TYPES
    from gguffast.job import quantization
    from gguffast.plan import make_plan
    from gguffast.recipe.options import Options
    from gguffast.sources.gguf import GGUFSource

    with GGUFSource(path) as source, open(path, "rb") as file:
        job = quantization(source, FILE_TYPES["COPY"], Options({}))
        plan = make_plan(job.kvs, job.targets)
        return plan.size == path.stat().st_size and plan.header == file.read(len(plan.header))


def find_model(
    named: Named,
    file_type: FileType | None = None,
    *,
    token: str | None = None,
    quiet: bool = False,
    progress: Callable[[Progress], object] | None = None,
) -> Model:
    """Find a model, and download it if it is on the Hub.

    Parameters
    ----------
    named : Named
        What a person named.
    file_type : FileType, optional
        What is wanted of it: of several GGUF models on the Hub, one that has the type or can be quantized to
        it is taken.
    token, quiet, progress
        As for :func:`gguffast.download`.

    Raises
    ------
    OptionError
        There are several models to choose from.
    FormatError
        A GGUF file is damaged, or one of its shards missing.
    HubError, FileError
        As for :func:`gguffast.download`.
    """
    if named.path:
        path = _gguf_in(named.path) or named.path
        return _checkpoint(path, path.name) if path.is_dir() else _gguf(path)
    assert named.repo
    prefer = (file_type.name, "BF16", "F16", "F32") if file_type else ("Q4_K_M", "Q8_0")
    path = hub.download(named.label, prefer=prefer, token=token, quiet=quiet, progress=progress)
    return _checkpoint(path, named.repo.rpartition("/")[2]) if path.is_dir() else _gguf(path)


def _checkpoint(folder: Path, name: str) -> Model:
    return Model(folder, tuple(sorted(p for p in folder.iterdir() if p.is_file())), name, is_checkpoint=True)


def _gguf(path: Path) -> Model:
    from gguffast.sources.gguf import GGUFSource

    with GGUFSource(path) as source:
        is_whole_model = source.metadata.text("general.type") in (None, "model")
        file_type = source.metadata.uint("general.file_type")
        return Model(path, tuple(source.paths), path.stem, False, is_whole_model, file_type)


def _gguf_in(folder: Path) -> Path | None:
    """Give the only GGUF model in a folder; None if it is no folder, or that of a checkpoint."""
    if not folder.is_dir() or _is_checkpoint(folder):
        return None
    files = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.gguf")))
    models = gguf_models(list(files))
    if len(models) > 1:
        raise OptionError(
            f"{folder} has {len(models)} GGUF models; name one of them, as in "
            f"{folder / min(models.values())[0]}: {some(sorted(models))}"
        )
    return folder / next(iter(models.values()))[0] if models else None


def _is_checkpoint(folder: Path) -> bool:
    weights = ("*.safetensors", "*.bin", "*.pth")
    return (folder / "config.json").exists() and any(next(folder.glob(w), None) for w in weights)


def scratch_folder(size: int, places: Iterable[Path | None], stack: contextlib.ExitStack) -> Path:
    """Make a folder for a file that is removed again, when `stack` is closed.

    What a killed run left in the same place is removed now.

    Parameters
    ----------
    size : int
        Bytes to expect.
    places : iterable of Path or None
        Where it would be best, the best first; the system's temporary folder is the last resort.
    stack : ExitStack

    Raises
    ------
    FileError
        None of them can be written.
    """
    folders = [*filter(None, places), Path(tempfile.gettempdir())]
    free = {p: shutil.disk_usage(p).free for p in folders if os.access(p, os.W_OK | os.X_OK)}
    if not free:
        raise FileError(f"cannot write into {' nor '.join(map(str, folders))}; set TMPDIR to a folder")
    place = next((p for p in free if free[p] > size), max(free, key=lambda p: free[p]))
    _remove_leftovers(place)
    made = tempfile.TemporaryDirectory(prefix=".gguffast-", suffix=_SCRATCH, dir=place)
    folder = Path(stack.enter_context(made))
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(fd, fcntl.LOCK_EX)
    return folder


def _remove_leftovers(place: Path) -> None:
    """Remove the folders of killed runs: nobody holds their lock, and they had the time to take it."""
    for folder in place.glob(f".gguffast-*{_SCRATCH}"):
        with contextlib.suppress(OSError):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if time.time() - os.fstat(fd).st_mtime > _HOUR:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(fd)

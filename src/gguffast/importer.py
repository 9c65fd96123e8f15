"""From a model's name to a model that Ollama runs: download, convert and quantize, register, upload.

Each step's result outlives a failure of the next one. The GGUF lies under its final name in a work folder,
beside a note of what it was made of; the same call finds it there and goes on with what is left.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gguffast import hub
from gguffast.errors import FileError, OptionError
from gguffast.files import cache_folder

if TYPE_CHECKING:
    from gguffast.engine import Progress
    from gguffast.ollama import Client, Created, Modelfile
    from gguffast.quantizer import Result

_LIKE_A_PATH = re.compile(r"[./~\\]|.*\.(?:gguf|bin|safetensors)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an import, when it begins.

    Attributes
    ----------
    number, total : int
        Counted from 1.
    action : str
        ``"download"``, ``"convert"``, ``"quantize"``, ``"register"`` or ``"upload"``.
    what : str
        The repo, folder or file that is worked on.
    done : bool
        True if a former import did it already.
    made : Path or None
        The GGUF file, as soon as there is one.
    """

    number: int
    total: int
    action: str
    what: str
    done: bool = False
    made: Path | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a model.

    Attributes
    ----------
    name : str
        Its name in Ollama.
    path : Path or None
        The GGUF file; None if it was not to be kept.
    result : Result or None
        Sizes and types of the conversion; None if nothing was converted this time.
    created : Created
        What was registered.
    url : str or None
        Where it was uploaded to.
    """

    name: str
    path: Path | None
    result: Result | None
    created: Created
    url: str | None


def import_model(
    source: str | os.PathLike[str],
    *,
    name: str,
    quantization: str | int = "Q4_K_M",
    system: str | None = None,
    parameters: Mapping[str, object] | Iterable[tuple[str, object]] = (),
    template: str | None = None,
    upload: str | None = None,
    private: bool = False,
    keep: str | os.PathLike[str] | None = None,
    host: str | None = None,
    token: str | None = None,
    allow_requantize: bool = False,
    threads: int | None = None,
    on_step: Callable[[Step], object] | None = None,
    progress: Callable[[Progress], object] | None = None,
    quiet: bool = False,
) -> Imported:
    """Bring a model from the Hugging Face Hub, or from this machine, into Ollama.

    If a step fails, what the steps before it made is kept, and the same call goes on from there.

    Parameters
    ----------
    source : str or path-like
        A Hub repo (``owner/name``, ``hf.co/owner/name``; ``owner/name:Q8_0`` picks one of its GGUF files),
        the folder of a checkpoint, or a GGUF file. What exists on this machine is no repo.
    name : str
        The model's name in Ollama.
    quantization : str, int or LlamaFileType
        As for :func:`gguffast.quantize`. A GGUF file that has the type already is used as it is.
    system : str, optional
        System prompt.
    parameters : mapping or iterable of (str, value)
        Ollama's, such as ``{"temperature": 0.7}``.
    template : str, optional
        Chat template in Go's text/template, instead of the model's own.
    upload : str, optional
        Hub repo to upload the GGUF file to; created if it does not exist.
    private : bool
        Create it as a private one.
    keep : path-like, optional
        Folder for the GGUF file. Without one it is removed when all is done.
    host : str, optional
        The Ollama server, as OLLAMA_HOST has it.
    token : str, optional
        Access token of the Hub.
    allow_requantize, threads
        As for :func:`gguffast.quantize`.
    on_step : callable, optional
        Called with a :class:`Step` when one begins.
    progress : callable, optional
        Called with a :class:`gguffast.engine.Progress` within a step, from any thread. An upload has the Hub
        client's own bar.
    quiet : bool
        Show no bars of the Hub's client.

    Returns
    -------
    Imported

    Raises
    ------
    OptionError
        Arguments that do not exist or do not fit together; found before anything is done.
    HubError
        The Hub refused or cannot be reached.
    ServerError
        There is no Ollama server, or it refused.
    FormatError, DataError, FileError
        As for :func:`gguffast.convert` and :func:`gguffast.quantize`.
    """
    from gguffast.filetypes import parse_file_type
    from gguffast.ollama import Client, create
    from gguffast.ollama.client import check_name

    check_name(name)
    file_type = parse_file_type(quantization)
    if file_type.copies:
        raise OptionError(
            f"{file_type.name} is no type to quantize to; choose another, such as Q4_K_M or F16"
        )
    found = _find(source)
    if private and upload is None:
        raise OptionError("private is for a repo to upload to; name one with --upload (upload=)")
    target = None if upload is None else hub.check_target(upload, token)
    settings = _settings(system, parameters, template)
    job = _Job(
        found,
        file_type,
        _Work(found, file_type.name, keep),
        uploads=target is not None,
        token=token,
        allow_requantize=allow_requantize,
        threads=threads,
        on_step=on_step,
        progress=progress,
        quiet=quiet,
    )
    with Client(host) as client:
        path, result = job.make()
        job.begin("register", name, made=path)
        created = _register(create, client, name, path, settings, progress)
    url = None
    if target is not None:
        job.begin("upload", target, made=path)
        url = hub.upload(
            [path], target, create=True, private=private, token=token, base_model=found.repo, quiet=quiet
        )
    kept = job.work.finish(path)
    return Imported(name, kept, result, created, url)


class _Source(NamedTuple):
    """Where a model comes from: a path, or a repo and perhaps a pattern for one of its files."""

    path: Path | None
    repo: str | None
    pick: str | None

    @property
    def label(self) -> str:
        return str(self.path) if self.path else f"{self.repo}{f':{self.pick}' if self.pick else ''}"


def _find(source: str | os.PathLike[str]) -> _Source:
    text = os.fspath(source)
    path = Path(text).expanduser()
    if path.exists():
        return _Source(Path(os.path.abspath(path)), None, None)
    if isinstance(source, os.PathLike) or _LIKE_A_PATH.match(text):
        raise FileError(f"{text}: there is no such file or folder; give one, or a Hub repo as owner/name")
    repo, colon, pick = text.rpartition(":")
    if not colon or "/" in pick:
        repo, pick = text, ""
    return _Source(None, hub.repo_id(repo), pick or None)


def _settings(
    system: str | None, parameters: Mapping[str, object] | Iterable[tuple[str, object]], template: str | None
) -> Modelfile:
    """Make the Modelfile, but for what it is FROM; checks all of it before any work is done."""
    from gguffast.ollama import Modelfile

    modelfile = Modelfile()
    if template is not None:
        modelfile.add("template", template)
    if system is not None:
        modelfile.add("system", system)
    for key, value in parameters.items() if isinstance(parameters, Mapping) else parameters:
        for each in value if isinstance(value, (list, tuple)) else [value]:
            modelfile.add("parameter", each, key)
    return modelfile


def _register(
    create: Callable[..., Created],
    client: Client,
    name: str,
    path: Path,
    settings: Modelfile,
    progress: Callable[[Progress], object] | None,
) -> Created:
    from gguffast.ollama import Modelfile

    modelfile = Modelfile()
    modelfile.add("from", path.name)
    modelfile.commands += settings.commands
    return create(name, modelfile, client, folder=path.parent, progress=progress)


class _Job:
    """Makes the GGUF file, as far as it is not made yet."""

    def __init__(
        self,
        source: _Source,
        file_type: Any,
        work: _Work,
        *,
        uploads: bool,
        token: str | None,
        allow_requantize: bool,
        threads: int | None,
        on_step: Callable[[Step], object] | None,
        progress: Callable[[Progress], object] | None,
        quiet: bool,
    ) -> None:
        self.work = work
        self._source = source
        self._type = file_type
        self._token = token
        self._allow_requantize = allow_requantize
        self._threads = threads
        self._on_step = on_step
        self._progress = progress
        self._quiet = quiet
        self._number = 0
        self._total = 2 + (source.repo is not None) + uploads

    def begin(self, action: str, what: str, *, done: bool = False, made: Path | None = None) -> None:
        """Announce a step."""
        self._number += 1
        if self._on_step:
            self._on_step(Step(self._number, self._total, action, what, done, made))

    def make(self) -> tuple[Path, Result | None]:
        """Give the GGUF file, and what was done for it if anything was."""
        ready = self.work.ready(self._token)
        if ready:
            if self._source.repo:
                self.begin("download", self._source.label, done=True)
            self.begin("quantize", ready.name, done=True)
            return ready, None
        path = self._source.path or self._download()
        return self._convert(path) if path.is_dir() else self._quantize(path)

    def _download(self) -> Path:
        assert self._source.repo
        self.begin("download", self._source.label)
        pick = self._source.pick
        include = [f"*{pick}*.gguf"] if pick else []
        return hub.download(
            self._source.repo,
            include=include,
            token=self._token,
            quiet=self._quiet,
            progress=self._progress,
        )

    def _convert(self, folder: Path) -> tuple[Path, Result]:
        from gguffast.conversion.converter import convert

        name = self._source.repo.rpartition("/")[2] if self._source.repo else folder.name
        self.begin("convert", f"{name} to {self._type.name}")
        output = self.work.output(f"{name}-{self._type.name}.gguf")
        with tempfile.TemporaryDirectory(prefix="gguffast-") as temp:
            named = folder
            if self._source.repo:
                # A model is named after its folder, which in the Hub client's cache is that of a commit.
                named = Path(temp) / name
                named.symlink_to(folder)
            with self.work.noting(output, sorted(p for p in folder.iterdir() if p.is_file())):
                result = convert(
                    named, output, self._type.name, threads=self._threads, progress=self._progress, force=True
                )
        return output, result

    def _quantize(self, path: Path) -> tuple[Path, Result | None]:
        from gguffast.quantizer import default_output, quantize
        from gguffast.sources.gguf import GGUFSource

        with GGUFSource(path) as source:
            shards = list(source.paths)
            same = source.metadata.get("general.file_type") == self._type.number
        if same and len(shards) == 1:
            self.begin("quantize", f"{path.name} is {self._type.name} already", done=True)
            return path, None
        self.begin("quantize", f"{path.name} to {self._type.name}")
        output = self.work.output(default_output(path, self._type.name).name)
        with self.work.noting(output, shards):
            result = quantize(
                path,
                output,
                "COPY" if same else self._type.name,
                threads=self._threads,
                progress=self._progress,
                force=True,
                allow_requantize=self._allow_requantize,
            )
        return output, result


class _Work:
    """The folder in which a GGUF file waits for the steps after it, with a note of what it was made of."""

    def __init__(self, source: _Source, file_type: str, keep: str | os.PathLike[str] | None) -> None:
        self._source = source
        self._type = file_type
        self._keep = keep is not None
        key = hashlib.sha256(f"{source.label}\n{file_type}".encode("utf-8", "surrogateescape")).hexdigest()[
            :16
        ]
        self._folder = cache_folder() / "imports" / key if keep is None else Path(os.path.abspath(keep))
        self._note = self._folder / (f".gguffast-{key}.json")

    def ready(self, token: str | None) -> Path | None:
        """Give the GGUF file of a former import, if its source is still the same."""
        try:
            note = json.loads(self._note.read_bytes())
            path = self._folder / Path(note["output"]).name
            if _stamp(path) != note["made"] or not self._is_unchanged(note, token):
                return None
        except (OSError, ValueError, KeyError, TypeError):
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
                f"{path} already exists and is not from a former import; move it, or keep elsewhere"
            )
        return path

    def noting(self, output: Path, inputs: list[Path]) -> _Noting:
        """Write the note when the ``with`` block has made `output` of `inputs`."""
        # As they are before they are read: what changes meanwhile is found changed the next time.
        note = {
            "source": self._source.label,
            "type": self._type,
            "output": output.name,
            "inputs": {str(path): _stamp(path) for path in inputs},
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
            name: str = json.loads(self._note.read_bytes())["output"]
        except (OSError, ValueError, KeyError, TypeError):
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


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]

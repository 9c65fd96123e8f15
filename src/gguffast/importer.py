"""From a model's name to a model that Ollama runs: download, convert and quantize, register, upload.

Each step's result outlives a failure of the next one. The GGUF lies under its final name in a work folder,
beside a note of what it was made of; the same call finds it there and goes on with what is left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from gguffast import hub
from gguffast.errors import OptionError
from gguffast.job import MakeOptions, thread_count
from gguffast.obtain import (
    Model,
    Named,
    expand,
    find_model,
    is_copied,
    is_like_a_path,
    parse_name,
    scratch_folder,
)
from gguffast.recipe.options import Options, said_of_recipe, takes
from gguffast.work import Work

if TYPE_CHECKING:
    from gguffast.engine import Progress
    from gguffast.filetypes import FileType
    from gguffast.job import Result
    from gguffast.ollama import Client, Created, Modelfile

_ON_THE_HUB = re.compile(r"(?:https?://)?(?:hf\.co|huggingface\.co)/", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an import, when it begins.

    Attributes
    ----------
    number, total : int
        Counted from 1.
    action : str
        ``"download"``, ``"convert"``, ``"quantize"``, ``"register"`` or ``"upload"``; before them, as number
        0, ``"wait"``, if the same import is at work already.
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


@takes(MakeOptions)
def import_model(
    src: str | os.PathLike[str],
    *,
    name: str,
    file_type: str | int | FileType = "Q4_K_M",
    system: str | None = None,
    parameters: Mapping[str, object] | Iterable[tuple[str, object]] = (),
    template: str | None = None,
    upload: str | None = None,
    private: bool = False,
    keep: str | os.PathLike[str] | None = None,
    host: str | None = None,
    token: str | None = None,
    on_step: Callable[[Step], object] | None = None,
    quiet: bool = False,
    **options: Unpack[MakeOptions],
) -> Imported:
    """Bring a model from the Hugging Face Hub, or from this machine, into Ollama.

    If a step fails, what the steps before it made is kept, and the same call goes on from there.

    Parameters
    ----------
    src : str or path-like
        A Hub repo (``owner/name``, ``hf.co/owner/name``; ``owner/name:Q8_0`` picks one of its GGUF files),
        the folder of a checkpoint, or a GGUF file. What exists on this machine is no repo.
    name : str
        The model's name in Ollama.
    file_type : str, int or LlamaFileType
        As for :func:`gguffast.quantize`. A GGUF file that has the type already is used as it is, unless
        options of the recipe are given.
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
    on_step : callable, optional
        Called with a :class:`Step` when one begins.
    quiet : bool
        Show no bars of the Hub's client.
    {options}
    progress
        Called with a :class:`gguffast.engine.Progress` within a step, from any thread. An upload has the Hub
        client's own bar.

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
    from gguffast.ollama import Client
    from gguffast.ollama.client import check_name

    check_name(name)
    wanted = parse_file_type(file_type)
    if wanted.copies:
        raise OptionError(f"{wanted.name} is no type to quantize to; choose another, such as Q4_K_M or F16")
    found = parse_name(src)
    if private and upload is None:
        raise OptionError("private is for a repo to upload to; name one with `upload`")
    target = None if upload is None else hub.check_target(upload, token)
    settings = _settings(system, parameters, template)
    say, options = _read(options)
    job = _Job(
        found,
        wanted,
        Work(found, wanted.name, say, keep),
        options,
        uploads=target is not None,
        token=token,
        on_step=on_step,
        quiet=quiet,
    )
    url = None
    with Client(host) as client, job.work.alone(job.wait):
        path, result = job.make()
        job.begin("register", name, made=path)
        settings.set("from", str(path))
        created = create(name, settings, client, progress=options.get("progress"))
        if target is not None:
            job.begin("upload", target, made=path)
            url = hub.upload(
                [path], target, create=True, private=private, token=token, base_model=found.repo, quiet=quiet
            )
        kept = job.work.finish(path)
    return Imported(name, kept, result, created, url)


@takes(MakeOptions)
def create(
    name: str,
    modelfile: Modelfile,
    client: Client,
    *,
    folder: str | os.PathLike[str] = ".",
    file_type: str | int | FileType | None = None,
    link: bool = True,
    **options: Unpack[MakeOptions],
) -> Created:
    """Register with an Ollama server what a Modelfile describes.

    Nothing is registered before everything is there. What was made on the way is removed in any case.

    Parameters
    ----------
    name : str
        ``my-model``, or ``my-model:tag``.
    modelfile : Modelfile
        ``FROM`` is a GGUF file, the first shard of one, a checkpoint folder, a folder with one GGUF model,
        ``hf.co/owner/name``, ``hf.co/owner/name:Q8_0``, or a model that the server has.
    client : Client
        The server.
    folder : path-like
        Where relative paths begin.
    file_type : str, int or LlamaFileType, optional
        As for :func:`gguffast.quantize`.
    link : bool
        Link files into the server's store instead of sending them, where that can be done.
    {options}
    progress
        Called with a :class:`gguffast.engine.Progress`; its ``tensor`` says what is done.

    Returns
    -------
    Created

    Raises
    ------
    OptionError
        The name, the type, or a ``FROM`` that does not fit.
    FileError, FormatError, DataError
        As for :func:`gguffast.quantize` and :func:`gguffast.convert`.
    ServerError
        The server is not there, went away or refused.
    """
    from gguffast import ollama
    from gguffast.filetypes import parse_file_type
    from gguffast.ollama.client import check_name
    from gguffast.ollama.register import check_server

    check_name(name)
    wanted = None if file_type is None else parse_file_type(file_type)
    _, options = _read(options)
    check_server(modelfile, client)
    with contextlib.ExitStack() as stack:
        maker = _Maker(wanted, client, link, stack, options)
        made = ollama.Modelfile(
            dataclasses.replace(command, value=maker.resolve(Path(folder), command.value))
            if command.name == "from"
            else command
            for command in modelfile.commands
        )
        created = ollama.create(
            name,
            made,
            client,
            folder=folder,
            file_type=wanted and wanted.name,
            link=link,
            progress=options.get("progress"),
        )
    return dataclasses.replace(created, warnings=(*maker.warnings, *created.warnings))


def _read(given: MakeOptions) -> tuple[Options, MakeOptions]:
    """Check options before any work is done; what can be read but once is read, and given along."""
    say = Options(given)
    thread_count(given.get("threads"))
    return say, {**given, "tensor_type": say.tensor_type, "override_kv": say.override_kv}


class _Maker:
    """Makes the GGUF files that a Modelfile's FROM means; they are removed when `stack` is closed."""

    def __init__(
        self,
        file_type: FileType | None,
        client: Client,
        link: bool,
        stack: contextlib.ExitStack,
        options: MakeOptions,
    ) -> None:
        from gguffast.ollama.store import find_store

        self.warnings: list[str] = []
        self._type = file_type
        self._options = options
        self._store = find_store() if link and client.is_local else None
        self._server_copies = client.is_before(0, 30, 0) is not True
        self._stack = stack
        self._progress = options.get("progress")

    def resolve(self, folder: Path, source: str) -> str:
        """Give the path of the file; what is neither a path nor on the Hub stays as it is."""
        path = folder / expand(source)
        if path.exists():
            return str(self._one_gguf(Named(Path(os.path.abspath(path)))))
        if _ON_THE_HUB.match(source):
            return str(self._one_gguf(Named(None, *hub.parse_repo(source))))
        said = said_of_recipe(self._options)
        if said and not is_like_a_path(source):
            raise OptionError(
                f"FROM {source} is a model of the server, which knows no `{said[0]}`; "
                "give a GGUF file, a checkpoint folder or hf.co/OWNER/NAME"
            )
        return source

    def _one_gguf(self, named: Named) -> Path:
        model = find_model(named, self._type, quiet=self._progress is None)
        if model.is_ready(self._type, self._options) and not (
            self._server_copies and model.is_whole_model and not is_copied(model.path)
        ):
            return model.path
        # Named like what it is made of, since the server shows the name.
        name = f"{model.name}.gguf" if model.is_checkpoint else model.path.name
        folder = scratch_folder(model.size, [self._store, model.path.parent], self._stack)
        if model.is_checkpoint:
            doing = "converting"
        elif self._type and not model.is_ready(self._type, self._options):
            doing = f"quantizing to {self._type.name}"
        else:
            doing = "joining shards" if len(model.paths) > 1 else "copying in the server's order"
        options: MakeOptions = {**self._options, "progress": _naming(doing, self._progress)}
        result = model.make(folder / name, self._type, options)
        self.warnings += result.warnings
        return result.dst


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


class _Job:
    """Makes the GGUF file, as far as it is not made yet."""

    def __init__(
        self,
        source: Named,
        file_type: FileType,
        work: Work,
        options: MakeOptions,
        *,
        uploads: bool,
        token: str | None,
        on_step: Callable[[Step], object] | None,
        quiet: bool,
    ) -> None:
        self.work = work
        self._source = source
        self._type = file_type
        self._token = token
        self._options = options
        self._on_step = on_step
        self._quiet = quiet
        self._number = 0
        self._total = 2 + (source.repo is not None) + uploads

    def begin(self, action: str, what: str, *, done: bool = False, made: Path | None = None) -> None:
        """Announce a step."""
        self._number += 1
        if self._on_step:
            self._on_step(Step(self._number, self._total, action, what, done, made))

    def wait(self) -> None:
        """Say that somebody else is at work."""
        if self._on_step:
            self._on_step(Step(0, self._total, "wait", self._source.label))

    def make(self) -> tuple[Path, Result | None]:
        """Give the GGUF file, and what was done for it if anything was."""
        ready = self.work.ready(self._token)
        if ready:
            if self._source.repo:
                self.begin("download", self._source.label, done=True)
            self.begin("quantize", ready.name, done=True)
            return ready, None
        if self._source.repo:
            self.begin("download", self._source.label)
        progress = self._options.get("progress")
        return self._make(
            find_model(self._source, self._type, token=self._token, quiet=self._quiet, progress=progress)
        )

    def _make(self, model: Model) -> tuple[Path, Result | None]:
        name = model.name if model.is_checkpoint else model.path.name
        action = "convert" if model.is_checkpoint else "quantize"
        if model.is_ready(self._type, self._options):
            self.begin(action, f"{name} is {self._type.name} already", done=True)
            return model.path, None
        self.begin(action, f"{name} to {self._type.name}")
        output = self.work.output(model.file_name(self._type))
        with self.work.noting(output, model.paths):
            result = model.make(output, self._type, self._options)
        return output, result


def _naming(doing: str, progress: Callable[[Progress], object] | None) -> Callable[[Progress], object] | None:
    """Say before each tensor's name what is done."""
    if progress is None:
        return None
    return lambda p: progress(dataclasses.replace(p, tensor=f"{doing}: {p.tensor}"))

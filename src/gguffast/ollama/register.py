"""Registers a model with an Ollama server: hands its files over, and says what it is made of."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguffast.engine import Progress
from gguffast.errors import FileError, OptionError, ServerError
from gguffast.ollama import templates
from gguffast.ollama.client import Client, RefusedError, check_name
from gguffast.ollama.modelfile import Modelfile
from gguffast.ollama.store import HashedFile, Store, find_store

Show = Callable[[Progress], object]

# What servers since 0.7.0 quantize to by themselves, which matters for models that only they have.
_SERVER_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_K_S", "Q4_K_M")

_PATH_LIKE = re.compile(r"^[./~\\]|\.(?:gguf|bin|safetensors)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Created:
    """What was registered.

    Attributes
    ----------
    name : str
        The model's name.
    size : int
        Bytes of its files; 0 if the server had the model already.
    linked, uploaded : int
        How many of these bytes were linked into the server's store, or sent to it. The server had the rest.
    template : str
        Where the chat template comes from, in words; empty if the server decides.
    warnings : tuple of str
        What the user should know.
    """

    name: str
    size: int
    linked: int
    uploaded: int
    template: str
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Model:
    """What ``FROM`` and the like stand for."""

    source: str = ""
    files: dict[str, HashedFile] = field(default_factory=dict)
    adapters: dict[str, HashedFile] = field(default_factory=dict)
    drafts: dict[str, HashedFile] = field(default_factory=dict)
    jinja: str | None = None


def create(
    name: str,
    modelfile: Modelfile,
    client: Client,
    *,
    folder: str | os.PathLike[str] = ".",
    file_type: str | None = None,
    link: bool = True,
    progress: Show | None = None,
) -> Created:
    """Register a model of GGUF files, or of a model that the server has.

    Nothing is registered before everything is there. :func:`gguffast.create` also takes what is no GGUF file
    yet.

    Parameters
    ----------
    name : str
        ``my-model``, or ``my-model:tag``.
    modelfile : Modelfile
        ``FROM`` is a GGUF file, as it shall be registered, or a model that the server has.
    client : Client
        The server.
    folder : path-like
        Where relative paths begin.
    file_type : str, optional
        For a model of the server: the type that the server quantizes it to.
    link : bool
        Link files into the server's store instead of sending them, where that can be done.
    progress : callable, optional
        Called with a :class:`gguffast.engine.Progress`; its ``tensor`` says what is done.

    Returns
    -------
    Created

    Raises
    ------
    OptionError
        The name, the type, or a ``FROM`` that does not fit.
    FileError, FormatError
        A file is missing, cannot be read or is no GGUF file.
    ServerError
        The server is not there, went away or refused.
    """
    found = find_store() if link and client.is_local else None
    with Store(found) if found else contextlib.nullcontext() as store:
        job = _Job(client, Path(folder), store, progress)
        return job.run(check_name(name), modelfile, file_type)


def check_server(modelfile: Modelfile, client: Client) -> None:
    """Ask whether there is a server, and one new enough for a Modelfile: before hours of work.

    Raises
    ------
    ServerError
        There is none, or it is too old.
    """
    _ = client.version
    needs = {"renderer": "0.12.0", "parser": "0.12.0", "draft": "0.30.0"}
    for command in (*needs, "requires"):
        value = modelfile.get(command)
        since = needs.get(command, value)
        if value and since and client.is_before(*map(int, re.findall(r"\d+", since))):
            raise ServerError(
                f"{command.upper()} {value} needs Ollama {since} or newer, but the server at "
                f"{client.url} is {client.version}; update it"
            )


class _Job:
    def __init__(self, client: Client, folder: Path, store: Store | None, progress: Show | None) -> None:
        self._client = client
        self._folder = folder
        self._store = store
        self._progress = progress
        self._warnings: list[str] = []
        self._linked = self._uploaded = 0

    def run(self, name: str, modelfile: Modelfile, file_type: str | None) -> Created:
        check_server(modelfile, self._client)
        self._warnings += modelfile.warnings
        model = self._find(modelfile, file_type)
        fields, text = self._request(modelfile, model, file_type)
        template = self._add_template(modelfile, model, fields)
        files = [*model.files.values(), *model.adapters.values(), *model.drafts.values()]
        for file in {file.digest: file for file in files}.values():
            self._hand_over(file)
        try:
            self._client.create(name, fields, _old_modelfile(text, modelfile, fields), self._show_status)
        except RefusedError:
            raise
        except BaseException:
            # It may have got far enough to need the files; if not, it removes them itself.
            self._keep_links()
            raise
        self._keep_links()
        return Created(
            name,
            sum(file.size for file in files),
            self._linked,
            self._uploaded,
            template,
            tuple(self._warnings),
        )

    def _find(self, modelfile: Modelfile, file_type: str | None) -> _Model:
        model = _Model()
        for source in modelfile.sources:
            path = self._local(source, file_type)
            if path is None:
                if model.source:
                    raise OptionError(f"FROM {source}: a model is made from one of the server's only")
                model.source = check_name(source)
            else:
                model.jinja = model.jinja or _chat_template(path)
                file = self._hash(path)
                model.files[f"{len(model.files)}-{file.path.name}"] = file
        if model.source and model.files:
            raise OptionError(f"FROM names both a model of the server, {model.source}, and files; name one")
        for command, found in (("adapter", model.adapters), ("draft", model.drafts)):
            value = modelfile.get(command)
            if value:
                self._add_files(command.upper(), value, found)
        return model

    def _local(self, source: str, file_type: str | None) -> Path | None:
        """Give the file that a FROM means; None if it is a model of the server."""
        path = self._expand(source)
        if path.is_dir():
            raise OptionError(f"FROM {source} is a folder; name a GGUF file, or let gguffast.create make one")
        if path.exists():
            return path
        if _PATH_LIKE.search(source):
            raise FileError(f"FROM {source}: there is no {path}; paths are relative to the Modelfile")
        if file_type and file_type not in _SERVER_TYPES:
            raise OptionError(
                f"FROM {source} is a model of the server, which quantizes its own only to "
                f"{', '.join(_SERVER_TYPES)}; "
                f"for {file_type} give a GGUF file, a checkpoint folder or hf.co/OWNER/NAME"
            )
        return None

    def _expand(self, value: str) -> Path:
        try:
            return self._folder / Path(value).expanduser()
        except RuntimeError:
            raise FileError(f"{value}: there is no such user, so that ~ means nothing") from None

    def _add_files(self, command: str, value: str, found: dict[str, HashedFile]) -> None:
        path = self._expand(value)
        in_folder = sorted([*path.glob("*.safetensors"), *path.glob("*.json")])
        paths = in_folder if path.is_dir() else [path]
        if not all(p.is_file() for p in paths) or not paths:
            raise FileError(f"{command} {value}: {path} is no file, and no folder with safetensors")
        found |= {p.name: self._hash(p) for p in paths}

    def _hash(self, path: Path) -> HashedFile:
        return HashedFile(path, self._counter(f"hashing {path.name}"))

    def _keep_links(self) -> None:
        if self._store:
            self._store.keep()

    def _hand_over(self, file: HashedFile) -> None:
        if self._store:
            self._store.hold(file.digest)
        if self._client.has_blob(file.digest):
            return
        if self._store and self._link(file, self._store):
            self._linked += file.size
            return
        self._client.upload(file.path, file.digest, self._counter(f"uploading {file.path.name}"))
        self._uploaded += file.size

    def _link(self, file: HashedFile, store: Store) -> bool:
        if not store.link(file):
            # Another registration may have been a moment sooner.
            return store.hold(file.digest) and self._client.has_blob(file.digest)
        if self._client.has_blob(file.digest):
            return True
        # The server has another store than the one that was found.
        store.unlink(file.digest)
        return False

    def _request(
        self, modelfile: Modelfile, model: _Model, file_type: str | None
    ) -> tuple[dict[str, Any], list[str]]:
        """Give the fields of the request, and the first lines of a Modelfile that says the same."""
        fields: dict[str, Any] = {}
        if model.source:
            fields["from"] = model.source
            if file_type:
                fields["quantize"] = file_type
        handed = {"files": model.files, "adapters": model.adapters, "draft_files": model.drafts}
        for key, files in handed.items():
            if files:
                fields[key] = {name: file.digest for name, file in files.items()}
        for command in ("template", "system", "renderer", "parser", "requires"):
            value = modelfile.get(command)
            if value:
                fields[command] = value
        if modelfile.licenses:
            fields["license"] = modelfile.licenses
        if modelfile.parameters:
            fields["parameters"] = modelfile.parameters
        if modelfile.messages:
            fields["messages"] = [{"role": role, "content": text} for role, text in modelfile.messages]
        sources = [model.source] if model.source else [f"@{f.digest}" for f in model.files.values()]
        lines = [f"FROM {source}" for source in sources]
        lines += [f"ADAPTER @{file.digest}" for file in model.adapters.values()]
        return fields, lines

    def _add_template(self, modelfile: Modelfile, model: _Model, fields: dict[str, Any]) -> str:
        """Send a chat template that the server understands, if the model's own is not one."""
        if modelfile.get("template"):
            return "the Modelfile's"
        if modelfile.get("renderer"):
            return "the Modelfile's RENDERER"
        if model.source or self._client.is_before(0, 30, 0) is False:
            return ""
        if not model.jinja:
            self._warnings.append(
                "the model has no chat template, so the server gives it the bare prompt; "
                "set one with TEMPLATE in the Modelfile if it is a chat model"
            )
            return "none"
        found = templates.recognise(model.jinja)
        if found is None:
            self._warnings.append(
                "the model's chat template is of no known family, which Ollama before 0.30 needs: "
                "chat may not work; update Ollama, or set TEMPLATE in the Modelfile"
            )
            return "unknown"
        fields["template"] = found.text
        parameters = dict(fields.get("parameters", {}))
        parameters.setdefault("stop", list(found.stop))
        fields["parameters"] = parameters
        return found.family

    def _show_status(self, status: str, done: int, total: int) -> None:
        if self._progress and total:
            self._progress(Progress(done, total, status))

    def _counter(self, doing: str) -> Callable[[int, int], None]:
        def show(done: int, total: int) -> None:
            if self._progress:
                self._progress(Progress(done, total, doing))

        return show


def _chat_template(path: Path) -> str | None:
    from gguffast.gguf import GGUFFile

    with GGUFFile(path) as file:
        return file.metadata.text("tokenizer.chat_template")


def _old_modelfile(lines: list[str], modelfile: Modelfile, fields: Mapping[str, Any]) -> str:
    """Say the request as a Modelfile, which servers before 0.5.5 want."""
    old = Modelfile()
    for command in modelfile.commands:
        if command.name not in ("from", "adapter", "draft", "template", "renderer", "parser", "requires"):
            old.add(command.name, command.value, command.key)
    if fields.get("template"):
        old.add("template", fields["template"])
        if not any(c.key == "stop" for c in old.commands):
            for stop in fields.get("parameters", {}).get("stop", []):
                old.add("parameter", stop, "stop")
    return "\n".join(lines) + f"\n{old}"

"""Download what a conversion needs, upload what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gguffast.errors import FileError, FormatError, HubError, OptionError
from gguffast.hub.client import Repo
from gguffast.hub.select import check_names, needed_files, parse_repo, patterns, repo_id, single_gguf

if TYPE_CHECKING:
    from gguffast.engine import Progress

_CARD = "README.md"


def download(
    repo: str,
    *,
    revision: str | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    prefer: Sequence[str] = ("Q4_K_M", "Q8_0"),
    local_dir: str | os.PathLike[str] | None = None,
    token: str | None = None,
    quiet: bool = False,
    progress: Callable[[Progress], object] | None = None,
) -> Path:
    """Download a model from the Hugging Face Hub.

    Only what a conversion needs comes: the weights once (safetensors rather than ``.bin``), configuration,
    tokenizer, chat template and model card; or a GGUF model.
    Files that are there already are not fetched again, and an interrupted download is continued.

    Parameters
    ----------
    repo : str
        ``owner/name``, also with ``hf.co/`` or ``https://huggingface.co/`` before it; ``owner/name:Q8_0``
        picks one of its GGUF models, as llama.cpp and Ollama do.
    revision : str, optional
        Branch, tag or commit; by default the main branch.
    include : str or sequence of str
        Patterns of file names (``"*Q4_K_M*"``): exactly the files that fit one of them are downloaded.
    exclude : str or sequence of str
        Patterns of files to leave out.
    prefer : sequence of str
        Of several GGUF models, where nothing picks one: the file types to take, the first that is there.
    local_dir : path-like, optional
        Folder for the files, instead of the cache of ``huggingface_hub``.
    token : str, optional
        Access token; by default ``HF_TOKEN``, or that of ``hf auth login``.
    quiet : bool
        Show no progress.
    progress : callable, optional
        Called with a :class:`gguffast.engine.Progress` from any thread, instead of the client's own bars.

    Returns
    -------
    Path
        The folder, or the file if it is a single GGUF (of a split one the first shard).

    Raises
    ------
    OptionError
        The repo's name or the token is malformed, no file fits, several models to choose from, or
        ``huggingface_hub`` is not installed.
    HubError
        The Hub refused (no such repo or revision, gated, private, wrong token) or cannot be reached.
    FormatError
        The repo holds no weights that can be used, or a file name that leads out of the folder.
    FileError
        The files cannot be written.
    """
    repo, tag = parse_repo(repo)
    target = None if local_dir is None else Path(local_dir)
    with Repo(repo, revision, token, quiet and progress is None) as hub:
        names = needed_files(
            repo, hub.list_files(target), patterns(include), patterns(exclude), tag=tag, prefer=prefer
        )
        check_names(repo, names, target)
        folder = hub.fetch(names, target, progress)
    return folder / only if (only := single_gguf(names)) else folder


def upload(
    files: Sequence[str | os.PathLike[str]],
    repo: str,
    *,
    private: bool = False,
    create: bool = False,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
    base_model: str | None = None,
    quiet: bool = False,
) -> str:
    """Upload GGUF files to a repo on the Hugging Face Hub, and a model card if it has none.

    All files appear in one commit. What a former attempt has already transferred is not transferred again.

    Parameters
    ----------
    files : sequence of path-like
        GGUF files; they keep their names.
    repo : str
        ``owner/name``.
    private : bool
        Create the repo as a private one.
    create : bool
        Create the repo (and the branch `revision`) if it does not exist.
    revision : str, optional
        Branch to upload to; by default the main branch.
    message : str, optional
        Commit message.
    token : str, optional
        Access token with write permission; by default ``HF_TOKEN``, or that of ``hf auth login``.
    base_model : str, optional
        The Hub repo that the files were made of, for the card; by default the files' metadata tell.
    quiet : bool
        Show no progress.

    Returns
    -------
    str
        Address of the repo.

    Raises
    ------
    OptionError
        No file, two of the same name, malformed names, no token, or ``huggingface_hub`` is not installed.
    HubError
        The Hub refused or cannot be reached.
    FormatError
        A file is not GGUF.
    FileError
        A file cannot be read.
    """
    from gguffast.hub.card import model_card, read_entry

    repo = repo_id(repo)
    base_model = None if base_model is None else repo_id(base_model)
    paths = _check_uploads(files)
    if private and not create:
        raise OptionError("private is for a repo that is created; add `create=True`")
    entries = [read_entry(path) for path in paths]
    with Repo(repo, revision, token, quiet) as hub:
        hub.need_token()
        if create:
            hub.create(private)
        content: dict[str, Path | bytes] = {path.name: path for path in paths}
        if _CARD not in hub.remote_files():
            content[_CARD] = model_card(repo, entries, base_model).encode()
        hub.commit(content, message or f"Upload {', '.join(path.name for path in paths)}")
        return hub.url


def check_target(repo: str, token: str | None = None) -> str:
    """Check early what :func:`upload` would refuse late, and give the repo's name.

    Raises
    ------
    OptionError
        It is no name, there is no token, or ``huggingface_hub`` is not installed.
    """
    hub = Repo(repo_id(repo), None, token, quiet=True)
    hub.need_token()
    return repo_id(repo)


def latest_commit(repo: str, token: str | None = None) -> str | None:
    """Ask for the newest commit of a repo's main branch; None if the Hub cannot be asked or does not tell."""
    try:
        with Repo(repo_id(repo), None, token, quiet=True) as hub:
            return hub.commit_id()
    except (HubError, FormatError):
        return None


def _check_uploads(files: Sequence[str | os.PathLike[str]]) -> list[Path]:
    paths = [Path(file) for file in files]
    if not paths:
        raise OptionError("no file to upload")
    seen: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise FileError(f"{path}: no such file; name the GGUF files to upload")
        if path.name in seen:
            raise OptionError(f"{seen[path.name]} and {path} have the same name; rename one of them")
        seen[path.name] = path
    return paths

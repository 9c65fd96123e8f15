"""The Hugging Face Hub: download what a conversion needs, upload what came of it.

A thin layer over ``huggingface_hub``, whose cache, resumption, progress bars and environment variables
(``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``) are used as they are. Added here: the choice
of files, a check of their names, a model card, and errors that say what to do next.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from gguffast.errors import FileError, FormatError, HubError, OptionError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from gguffast.engine import Progress

_T = TypeVar("_T")

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?", re.ASCII)
_PREFIX = re.compile(
    r"^(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/|^hf://(?:models/)?", re.IGNORECASE
)
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[a-z]+)$")
_CARD = "README.md"

# What a conversion reads besides the weights; the card and the licence become metadata.
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    _CARD,
    "LICENSE*",
)
_WEIGHTS = (("model", ".safetensors"), ("pytorch_model", ".bin"))


def download(
    repo: str,
    *,
    revision: str | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    local_dir: str | os.PathLike[str] | None = None,
    token: str | None = None,
    quiet: bool = False,
    progress: Callable[[Progress], object] | None = None,
) -> Path:
    """Download a model from the Hugging Face Hub.

    Only what a conversion needs comes: the weights once (safetensors rather than ``.bin``), configuration,
    tokenizer, chat template and model card; or the GGUF file, if the repo has but one model in that format.
    Files that are there already are not fetched again, and an interrupted download is continued.

    Parameters
    ----------
    repo : str
        ``owner/name``, also with ``hf.co/`` or ``https://huggingface.co/`` before it.
    revision : str, optional
        Branch, tag or commit; by default the main branch.
    include : str or sequence of str
        Patterns of file names (``"*Q4_K_M*"``): exactly the files that fit one of them are downloaded.
    exclude : str or sequence of str
        Patterns of files to leave out.
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
    repo = repo_id(repo)
    target = None if local_dir is None else Path(local_dir)
    with _Hub(repo, revision, token, quiet and progress is None) as hub:
        names = needed_files(repo, hub.list_files(target), _patterns(include), _patterns(exclude))
        check_names(repo, names, target)
        folder = hub.fetch(names, target, progress)
    return folder / only if (only := _single_gguf(names)) else folder


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
    from gguffast.card import model_card, read_entry

    repo = repo_id(repo)
    paths = _check_uploads(files)
    if private and not create:
        raise OptionError("private is for a repo that is created; add --create (create=True)")
    entries = [read_entry(path) for path in paths]
    with _Hub(repo, revision, token, quiet) as hub:
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
    hub = _Hub(repo_id(repo), None, token, quiet=True)
    hub.need_token()
    return repo_id(repo)


def latest_commit(repo: str, token: str | None = None) -> str | None:
    """Ask for the newest commit of a repo's main branch; None if the Hub cannot be asked or does not tell."""
    try:
        with _Hub(repo_id(repo), None, token, quiet=True) as hub:
            return hub.commit_id()
    except HubError:
        return None


def repo_id(text: str) -> str:
    """Read the name of a repo, in any of its spellings.

    Raises
    ------
    OptionError
        It cannot be one.
    """
    name = _PREFIX.sub("", text.strip()).rstrip("/")
    if not _REPO.fullmatch(name) or ".." in name or "--" in name:
        raise OptionError(f"'{text}' is not the name of a Hub repo; expected owner/name")
    return name


# ---- which files -------------------------------------------------------------------------------------------


def needed_files(
    repo: str, names: Sequence[str], include: Sequence[str], exclude: Sequence[str]
) -> list[str]:
    """Choose from the files of a repo.

    Parameters
    ----------
    repo : str
        Its name, for messages.
    names : sequence of str
        All its files.
    include, exclude : sequence of str
        The user's patterns.

    Raises
    ------
    OptionError
        Nothing fits, or there are several models and no pattern.
    FormatError
        No weights that can be converted.
    """
    chosen = [n for n in names if _fits(n, include)] if include else _for_conversion(repo, names, exclude)
    chosen = [n for n in chosen if not _fits(n, exclude)]
    if not chosen:
        raise OptionError(f"{repo}: no file fits {_quoted([*include, *exclude])}; it has {_some(names)}")
    return sorted(chosen)


def _for_conversion(repo: str, names: Sequence[str], exclude: Sequence[str]) -> list[str]:
    weights = _checkpoint_weights(names)
    if weights and "config.json" in names:
        return [*weights, *(name for name in names if _fits(name, _SMALL_FILES))]
    models = _gguf_models([name for name in names if not _fits(name, exclude)])
    if len(models) == 1:
        return next(iter(models.values()))
    if models:
        example = PurePosixPath(min(models)).stem
        raise OptionError(
            f"{repo} has {len(models)} GGUF models; choose with --include, as in --include '*{example}*' "
            f"(or import it as {repo}:{example}): {_some(sorted(models), 30)}"
        )
    missing = "config.json" if weights else "weights that can be converted"
    raise FormatError(
        f"{repo} has no {missing} (model*.safetensors or pytorch_model*.bin with config.json, or a .gguf); "
        f"it has {_some(names)}"
    )


def _checkpoint_weights(names: Sequence[str]) -> list[str]:
    """Weight files at the top of the repo: in one format, and not both whole and in shards."""
    for prefix, suffix in _WEIGHTS:
        found = [n for n in names if n.startswith(prefix) and n.endswith(suffix) and "/" not in n]
        shards = [n for n in found if (m := _SHARD.fullmatch(n)) and m["stem"] == prefix]
        index = f"{prefix}{suffix}.index.json"
        if shards and index in names:
            return [*shards, index]
        if prefix + suffix in found:
            return [prefix + suffix]
        if shards or found:
            return shards or found
    return []


def _gguf_models(names: Sequence[str]) -> dict[str, list[str]]:
    """GGUF models by name, with the shards of split ones."""
    models: dict[str, list[str]] = {}
    for name in names:
        if name.lower().endswith(".gguf"):
            shard = _SHARD.fullmatch(name)
            models.setdefault(f"{shard['stem']}.gguf" if shard else name, []).append(name)
    # Projectors and importance matrices go with a model, they are none.
    return {k: v for k, v in models.items() if not re.search(r"mmproj|imatrix", k, re.IGNORECASE)}


def _single_gguf(names: Sequence[str]) -> str | None:
    models = _gguf_models(names)
    if len(models) == 1 and sum(map(len, models.values())) == len(names):
        return min(next(iter(models.values())))
    return None


def _fits(name: str, patterns: Sequence[str]) -> bool:
    # As huggingface_hub has it: a folder means what is in it.
    return any(fnmatchcase(name, f"{p}*" if p.endswith("/") else p) for p in patterns)


def _patterns(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _some(names: Sequence[str], most: int = 8) -> str:
    if not names:
        return "no files"
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _quoted(patterns: Sequence[str]) -> str:
    return ", ".join(f"'{p}'" for p in patterns)


def check_names(repo: str, names: Sequence[str], folder: Path | None) -> None:
    """Refuse file names that lead out of the target folder, before anything is written."""
    root = None if folder is None else Path(os.path.realpath(folder))
    for name in names:
        parts = name.split("/")
        # Unprintable: what the terminal takes for a command when the path is shown.
        bad = any(part in ("", ".", "..") for part in parts) or not name.isprintable()
        bad = bad or bool(re.search(r"\\|^[A-Za-z]:", name))
        if not bad and root is not None:
            # A link that stands in the folder already may lead elsewhere.
            bad = not Path(os.path.realpath(root.joinpath(*parts[:-1]))).is_relative_to(root)
        if bad:
            raise FormatError(
                f"{repo}: the file name {name!r} is unprintable or leads out of the target folder; "
                "nothing was downloaded"
            )


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


# ---- the client --------------------------------------------------------------------------------------------


class _Hub:
    """One repo through ``huggingface_hub``, whose errors become ours when the ``with`` block ends."""

    def __init__(self, repo: str, revision: str | None, token: str | None, quiet: bool) -> None:
        self._client = _client()
        self._repo = repo
        self._revision = revision
        self._token = _checked_token(token or self._client.get_token())
        self._quiet = quiet
        # False: never the token that the client finds by itself, which has not been checked.
        self._api: HfApi = self._client.HfApi(token=self._token or False, library_name="gguffast")
        self.url = f"{self._api.endpoint}/{repo}"
        self._creatable = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Hub:
        self._stack.enter_context(_silence(self._quiet))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._stack.close()
        if isinstance(error, Exception) and not isinstance(error, (FormatError, OptionError, FileError)):
            raise self._explain(error) from None

    # -- download

    def list_files(self, local_dir: Path | None) -> list[str]:
        """All files of the repo; offline, those at hand."""
        if not self._offline:
            return self.remote_files()
        folder = Path(self._snapshot([], local_dir))
        names = (p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file())
        return [name.as_posix() for name in names if name.parts[0] != ".cache"]

    def fetch(
        self,
        names: Sequence[str],
        local_dir: Path | None,
        progress: Callable[[Progress], object] | None = None,
    ) -> Path:
        """Get files, and return the folder they lie in."""
        patterns = [escape(name) for name in names]
        bar = _forwarding(progress, self._repo) if progress else None
        return Path(_interruptible(lambda: self._snapshot(patterns, local_dir, bar)))

    def _snapshot(self, patterns: Sequence[str], local_dir: Path | None, bar: Any = None) -> str:
        with warnings.catch_warnings():
            # "Not enough free disk space" is a warning here, and then the error that is explained below.
            warnings.simplefilter("ignore", UserWarning)
            path: str = self._api.snapshot_download(
                self._repo,
                revision=self._revision,
                # Without a network, no list of files says what is missing: config.json alone is looked for.
                allow_patterns=list(patterns) or ["config.json"],
                local_dir=local_dir,
                local_files_only=self._offline,
                tqdm_class=bar,
            )
        return path

    @property
    def _offline(self) -> bool:
        return bool(self._client.constants.HF_HUB_OFFLINE)

    # -- upload

    def need_token(self) -> None:
        self._creatable = True
        if not self._token:
            raise OptionError(f"uploading needs a token with write permission; {self._token_help}")

    def create(self, private: bool) -> None:
        self._api.create_repo(self._repo, private=private, exist_ok=True)
        if self._revision:
            self._api.create_branch(self._repo, branch=self._revision, exist_ok=True)

    def remote_files(self) -> list[str]:
        """All files of the repo, as the Hub lists them."""
        siblings = self._api.model_info(self._repo, revision=self._revision).siblings
        return [file.rfilename for file in siblings or []]

    def commit_id(self) -> str | None:
        """Commit that the revision is at."""
        return self._api.model_info(self._repo, revision=self._revision).sha

    def commit(self, content: dict[str, Path | bytes], message: str) -> None:
        additions = [self._client.CommitOperationAdd(name, data) for name, data in content.items()]
        _interruptible(
            lambda: self._api.create_commit(
                self._repo, additions, commit_message=message, revision=self._revision
            )
        )

    # -- errors

    def _explain(self, error: Exception) -> Exception:
        """Say in one line what happened and what to do next."""
        # The client wraps what goes wrong in its threads.
        while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        text = self._refusal(error)
        if text is None and isinstance(error, OSError) and error.errno is not None:
            return FileError(self._disk(error))
        if text is None and isinstance(error, (ValueError, RuntimeError, OSError)):
            text = f"{self._repo}: {_first_lines(error)}"
        return HubError(self._hide(text)) if text else error

    def _refusal(self, error: Exception) -> str | None:
        e = self._client.errors
        if isinstance(error, e.GatedRepoError):
            return self._gated()
        if isinstance(error, e.RevisionNotFoundError):
            return f"{self._repo} has no branch, tag or commit '{self._revision or 'main'}'"
        if isinstance(error, e.HfHubHTTPError):
            return self._status(error, error.response.status_code)
        if isinstance(error, (e.OfflineModeIsEnabled, e.LocalEntryNotFoundError)):
            return self._not_at_hand(error)
        if isinstance(error, _network_errors(e)):
            connecting = isinstance(error, ConnectionError) or type(error).__name__.startswith("Connect")
            return self._unreachable(error) if connecting else self._broken(error)
        return None

    def _status(self, error: Any, status: int) -> str:
        e = self._client.errors
        said = _first_lines(error.server_message or error)
        if status == 401 and ("Invalid credentials" in str(error) or "Invalid username" in str(error)):
            return f"the Hub does not accept the token; {self._token_help}"
        if isinstance(error, e.RepositoryNotFoundError):
            return self._no_repo()
        if isinstance(error, e.EntryNotFoundError):
            return f"{self._repo}: {said}"
        if status in (401, 403):
            needed = "no token was given" if not self._token else "the token does not permit it"
            return f"{self._repo}: {said}; {needed}: {self._token_help}"
        if status == 429:
            return f"the Hub asks to slow down ({said}); wait some minutes and run the command again"
        if status >= 500:
            return f"the Hub has trouble ({status}: {said}); run the command again later, it continues"
        return f"{self._repo}: the Hub answered {status}: {said}"

    def _gated(self) -> str:
        if self._token:
            return (
                f"{self._repo} is gated and your account has no access: accept its conditions at {self.url}, "
                "or wait for the owner's approval; a fine-grained token must permit gated repos"
            )
        return (
            f"{self._repo} is gated: accept its conditions at {self.url}, then give a token; "
            f"{self._token_help}"
        )

    def _no_repo(self) -> str:
        if self._creatable:
            return f"there is no repo {self._repo} at {self._api.endpoint}; --create makes it"
        reason = "the token has no access" if self._token else f"needs a token; {self._token_help}"
        return f"there is no repo {self._repo} at {self._api.endpoint}, or it is private and {reason}"

    def _not_at_hand(self, error: Exception) -> str:
        if self._offline:
            return f"{self._repo} is not in the cache, and HF_HUB_OFFLINE forbids to download it"
        return self._unreachable(error.__cause__ or error)

    def _unreachable(self, error: BaseException) -> str:
        if self._cached():
            way = "the repo is in the cache: HF_HUB_OFFLINE=1 uses it"
        else:
            way = (
                "the repo is not in the cache; check the connection (HF_ENDPOINT, HTTPS_PROXY) and try again"
            )
        reason = _first_lines(error) or type(error).__name__
        return f"cannot reach {self._api.endpoint} ({reason}); {way}"

    def _broken(self, error: Exception) -> str:
        reason = _first_lines(error) or type(error).__name__
        return (
            f"{self._repo}: the connection to {self._api.endpoint} broke ({reason}); what has come is kept, "
            "run the command again to continue"
        )

    def _cached(self) -> bool:
        with contextlib.suppress(Exception):
            folder = self._client.snapshot_download(
                self._repo, revision=self._revision, local_files_only=True, allow_patterns=["config.json"]
            )
            return any(Path(folder).iterdir())
        return False

    def _disk(self, error: OSError) -> str:
        where = error.filename or self._client.constants.HF_HUB_CACHE
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return (
                f"{self._repo}: the disk is full ({where}); free some space and run the command again, it "
                "continues, or choose another disk with --local-dir or HF_HOME"
            )
        return f"{self._repo}: {where}: {error.strerror}; check its permissions, or set HF_HOME"

    @property
    def _token_help(self) -> str:
        return (
            f"make one at {self._api.endpoint}/settings/tokens and give it as HF_TOKEN, "
            "with `hf auth login`, or as --token"
        )

    def _hide(self, text: str) -> str:
        return text.replace(self._token, "<token>") if self._token else text


def _client() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise OptionError(f"the Hub needs the package {error.name!r}: pip install 'gguffast[hub]'") from error
    return huggingface_hub


def _checked_token(token: str | None) -> str | None:
    """Refuse what cannot stand in an HTTP header: the error of the HTTP library would show it."""
    token = (token or "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise OptionError("the token holds blanks or characters that no token has; copy it again")
    return token or None


def _network_errors(errors: Any) -> tuple[type[BaseException], ...]:
    # Which HTTP library is at work depends on the client's version; its base class is the client's, too.
    base = next(c for c in errors.HfHubHTTPError.__mro__ if c.__module__.startswith("httpx"))
    return (base, ConnectionError, TimeoutError)


def _first_lines(error: object) -> str:
    """Make one line of a message, without the request's number and the advice that follows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]


@contextlib.contextmanager
def _silence(quiet: bool) -> Iterator[None]:
    """Hide progress bars and notes of the client, if wanted, and show them again afterwards."""
    utils = _client().utils
    before = utils.logging.get_verbosity()
    # With HF_HUB_DISABLE_PROGRESS_BARS, the environment decides.
    hide = quiet and _client().constants.HF_HUB_DISABLE_PROGRESS_BARS is None
    if before == utils.logging.WARNING:  # its default
        # Warnings tell of retries, and of tokens that one could have: what matters comes as an error.
        utils.logging.set_verbosity_error()
    if hide:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.logging.set_verbosity(before)
        if hide:
            utils.enable_progress_bars()


def _forwarding(progress: Callable[[Progress], object], what: str) -> Any:
    """Make a progress bar for the client that draws nothing and tells `progress` instead."""
    from gguffast.engine import Progress

    class Bar(_client().utils.tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            # Bytes written; other bars count files, and bytes on the wire.
            self._counts = options.get("unit") == "B" and not str(options.get("name")).endswith(".transfer")
            super().__init__(*args, **options | {"disable": False, "file": io.StringIO()})

        def display(self, *args: Any, **options: Any) -> bool:
            return True

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            if self._counts and self.total:
                progress(Progress(int(self.n), int(self.total), what))
            return shown

    return Bar


def _interruptible(work: Callable[[], _T]) -> _T:
    """Run a transfer so that Ctrl-C is heard at once.

    The client's thread pools, asked to stop, wait until their files are whole, which may be hours; here they
    are waited for in another thread, which is left alone then.
    """
    result: list[_T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # without a time limit, no signal would be handled
    if failure:
        raise failure[0]
    return result[0]

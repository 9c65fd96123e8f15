"""One repo of the Hub, through ``huggingface_hub``."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gguffast.errors import FileError, FormatError, OptionError
from gguffast.hub.explain import Explainer
from gguffast.hub.guard import guarded
from gguffast.hub.verify import verify
from gguffast.shards import group_shards, parse_shard_name

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from gguffast.engine import Progress

_T = TypeVar("_T")


class Repo:
    """One repo through ``huggingface_hub``, whose errors become ours when the ``with`` block ends."""

    def __init__(self, repo: str, revision: str | None, token: str | None, quiet: bool) -> None:
        self._client = _client()
        self._repo = repo
        self._revision = revision
        self._token = _checked_token(token or self._client.get_token())
        self._quiet = quiet
        # False: never the token that the client finds by itself, which has not been checked.
        self._api: HfApi = self._client.HfApi(token=self._token or False, library_name="gguffast")
        endpoint = re.sub(r"//[^/]*@", "//", self._api.endpoint)  # a mirror's password is not to be shown
        self.url = f"{endpoint}/{repo}"
        self._explainer = Explainer(self._client, endpoint, repo, self._revision, self._token)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Repo:
        self._stack.enter_context(_silence(self._quiet))
        self._stack.enter_context(guarded(self._client))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._stack.close()
        if isinstance(error, Exception) and not isinstance(error, (FormatError, OptionError, FileError)):
            raise self._explainer.explain(error) from None

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
        self._explainer.folder = local_dir
        bar = _forwarding(progress, self._repo) if progress else None
        before = self._at_hand(names, local_dir)

        def get() -> Path:
            folder = Path(self._snapshot(_patterns(names), local_dir, bar))
            came = {name: etag for name, etag in _stated(folder, names).items() if etag not in before}
            verify(self._repo, folder, came)
            return folder

        return _interruptible(get)

    def _at_hand(self, names: Sequence[str], local_dir: Path | None) -> set[str]:
        """Give the ETags of what was there before a download."""
        if local_dir is not None:
            return set(_stated(local_dir, names).values())
        folder = f"models--{self._repo.replace('/', '--')}"
        with contextlib.suppress(OSError):
            return set(os.listdir(Path(self._client.constants.HF_HUB_CACHE, folder, "blobs")))
        return set()

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
        """Refuse to go on without a token."""
        self._explainer.creatable = True
        if not self._token:
            raise OptionError(f"uploading needs a token with write permission; {self._explainer.token_help}")

    def create(self, private: bool) -> None:
        """Create the repo, and the branch, if they do not exist."""
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
        """Upload files in one commit."""
        additions = [self._client.CommitOperationAdd(name, data) for name, data in content.items()]
        _interruptible(
            lambda: self._api.create_commit(
                self._repo, additions, commit_message=message, revision=self._revision
            )
        )


def _patterns(names: Sequence[str]) -> list[str]:
    """Make patterns that fit these files and no others; the client tries each pattern on each file."""
    patterns = []
    for files in group_shards(names).values():
        shard = parse_shard_name(files[0])
        if shard and sorted(files) == shard.all:
            digit = "[0-9]"
            patterns.append(f"{escape(shard.stem)}-{digit * 5}-of-{shard.total:05}{shard.suffix}")
        else:
            patterns += map(escape, files)
    return patterns


def _stated(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Give the ETags of downloaded files, where the client has noted them down."""
    etags = {}
    for name in names:
        with contextlib.suppress(OSError, ValueError, IndexError):
            if not (folder / name).is_file():
                continue
            if (folder / name).is_symlink():  # in the cache, to blobs/ETAG
                etags[name] = os.path.basename(os.readlink(folder / name))
            else:
                note = folder / ".cache" / "huggingface" / "download" / f"{name}.metadata"
                etags[name] = note.read_text("utf-8").splitlines()[1]
    return etags


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

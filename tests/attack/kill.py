"""Processes that are killed at any moment: files are complete or not there, and the next run finishes."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gguffast.demo.small_model import write_small_model
from support.local_hub import LocalHub, Repo
from support.ollama_servers import Stub

_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass
class Job:
    """A command that writes files into an empty folder.

    Attributes
    ----------
    args : list of str
        Its arguments; ``{out}`` stands for the folder.
    environment : dict of str to str
        What it needs besides this process's own.
    before : callable
        Run before each start, given the folder.
    """

    args: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    before: Callable[[Path], object] = lambda folder: None


@dataclass
class Kills:
    """What was found."""

    killed: int = 0
    finished: int = 0
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.killed:>7} kills, {self.finished} runs that were quicker"


def _start(job: Job, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gguffast", *(arg.replace("{out}", str(out)) for arg in job.args)]
    return subprocess.Popen(
        command, env=os.environ | job.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _digests(out: Path) -> dict[str, str]:
    """Of all files with a final name."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def attack(job: Job, seconds: float, rng: random.Random) -> Kills:
    """Start the command and end it, over and over, until the time is up."""
    kills = Kills()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        start = time.monotonic()
        expected, error = _finish(job, out)
        usual = time.monotonic() - start
        if error:
            kills.findings.append(f"undisturbed it fails: {error}")
            return kills
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            kills.findings += _once(job, out, expected, rng.uniform(0, usual), rng.choice(_SIGNALS), kills)
    return kills


def _finish(job: Job, out: Path) -> tuple[dict[str, str], str]:
    """Run it to its end in an empty folder: the digests of its files, and what it said if it failed."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    job.before(out)
    process = _start(job, out)
    _, said = process.communicate(timeout=300)
    return _digests(out), "" if process.returncode == 0 else said


def _once(
    job: Job, out: Path, expected: dict[str, str], after: float, number: signal.Signals, kills: Kills
) -> list[str]:
    shutil.rmtree(out)
    out.mkdir()
    job.before(out)
    process = _start(job, out)
    try:
        process.wait(after)
        kills.finished += 1
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        kills.killed += 1
    _, said = process.communicate(timeout=300)
    when = f"{number.name} after {after:.3f} s"
    found = []
    for name, digest in _digests(out).items():
        if digest != expected.get(name):
            found.append(f"{when}: {name} is not what it is when nobody interferes")
    if number != signal.SIGKILL:
        if "Traceback" in said or "should not happen" in said:
            found.append(f"{when}: {said[-600:]}")
        if left := [path.name for path in out.rglob(".gguffast-*.tmp")]:
            found.append(f"{when}: leaves {left}")
    return found + _again(job, out, expected, when)


def _again(job: Job, out: Path, expected: dict[str, str], when: str) -> list[str]:
    """The same command finishes what was begun and leaves nothing else; existing files are put away first."""
    for name in expected:
        (out / name).unlink(missing_ok=True)
    process = _start(job, out)
    _, said = process.communicate(timeout=300)
    if process.returncode:
        return [f"{when}: the next run fails: {said[-600:]}"]
    if _digests(out) != expected:
        return [f"{when}: the next run writes {_digests(out)}, not {expected}"]
    left = [path.name for path in out.rglob(".gguffast-*.tmp")]
    return [f"{when}: the next run leaves {left}"] if left else []


def jobs(work: Path, checkpoints: Path, hub: LocalHub, stub: Stub) -> dict[str, Job]:
    """Make what they read, in `work`."""
    model = work / "model.gguf"
    write_small_model(model)
    files = {path.name: path.read_bytes() for path in (checkpoints / "llama3").iterdir()}
    hub.repos["owner/Tiny"] = Repo(files)

    def forget(folder: Path) -> None:
        stub.blobs.clear()
        shutil.rmtree(work / "home", ignore_errors=True)

    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(work / "home" / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
        "OLLAMA_HOST": stub.host,
        "OLLAMA_MODELS": str(work / "no-store"),
        "GGUFFAST_CACHE": str(work / "home" / "cache"),
    }
    shards = ["--split-max-tensors", "5", "--threads", "2"]
    return {
        "kill quantize": Job(["quantize", str(model), "{out}/q.gguf", "Q4_K_M", "2"]),
        "kill convert": Job(["convert", str(checkpoints / "llama3"), "--outfile", "{out}/c.gguf", *shards]),
        "kill import": Job(["import", "owner/Tiny", "--as", "tiny", "--keep", "{out}"], environment, forget),
    }

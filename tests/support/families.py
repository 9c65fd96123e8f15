"""Tiny checkpoints of many model families, and what the reference converter made of each."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np

DATA = Path(__file__).parents[1] / "data" / "families"
ADAPTERS = DATA.parent / "adapters"
NAMES = sorted(path.name.removesuffix(".tar.xz") for path in DATA.glob("*.tar.xz"))

# Exponentials: the reference's, from Intel's library, are off by one in the last bit there; ours are rounded
# correctly (see `gguffast.conversion.steps.minus_exp`).
INEXACT = {"mamba": {"blk.0.ssm_a", "blk.1.ssm_a"}, "qwen35": {"blk.1.ssm_a"}}

# The reference's switches, and ours. A run with another one is of something that is not offered yet.
SWITCHES: dict[str, tuple[str, Any]] = {
    "--mtp": ("mtp", "only"),
    "--no-mtp": ("mtp", "without"),
    "--vocab-only": ("vocab_only", True),
}
VALUES = {
    "--outtype": "file_type",
    "--model-name": "model_name",
    "--split-max-tensors": "split_max_tensors",
    "--split-max-size": "split_max_size",
}


def read_runs(name: str, folder: Path = DATA) -> dict[str, dict[str, Any]]:
    """Every run of a family in full; ``_`` is what the reference had to be told."""
    with tarfile.open(folder / f"{name}.tar.xz") as archive:
        member = archive.extractfile("converted.json")
        assert member is not None
        runs: dict[str, dict[str, Any]] = json.loads(member.read())
    for run in runs.values():
        if "base" in run and "file_sha256" in run:
            for part in ("kv", "tensors"):
                rows = {row[0]: row for row in run[part]}
                run[part] = [rows.get(row[0], row) for row in runs[run["base"]][part]]
    return {
        key: runs[run["same_as"]] | {"args": run["args"]} if "same_as" in run else run
        for key, run in runs.items()
    }


def options_of(args: list[str]) -> dict[str, Any] | None:
    """Our options for the reference's, or None for what is not offered yet."""
    options: dict[str, Any] = {}
    rest = iter(args)
    for arg in rest:
        if arg in SWITCHES:
            key, value = SWITCHES[arg]
            options[key] = value
        elif arg in VALUES:
            text = next(rest)
            options[VALUES[arg]] = int(text) if arg == "--split-max-tensors" else text
        else:
            return None
    return options


def describe(path: Path) -> tuple[list[Any], list[Any]]:
    """What stands in a file, as converted.json has it."""
    reader = gguf.GGUFReader(path)
    pairs = []
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        value = field.contents()
        text = json.dumps(value, ensure_ascii=False)
        if len(text) >= 400:
            value = {"len": len(value), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        pairs.append([key, "/".join(kind.name for kind in field.types), value])
    tensors = [
        [
            tensor.name,
            tensor.tensor_type.name,
            [int(n) for n in tensor.shape],
            hashlib.sha256(np.ascontiguousarray(tensor.data).tobytes()).hexdigest(),
        ]
        for tensor in reader.tensors
    ]
    return pairs, tensors

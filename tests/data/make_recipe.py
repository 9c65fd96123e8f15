"""Ask the real llama-quantize what recipe.json and output_kvs.json expect.

usage: python tests/data/make_recipe.py PATH_TO_LLAMA_QUANTIZE

recipe.json holds models without weights (what the rules read: metadata, names, shapes, types) and, for the
options of each run, what ``llama-quantize --dry-run`` says that their tensors become, one letter a tensor.
output_kvs.json holds metadata, and the metadata of llama-quantize's output for some options. This script
writes the models as files, runs the program and puts its answers into both. To add a case, add a model or a
run whose answers are empty (``"by_file_type": {"Q4_K_M": {}}``) and call it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gguffast.gguf import KV, GGUFFile, GGUFValueType, kv, serialize_header
from gguffast.types import GGMLQuantizationType

HERE = Path(__file__).parent
LINE = re.compile(r"\[ *\d+/ *\d+\] (\S+) +- \[.*?\], type = +(\w+), size = .*?(?:\((\w+)\))?$", re.MULTILINE)
VALUE_TYPES = {
    bool: GGUFValueType.BOOL,
    int: GGUFValueType.UINT32,
    float: GGUFValueType.FLOAT32,
    str: GGUFValueType.STRING,
}
# What llama.cpp insists on before it looks at a tensor, and no rule reads.
REQUIRED = {
    "context_length": 128,
    "embedding_length": 256,
    "feed_forward_length": 512,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.layer_norm_epsilon": 1e-5,
}
Tensors = Iterable[tuple[str, list[int], GGMLQuantizationType]]


def write(path: Path, kvs: list[KV], tensors: Tensors) -> None:
    infos, end = [], 0
    for name, ne, type_ in tensors:
        infos.append((name, ne, type_, end))
        n = 1
        for size in ne:
            n *= size
        end += -(-type_.nbytes(n) // 32) * 32
    path.write_bytes(serialize_header(kvs, infos) + bytes(end))


def encode(metadata: dict[str, Any]) -> list[KV]:
    def one(key: str, value: Any) -> KV:
        if isinstance(value, list):
            return kv(key, value, GGUFValueType.ARRAY, GGUFValueType.INT32)
        return kv(key, value, VALUE_TYPES[type(value)])

    return [one(key, value) for key, value in metadata.items()]


def write_imatrix(path: Path, tensors: list[Any]) -> None:
    entries: list[tuple[str, list[int], GGMLQuantizationType]] = []
    for name, ne, _ in tensors:
        experts = ne[2] if len(ne) > 2 else 1
        entries.append((name + ".in_sum2", [ne[0], experts], GGMLQuantizationType.F32))
        entries.append((name + ".counts", [1, experts], GGMLQuantizationType.F32))
    kvs = [
        kv("imatrix.datasets", ["text"], GGUFValueType.ARRAY, GGUFValueType.STRING),
        kv("imatrix.chunk_count", 1, GGUFValueType.UINT32),
        kv("imatrix.chunk_size", 512, GGUFValueType.UINT32),
    ]
    write(path, kvs, entries)


def dry_run(program: str, model: Path, args: str, file_type: str, letters: dict[str, str]) -> dict[str, Any]:
    options = [str(model.with_suffix(".imatrix")) if arg == "FILE" else arg for arg in args.split()]
    done = subprocess.run(
        [program, "--dry-run", *options, str(model), file_type], capture_output=True, text=True, check=False
    )
    text = done.stdout + done.stderr
    if done.returncode:
        return {"error": text.rpartition("failed to quantize: ")[2].splitlines()[0]}
    fallbacks = re.search(r"(\d+) of \d+ tensor\(s\) required fallback", text)
    return {
        "types": "".join(letters[(new or old).upper()] for _, old, new in LINE.findall(text)),
        "fallbacks": int(fallbacks[1]) if fallbacks else 0,
        "needs_imatrix": "will require an imatrix" in text,
    }


def ask_types(program: str, folder: Path) -> None:
    data = json.loads((HERE / "recipe.json").read_text())
    letters = {name: letter for letter, name in data["letters"].items()}
    types = {letter: GGMLQuantizationType[name] for letter, name in data["letters"].items()}
    for name in {run["model"] for run in data["runs"]}:
        model = data["models"][name]
        architecture = model["metadata"]["general.architecture"]
        required = {f"{architecture}.{key}": value for key, value in REQUIRED.items()}
        tensors = [(tensor, ne, types[letter]) for tensor, ne, letter in model["tensors"]]
        write(folder / f"{name}.gguf", encode(required | model["metadata"]), tensors)
        write_imatrix(folder / f"{name}.imatrix", tensors)
    for run in data["runs"]:
        for file_type in run["by_file_type"]:
            model = folder / f"{run['model']}.gguf"
            run["by_file_type"][file_type] = dry_run(program, model, run["args"], file_type, letters)
    save(HERE / "recipe.json", data)


def ask_kvs(program: str, folder: Path) -> None:
    data = json.loads((HERE / "output_kvs.json").read_text())
    source, output = folder / "source.gguf", folder / "output.gguf"
    for run in data["runs"]:
        given = data["sources"][run["source"]]
        kvs = [KV(key, GGUFValueType(number), bytes.fromhex(raw)) for key, number, raw in given["kvs"]]
        write(source, kvs, [(name, ne, GGMLQuantizationType[type_]) for name, ne, type_ in given["tensors"]])
        overrides = [part for text in run["overrides"] for part in ("--override-kv", text)]
        command = [program, *overrides, str(source), str(output), run["file_type"]]
        subprocess.run(command, capture_output=True, check=True)
        with GGUFFile(output) as file:
            run["kvs"] = [[key, int(type_), bytes(raw).hex()] for key, type_, raw in file.kvs]
    save(HERE / "output_kvs.json", data)


def save(path: Path, data: dict[str, Any]) -> None:
    """Write JSON with one line for each model and each run, so that differences can be read."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    parts = []
    for key, value in data.items():
        if isinstance(value, list):
            parts.append(f"{line(key)}: [\n" + ",\n".join(map(line, value)) + "\n]")
        else:
            items = (f"{line(k)}: {line(v)}" for k, v in value.items())
            parts.append(f"{line(key)}: {{\n" + ",\n".join(items) + "\n}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        ask_types(sys.argv[1], Path(temporary))
        ask_kvs(sys.argv[1], Path(temporary))

"""Real-format checkpoints with random weights, unpacked and rebuilt from the test data.

``checkpoints.tar.xz`` holds whole checkpoints, and for some everything but the weights: those lie
elsewhere in the data, as PyTorch files or as the GGUF file that the reference made of them, and are rebuilt.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from gguffast.demo.real_checkpoint import LLAMA_NAMES, half_split, hf_name, to_bf16
from support.gguf_files import GGUF
from support.handmade import Raw, write_safetensors

DATA = Path(__file__).parents[1] / "data"

FULL = """
gemma gemma3 granite llama2 llama3 mistral mixtral olmo2 phi3 qwen2 qwen2moe qwen3 qwen3moe smollm3
"""
REBUILT = "gemma2 llama-bin llama-bin-legacy llama-wide"
NAMES = sorted(f"{FULL} {REBUILT}".split())

# These vocabularies are cut down to a few hundred tokens, whose pre-tokenizer the reference had to be told.
PRE = {name: "qwen2" if name.startswith("qwen") else "llama-bpe" for name in NAMES}

_GEMMA2_NAMES = {
    **LLAMA_NAMES,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def unpack(folder: Path) -> None:
    """Make every checkpoint of `NAMES` in a folder."""
    with tarfile.open(DATA / "checkpoints.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for name in ("llama-bin", "llama-bin-legacy"):
        shutil.copy(DATA / "checkpoints" / name / "pytorch_model.bin", folder / name)
    wide = read_weights(GGUF / "llama-wide-f16.gguf", LLAMA_NAMES, {"q_proj": 4, "k_proj": 2})
    restore(wide, folder / "llama-wide" / "below-f16.json")
    index = json.loads((folder / "llama-wide" / "model.safetensors.index.json").read_text())["weight_map"]
    for part in sorted(set(index.values())):
        chosen = {name: wide[name] for name in index if index[name] == part}
        write_safetensors(folder / "llama-wide" / part, chosen)
    gemma2 = read_weights(GGUF / "gemma2-f32.gguf", _GEMMA2_NAMES, {}, norm_offset=1)
    write_safetensors(folder / "gemma2" / "model.safetensors", gemma2)


def restore(weights: dict[str, Raw], path: Path) -> None:
    """Put back the few weights that are too small for F16."""
    for name, values in json.loads(path.read_text()).items():
        numbers = np.frombuffer(weights[name].data, np.uint16).copy()
        numbers[[int(i) for i in values]] = list(values.values())
        weights[name] = weights[name]._replace(data=numbers.tobytes())
    path.unlink()


def read_weights(
    path: Path, names: dict[str, str], heads: Mapping[str, int], norm_offset: int = 0
) -> dict[str, Raw]:
    """Turn a converted file back into the BF16 weights of its checkpoint."""
    weights = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = np.array(tensor.data, np.float32)
        name = hf_name(tensor.name, names)
        for projection, n in heads.items():
            if projection in name:
                values = half_split(values, n)
        if "norm" in name:
            values = values - np.float32(norm_offset)
        weights[name] = Raw("BF16", values.shape, to_bf16(values))
    return weights


def read_safetensors(path: Path) -> dict[str, Raw]:
    """Tensors of a safetensors file."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: Raw(t["dtype"], t["shape"], data[start + t["data_offsets"][0] : start + t["data_offsets"][1]])
        for name, t in header.items()
    }


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; ... removes one."""
    value = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not ...}))

"""Real-format checkpoints with random weights, unpacked and rebuilt from the test data.

``checkpoints.tar.xz`` holds whole checkpoints, and for some everything but the weights: those lie
elsewhere in the data, as PyTorch files or as the GGUF file that the reference made of them, and are rebuilt.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

from gguf_files import GGUF
from handmade import Raw, write_safetensors

DATA = Path(__file__).parent / "data"

FULL = """
gemma gemma3 granite llama2 llama3 mistral mixtral olmo2 phi3 qwen2 qwen2moe qwen3 qwen3moe smollm3
"""
REBUILT = "gemma2 llama-bin llama-bin-legacy llama-wide"
NAMES = sorted(f"{FULL} {REBUILT}".split())

# These vocabularies are cut down to a few hundred tokens, whose pre-tokenizer the reference had to be told.
PRE = {name: "qwen2" if name.startswith("qwen") else "llama-bpe" for name in NAMES}

_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LLAMA_NAMES = {**_NAMES, "ffn_norm": "post_attention_layernorm"}
_GEMMA2_NAMES = {
    **_NAMES,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
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
    path: Path, names: Mapping[str, str], heads: Mapping[str, int], norm_offset: int = 0
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
        weights[name] = bf16(values)
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


def hf_name(name: str, names: Mapping[str, str]) -> str:
    """Give a GGUF tensor its Hugging Face name."""
    return _GLOBAL_NAMES.get(name) or re.sub(
        r"blk\.(\d+)\.(\w+)", lambda m: f"model.layers.{m[1]}.{names[m[2]]}", name
    )


def half_split(values: np.ndarray, heads: int) -> np.ndarray:
    """Bring the rows of a query or key projection back into the order of Hugging Face."""
    return values.reshape(heads, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def bf16(values: np.ndarray) -> Raw:
    """BF16 tensor of float32 values that BF16 can hold, up to the rounding of an addition."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return Raw("BF16", values.shape, rounded.astype(np.uint16).tobytes())

"""A real Hugging Face checkpoint to show and to test with: SmolLM2-135M-Instruct, rebuilt from its GGUF file.

Its published weights lie on a Q4_1 grid. To give a quantizer real work, each is moved inside its own cell of
the grid (uniform, seed 0) and rounded to BF16; the model still answers. The tokenizer is rebuilt as well.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguffast.gguf import GGUFFile, TensorInfo
from gguffast.types import GGMLQuantizationType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Llama's parts of a layer: their names in GGUF and on Hugging Face.
LLAMA_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_CONTROL = 3  # type of a token that steers and is not text


def hf_name(name: str, names: dict[str, str]) -> str:
    """Give a GGUF tensor its Hugging Face name; ``names`` tells those of a layer's parts."""
    return _GLOBAL_NAMES.get(name) or re.sub(
        r"blk\.(\d+)\.(\w+)", lambda m: f"model.layers.{m[1]}.{names[m[2]]}", name
    )


def half_split(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Bring the rows of a query or key projection back into the order of Hugging Face."""
    return values.reshape(heads, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def to_bf16(values: NDArray[np.float32]) -> bytes:
    """Round to BF16."""
    from gguffast import quants

    return quants.quantize(values, GGMLQuantizationType.BF16).tobytes()


def write_checkpoint(gguf: Path, folder: Path) -> None:
    """Write the checkpoint that a GGUF file of the llama architecture was made of, more or less.

    Parameters
    ----------
    gguf : Path
        The file.
    folder : Path
        Is made; gets model.safetensors (BF16), config.json and the tokenizer's files.
    """
    import numpy as np

    with GGUFFile(gguf) as file:
        facts = dict(file.metadata)
        heads = {"q": facts["llama.attention.head_count"], "k": facts["llama.attention.head_count_kv"]}
        random = np.random.default_rng(0)
        weights = {}
        for tensor in file.tensors:
            values = _values(tensor, random)
            projection = re.search(r"attn_([qk])\.", tensor.name)
            if projection:
                values = half_split(values, heads[projection[1]])
            weights[hf_name(tensor.name, LLAMA_NAMES)] = (tensor.shape, to_bf16(values))
    folder.mkdir()
    _write_safetensors(folder / "model.safetensors", weights)
    for name, content in _texts(facts).items():
        (folder / name).write_text(json.dumps(content))


def _values(tensor: TensorInfo, random: np.random.Generator) -> NDArray[np.float32]:
    import numpy as np

    from gguffast import quants

    values = quants.dequantize(tensor.data, tensor.type)
    if tensor.type == GGMLQuantizationType.Q4_1:
        blocks = np.ascontiguousarray(tensor.data).reshape(-1, 20)
        width = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        moved = width * (random.random((len(blocks), 32), dtype=np.float32) - np.float32(0.5))
        values = values.reshape(-1, 32) + moved
    return values.reshape(tensor.shape)


def _write_safetensors(path: Path, tensors: dict[str, tuple[tuple[int, ...], bytes]]) -> None:
    # By hand, because NumPy has no BF16 that the safetensors package could write.
    header, end = {}, 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, data in tensors.values():
            file.write(data)


def _texts(facts: dict[str, Any]) -> dict[str, Any]:
    tokens, types = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    special = [i for i, kind in enumerate(types) if kind == _CONTROL]
    added = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": facts["llama.embedding_length"],
            "intermediate_size": facts["llama.feed_forward_length"],
            "max_position_embeddings": facts["llama.context_length"],
            "model_type": "llama",
            "num_attention_heads": facts["llama.attention.head_count"],
            "num_hidden_layers": facts["llama.block_count"],
            "num_key_value_heads": facts["llama.attention.head_count_kv"],
            "rms_norm_eps": float(facts["llama.attention.layer_norm_rms_epsilon"]),
            "rope_scaling": None,
            "rope_theta": facts["llama.rope.freq_base"],
            "tie_word_embeddings": True,
            "vocab_size": len(tokens),
            **ids,
        },
        "generation_config.json": {"_from_model_config": True, **ids},
        "tokenizer.json": {
            "added_tokens": [{"id": i, "content": tokens[i], **added} for i in special],
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
                ],
            },
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
            "model": {
                "type": "BPE",
                "vocab": {token: i for i, token in enumerate(tokens)},
                "merges": [merge.split(" ") for merge in facts["tokenizer.ggml.merges"]],
            },
        },
        "tokenizer_config.json": {
            "add_prefix_space": False,
            "added_tokens_decoder": {str(i): {"content": tokens[i], **added} for i in special},
            "bos_token": tokens[1],
            "chat_template": facts.get("tokenizer.chat_template"),
            "eos_token": tokens[2],
            "pad_token": tokens[2],
            "tokenizer_class": "GPT2Tokenizer",
            "unk_token": tokens[0],
        },
    }

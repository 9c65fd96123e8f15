"""A small model of random weights, for a demonstration where nothing can be downloaded."""

from __future__ import annotations

from pathlib import Path

from gguffast.gguf import GGUFValueType, kv
from gguffast.output import Output
from gguffast.plan import Target, make_plan
from gguffast.types import GGMLQuantizationType

_WIDTH, _FFN, _LAYERS, _HEADS, _VOCABULARY = 512, 1536, 8, 8, 256


class _Random:
    """A tensor of F16 weights N(0, 0.02²), or of ones if it is a norm (see SourceTensor)."""

    def __init__(self, name: str, *ne: int) -> None:
        self.name = name
        self.ne = ne
        self.n_rows = ne[1] if len(ne) > 1 else 1
        self.type = GGMLQuantizationType.F16 if len(ne) > 1 else GGMLQuantizationType.F32
        self.row_bytes = self.type.nbytes(ne[0])

    def read_into(self, offset: int, into: memoryview) -> None:
        """Give the whole tensor; other pieces of it nobody asks for."""
        import numpy as np

        if len(self.ne) == 1:
            into[:] = np.ones(self.ne[0], np.float32).tobytes()
            return
        rng = np.random.default_rng([offset, *self.name.encode()])
        weights = rng.standard_normal((self.n_rows, self.ne[0]), np.float32) * np.float32(0.02)
        into[:] = weights.astype(np.float16).tobytes()


def write_small_model(path: Path) -> None:
    """Write 27 M weights of architecture llama as F16; the vocabulary is the 256 bytes."""
    u32, f32, text, array = (
        GGUFValueType.UINT32,
        GGUFValueType.FLOAT32,
        GGUFValueType.STRING,
        GGUFValueType.ARRAY,
    )
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(3, _VOCABULARY))]
    kvs = [
        kv("general.architecture", "llama", text),
        kv("general.name", "Small random model", text),
        kv("llama.block_count", _LAYERS, u32),
        kv("llama.context_length", 512, u32),
        kv("llama.embedding_length", _WIDTH, u32),
        kv("llama.feed_forward_length", _FFN, u32),
        kv("llama.attention.head_count", _HEADS, u32),
        kv("llama.attention.layer_norm_rms_epsilon", 1e-5, f32),
        kv("general.file_type", 1, u32),
        kv("tokenizer.ggml.model", "llama", text),
        kv("tokenizer.ggml.tokens", tokens, array),
        kv("tokenizer.ggml.scores", [0.0] * _VOCABULARY, array),
        kv("tokenizer.ggml.token_type", [2, 3, 3, *([6] * (_VOCABULARY - 3))], array),
    ]
    tensors = [
        _Random("token_embd.weight", _WIDTH, _VOCABULARY),
        _Random("output_norm.weight", _WIDTH),
        _Random("output.weight", _WIDTH, _VOCABULARY),
    ]
    for i in range(_LAYERS):
        tensors += [_Random(f"blk.{i}.{name}_norm.weight", _WIDTH) for name in ("attn", "ffn")]
        tensors += [
            _Random(f"blk.{i}.attn_{part}.weight", _WIDTH, _WIDTH) for part in ("q", "k", "v", "output")
        ]
        tensors += [_Random(f"blk.{i}.ffn_{part}.weight", _WIDTH, _FFN) for part in ("gate", "up")]
        tensors += [_Random(f"blk.{i}.ffn_down.weight", _FFN, _WIDTH)]
    plan = make_plan(kvs, [Target(tensor, tensor.type) for tensor in tensors])
    with Output([(path, plan.size)], replace=True) as file:
        file.write(plan.header, 0)
        for planned in plan.tensors:
            source = planned.target.source
            data = memoryview(bytearray(source.n_rows * source.row_bytes))
            source.read_into(0, data)
            file.write(data, planned.offset)
        file.commit()

"""Tokenizer files written by hand: byte-level BPE and SentencePiece models of a few tokens."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LETTERS = "abcdefgh"
MERGES = ["a b", "ab c", "d e"]
VOCAB = {text: number for number, text in enumerate([*LETTERS, "ab", "abc", "de"])}
QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def added(number: int, text: str, special: bool = False, normalized: bool = True) -> dict[str, Any]:
    return {"id": number, "content": text, "special": special, "normalized": normalized}


def bpe(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json; `model_…` changes its model, everything else the file."""
    model: dict[str, Any] = {"type": "BPE", "vocab": VOCAB, "merges": MERGES}
    model |= {key.removeprefix("model_"): value for key, value in changes.items() if key.startswith("model_")}
    others = {key: value for key, value in changes.items() if not key.startswith("model_")}
    return {
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": sequence(split(QWEN2_REGEX), byte_level(False)),
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": model,
        **others,
    }


def write(folder: Path, tokenizer: dict[str, Any] | None = None, **files: Any) -> Path:
    """Write tokenizer.json and others; `config` is tokenizer_config.json, `model_config` is config.json."""
    names = {"config": "tokenizer_config.json", "model_config": "config.json"}
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name, value in files.items():
        (folder / names.get(name, f"{name}.json")).write_text(json.dumps(value))
    return folder


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def message(field: int, body: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(body)) + body


def sentencepiece(pieces: Iterable[tuple[str, float, int]], trainer: bytes = b"") -> bytes:
    """A ModelProto; type 1 (normal) is left out, as the real ones do."""
    out = b""
    for text, score, kind in pieces:
        body = message(1, text.encode()) + b"\x15" + struct.pack("<f", score)
        out += message(1, body + (b"\x18" + varint(kind) if kind != 1 else b""))
    return out + message(2, trainer)

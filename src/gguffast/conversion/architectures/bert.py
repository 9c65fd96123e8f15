"""BERT and its kin, which embed texts or rank them: attention looks both ways, norms follow what they norm.

Their heads are left out, but for those that classify.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gguffast.conversion.architecture import (
    FEED_FORWARD,
    HIDDEN,
    VOCABULARY,
    Architecture,
    Rule,
    classes,
    size,
)
from gguffast.conversion.blocks import linear, norm
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.keys import BASE, VOCABULARY_SIZE, array, flag, text, uint
from gguffast.conversion.pooling import pooling
from gguffast.conversion.steps import without_first
from gguffast.gguf import GGUFValueType


def _triple(h: Hparams) -> int:
    return 3 * HIDDEN(h)


def _labels(h: Hparams) -> list[str] | None:
    """Names of a classifier's classes; None for the two that the library makes up."""
    names = h.within("id2label").values
    made_up = len(names) == 2 and next(iter(names.values())) == "LABEL_0"
    if not names or made_up:
        return None
    if not all(isinstance(name, str) for name in names.values()):
        h.refuse("id2label", "texts")
    return [name for _, name in sorted(names.items(), key=lambda item: (len(item[0]), item[0]))]


def _classes(h: Hparams) -> int:
    return len(_labels(h) or ()) or 2


def _no_classifier(h: Hparams) -> bool:
    names = h.get("architectures")
    return not isinstance(names, list) or not str(names[0]).endswith("ForSequenceClassification")


def _no_named_classes(h: Hparams) -> bool:
    return _no_classifier(h) or _labels(h) is None


def _no_unnamed_classes(h: Hparams) -> bool:
    return _no_classifier(h) or _labels(h) is not None


def _layer_norm(name: str) -> Rule:
    return norm(name)._replace(bias=True)


def _types(h: Hparams) -> int:
    return h.integer("type_vocab_size", 1, default=1)


_KEYS = (
    *BASE,
    flag("{arch}.attention.causal", False),
    pooling,
    array("{arch}.classifier.output_labels", GGUFValueType.STRING, _labels),
)

# --- BERT ---------------------------------------------------------------------------------------------------

_LAYER = "encoder.layer.{i}"
_TENSORS: dict[str, Rule | None] = {
    "embeddings.word_embeddings": linear("token_embd", VOCABULARY, HIDDEN),
    "embeddings.position_embeddings": linear("position_embd", size("max_position_embeddings"), HIDDEN),
    "embeddings.token_type_embeddings": linear("token_types", _types, HIDDEN),
    "embeddings.LayerNorm": _layer_norm("token_embd_norm"),
    f"{_LAYER}.attention.self.query": linear("blk.{i}.attn_q", HIDDEN, HIDDEN, bias=True),
    f"{_LAYER}.attention.self.key": linear("blk.{i}.attn_k", HIDDEN, HIDDEN, bias=True),
    f"{_LAYER}.attention.self.value": linear("blk.{i}.attn_v", HIDDEN, HIDDEN, bias=True),
    f"{_LAYER}.attention.output.dense": linear("blk.{i}.attn_output", HIDDEN, HIDDEN, bias=True),
    f"{_LAYER}.attention.output.LayerNorm": _layer_norm("blk.{i}.attn_output_norm"),
    f"{_LAYER}.intermediate.dense": linear("blk.{i}.ffn_up", FEED_FORWARD, HIDDEN, bias=True),
    f"{_LAYER}.output.dense": linear("blk.{i}.ffn_down", HIDDEN, FEED_FORWARD, bias=True),
    f"{_LAYER}.output.LayerNorm": _layer_norm("blk.{i}.layer_output_norm"),
    "classifier": Rule("cls", (_classes, HIDDEN), bias=True, optional=_no_unnamed_classes),
    "classifier.out_proj": Rule("cls.output", (_classes, HIDDEN), bias=True, optional=_no_named_classes),
}
_PREFIXES = ("bert.", "roberta.", "model.")
_HEADS = ("embeddings.position_ids", "pooler.dense.", "cls.predictions", "cls.seq_relationship", "decoder.")


def _rename(name: str, h: Hparams) -> str | None:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    if name.startswith(_HEADS):
        return None
    if name in ("classifier.weight", "classifier.bias") and _labels(h) is not None:
        return name.replace("classifier", "classifier.out_proj")
    # As TensorFlow called them.
    return name.replace(".gamma", ".weight") if name.endswith(".gamma") else name.replace(".beta", ".bias")


def _wordpiece(h: Hparams) -> dict[str, Any]:
    return {"kinds": ("wordpiece",), "token_types": _types(h)}


_BERT = Architecture(
    hf_class="BertModel",
    name="bert",
    defaults={
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    },
    tensors=_TENSORS,
    keys=_KEYS,
    rename=_rename,
    vocabulary=_wordpiece,
)

# --- XLM-RoBERTa: positions begin behind the padding token --------------------------------------------------


def _offset(h: Hparams) -> int:
    return h.integer("pad_token_id", 0, default=1) + 1


def _positions(h: Hparams) -> int:
    return h.integer("max_position_embeddings", _offset(h) + 1) - _offset(h)


_ROBERTA = replace(
    _BERT,
    tensors={
        **{name: rule for name, rule in _TENSORS.items() if name != "classifier"},
        "classifier.dense": Rule("cls", (HIDDEN, HIDDEN), bias=True, optional=_no_classifier),
        "classifier.out_proj": Rule("cls.output", (_classes, HIDDEN), bias=True, optional=_no_classifier),
        "embeddings.position_embeddings": Rule(
            "position_embd", (size("max_position_embeddings"), HIDDEN), (without_first(_offset),)
        ),
    },
    keys=(*_KEYS, uint("{arch}.context_length", _positions)),
    vocabulary=lambda h: {"kinds": ("unigram",), "token_types": _types(h)},
)

# --- Nomic: rotary positions, a gated block, no biases ------------------------------------------------------

_NOMIC_LAYER = "encoder.layers.{i}"


def _trained_positions(h: Hparams) -> int:
    # What the first two versions' configurations say is four times what they were trained with.
    positions = h.integer("n_positions", 1)
    if positions != 8192 or h.integer("max_trained_positions", default=2048) != 2048:
        h.refuse("n_positions", "8192, as in nomic-embed-text v1 and v1.5")
    return 2048


_NOMIC = replace(
    _BERT,
    hf_class="NomicBertModel",
    name="nomic-bert",
    defaults={},
    tensors={
        "embeddings.word_embeddings": _TENSORS["embeddings.word_embeddings"],
        "embeddings.token_type_embeddings": _TENSORS["embeddings.token_type_embeddings"],
        "emb_ln": _layer_norm("token_embd_norm"),
        f"{_NOMIC_LAYER}.attn.Wqkv": linear("blk.{i}.attn_qkv", _triple, HIDDEN),
        f"{_NOMIC_LAYER}.attn.out_proj": linear("blk.{i}.attn_output", HIDDEN, HIDDEN),
        f"{_NOMIC_LAYER}.norm1": _layer_norm("blk.{i}.attn_output_norm"),
        f"{_NOMIC_LAYER}.mlp.fc11": linear("blk.{i}.ffn_up", FEED_FORWARD, HIDDEN),
        f"{_NOMIC_LAYER}.mlp.fc12": linear("blk.{i}.ffn_gate", FEED_FORWARD, HIDDEN),
        f"{_NOMIC_LAYER}.mlp.fc2": linear("blk.{i}.ffn_down", HIDDEN, FEED_FORWARD),
        f"{_NOMIC_LAYER}.norm2": _layer_norm("blk.{i}.layer_output_norm"),
    },
    keys=(*_KEYS, uint("{arch}.context_length", _trained_positions)),
)

# --- ModernBERT: two windows, gates, norms before -----------------------------------------------------------

_MODERN_LAYER = "layers.{i}"
_CLASSIFIER_POOLING = {"mean": 1, "cls": 2}  # numbers of llama_pooling_type


def _classifier_pooling(h: Hparams) -> int | None:
    mode = h.text("classifier_pooling", default=None)
    if mode is not None and mode not in _CLASSIFIER_POOLING:
        h.refuse("classifier_pooling", "mean or cls")
    return None if mode is None else _CLASSIFIER_POOLING[mode]


_MODERN = replace(
    _BERT,
    hf_class="ModernBertModel",
    name="modern-bert",
    defaults={
        "vocab_size": 50368,
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "max_position_embeddings": 8192,
        "norm_eps": 1e-5,
        "rms_norm_eps": lambda h: h.number("norm_eps"),
        "rope_theta": 160000.0,
        "rope_local_base_freq": 10000.0,
        "global_attn_every_n_layers": 3,
        "local_attention": 128,
        "classifier_pooling": "cls",
        "hidden_activation": "gelu",
    },
    tensors={
        "embeddings.tok_embeddings": linear("token_embd", VOCABULARY, HIDDEN),
        "embeddings.norm": norm("token_embd_norm"),
        f"{_MODERN_LAYER}.attn_norm": norm("blk.{i}.attn_norm")._replace(optional=lambda h: h.layer == 0),
        f"{_MODERN_LAYER}.attn.Wqkv": linear("blk.{i}.attn_qkv", _triple, HIDDEN),
        f"{_MODERN_LAYER}.attn.Wo": linear("blk.{i}.attn_output", HIDDEN, HIDDEN),
        f"{_MODERN_LAYER}.mlp_norm": norm("blk.{i}.ffn_norm"),
        f"{_MODERN_LAYER}.mlp.Wi": linear("blk.{i}.ffn_up", lambda h: 2 * FEED_FORWARD(h), HIDDEN),
        f"{_MODERN_LAYER}.mlp.Wo": linear("blk.{i}.ffn_down", HIDDEN, FEED_FORWARD),
        "final_norm": norm("output_norm"),
        "head.dense": Rule("cls", (HIDDEN, HIDDEN), optional=_no_classifier),
        "head.norm": norm("cls.norm")._replace(optional=_no_classifier),
        "classifier.out_proj": _TENSORS["classifier.out_proj"],
    },
    keys=(
        *BASE,
        flag("{arch}.attention.causal", False),
        pooling,
        uint("{arch}.classifier.pooling_type", _classifier_pooling),
        array("{arch}.classifier.output_labels", GGUFValueType.STRING, _labels),
        uint("{arch}.attention.sliding_window", "local_attention"),
        uint("{arch}.attention.sliding_window_pattern", "global_attn_every_n_layers"),
        text("{arch}.rope.scaling.type", lambda h: "none"),
        VOCABULARY_SIZE,
        text("{arch}.hidden_activation", lambda h: h.text("hidden_activation", default=None) or None),
    ),
    vocabulary=lambda h: {
        "kinds": ("bpe",),
        "early_flags": (("add_bos_token", True), ("add_eos_token", True), ("add_sep_token", True)),
    },
)

ARCHITECTURES = (
    *classes(_BERT, "BertModel", "BertForMaskedLM", "BertForSequenceClassification"),
    *classes(_ROBERTA, "XLMRobertaModel", "XLMRobertaForSequenceClassification"),
    _NOMIC,
    *classes(_MODERN, "ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"),
)

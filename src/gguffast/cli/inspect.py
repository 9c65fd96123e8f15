"""``gguffast inspect``: what a GGUF file holds."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from gguffast.console import one_line
from gguffast.files import format_bytes

if TYPE_CHECKING:
    from gguffast.gguf import KV, GGUFFile, Metadata

_LONGEST_LISTED = 64
_MOST_LAYERS = 2**16  # a longer list is no list of layers, and would cost much
_HELP = "show what a GGUF file holds: the model, its types with their share of the bytes, its tensors"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("inspect", help=_HELP, description=_HELP[0].upper() + _HELP[1:] + ".")
    parser.add_argument("file", metavar="FILE", help="a GGUF file")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all the metadata")


def run(args: argparse.Namespace) -> int:
    """Carry the command out."""
    from gguffast.gguf import GGUFFile

    with GGUFFile(args.file) as gguf:
        report = _report(gguf)
    if args.json:
        print(json.dumps(report))
    elif sys.stdout.isatty():
        _print_rich(report)
    else:
        _print_plain(report)
    return 0


# --- what is told -------------------------------------------------------------------------------------------


class TypeShare(NamedTuple):
    """How much of a file a tensor type takes."""

    type: str
    tensors: int
    weights: int
    nbytes: int


def _type_shares(gguf: GGUFFile) -> list[TypeShare]:
    """Give the types, the one with the most bytes first."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for tensor in gguf.tensors:
        for i, amount in enumerate((1, tensor.n_weights, tensor.nbytes)):
            totals[tensor.type.name][i] += amount
    shares = [TypeShare(name, *amounts) for name, amounts in totals.items()]
    return sorted(shares, key=lambda share: -share.nbytes)


def _bits_per_weight(shares: list[TypeShare]) -> float | None:
    weights = sum(share.weights for share in shares)
    return 8 * sum(share.nbytes for share in shares) / weights if weights else None


def _file_type(metadata: Mapping[str, Any]) -> str | None:
    """Name a file's type as on the command line: ``Q4_K_M``."""
    from gguffast.filetypes import file_type_name

    number = metadata.get("general.file_type")
    if not isinstance(number, int):
        return None
    return file_type_name(number) or f"unknown ({number})"


def _text(metadata: Mapping[str, Any], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) else None


def _hyperparameter(metadata: Metadata, key: str) -> int | list[int] | None:
    """Look a hyperparameter up; one that differs by layer is a list."""
    key = f"{metadata.get('general.architecture')}.{key}"
    if key not in metadata or metadata.raw(key).n_items > _MOST_LAYERS:
        return None
    value = metadata[key]
    items = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(items, list):
        return items if all(isinstance(item, int) for item in items) else None
    return items if isinstance(items, int) else None


def _vocabulary_size(gguf: GGUFFile) -> int | list[int] | None:
    key = "tokenizer.ggml.tokens"
    if key in gguf.metadata:
        return gguf.metadata.raw(key).n_items
    return _hyperparameter(gguf.metadata, "vocab_size")


def _json_value(pair: KV) -> Any:
    if pair.n_items > _LONGEST_LISTED:
        return {"items": pair.n_items, "type": pair.item_type.name}
    value = pair.value.tolist() if hasattr(pair.value, "tolist") else pair.value
    return [_finite(item) for item in value] if isinstance(value, list) else _finite(value)


def _finite(value: Any) -> Any:
    # JSON has no NaN and no infinity.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _report(gguf: GGUFFile) -> dict[str, Any]:
    metadata, shares = gguf.metadata, _type_shares(gguf)
    data_bytes = sum(share.nbytes for share in shares)
    return {
        "path": str(gguf.path),
        "gguf_version": gguf.version,
        "alignment": gguf.alignment,
        "size_bytes": gguf.byte_size,
        "architecture": _text(metadata, "general.architecture"),
        "name": _text(metadata, "general.name"),
        "parameters": sum(share.weights for share in shares),
        "file_type": _file_type(metadata),
        "bits_per_weight": _bits_per_weight(shares),
        "context_length": _hyperparameter(metadata, "context_length"),
        "embedding_length": _hyperparameter(metadata, "embedding_length"),
        "block_count": _hyperparameter(metadata, "block_count"),
        "head_count": _hyperparameter(metadata, "attention.head_count"),
        "head_count_kv": _hyperparameter(metadata, "attention.head_count_kv"),
        "expert_count": _hyperparameter(metadata, "expert_count"),
        "expert_used_count": _hyperparameter(metadata, "expert_used_count"),
        "tokenizer": _text(metadata, "tokenizer.ggml.model"),
        "vocabulary_size": _vocabulary_size(gguf),
        "chat_template": "tokenizer.chat_template" in metadata,
        "types": [
            {**share._asdict(), "share": share.nbytes / data_bytes if data_bytes else 0.0} for share in shares
        ],
        "metadata": {pair.key: _json_value(pair) for pair in gguf.kvs},
        "tensors": [
            {"name": t.name, "type": t.type.name, "ne": t.ne, "offset": t.offset, "nbytes": t.nbytes}
            for t in gguf.tensors
        ],
    }


# --- in words -----------------------------------------------------------------------------------------------


def _count(n: int) -> str:
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n:,}"


def _number(value: Any) -> str:
    """Show a hyperparameter; for one that differs by layer, its range."""
    if isinstance(value, list) and value:
        low, high = min(value), max(value)
        return f"{low}" if low == high else f"{low} to {high}, by layer"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Put the head of the report in words, without what the file does not tell."""

    def known(label: str, key: str, text: str = "{}") -> list[tuple[str, str]]:
        value = report[key]
        return [] if value is None or value == [] else [(label, text.format(_number(value)))]

    heads = known("heads", "head_count")
    if heads and report["head_count_kv"] is not None:
        heads = [("heads", f"{heads[0][1]} ({_number(report['head_count_kv'])} for keys and values)")]
    experts = known("experts", "expert_count")
    if experts and report["expert_used_count"] is not None:
        experts = [("experts", f"{experts[0][1]} ({_number(report['expert_used_count'])} used)")]
    bits = report["bits_per_weight"]
    return [
        *known("architecture", "architecture"),
        *known("name", "name"),
        ("parameters", _count(report["parameters"])),
        *known("file type", "file_type"),
        ("size", f"{format_bytes(report['size_bytes'])} ({report['size_bytes']:,} bytes)"),
        *([] if bits is None else [("bits per weight", f"{bits:.2f}")]),
        *known("context", "context_length", "{} tokens"),
        *known("embedding", "embedding_length"),
        *known("layers", "block_count"),
        *heads,
        *experts,
        *known("vocabulary", "vocabulary_size", "{} tokens"),
        *known("tokenizer", "tokenizer"),
        ("chat template", "yes" if report["chat_template"] else "no"),
        ("GGUF", f"version {report['gguf_version']}, {len(report['metadata'])} keys"),
    ]


_TYPE_COLUMNS = ("type", "tensors", "weights", "size", "share")
_TENSOR_COLUMNS = ("tensor", "type", "shape", "size")


def _type_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            share["type"],
            str(share["tensors"]),
            _count(share["weights"]),
            format_bytes(share["nbytes"]),
            f"{share['share']:.1%}",
        )
        for share in report["types"]
    ]


def _tensor_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (one_line(t["name"]), t["type"], " x ".join(map(str, t["ne"])), format_bytes(t["nbytes"]))
        for t in report["tensors"]
    ]


def _print_plain(report: dict[str, Any]) -> None:
    print(one_line(report["path"]))
    facts = _facts(report)
    width = max(len(label) for label, _ in facts)
    for label, value in facts:
        print(f"  {label:{width}}  {one_line(value)}")
    for columns, rows in ((_TYPE_COLUMNS, _type_rows(report)), (_TENSOR_COLUMNS, _tensor_rows(report))):
        print()
        _print_columns([columns, *rows])


def _print_columns(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_rich(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Numbers, paths and [brackets] stay as they are: what is shown comes from the file.
    console = Console(highlight=False, markup=False)
    console.print(Text(one_line(report["path"]), style="bold"))
    facts = Table(box=None, show_header=False, padding=(0, 2))
    for label, value in _facts(report):
        facts.add_row(Text(label, style="dim"), Text(one_line(value)))
    console.print(facts)
    for columns, rows in ((_TYPE_COLUMNS, _type_rows(report)), (_TENSOR_COLUMNS, _tensor_rows(report))):
        table = Table(box=None, padding=(0, 2), header_style="bold")
        for column in columns:
            table.add_column(column, justify="left" if column in ("type", "tensor") else "right")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print()
        console.print(table)

"""What is said about a finished quantization or conversion."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguffast.job import Result


def report(result: Result, args: argparse.Namespace) -> None:
    """Print warnings and summary, as the common options say."""
    from gguffast.console import one_line

    if not args.quiet:
        for text in result.warnings:
            print(f"gguffast: warning: {one_line(text)}", file=sys.stderr)
        chosen = hasattr(args, "include_weights") or hasattr(args, "exclude_weights")
        if result.imatrix_missing and not chosen:
            _warn_of_missing(result.imatrix_missing)
    if args.json:
        print(json.dumps(as_json(result)))
    elif not args.quiet:
        print("\n".join(summary(result)))


def _warn_of_missing(tensors: Sequence[str]) -> None:
    from gguffast.console import one_line

    names = ", ".join(tensors[:3]) + (", ..." if len(tensors) > 3 else "")
    print(
        f"gguffast: warning: the importance matrix has no entry for {_count(len(tensors), 'tensor')}, "
        f"quantized without: {one_line(names)}",
        file=sys.stderr,
    )


def summary(result: Result) -> list[str]:
    """Give the summary's lines."""
    from gguffast.console import one_line
    from gguffast.files import format_bytes

    more = f" and {_count(len(result.outputs) - 1, 'more file')}" if len(result.outputs) > 1 else ""
    types = ", ".join(f"{name} x {s.tensors} ({format_bytes(s.nbytes)})" for name, s in result.types.items())
    lines = [
        f"{one_line(result.dst)}{more}{' (dry run: not written)' if result.dry_run else ''}",
        f"  size       {_sizes(result)}",
    ]
    if result.n_weights:
        lines += [
            f"  bits       {result.bpw_in:.2f} -> {result.bpw_out:.2f} a weight",
            f"  types      {types}",
        ]
    if result.fallbacks:
        kinds = Counter(f"{f.wanted.name} -> {f.type.name}" for f in result.fallbacks)
        listed = ", ".join(f"{kind} ({n})" for kind, n in kinds.items())
        lines.append(
            f"  fallbacks  {len(result.fallbacks)} of {_count(result.n_tensors, 'tensor')}: {listed}"
        )
    if not result.dry_run:
        rate = result.weights_per_second / 1e6
        lines.append(
            f"  time       {result.seconds:.2f} s, {rate:.0f} M weights/s, {_count(result.threads, 'thread')}"
        )
    return lines


def _sizes(result: Result) -> str:
    from gguffast.files import format_bytes

    if not result.size_in:  # a vocabulary alone
        return format_bytes(result.size_out)
    share = 100 * result.size_out / result.size_in
    return f"{format_bytes(result.size_in)} -> {format_bytes(result.size_out)} ({share:.0f} %)"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def as_json(result: Result) -> dict[str, Any]:
    """Give the summary as a JSON object: the attributes of `result`, types by name, paths as texts."""
    values = dataclasses.asdict(result) | {
        "fallbacks": [
            {"tensor": f.tensor, "wanted": f.wanted.name, "type": f.type.name} for f in result.fallbacks
        ],
        "bpw_in": result.bpw_in,
        "bpw_out": result.bpw_out,
        "weights_per_second": result.weights_per_second,
    }
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()} | {
        "outputs": [str(path) for path in result.outputs]
    }

"""What is said about a finished quantization or conversion."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguffast.quantizer import Result


def report(result: Result, args: argparse.Namespace) -> None:
    """Print warnings and summary, as the common options say."""
    from gguffast.cli import one_line

    if not args.quiet:
        for text in result.warnings:
            print(f"gguffast: warning: {one_line(text)}", file=sys.stderr)
        if result.imatrix_missing and not (args.include_weights or args.exclude_weights):
            _warn_of_missing(result.imatrix_missing)
    if args.json:
        print(json.dumps(as_json(result)))
    elif not args.quiet:
        print("\n".join(summary(result)))


def _warn_of_missing(tensors: Sequence[str]) -> None:
    from gguffast.cli import one_line

    names = ", ".join(tensors[:3]) + (", ..." if len(tensors) > 3 else "")
    print(
        f"gguffast: warning: the importance matrix has no entry for {_count(len(tensors), 'tensor')}, "
        f"quantized without: {one_line(names)}",
        file=sys.stderr,
    )


def summary(result: Result) -> list[str]:
    """Give the summary's lines."""
    from gguffast.cli import one_line
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
    """Give the summary as a JSON object."""
    return {
        "input": str(result.src),
        "output": None if result.dry_run else str(result.dst),
        "outputs": [] if result.dry_run else [str(path) for path in result.outputs],
        "file_type": result.file_type,
        "dry_run": result.dry_run,
        "size_in": result.size_in,
        "size_out": result.size_out,
        "bpw_in": result.bpw_in,
        "bpw_out": result.bpw_out,
        "weights": result.n_weights,
        "tensors": result.n_tensors,
        "requantized": result.n_requantized,
        "types": {name: {"tensors": s.tensors, "bytes": s.nbytes} for name, s in result.types.items()},
        "fallbacks": [
            {"tensor": f.tensor, "wanted": f.wanted.name, "type": f.type.name} for f in result.fallbacks
        ],
        "imatrix_used": result.imatrix_used,
        "imatrix_missing": list(result.imatrix_missing),
        "warnings": list(result.warnings),
        "threads": result.threads,
        "seconds": result.seconds,
        "weights_per_second": result.weights_per_second,
    }

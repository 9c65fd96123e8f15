"""``gguffast quantize``: the command line of llama-quantize."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gguffast.errors import Interrupted, OptionError

if TYPE_CHECKING:
    from gguffast.cli import CommandParser
    from gguffast.quantizer import Result

_USAGE = "gguffast quantize [options] INPUT.gguf [OUTPUT.gguf] TYPE [THREADS]"


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "quantize",
        help="quantize a GGUF file",
        description="Quantize a GGUF file. The output equals llama-quantize's, byte for byte.",
        usage=_USAGE,
        allow_abbrev=False,
    )
    parser.make_epilog = _epilog
    add = parser.add_argument
    add("input", metavar="INPUT.gguf", help="the model; of a split one the first shard")
    add(
        "rest",
        metavar="[OUTPUT.gguf] TYPE [THREADS]",
        nargs="+",
        help="OUTPUT lies by default beside the input and is named after TYPE",
    )
    add(
        "--allow-requantize",
        action="store_true",
        help="quantize tensors that are already quantized (quality suffers)",
    )
    add("--leave-output-tensor", action="store_true", help="keep output.weight as it is")
    add("--pure", action="store_true", help="one type for all tensors instead of the mixture")
    add("--imatrix", metavar="FILE", help="importance matrix, as llama-imatrix writes it (GGUF or .dat)")
    add(
        "--include-weights",
        metavar="NAME",
        action="append",
        default=[],
        help="use the importance matrix only for tensors whose name contains NAME (repeatable)",
    )
    add(
        "--exclude-weights",
        metavar="NAME",
        action="append",
        default=[],
        help="do not use the importance matrix for tensors whose name contains NAME (repeatable)",
    )
    add("--output-tensor-type", metavar="T", help="type of output.weight")
    add("--token-embedding-type", metavar="T", help="type of the token embeddings")
    add(
        "--tensor-type",
        metavar="REGEX=T",
        action=_TensorTypes,
        help="type of the tensors in whose name the pattern is found; the first that fits wins (repeatable)",
    )
    add(
        "--tensor-type-file",
        metavar="FILE",
        action=_TensorTypes,
        help="a file of REGEX=T, separated by whitespace",
    )
    add(
        "--override-kv",
        metavar="KEY=TYPE:VALUE",
        action="append",
        default=[],
        help="set metadata; TYPE is int, float, bool or str (repeatable)",
    )
    add("--dry-run", action="store_true", help="show the resulting size, write nothing")
    add("--threads", metavar="N", type=int, help="number of threads (default: the CPUs this process may use)")
    add("--force", action="store_true", help="overwrite OUTPUT if it exists")
    add("--quiet", action="store_true", help="print nothing but errors")
    add("--json", action="store_true", help="print one JSON object as the summary")


def _epilog() -> str:
    from gguffast.recipe import ALIASES, FILE_TYPES

    aliases = ", ".join(f"{alias} is {name}" for alias, name in ALIASES.items())
    return f"Types, in any case or by llama.cpp's number: {', '.join(FILE_TYPES)}; {aliases}."


class _TensorTypes(argparse.Action):
    """Collects both options in one list, since the first rule that fits a tensor wins."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        namespace.tensor_types = [*getattr(namespace, "tensor_types", []), (option, values)]


def run(args: argparse.Namespace) -> int:
    """Quantize and print the summary."""
    from gguffast import recipe
    from gguffast.cli.terminal import show_progress
    from gguffast.quantizer import default_output, quantize

    what = _read_positionals(args)
    output = Path(what.output) if what.output else default_output(Path(args.input), what.type.name)
    rules = []
    for option, value in getattr(args, "tensor_types", []):
        rules += (
            recipe.read_tensor_rules(value) if option.endswith("-file") else [recipe.parse_tensor_rule(value)]
        )
    try:
        with show_progress(hidden=args.quiet or args.dry_run) as progress:
            result = quantize(
                args.input,
                output,
                what.type,
                imatrix=args.imatrix,
                threads=what.threads,
                progress=progress,
                force=args.force,
                allow_requantize=args.allow_requantize,
                leave_output_tensor=args.leave_output_tensor,
                pure=args.pure,
                output_tensor_type=args.output_tensor_type,
                token_embedding_type=args.token_embedding_type,
                tensor_types=rules,
                include_weights=args.include_weights,
                exclude_weights=args.exclude_weights,
                override_kv=[recipe.parse_override(text) for text in args.override_kv],
                dry_run=args.dry_run,
            )
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; nothing was written to {output}") from None
    if not args.quiet:
        _warn(result)
    if args.json:
        print(json.dumps(_as_json(result)))
    elif not args.quiet:
        print("\n".join(_summary(result)))
    return 0


class _Positionals(NamedTuple):
    output: str | None
    type: Any
    threads: int | None


def _read_positionals(args: argparse.Namespace) -> _Positionals:
    """Tell ``TYPE [THREADS]`` from ``OUTPUT TYPE [THREADS]``: what is a type's name or number is the type."""
    from gguffast.recipe import parse_file_type

    rest = args.rest
    try:
        output, type_, rest = None, parse_file_type(rest[0]), rest[1:]
    except OptionError:
        # `IN Q4KM 8` is a mistyped type and a thread count, not a file "Q4KM" in llama.cpp's type 8.
        if len(rest) == 1 and rest[0].lower().endswith(".gguf"):
            raise OptionError(f"no TYPE after OUTPUT {rest[0]}; usage: {_USAGE}") from None
        if len(rest) == 1 or (rest[1].isdecimal() and not set("./") & set(rest[0])):
            raise
        output, type_, rest = rest[0], parse_file_type(rest[1]), rest[2:]
    if len(rest) > 1:
        raise OptionError(f"unexpected argument '{rest[1]}'; usage: {_USAGE}")
    return _Positionals(output, type_, _threads(args.threads, rest))


def _threads(option: int | None, positional: list[str]) -> int | None:
    if not positional:
        return option
    if option is not None:
        raise OptionError("the number of threads is given twice, as THREADS and as --threads")
    try:
        threads = int(positional[0])
    except ValueError:
        raise OptionError(f"THREADS must be a number, found '{positional[0]}'; usage: {_USAGE}") from None
    return threads if threads > 0 else None  # llama-quantize: 0 means all


def _warn(result: Result) -> None:
    missing = result.imatrix_missing
    if missing:
        from gguffast.cli import one_line

        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        print(
            f"gguffast: warning: quantized without importances, since the matrix has no entry for "
            f"{_count(len(missing), 'tensor')}: {one_line(names)}",
            file=sys.stderr,
        )


def _summary(result: Result) -> list[str]:
    from gguffast.cli import one_line
    from gguffast.files import format_bytes

    share = 100 * result.size_out / result.size_in
    types = ", ".join(f"{name} x {s.tensors} ({format_bytes(s.nbytes)})" for name, s in result.types.items())
    lines = [
        f"{one_line(result.dst)}{' (dry run: not written)' if result.dry_run else ''}",
        f"  size       {format_bytes(result.size_in)} -> {format_bytes(result.size_out)} ({share:.0f} %)",
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


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _as_json(result: Result) -> dict[str, Any]:
    return {
        "input": str(result.src),
        "output": None if result.dry_run else str(result.dst),
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
        "threads": result.threads,
        "seconds": result.seconds,
        "weights_per_second": result.weights_per_second,
    }

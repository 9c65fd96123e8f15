"""Options that several commands have, declared once."""

from __future__ import annotations

import argparse
from typing import Any


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Declare what decides the types of tensors."""
    add = parser.add_argument
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


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Declare how the work is done and what is printed."""
    add = parser.add_argument
    add("--dry-run", action="store_true", help="show the resulting size, write nothing")
    add("--threads", metavar="N", type=int, help="number of threads (default: the CPUs this process may use)")
    add("--force", action="store_true", help="overwrite OUTPUT if it exists")
    add("--quiet", action="store_true", help="print nothing but errors")
    add("--json", action="store_true", help="print one JSON object as the summary")


def add_host(parser: argparse.ArgumentParser) -> None:
    """Declare where the Ollama server is."""
    parser.add_argument(
        "--host", metavar="URL", help="the Ollama server (default: OLLAMA_HOST, then 127.0.0.1:11434)"
    )


def recipe_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Give what :func:`add_recipe_options` declared as keyword arguments of :func:`gguffast.quantize`."""
    from gguffast.recipe.options import parse_override, parse_tensor_rule, read_tensor_rules

    rules = []
    for option, value in getattr(args, "tensor_types", []):
        rules += read_tensor_rules(value) if option.endswith("-file") else [parse_tensor_rule(value)]
    return {
        "imatrix": args.imatrix,
        "leave_output_tensor": args.leave_output_tensor,
        "pure": args.pure,
        "output_tensor_type": args.output_tensor_type,
        "token_embedding_type": args.token_embedding_type,
        "tensor_types": rules,
        "include_weights": args.include_weights,
        "exclude_weights": args.exclude_weights,
        "override_kv": [parse_override(text) for text in args.override_kv],
    }


def list_types() -> str:
    """Name the file types, for the end of a help text."""
    from gguffast.filetypes import ALIASES, FILE_TYPES

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

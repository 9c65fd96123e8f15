"""Imports point one way: from the command line down to the core, and never to a sibling.

The floors of the house, from the cellar up. What stands on one floor imports nothing else of that floor;
within a room (a package) modules may, as long as they do not go in circles. Imports inside functions, and
those for type checkers alone, count too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import gguffast

PACKAGE = Path(gguffast.__file__).parent

FLOORS = """
errors console
_core
types
reading
files documents
filetypes gguf quants
shards imatrix
sources
recipe
plan
engine output
job
quantizer conversion splitter
hub ollama demo
obtain
work
importer
compat
cli
__main__
"""
FLOOR = {room: floor for floor, line in enumerate(FLOORS.split("\n")) for room in line.split()}


def module_name(path: Path) -> str:
    """``recipe.options`` for recipe/options.py, ``recipe`` for recipe/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# The package's own __init__ names everything, and loads it when it is asked for.
MODULES = {name: path for path in sorted(PACKAGE.rglob("*.py")) if (name := module_name(path))}
KNOWN = {*MODULES, "_core"}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of each module of the package that is imported."""
    here = ("gguffast", *path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = [*(here[: -node.level] if node.level else ()), *filter(None, [node.module])]
            names = [".".join([*parts, alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            top, _, inner = name.partition(".")
            module = inner if inner in KNOWN else inner.rpartition(".")[0]
            if top == "gguffast" and module:  # without one: `from gguffast import __version__`
                yield node.lineno, module


ARROWS = {name: {to for _, to in imports(path)} for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in KNOWN} == FLOOR.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    for line, imported in imports(MODULES[module]):
        if not imported or room(imported) == room(
            module
        ):  # `from gguffast import __version__`, or its own room
            continue
        assert FLOOR[room(imported)] < FLOOR[room(module)], (
            f"{MODULES[module]}:{line}: {module} imports {imported}, which does not stand below it"
        )


def test_nothing_goes_in_circles() -> None:
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " imports ".join((*above, module))
        if module not in done:
            for imported in ARROWS.get(module, ()):
                if imported != module:
                    visit(imported, (*above, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


# Command lines of their own are the drop-ins; and the demonstration calls other programs, in their language.
BELOW = [name for name in MODULES if room(name) not in ("cli", "__main__", "compat", "demo")]


@pytest.mark.parametrize("module", BELOW)
def test_below_the_command_line_nobody_speaks_flags(module: str) -> None:
    """Messages name an argument as `argument`; the command line puts its own spelling in."""
    tree = ast.parse(MODULES[module].read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            assert not re.search(r"(?<![\w-])--[a-z]", node.value), f"line {node.lineno}: {node.value}"

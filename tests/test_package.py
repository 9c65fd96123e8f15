"""The package's front: what it offers, and that it loads nothing early."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

import gguffast


@pytest.mark.parametrize("name", gguffast.__all__)
def test_every_name_can_be_had(name):
    assert getattr(gguffast, name) is not None
    assert name in dir(gguffast)


def test_unknown_name():
    with pytest.raises(AttributeError, match=r"module 'gguffast' has no attribute 'no_such'"):
        _ = gguffast.no_such


def test_import_is_light():
    code = "import sys, gguffast; print(*{'numpy', 'rich', 'gguf', 'gguffast._core'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def annotations(thing):
    """Every annotation, as text, of a function, or of a class and its methods."""
    if inspect.isclass(thing):
        yield from getattr(thing, "__annotations__", {}).values()
        members = [value for name, value in vars(thing).items() if not name.startswith("_")]
        for member in members:
            yield from annotations(member.fget if isinstance(member, property) else member)
    elif inspect.isfunction(thing):
        yield from inspect.unwrap(thing).__annotations__.values()


# What is Python's and NumPy's.
FOREIGN = {"Annotated", "Any", "Callable", "False", "Iterable", "Iterator", "Mapping", "NDArray", "None"}
FOREIGN |= {
    "ForwardRef",
    "Literal",
    "Path",
    "PathLike",
    "Self",
    "Sequence",
    "TracebackType",
    "True",
    "Unpack",
}


@pytest.mark.parametrize("name", gguffast.__all__)
def test_types_of_signatures_can_be_had(name):
    offered = {*gguffast.__all__, *gguffast.ollama.__all__}
    for annotation in annotations(getattr(gguffast, name)):
        types = re.sub(r"Option\(.*", "", str(annotation), flags=re.DOTALL)
        mentioned = set(re.findall(r"(?<![.\w])[A-Z]\w+", types))
        assert mentioned <= offered | FOREIGN


def test_a_mistyped_option_is_an_error():
    with pytest.raises(
        TypeError, match=r"quantize\(\) has no argument 'tensor_types'; did you mean tensor_type"
    ):
        gguffast.quantize("a.gguf", None, "Q4_0", tensor_types=[])


def test_options_are_described_where_people_look():
    assert "leave_output_tensor\n        keep output.weight as it is" in gguffast.quantize.__doc__
    assert "split_max_size\n        most bytes" in gguffast.convert.__doc__

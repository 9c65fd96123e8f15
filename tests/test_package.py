"""The package's front: what it offers, and that it loads nothing early."""

from __future__ import annotations

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

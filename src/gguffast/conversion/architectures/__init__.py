"""The model families that can be converted: one file each, found by being here."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from gguffast.conversion.architecture import Architecture
from gguffast.documents import shown
from gguffast.errors import OptionError


def all_architectures() -> dict[str, Architecture]:
    """Every known architecture by its Hugging Face class, sorted."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    found = {entry.hf_class: entry for module in modules for entry in module.ARCHITECTURES}
    return dict(sorted(found.items()))


def find_architecture(hf_class: str, config: Mapping[str, Any] | None = None) -> Architecture:
    """Return the architecture of a Hugging Face class, as `config` makes it where that matters.

    Raises
    ------
    OptionError
        If it is not known; the message names the nearest that are.
    """
    known = all_architectures()
    if hf_class not in known:
        near = difflib.get_close_matches(hf_class[:100], known, 4, 0.4)
        like = f"; nearest are {', '.join(near)}" if near else ""
        raise OptionError(
            f"model class {shown(hf_class)} is none of the {len(known)} that are supported{like}; if one of "
            'them reads the same tensors, name it in "architectures" of config.json'
        )
    found = known[hf_class]
    return found.variant(config or {}) if found.variant else found

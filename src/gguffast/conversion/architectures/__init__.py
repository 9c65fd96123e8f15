"""The model families that can be converted: one file each, found by being here."""

from __future__ import annotations

import importlib
import pkgutil

from gguffast.conversion.architecture import Architecture
from gguffast.errors import OptionError


def all_architectures() -> dict[str, Architecture]:
    """Every known architecture by its Hugging Face class, sorted."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    found = {entry.hf_class: entry for module in modules for entry in module.ARCHITECTURES}
    return dict(sorted(found.items()))


def find_architecture(hf_class: str) -> Architecture:
    """Return the architecture of a Hugging Face class.

    Raises
    ------
    OptionError
        If it is not known; the message lists those that are.
    """
    known = all_architectures()
    try:
        return known[hf_class]
    except KeyError:
        raise OptionError(f"model class {hf_class!r} is not supported; known: {', '.join(known)}") from None

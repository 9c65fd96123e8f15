"""gguf-py with our kernels: `install`, and scripts that import ``gguf`` quantize and read with gguffast.

What ``gguf.quants`` computes block by block in NumPy, our kernels compute, with the same signatures; and they
know the types that it cannot quantize to, the K types first of all. ``gguf.GGUFReader`` opens a model without
decoding its vocabulary.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguffast.errors import OptionError

if TYPE_CHECKING:
    from types import ModuleType

#: The version of gguf-py whose insides are known.
GGUF_VERSION = "0.19.0"

_replaced: list[tuple[Any, str, Any]] = []
_MISSING = object()


def install() -> None:
    """Let ``gguf.quants`` and ``gguf.GGUFReader`` be ours, for every caller in this process.

    Call it before other modules take functions out of ``gguf`` (``from gguf.quants import quantize``): what
    they have taken stays what it was. Twice is harmless.

    Raises
    ------
    OptionError
        gguf-py is missing, or of another version than this was made for; nothing is changed.
    """
    if _replaced:
        return
    try:
        import gguf
    except ImportError:
        raise OptionError(f"gguf-py is not installed; run: pip install gguf=={GGUF_VERSION}") from None
    version = _version(gguf)
    if version != GGUF_VERSION:
        raise OptionError(
            f"gguf-py at {Path(str(gguf.__file__)).parent} is version {version}, this was made for "
            f"{GGUF_VERSION}; nothing was changed: pip install gguf=={GGUF_VERSION}, or use gguffast.quants"
        )
    from gguffast.compat.gguf_reader import Reader

    functions = _functions(gguf)
    for owner in (gguf, gguf.quants):
        for name, function in functions.items():
            _replace(owner, name, function)
    for qtype, kind in gguf.quants._type_traits.items():
        for name, function in functions.items():
            _replace(kind, name, staticmethod(_of_type(function, qtype)))
    for owner in (gguf, gguf.gguf_reader):
        _replace(owner, "GGUFReader", Reader)


def uninstall() -> None:
    """Undo :func:`install`. Without one it does nothing."""
    while _replaced:
        owner, name, before = _replaced.pop()
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def _version(gguf: ModuleType) -> str:
    """Tell the version of a module, which may be an installed one or that of a llama.cpp tree."""
    folder = Path(str(gguf.__file__)).parent.parent
    tree = folder / "pyproject.toml"
    if tree.is_file():
        found = re.search(r'^version = "([^"]+)"', tree.read_text(encoding="utf-8"), re.MULTILINE)
        return found[1] if found else "unknown"
    try:
        return importlib.metadata.version("gguf")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _replace(owner: Any, name: str, value: Any) -> None:
    _replaced.append((owner, name, vars(owner).get(name, _MISSING)))
    setattr(owner, name, value)


def _of_type(function: Callable[..., Any], qtype: Any) -> Callable[[Any], Any]:
    return lambda tensor: function(tensor, qtype)


def _functions(gguf: ModuleType) -> dict[str, Callable[..., Any]]:
    """Make what stands for ``gguf.quants.quantize`` and ``dequantize``: F32 and F16 are NumPy's own types."""
    from gguffast import quants

    plain = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
    before_quantize, before_dequantize = gguf.quants.quantize, gguf.quants.dequantize

    class MisfitError(OptionError, gguf.quants.QuantError):  # type: ignore[name-defined,misc]
        """What callers of gguf-py catch, and callers of ours."""

    def quantize(data: Any, qtype: Any) -> Any:
        if qtype in plain:
            return before_quantize(data, qtype)
        try:
            return quants.quantize(data, qtype)
        except quants.UnsupportedTypeError:
            raise
        except OptionError as error:
            raise MisfitError(str(error)) from None

    def dequantize(data: Any, qtype: Any) -> Any:
        return before_dequantize(data, qtype) if qtype in plain else quants.dequantize(data, qtype)

    return {"quantize": quantize, "dequantize": dequantize}

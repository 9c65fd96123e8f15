"""The user's say in a recipe."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gguffast.errors import OptionError, did_you_mean
from gguffast.files import read_file
from gguffast.types import GGMLQuantizationType

T = GGMLQuantizationType


class TensorRule(NamedTuple):
    """``--tensor-type``: tensors whose name the pattern is found in become `type`."""

    pattern: re.Pattern[str]
    type: GGMLQuantizationType


class Override(NamedTuple):
    """``--override-kv``: a metadata key, and the bool, int, float or str it gets."""

    key: str
    value: bool | int | float | str


@dataclass(frozen=True, slots=True)
class Options:
    """The user's say in the recipe.

    Attributes
    ----------
    pure : bool
        No mixture: every tensor that can be quantized gets the default type of the file type.
    leave_output_tensor : bool
        Keep ``output.weight`` as it is.
    output_tensor_type, token_embedding_type : GGMLQuantizationType or None
        Type of ``output.weight``, and of ``token_embd.weight``.
    tensor_types : sequence of TensorRule
        The first one whose pattern is found in the name decides; only with a quantized file type.
    allow_requantize : bool
        Quantize tensors again that are quantized already.
    overrides : sequence of Override
        Metadata of the output; counts of layers, heads and experts among them change the mixture too.
    """

    pure: bool = False
    leave_output_tensor: bool = False
    output_tensor_type: GGMLQuantizationType | None = None
    token_embedding_type: GGMLQuantizationType | None = None
    tensor_types: Sequence[TensorRule] = ()
    allow_requantize: bool = False
    overrides: Sequence[Override] = ()


def parse_tensor_type(text: str | GGMLQuantizationType) -> GGMLQuantizationType:
    """Find the tensor type that the user wants to have produced, by its name in any case.

    Raises
    ------
    OptionError
        The name is unknown, or that of a type that gguffast cannot produce.
    """
    producible = [known.name for known in T if known.info.has_codec]
    if isinstance(text, T):
        type_ = text
    elif text.upper() in T.__members__:
        type_ = GGMLQuantizationType[text.upper()]
    else:
        raise OptionError(f"unknown tensor type {text!r}; {did_you_mean(text, producible)}")
    if not type_.info.has_codec:
        raise OptionError(
            f"tensor type {type_.name} is known, but not one that gguffast produces yet; "
            f"choose one of {', '.join(producible)}"
        )
    return type_


def tensor_rule(pattern: str, type_: str | GGMLQuantizationType) -> TensorRule:
    r"""Make the rule that tensors whose name `pattern` is found in become `type_`.

    The pattern is lower-cased first, as llama-quantize does (``\D`` means ``\d`` then). It is a Python
    regular expression; llama-quantize's are ECMAScript. Both agree in all that names need but POSIX classes.

    Raises
    ------
    OptionError
        The pattern is no regular expression (with the position), or the type cannot be produced.
    """
    try:
        with warnings.catch_warnings():
            # [[:digit:]] compiles in Python, to a set that has nothing to do with digits, and only warns.
            warnings.simplefilter("error", FutureWarning)
            compiled = re.compile(pattern.lower(), re.ASCII)
    except re.error as error:
        raise OptionError(
            f"bad regular expression {pattern!r} at position {error.pos}: {error.msg}"
        ) from None
    except FutureWarning as error:
        raise OptionError(
            f"bad regular expression {pattern!r}: {error}; write [0-9] for [[:digit:]]"
        ) from None
    return TensorRule(compiled, parse_tensor_type(type_))


def parse_tensor_rule(text: str) -> TensorRule:
    """Read one ``--tensor-type`` argument, ``REGEX=TYPE``; the first ``=`` divides."""
    pattern, equals, type_ = text.partition("=")
    if not (pattern and equals and type_):
        raise OptionError(f"cannot read tensor type {text!r}; expected REGEX=TYPE, as in attn_v=q8_0")
    return tensor_rule(pattern, type_)


def read_tensor_rules(path: str | Path) -> list[TensorRule]:
    """Read a ``--tensor-type-file``: ``REGEX=TYPE`` items, separated by spaces or newlines."""
    rules = []
    for item in read_file(path, "a list of tensor types", 1 << 20).split():
        try:
            rules.append(parse_tensor_rule(item.decode("utf-8", "replace")))
        except OptionError as error:
            raise OptionError(f"{path}: {error}") from None
    return rules


_OVERRIDE_FORM = "expected KEY=TYPE:VALUE with TYPE int, float, bool or str"
#: llama.cpp holds keys and string values of overrides in 128 bytes, the closing zero included.
_OVERRIDE_MAX = 127


def parse_override(text: str) -> Override:
    """Read one ``--override-kv`` argument, ``KEY=TYPE:VALUE``.

    Raises
    ------
    OptionError
        The form, the type or the value is wrong, a text is longer than 127 bytes, or the key is one that no
        override may change.
    """
    key, equals, typed = text.partition("=")
    kind, colon, value = typed.partition(":")
    if not (key and equals and colon):
        raise OptionError(f"cannot read override {text!r}; {_OVERRIDE_FORM}")
    if kind not in _OVERRIDE_VALUE:
        raise OptionError(f"override {text!r} has the unknown type {kind!r}; {_OVERRIDE_FORM}")
    try:
        if kind in ("int", "float") and "_" in value:  # Python reads 1_000, llama-quantize does not
            raise ValueError
        override = Override(key, _OVERRIDE_VALUE[kind](value))
    except (ValueError, KeyError):
        raise OptionError(f"override {text!r}: {value!r} is not a value of type {kind}") from None
    return check_override(override)


_OVERRIDE_VALUE: dict[str, Callable[[str], bool | int | float | str]] = {
    "int": int,
    "float": float,
    "bool": {"true": True, "false": False}.__getitem__,
    "str": str,
}


def check_override(override: Override) -> Override:
    """Return `override` if it can be written; raise OptionError otherwise."""
    key, value = override
    if not 0 < len(key.encode()) <= _OVERRIDE_MAX:
        raise OptionError(f"override {key!r}: a key has 1 to {_OVERRIDE_MAX} bytes")
    if key == "general.alignment":
        raise OptionError("general.alignment cannot be overridden: it says how the tensors are laid out")
    if isinstance(value, str) and len(value.encode()) > _OVERRIDE_MAX:
        raise OptionError(
            f"override {key}: a text has at most {_OVERRIDE_MAX} bytes, found {len(value.encode())}"
        )
    if isinstance(value, int) and abs(value) >= 2**32:
        raise OptionError(f"override {key}: {value} does not fit an unsigned 32-bit integer")
    if isinstance(value, float):
        try:
            struct.pack("<f", value)
        except OverflowError:
            raise OptionError(f"override {key}: {value} does not fit a 32-bit float") from None
    return override

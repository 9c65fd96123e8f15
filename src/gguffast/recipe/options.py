"""The user's say in a recipe: each option stated once.

`RecipeOptions` is the list. Functions take it by ``**options: Unpack[RecipeOptions]``, so that type checkers
and editors know every option, with its type, although no signature repeats them (a dataclass would be an
object to build before each call). What stands beside a type, an `Option`, is for those who are asked in text:
the command lines and ``help()``. To add an option is a line in `RecipeOptions`, and one in `Options`, which
says what it is by default and checks what is given.
"""

from __future__ import annotations

import json
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    NamedTuple,
    ParamSpec,
    TypedDict,
    TypeVar,
    get_args,
    get_type_hints,
)

from gguffast.errors import OptionError, did_you_mean, quote
from gguffast.files import read_file
from gguffast.types import GGMLQuantizationType

if TYPE_CHECKING:
    from gguffast.imatrix import ImportanceMatrix

T = GGMLQuantizationType
_P = ParamSpec("_P")
_R = TypeVar("_R")


class TensorRule(NamedTuple):
    """``--tensor-type``: tensors whose name the pattern is found in become `type`."""

    pattern: re.Pattern[str]
    type: GGMLQuantizationType


class Override(NamedTuple):
    """``--override-kv``: a metadata key, and the bool, int, float or str it gets."""

    key: str
    value: bool | int | float | str


class Option(NamedTuple):
    """An option as it is told in text.

    Attributes
    ----------
    help : str
        What it does.
    metavar : str
        What its value is called; empty for a switch.
    read : callable
        Makes the value of the text that was given.
    repeatable : bool
        True if it can be given several times; the value is a list then.
    from_file : str
        If a file can stand for it: what is in the file. Its value is a path then.
    """

    help: str
    metavar: str = ""
    read: Callable[[str], Any] = str
    repeatable: bool = False
    from_file: str = ""


class RecipeOptions(TypedDict, total=False):
    """What decides the types of tensors, and the metadata."""

    allow_requantize: Annotated[bool, Option("quantize tensors that are already quantized (quality suffers)")]
    leave_output_tensor: Annotated[bool, Option("keep output.weight as it is")]
    pure: Annotated[bool, Option("one type for all tensors instead of the mixture")]
    imatrix: Annotated[
        str | os.PathLike[str] | None,
        Option("importance matrix, as llama-imatrix writes it (GGUF or .dat)", "FILE"),
    ]
    include_weights: Annotated[
        Sequence[str],
        Option(
            "use the importance matrix only for tensors whose name contains NAME", "NAME", repeatable=True
        ),
    ]
    exclude_weights: Annotated[
        Sequence[str],
        Option(
            "do not use the importance matrix for tensors whose name contains NAME", "NAME", repeatable=True
        ),
    ]
    output_tensor_type: Annotated[str | GGMLQuantizationType | None, Option("type of output.weight", "T")]
    token_embedding_type: Annotated[
        str | GGMLQuantizationType | None, Option("type of the token embeddings", "T")
    ]
    tensor_type: Annotated[
        Iterable[TensorRule | tuple[str, str | GGMLQuantizationType] | os.PathLike[str]],
        Option(
            "type of the tensors in whose name the pattern is found; the first that fits wins",
            "REGEX=T",
            lambda text: parse_tensor_rule(text),
            repeatable=True,
            from_file="a file of REGEX=T, separated by whitespace",
        ),
    ]
    override_kv: Annotated[
        Mapping[str, bool | int | float | str] | Iterable[Override],
        Option(
            "set metadata; TYPE is int, float, bool or str",
            "KEY=TYPE:VALUE",
            lambda text: parse_override(text),
            repeatable=True,
        ),
    ]


class Options:
    """What the user's say means: checked, the files that it names read.

    Parameters
    ----------
    given : RecipeOptions
        What the user said.

    Attributes
    ----------
    pure : bool
        No mixture: every tensor that can be quantized gets the default type of the file type.
    leave_output_tensor : bool
        Keep ``output.weight`` as it is.
    output_tensor_type, token_embedding_type : GGMLQuantizationType or None
        Type of ``output.weight``, and of ``token_embd.weight``.
    tensor_type : sequence of TensorRule
        The first one whose pattern is found in the name decides; only with a quantized file type.
    allow_requantize : bool
        Quantize tensors again that are quantized already.
    override_kv : sequence of Override
        Metadata of the output; counts of layers, heads and experts among them change the mixture too.
    imatrix : ImportanceMatrix or None
        Importances of the weights that are to have some.
    files : list of Path
        What was read.
    key : str
        The same for options that say the same; empty if they say nothing about what the output is.
    """

    def __init__(self, given: RecipeOptions | None = None) -> None:
        given = given or {}
        self.files: list[Path] = []
        self.allow_requantize = given.get("allow_requantize", False)
        self.leave_output_tensor = given.get("leave_output_tensor", False)
        self.pure = given.get("pure", False)
        self.output_tensor_type = _tensor_type(given.get("output_tensor_type"))
        self.token_embedding_type = _tensor_type(given.get("token_embedding_type"))
        self.tensor_type = self._rules(given.get("tensor_type", ()))
        self.override_kv = _overrides(given.get("override_kv", ()))
        self.imatrix = self._matrix(
            given.get("imatrix"), given.get("include_weights", ()), given.get("exclude_weights", ())
        )
        self.key = self._key(given)

    def _key(self, given: RecipeOptions) -> str:
        # What can be read but once, and what stands in files of rules, as it was read.
        read = {
            "tensor_type": [(rule.pattern.pattern, rule.type.name) for rule in self.tensor_type],
            "override_kv": self.override_kv,
            "output_tensor_type": self.output_tensor_type and self.output_tensor_type.name,
            "token_embedding_type": self.token_embedding_type and self.token_embedding_type.name,
        }
        said = {name: read.get(name, given.get(name)) for name in said_of_recipe(given)}
        return json.dumps(said, sort_keys=True, default=str) if said else ""

    def _rules(
        self, given: Iterable[TensorRule | tuple[str, str | GGMLQuantizationType] | os.PathLike[str]]
    ) -> list[TensorRule]:
        rules: list[TensorRule] = []
        for item in given:
            if isinstance(item, TensorRule):
                rules.append(TensorRule(item.pattern, parse_tensor_type(item.type)))
            elif isinstance(item, tuple):
                rules.append(tensor_rule(*item))
            else:
                rules += read_tensor_rules(item)
                self.files.append(Path(item))
        return rules

    def _matrix(
        self, path: str | os.PathLike[str] | None, include: Sequence[str], exclude: Sequence[str]
    ) -> ImportanceMatrix | None:
        if path is None:
            if include or exclude:
                raise OptionError(
                    "`include_weights` and `exclude_weights` need an importance matrix (`imatrix`)"
                )
            return None
        from gguffast import imatrix

        self.files.append(Path(path))
        # As for llama-quantize, a matrix without entries is none.
        return imatrix.load(path).filter(include, exclude) or None


def options_in(kind: type) -> dict[str, Option]:
    """Give the options that can be told in text, by name, of a list such as `RecipeOptions`."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: extra for name, hint in hints.items() for extra in get_args(hint) if isinstance(extra, Option)
    }


def said_of_recipe(given: Mapping[str, Any]) -> list[str]:
    """Name the options that were given and decide what the output is; a permission does not."""
    names = RecipeOptions.__annotations__.keys() - {"allow_requantize"}
    return [name for name, value in given.items() if name in names and value]


def takes(kind: type) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Make a function that takes ``**options: Unpack[kind]`` refuse other names, and describe each option.

    Python checks no names behind ``**``. In the docstring, ``{options}`` stands for the descriptions.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        code = function.__code__
        known = {*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount], *kind.__annotations__}

        @wraps(function)
        def checked(*args: _P.args, **options: _P.kwargs) -> _R:
            for name in options.keys() - known:
                near = did_you_mean(name, sorted(known))
                raise TypeError(f"{function.__name__}() has no argument {name!r}; {near}")
            return function(*args, **options)

        described = [f"    {name}\n        {option.help}" for name, option in options_in(kind).items()]
        if checked.__doc__:
            checked.__doc__ = checked.__doc__.replace("    {options}", "\n".join(described))
        return checked

    return decorate


def _tensor_type(given: str | GGMLQuantizationType | None) -> GGMLQuantizationType | None:
    return None if given is None else parse_tensor_type(given)


def _overrides(given: Mapping[str, bool | int | float | str] | Iterable[Override]) -> list[Override]:
    pairs = given.items() if isinstance(given, Mapping) else given
    return [check_override(Override(key, value)) for key, value in pairs]


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
        raise OptionError(f"unknown tensor type {quote(text)}; {did_you_mean(text, producible)}")
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
            f"bad regular expression {quote(pattern)} at position {error.pos}: {error.msg}"
        ) from None
    except FutureWarning as error:
        raise OptionError(
            f"bad regular expression {quote(pattern)}: {error}; write [0-9] for [[:digit:]]"
        ) from None
    except (OverflowError, RecursionError) as error:  # a{99999999999}, ((((((((...
        raise OptionError(f"bad regular expression {quote(pattern)}: {error}") from None
    return TensorRule(compiled, parse_tensor_type(type_))


def parse_tensor_rule(text: str) -> TensorRule:
    """Read a rule, ``REGEX=TYPE``; the first ``=`` divides."""
    pattern, equals, type_ = text.partition("=")
    if not (pattern and equals and type_):
        raise OptionError(f"cannot read tensor type {quote(text)}; expected REGEX=TYPE, as in attn_v=q8_0")
    return tensor_rule(pattern, type_)


def read_tensor_rules(path: str | os.PathLike[str]) -> list[TensorRule]:
    """Read a file of rules, ``REGEX=TYPE`` each, separated by spaces or newlines."""
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
    """Read an override, ``KEY=TYPE:VALUE``.

    Raises
    ------
    OptionError
        The form, the type or the value is wrong, a text is longer than 127 bytes, or the key is one that no
        override may change.
    """
    key, equals, typed = text.partition("=")
    kind, colon, value = typed.partition(":")
    if not (key and equals and colon):
        raise OptionError(f"cannot read override {quote(text)}; {_OVERRIDE_FORM}")
    if kind not in _OVERRIDE_VALUE:
        raise OptionError(f"override {quote(text)} has the unknown type {quote(kind)}; {_OVERRIDE_FORM}")
    try:
        if kind in ("int", "float") and "_" in value:  # Python reads 1_000, llama-quantize does not
            raise ValueError
        override = Override(key, _OVERRIDE_VALUE[kind](value))
    except (ValueError, KeyError):
        raise OptionError(f"override {quote(text)}: {quote(value)} is not a value of type {kind}") from None
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
    if not (isinstance(key, str) and isinstance(value, (bool, int, float, str))):
        raise OptionError(
            f"override {key!r}: expected a bool, int, float or str, found {type(value).__name__}"
        )
    if not 0 < _size(key) <= _OVERRIDE_MAX:
        raise OptionError(f"override {quote(key)}: a key has 1 to {_OVERRIDE_MAX} bytes")
    if key == "general.alignment":
        raise OptionError("general.alignment cannot be overridden: it says how the tensors are laid out")
    if isinstance(value, str) and _size(value) > _OVERRIDE_MAX:
        raise OptionError(f"override {key}: a text has at most {_OVERRIDE_MAX} bytes, found {_size(value)}")
    if isinstance(value, int) and abs(value) >= 2**32:
        raise OptionError(f"override {key}: the number does not fit an unsigned 32-bit integer")
    if isinstance(value, float):
        try:
            struct.pack("<f", value)
        except OverflowError:
            raise OptionError(f"override {key}: {value} does not fit a 32-bit float") from None
    return override


def _size(text: str) -> int:
    """Bytes of a text; of an argument that is no UTF-8, Python has the bytes as lone surrogates."""
    try:
        return len(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise OptionError(f"override {quote(text)}: not a text that UTF-8 can encode") from None

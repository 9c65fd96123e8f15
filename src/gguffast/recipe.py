"""Which tensor becomes which type: the mixtures, the fallbacks and the user's overrides.

The decisions are those of llama.cpp (``src/llama-quant.cpp``), whose files gguffast reproduces byte for byte.
Nothing here reads a weight: names, shapes and metadata decide.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard, TypeVar

from gguffast.errors import DataError, FileError, FormatError, OptionError, did_you_mean
from gguffast.filetypes import ALIASES, GUESSED, FileType, LlamaFileType
from gguffast.shards import SPLIT_KEYS
from gguffast.types import GGMLQuantizationType

if TYPE_CHECKING:
    from gguffast.gguf import KV

T = GGMLQuantizationType

#: A tensor as the recipe sees it: name, dimensions in GGUF order (the row length first), type.
Weight = tuple[str, Sequence[int], GGMLQuantizationType]


# --- what the user overrides --------------------------------------------------------------------------------


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
    try:
        items = Path(path).read_bytes().split()
    except OSError as error:
        raise FileError(f"{path}: cannot read the tensor types: {error.strerror}") from None
    rules = []
    for item in items:
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


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


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


# --- what the rules know of the model -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Model:
    """The few facts of a model that mixtures depend on.

    Attributes
    ----------
    architecture : str
    n_layer : int or None
        Layers in all, those of multi-token prediction among them; None if the metadata does not tell.
    n_expert : int
        Experts of a layer; 0 for a dense model.
    n_gqa : int
        Query heads that share a key/value head in the first layer; 0 without attention.
    is_70b : bool
        One of the 80-layer models whose small attn_v deserves more bits.
    """

    architecture: str
    n_layer: int | None
    n_expert: int
    n_gqa: int
    is_70b: bool

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], overrides: Sequence[Override] = ()) -> Model:
        """Read the facts from a file's metadata, under the user's overrides."""
        # The first override of a key counts here (and the last one in the output): so does llama.cpp.
        first: dict[str, Any] = dict(reversed(overrides))
        architecture = first.get("general.architecture")
        if not isinstance(architecture, str):
            architecture = str(metadata.get("general.architecture", ""))

        def number(key: str, default: int = 0) -> int:
            key = f"{architecture}.{key}"
            value = first.get(key)
            return abs(value) if _is_int(value) else int(metadata.get(key, default))

        def of_first_layer(key: str, default: int) -> int:
            # A list has one value a layer. Overrides change neither lists nor what is not there.
            value = metadata.get(f"{architecture}.{key}", default)
            if hasattr(value, "__len__"):
                return int(value[0]) if len(value) else 0
            return number(key) if f"{architecture}.{key}" in metadata else default

        n_head = of_first_layer("attention.head_count", 0)
        n_head_kv = of_first_layer("attention.head_count_kv", n_head)
        n_expert = number("expert_count")
        n_layer = number("block_count", 0 if architecture == "clip" else -1)
        n_main = n_layer - number("nextn_predict_layers")
        if architecture == "nanbeige":  # runs its layers more than once
            n_layer *= max(1, number("num_loops"))
        if architecture == "graniteswitch":  # adds a layer that routes between adapters
            n_layer = n_main + 1
        return cls(
            architecture=architecture,
            n_layer=n_layer if n_layer >= 0 else None,
            n_expert=n_expert,
            n_gqa=n_head // n_head_kv if n_head_kv else 0,
            is_70b=_is_70b(architecture, n_main, n_head != n_head_kv, n_expert),
        )


def _is_70b(architecture: str, n_layer: int, grouped: bool, n_expert: int) -> bool:
    if architecture in ("llama", "llama-embed"):
        return n_layer == 80 and grouped and n_expert != 8
    return n_layer == {"qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}.get(architecture)


class Role(Enum):
    """What a tensor does in the model, as far as the mixtures care."""

    OUTPUT = auto()
    TOKEN_EMBEDDING = auto()
    ATTN_V = auto()
    ATTN_K = auto()
    ATTN_OUTPUT = auto()
    FFN_DOWN = auto()
    FFN_OTHER = auto()
    OTHER = auto()


_TOKEN_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")

#: The first part found in a name tells the role. attn_qkv and attn_kv_b contain the value projection.
_ROLE_OF_PART = {
    "attn_qkv.weight": Role.ATTN_V,
    "attn_kv_b.weight": Role.ATTN_V,
    "attn_v.weight": Role.ATTN_V,
    "attn_k.weight": Role.ATTN_K,
    "attn_q.weight": Role.OTHER,
    "attn_output.weight": Role.ATTN_OUTPUT,
    "ffn_up": Role.FFN_OTHER,
    "ffn_gate": Role.FFN_OTHER,
    "ffn_down": Role.FFN_DOWN,
}


def role_of(name: str) -> Role:
    """Tell what the tensor `name` does."""
    if name == "output.weight":
        return Role.OUTPUT
    if name in _TOKEN_EMBEDDINGS:
        return Role.TOKEN_EMBEDDING
    return next((role for part, role in _ROLE_OF_PART.items() if part in name), Role.OTHER)


#: Weights that are never quantized: small, or too sensitive.
_KEPT_NAMES = {"position_embd.weight", "token_types.weight"}
_KEPT_PARTS = (
    "_norm.weight",
    # routing of experts
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    # Gemma 3n
    "altup",
    "laurel",
    "per_layer_model_proj",
    # state-space models, short convolutions
    "ssm_conv1d",
    "shortconv.conv.weight",
    # MiniMax
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    # RWKV
    "time_mix_first.weight",
    *(
        f"time_mix_{part}.weight"
        for part in ("w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2")
    ),
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    # T5
    "attn_rel_b.weight",
    # images and sound
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
)
_KEPT_PARTS_OF = {
    "glm5-next": (
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    )
}
#: Never below Q8_0 unless the user says so.
_Q8_0_PARTS_OF = {"glm5-next": ("attn_q_a", "attn_q_b", "nextn.eh_proj")}


def is_quantizable(name: str, ne: Sequence[int], architecture: str = "") -> bool:
    """Tell whether a file type may change this tensor's type: a matrix of weights, and none of those kept."""
    if not any(n > 1 for n in ne[1:]):
        return False
    # llama.cpp finds the last "weight" at length - 6, which wraps to "not found" for names of 5 characters.
    if not name.endswith("weight") and len(name) != 5:
        return False
    parts = _KEPT_PARTS + _KEPT_PARTS_OF.get(architecture, ())
    return name not in _KEPT_NAMES and not any(part in name for part in parts)


# --- the mixtures -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands: the `index`-th of `count` layers of a model."""

    model: Model
    index: int
    count: int
    has_imatrix: bool


Condition = Callable[[Place], bool]


def _first(n: int) -> Condition:
    return lambda place: place.index < n


def _first_share(parts: int) -> Condition:
    return lambda place: place.index < place.count // parts


def _more_bits(place: Place) -> bool:
    """Choose the first and the last eighth of the layers, and every third layer between."""
    eighth = place.count // 8
    return place.index < eighth or place.index >= 7 * place.count // 8 or (place.index - eighth) % 3 == 2


def _gqa(place: Place) -> bool:
    return place.model.n_gqa >= 4


def _experts_8(place: Place) -> bool:
    return place.model.n_expert == 8


def _falcon(place: Place) -> bool:
    return place.model.architecture == "falcon"


def _not_falcon(place: Place) -> bool:
    return not _falcon(place)


def _imatrix(place: Place) -> bool:
    return place.has_imatrix


def _no_imatrix(place: Place) -> bool:
    return not place.has_imatrix


class _Use(NamedTuple):
    type: GGMLQuantizationType
    when: tuple[Condition, ...]


def _use(type_: GGMLQuantizationType, *when: Condition) -> _Use:
    return _Use(type_, when)


_ATTN_OUTPUT_OF_EXPERTS = _use(T.Q5_K, _experts_8, _not_falcon)
_IQ4 = {
    Role.ATTN_V: [_use(T.Q5_K, _gqa)],
    Role.ATTN_OUTPUT: [_ATTN_OUTPUT_OF_EXPERTS],
    Role.FFN_DOWN: [_use(T.Q5_K, _first_share(8), _no_imatrix)],
}

#: File type -> role -> the rules: the first whose conditions all hold gives the type. Where none holds, and
#: for the roles and file types that are not listed, the file type's default type stays.
_MIXTURES: dict[str, dict[Role, list[_Use]]] = {
    "Q2_K": {
        Role.ATTN_V: [_use(T.Q4_K, _gqa), _use(T.Q3_K)],
        Role.ATTN_OUTPUT: [_ATTN_OUTPUT_OF_EXPERTS, _use(T.Q3_K, _not_falcon)],
        Role.FFN_DOWN: [_use(T.Q3_K)],
    },
    "Q2_K_S": {
        Role.ATTN_V: [_use(T.Q4_K, _gqa)],
        Role.FFN_DOWN: [_use(T.Q4_K, _first_share(8))],
    },
    "Q3_K_S": {
        Role.ATTN_OUTPUT: [_ATTN_OUTPUT_OF_EXPERTS],
    },
    "Q3_K_M": {
        Role.ATTN_V: [_use(T.Q5_K, _first(2)), _use(T.Q4_K)],
        Role.ATTN_OUTPUT: [_ATTN_OUTPUT_OF_EXPERTS, _use(T.Q4_K, _not_falcon)],
        Role.FFN_DOWN: [_use(T.Q5_K, _first_share(16)), _use(T.Q4_K, _not_falcon), _use(T.Q4_K, _more_bits)],
    },
    "Q3_K_L": {
        Role.ATTN_V: [_use(T.Q5_K)],
        Role.ATTN_OUTPUT: [_use(T.Q4_K, _falcon), _use(T.Q3_K, _experts_8), _use(T.Q5_K)],
        Role.FFN_DOWN: [_use(T.Q4_K, _falcon), _use(T.Q5_K)],
    },
    "Q4_0": {
        Role.FFN_DOWN: [_use(T.Q4_1, _first_share(8), _imatrix)],
    },
    "Q5_0": {
        Role.FFN_DOWN: [_use(T.Q5_1, _first_share(8), _imatrix)],
    },
    "Q4_K_S": {
        Role.ATTN_V: [_use(T.Q5_K, _first(4))],
        Role.ATTN_OUTPUT: [_ATTN_OUTPUT_OF_EXPERTS],
        Role.FFN_DOWN: [_use(T.Q5_K, _first_share(8), _not_falcon)],
    },
    "Q4_K_M": {
        Role.ATTN_V: [_use(T.Q6_K, _more_bits)],
        Role.ATTN_OUTPUT: [_ATTN_OUTPUT_OF_EXPERTS],
        Role.FFN_DOWN: [
            _use(T.Q6_K, _more_bits, _not_falcon),
            _use(T.Q6_K, _first_share(16), _falcon),
            _use(T.Q5_K, _more_bits, _falcon),
        ],
    },
    "Q5_K_M": {
        Role.ATTN_V: [_use(T.Q6_K, _more_bits)],
        Role.FFN_DOWN: [_use(T.Q6_K, _more_bits)],
    },
    "IQ4_NL": _IQ4,
    "IQ4_XS": _IQ4,
}


class _Mixture:
    """Gives each tensor its type; asked in output order, since it counts the layers as they come."""

    def __init__(
        self, model: Model, file_type: FileType, options: Options, has_imatrix: bool, names: Iterable[str]
    ) -> None:
        assert file_type.type is not None
        self.model = model
        self.default = file_type.type
        self.rules = _MIXTURES.get(file_type.name, {})
        self.options = options
        self.has_imatrix = has_imatrix
        self.seen: Counter[Role] = Counter()
        roles = Counter(map(role_of, names))
        self.n_attn_v = roles[Role.ATTN_V]
        self.tied = not roles[Role.OUTPUT]

    def type_for(self, name: str, ncols: int) -> GGMLQuantizationType:
        role = role_of(name)
        if any(part in name for part in _Q8_0_PARTS_OF.get(self.model.architecture, ())):
            return T.Q8_0
        if role is Role.OUTPUT or (role is Role.TOKEN_EMBEDDING and self.tied):
            chosen = self.options.output_tensor_type
            return self._output_type(ncols) if chosen is None else chosen
        place = Place(self.model, *self._layer(name, role), self.has_imatrix)
        self.seen[role] += 1
        type_ = self.default
        for use in self.rules.get(role, ()):
            if all(condition(place) for condition in use.when):
                type_ = use.type
                break
        if role is Role.ATTN_V and self.model.is_70b and type_ in (T.Q3_K, T.Q4_K):
            # Eight query heads share an attn_v of the 70B models: it is small, more bits are nearly free.
            type_ = T.Q5_K
        if role in (Role.ATTN_V, Role.ATTN_K) and self.model.n_expert == 8:
            type_ = T.Q8_0
        return type_

    def _output_type(self, ncols: int) -> GGMLQuantizationType:
        fits = ncols % self.default.info.block_size == 0
        return (
            T.Q6_K if fits and self.default is not T.Q8_0 and self.model.architecture != "falcon" else T.Q8_0
        )

    def _layer(self, name: str, role: Role) -> tuple[int, int]:
        """Layer and number of layers, as the rules of `role` count them."""
        if role is Role.ATTN_V:
            return self.seen[role], self.n_attn_v
        if role not in (Role.FFN_DOWN, Role.FFN_OTHER):
            return 0, 0
        n_layer = self.model.n_layer
        if n_layer is None:
            raise FormatError(f"the metadata lack {self.model.architecture}.block_count, which mixtures need")
        if self.model.n_expert <= 1:
            return self.seen[role], n_layer
        # Experts are several tensors a layer, so that counting tensors would not count layers.
        layer = layer_of(name)
        if layer is None or not 0 <= layer < n_layer:
            raise DataError(f"tensor {name}: expected a name blk.N.… with N below the block count {n_layer}")
        return layer, n_layer


# --- types of all tensors -----------------------------------------------------------------------------------

#: What rows get that are no multiple of the 256 weights of a block: a type with blocks of 32.
_FALLBACK = {
    T.IQ4_XS: T.IQ4_NL,
    T.Q2_K: T.Q4_0,
    T.Q3_K: T.Q4_0,
    T.Q4_K: T.Q5_0,
    T.Q5_K: T.Q5_1,
    T.Q6_K: T.Q8_0,
}


def _fitting(type_: GGMLQuantizationType, ncols: int) -> GGMLQuantizationType:
    """Return `type_`, or what stands in for it where rows of `ncols` are not whole blocks."""
    if ncols % type_.info.block_size:
        type_ = _FALLBACK.get(type_, type_)
    return T.F16 if ncols % type_.info.block_size else type_


class Choice(NamedTuple):
    """What becomes of a tensor.

    Attributes
    ----------
    type : GGMLQuantizationType
        Its type in the output; the one it has already means that its bytes are copied.
    fallback_from : GGMLQuantizationType or None
        The type it would have got if its rows were whole blocks of it.
    needs_imatrix : bool
        True if it must not be quantized without importances.
    """

    type: GGMLQuantizationType
    fallback_from: GGMLQuantizationType | None = None
    needs_imatrix: bool = False


def choose_types(
    metadata: Mapping[str, Any],
    tensors: Sequence[Weight],
    file_type: FileType,
    options: Options | None = None,
    has_imatrix: bool = False,
) -> list[Choice]:
    """Choose the type of each tensor.

    Parameters
    ----------
    metadata : mapping
        The source's; `general.architecture`, and that architecture's block, head and expert counts are read.
    tensors : sequence of (name, ne, type)
        In any order: layers are counted in output order.
    file_type : FileType
        From `parse_file_type`.
    options : Options, optional
    has_imatrix : bool
        Whether there are importances; some mixtures spend fewer bits then.

    Returns
    -------
    list of Choice
        One a tensor, in the order of `tensors`. See `check_choices` for what would stop the work.

    Raises
    ------
    OptionError
        A type that the user set cannot be produced, or does not divide the rows of its tensor.
    FormatError, DataError
        The metadata has no block count, or layer numbers disagree with it, and the mixture needs them.
    """
    options = options or Options()
    named = [rule.type for rule in options.tensor_types]
    for wanted in (options.output_tensor_type, options.token_embedding_type, *named):
        if wanted is not None:
            parse_tensor_type(wanted)
    if file_type.type is None:
        return [Choice(type_) for _, _, type_ in tensors]
    model = Model.from_metadata(metadata, options.overrides)
    mixture = _Mixture(model, file_type, options, has_imatrix, (name for name, _, _ in tensors))
    chosen: dict[int, Choice] = {}
    for i in sorted(range(len(tensors)), key=lambda i: order_key(tensors[i][0])):
        name, ne, type_ = tensors[i]
        keep = not is_quantizable(name, ne, model.architecture)
        if keep or (options.leave_output_tensor and name == "output.weight"):
            chosen[i] = Choice(type_)
        else:
            chosen[i] = _choose(name, ne[0], file_type, options, mixture)
    return [chosen[i] for i in range(len(tensors))]


def _choose(name: str, ncols: int, file_type: FileType, options: Options, mixture: _Mixture) -> Choice:
    assert file_type.type is not None
    named = next((rule.type for rule in options.tensor_types if rule.pattern.search(name)), None)
    role = role_of(name)
    if role is Role.TOKEN_EMBEDDING and options.token_embedding_type is not None:
        # The per-layer table follows --token-embedding-type, but it is a large one: a rule may name it.
        if not (name == "per_layer_token_embd.weight" and named is not None):
            return _forced(name, ncols, "--token-embedding-type", options.token_embedding_type, file_type)
    elif role is Role.OUTPUT and options.output_tensor_type is not None:
        return _forced(name, ncols, "--output-tensor-type", options.output_tensor_type, file_type)
    if not file_type.type.info.quantized:
        return Choice(file_type.type)
    if named is not None:
        wanted = named
    elif options.pure:
        wanted = file_type.type
    else:
        wanted = mixture.type_for(name, ncols)
    type_ = _fitting(wanted, ncols)
    return Choice(type_, None if type_ is wanted else wanted, _needs_imatrix(name, type_, file_type))


def _forced(name: str, ncols: int, option: str, type_: GGMLQuantizationType, file_type: FileType) -> Choice:
    if ncols % type_.info.block_size:
        raise OptionError(
            f"tensor {name}: rows of {ncols} are not whole blocks of {type_.info.block_size}, "
            f"which {option} {type_.name} needs; take {_fitting(type_, ncols).name}"
        )
    return Choice(type_, None, _needs_imatrix(name, type_, file_type))


def _needs_imatrix(name: str, type_: GGMLQuantizationType, file_type: FileType) -> bool:
    special = role_of(name) in (Role.OUTPUT, Role.TOKEN_EMBEDDING)
    return type_ is T.Q2_K and file_type.name == "Q2_K_S" and not special


def check_choices(
    tensors: Sequence[Weight], choices: Sequence[Choice], options: Options, has_imatrix: bool = False
) -> None:
    """Raise what would stop the work before it starts.

    Raises
    ------
    DataError
        A tensor is quantized already and would get another type without `Options.allow_requantize`, its type
        cannot be decoded, or it must not be quantized without an importance matrix and there is none.
    """
    for (name, _, type_), choice in zip(tensors, choices, strict=True):
        if choice.needs_imatrix and not has_imatrix:
            raise DataError(
                f"tensor {name}: {choice.type.name} in a file of this type needs an importance matrix; "
                "give one with --imatrix or choose a larger file type"
            )
        if choice.type is type_:
            continue
        if type_.info.quantized and not options.allow_requantize:
            raise DataError(
                f"tensor {name} is quantized already ({type_.name}) and would become {choice.type.name}; "
                "start from an F16, BF16 or F32 file, or accept the loss with --allow-requantize"
            )
        if not type_.info.has_codec:
            raise DataError(
                f"tensor {name} is {type_.name}, which gguffast cannot turn into {choice.type.name}; "
                "start from an F16, BF16 or F32 file"
            )


# --- order and metadata of the output -----------------------------------------------------------------------


def layer_of(name: str) -> int | None:
    """Return N for ``blk.N…``, None for other names."""
    match = re.match(r"blk\.\s*([+-]?[0-9]+)", name)
    return int(match[1]) if match else None


def order_key(name: str) -> tuple[int, str]:
    """Sort key of the output's tensors: those of no layer, then layer by layer, by name."""
    layer = layer_of(name)
    return (-1 if layer is None else layer, name)


class Named(Protocol):
    """Anything with a tensor's name."""

    @property
    def name(self) -> str:
        """The tensor's name."""


_Named = TypeVar("_Named", bound=Named)


def output_order(tensors: Iterable[_Named]) -> list[_Named]:
    """Return the tensors in the order in which the output holds them."""
    return sorted(tensors, key=lambda tensor: order_key(tensor.name))


def file_type_number(
    file_type: FileType,
    metadata: Mapping[str, Any],
    tensors: Iterable[Weight],
    overrides: Sequence[Override] = (),
) -> int:
    """Return what ``general.file_type`` of the output says.

    COPY keeps the source's number. Where there is none, the commonest tensor type gives it, plus `GUESSED`.
    """
    if not file_type.copies:
        return int(file_type.number)
    for key, value in overrides:
        if key == "general.file_type" and _is_int(value):
            return abs(value)
    known = metadata.get("general.file_type")
    return int(known) if known is not None else guess_file_type(tensors) | GUESSED


def guess_file_type(tensors: Iterable[Weight]) -> LlamaFileType:
    """Guess a file's type from its most frequent tensor type; the one that got there first wins a tie."""
    counts: Counter[GGMLQuantizationType] = Counter()
    most, leader = 0, T.F32
    for _, _, type_ in sorted(tensors, key=lambda tensor: order_key(tensor[0])):
        counts[type_] += 1
        if counts[type_] > most:
            most, leader = counts[type_], type_
    name = ALIASES.get(leader.name, leader.name)
    return LlamaFileType.__members__.get(f"MOSTLY_{name}", LlamaFileType.ALL_F32)


#: Version of the block layouts; it changes when an existing type changes.
_QUANTIZATION_VERSION = 2


def output_kvs(
    kvs: Iterable[KV], file_type_number: int, overrides: Iterable[Override] = (), extra: Iterable[KV] = ()
) -> list[KV]:
    """Make the metadata of the output from the source's.

    A key that is set goes to the end, also when it was there before: so llama.cpp's ``gguf_set_val_*`` do.

    Parameters
    ----------
    kvs : iterable of KV
        The source's pairs, in file order.
    file_type_number : int
        From `file_type_number`.
    overrides : iterable of Override
        The user's; an int becomes the unsigned 32-bit integer of its absolute value.
    extra : iterable of KV
        Added at last: those of the importance matrix.

    Returns
    -------
    list of KV
        In output order.
    """
    from gguffast import gguf

    kinds = gguf.GGUFValueType
    out = {pair.key: pair for pair in kvs}

    def put(pair: KV) -> None:
        out.pop(pair.key, None)
        out[pair.key] = pair

    put(gguf.kv("general.quantization_version", _QUANTIZATION_VERSION, kinds.UINT32))
    put(gguf.kv("general.file_type", file_type_number, kinds.UINT32))
    for key in SPLIT_KEYS:
        out.pop(key, None)
    for key, value in map(check_override, overrides):
        if isinstance(value, bool):
            put(gguf.kv(key, value, kinds.BOOL))
        elif isinstance(value, int):
            put(gguf.kv(key, abs(value), kinds.UINT32))
        elif isinstance(value, float):
            put(gguf.kv(key, value, kinds.FLOAT32))
        else:
            put(gguf.kv(key, value, kinds.STRING))
    for pair in extra:
        put(pair)
    return list(out.values())

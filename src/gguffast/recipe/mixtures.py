"""The mixtures: which tensors of a file type get more bits than the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gguffast.errors import DataError, FormatError
from gguffast.filetypes import FileType
from gguffast.recipe.model import Model, Role, layer_of, role_of
from gguffast.recipe.options import Options
from gguffast.types import GGMLQuantizationType

T = GGMLQuantizationType


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


def _middle(place: Place) -> bool:
    """Choose all but the first and the last eighth of the layers."""
    return place.count // 8 <= place.index < 7 * place.count // 8


def _gqa(place: Place) -> bool:
    return place.model.n_gqa >= 4


def _experts_8(place: Place) -> bool:
    return place.model.n_expert == 8


def _gqa_or_experts(place: Place) -> bool:
    return _gqa(place) or place.model.n_expert >= 4


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

_TERNARY = {Role.TOKEN_EMBEDDING: [_use(T.Q4_K)]}


def _lowest(
    more: GGMLQuantizationType, attn_output: GGMLQuantizationType | None = None
) -> dict[Role, list[_Use]]:
    """Rules of the types of one and two bits: `more` bits for the sensitive tensors."""
    return {
        Role.TOKEN_EMBEDDING: [_use(more)],
        Role.ATTN_V: [_use(T.Q4_K, _gqa_or_experts), _use(more)],
        Role.ATTN_K: [_use(T.Q4_K, _experts_8)],
        Role.ATTN_OUTPUT: [_use(T.Q5_K, _experts_8), *([_use(attn_output)] if attn_output else [])],
        Role.FFN_DOWN: [_use(more, _first_share(8))],
    }


_LOWEST = {
    "IQ1_S": _lowest(T.Q2_K, T.IQ2_XXS),
    "IQ1_M": _lowest(T.Q2_K, T.IQ2_XXS),
    "IQ2_XXS": _lowest(T.Q2_K),
    "IQ2_XS": _lowest(T.Q2_K),
    "IQ2_S": _lowest(T.IQ3_S, T.IQ3_S),
    "IQ2_M": _lowest(T.IQ3_S, T.IQ3_S),
}

#: File type -> role -> the rules: the first whose conditions all hold gives the type. Where none holds, and
#: for the roles and file types that are not listed, the file type's default type stays.
_RULES: dict[str, dict[Role, list[_Use]]] = {
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
    "IQ3_XXS": {
        Role.TOKEN_EMBEDDING: [_use(T.IQ3_S)],
        Role.ATTN_V: [_use(T.Q4_K, _gqa), _use(T.IQ3_S, _no_imatrix)],
        Role.ATTN_K: [_use(T.IQ2_S)],
        Role.ATTN_Q: [_use(T.IQ2_S)],
        Role.ATTN_OUTPUT: [_ATTN_OUTPUT_OF_EXPERTS, _use(T.IQ3_S, _not_falcon)],
        Role.FFN_DOWN: [_use(T.Q4_K, _first_share(8), _no_imatrix), _use(T.Q3_K, _no_imatrix)],
    },
    "IQ3_XS": {
        Role.ATTN_V: [_use(T.Q4_K, _gqa)],
        Role.ATTN_K: [_use(T.IQ3_XXS)],
        Role.ATTN_Q: [_use(T.IQ3_XXS)],
        Role.ATTN_OUTPUT: [_ATTN_OUTPUT_OF_EXPERTS],
        Role.FFN_GATE: [_use(T.IQ3_XXS, _middle)],
        Role.FFN_UP: [_use(T.IQ3_XXS, _middle)],
    },
    "IQ3_S": {
        Role.ATTN_V: [_use(T.Q4_K, _gqa)],
        Role.ATTN_OUTPUT: [_ATTN_OUTPUT_OF_EXPERTS],
    },
    "IQ3_M": {
        Role.ATTN_V: [_use(T.Q4_K)],
        Role.ATTN_OUTPUT: [_ATTN_OUTPUT_OF_EXPERTS, _use(T.Q4_K, _not_falcon)],
        Role.FFN_DOWN: [_use(T.Q4_K, _first_share(8)), _use(T.Q4_K, _more_bits, _experts_8)],
    },
    "TQ1_0": _TERNARY,
    "TQ2_0": _TERNARY,
    "Q2_0": _TERNARY,
} | _LOWEST

#: Bits of the output matrix where those of other file types are too many.
_OUTPUT_TYPE = {"MXFP4_MOE": T.Q8_0, "IQ3_XXS": T.Q5_K} | dict.fromkeys(_LOWEST, T.Q5_K)

#: Never below Q8_0 unless the user says so.
_Q8_0_PARTS_OF = {"glm5-next": ("attn_q_a", "attn_q_b", "nextn.eh_proj")}


class Mixture:
    """Gives each tensor its type; asked in output order, since it counts the layers as they come."""

    def __init__(self, model: Model, file_type: FileType, options: Options, names: Iterable[str]) -> None:
        assert file_type.type is not None
        self.model = model
        self.default = file_type.type
        self.file_type = file_type.name
        self.rules = _RULES.get(file_type.name, {})
        self.options = options
        self.seen: Counter[Role] = Counter()
        roles = Counter(map(role_of, names))
        self.n_attn_v = roles[Role.ATTN_V]
        self.tied = not roles[Role.OUTPUT]

    def type_for(self, name: str, ne: Sequence[int]) -> GGMLQuantizationType:
        """Type of the tensor `name` with dimensions `ne`, the row length first."""
        role = role_of(name)
        if any(part in name for part in _Q8_0_PARTS_OF.get(self.model.architecture, ())):
            return T.Q8_0
        if role is Role.OUTPUT or (role is Role.TOKEN_EMBEDDING and self.tied):
            chosen = self.options.output_tensor_type
            return self._output_type(ne[0]) if chosen is None else chosen
        if self.file_type == "MXFP4_MOE":
            return self._moe_type(role, ne)
        place = Place(self.model, *self._layer(name, role), self.options.imatrix is not None)
        self.seen[role] += 1
        type_ = self.default
        for use in self.rules.get(role, ()):
            if all(condition(place) for condition in use.when):
                type_ = use.type
                break
        if self.file_type in _LOWEST:
            return type_
        if role is Role.ATTN_V and self.model.is_70b and type_ in (T.Q3_K, T.Q4_K):
            # Eight query heads share an attn_v of the 70B models: it is small, more bits are nearly free.
            type_ = T.Q5_K
        if role in (Role.ATTN_V, Role.ATTN_K) and self.model.n_expert == 8:
            type_ = T.Q8_0
        return type_

    def _output_type(self, ncols: int) -> GGMLQuantizationType:
        fits = ncols % self.default.info.block_size == 0
        if not fits or self.default is T.Q8_0 or self.model.architecture == "falcon":
            return T.Q8_0
        return _OUTPUT_TYPE.get(self.file_type, T.Q6_K)

    def _moe_type(self, role: Role, ne: Sequence[int]) -> GGMLQuantizationType:
        """Give experts the default type; in a bailingmoe3 other tensors are stacks of matrices too."""
        experts = len(ne) > 2 and ne[2] > 1
        if self.model.architecture == "bailingmoe3":
            experts &= role in (Role.FFN_UP, Role.FFN_GATE, Role.FFN_DOWN)
        return self.default if experts else T.Q8_0

    def _layer(self, name: str, role: Role) -> tuple[int, int]:
        """Layer and number of layers, as the rules of `role` count them."""
        if role is Role.ATTN_V:
            return self.seen[role], self.n_attn_v
        if role not in (Role.FFN_DOWN, Role.FFN_GATE, Role.FFN_UP):
            return 0, 0
        n_layer = self.model.n_layer
        if n_layer is None:
            raise FormatError(f"the metadata lack {self.model.architecture}.block_count, which mixtures need")
        if self.model.n_expert <= 1 or self.file_type in _LOWEST:
            return self.seen[role], n_layer
        # Experts are several tensors a layer, so that counting tensors would not count layers.
        layer = layer_of(name)
        if layer is None or not 0 <= layer < n_layer:
            raise DataError(f"tensor {name}: expected a name blk.N.… with N below the block count {n_layer}")
        return layer, n_layer

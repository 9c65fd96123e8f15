"""The mixtures: which tensors of a file type get more bits than the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
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
}

#: Never below Q8_0 unless the user says so.
_Q8_0_PARTS_OF = {"glm5-next": ("attn_q_a", "attn_q_b", "nextn.eh_proj")}


class Mixture:
    """Gives each tensor its type; asked in output order, since it counts the layers as they come."""

    def __init__(
        self, model: Model, file_type: FileType, options: Options, has_imatrix: bool, names: Iterable[str]
    ) -> None:
        assert file_type.type is not None
        self.model = model
        self.default = file_type.type
        self.rules = _RULES.get(file_type.name, {})
        self.options = options
        self.has_imatrix = has_imatrix
        self.seen: Counter[Role] = Counter()
        roles = Counter(map(role_of, names))
        self.n_attn_v = roles[Role.ATTN_V]
        self.tied = not roles[Role.OUTPUT]

    def type_for(self, name: str, ncols: int) -> GGMLQuantizationType:
        """Type of the tensor `name`, whose rows have `ncols` weights."""
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

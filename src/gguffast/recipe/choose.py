"""The type of each tensor: the mixture's, unless its shape or the user says something else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gguffast.errors import DataError, OptionError
from gguffast.filetypes import FileType
from gguffast.recipe.mixtures import Mixture
from gguffast.recipe.model import Model, Role, Weight, is_quantizable, order_key, role_of
from gguffast.recipe.options import Options
from gguffast.types import GGMLQuantizationType

T = GGMLQuantizationType

#: What rows get that are not whole blocks of a type: one with blocks of 32.
_FALLBACK = {
    T.IQ1_S: T.IQ4_NL,
    T.IQ1_M: T.IQ4_NL,
    T.IQ2_XXS: T.IQ4_NL,
    T.IQ2_XS: T.IQ4_NL,
    T.IQ2_S: T.IQ4_NL,
    T.IQ3_XXS: T.IQ4_NL,
    T.IQ3_S: T.IQ4_NL,
    T.IQ4_XS: T.IQ4_NL,
    T.Q2_0: T.Q4_0,
    T.TQ1_0: T.Q4_0,
    T.TQ2_0: T.Q4_0,
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


class MissingImatrix(DataError):
    """A tensor's type is of no use without an importance matrix, and there is none.

    Attributes
    ----------
    tensor : str
    type : GGMLQuantizationType
    """

    def __init__(self, tensor: str, type_: GGMLQuantizationType) -> None:
        super().__init__(
            f"tensor {tensor}: {type_.name} in a file of this type needs an importance matrix; "
            "give one with `imatrix` or choose a larger file type"
        )
        self.tensor = tensor
        self.type = type_


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
    options: Options,
    *,
    keep_order: bool = False,
) -> list[Choice]:
    """Choose the type of each tensor.

    Parameters
    ----------
    metadata : mapping
        The source's; `general.architecture`, and that architecture's block, head and expert counts are read.
    tensors : sequence of (name, ne, type)
        In any order: layers are counted in output order, but with `keep_order` in this one.
    file_type : FileType
        From `parse_file_type`.
    options : Options
        With importances, some mixtures spend fewer bits.

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
    if file_type.type is None:
        return [Choice(type_) for _, _, type_ in tensors]
    model = Model.from_metadata(metadata, options.override_kv)
    mixture = Mixture(model, file_type, options, (name for name, _, _ in tensors))
    chosen: dict[int, Choice] = {}
    order: Iterable[int] = range(len(tensors))
    if not keep_order:
        order = sorted(order, key=lambda i: order_key(tensors[i][0]))
    for i in order:
        name, ne, type_ = tensors[i]
        keep = not is_quantizable(name, ne, model.architecture)
        if keep or (options.leave_output_tensor and name == "output.weight"):
            chosen[i] = Choice(type_)
        else:
            chosen[i] = _choose(name, ne, file_type, options, mixture)
    return [chosen[i] for i in range(len(tensors))]


def _choose(name: str, ne: Sequence[int], file_type: FileType, options: Options, mixture: Mixture) -> Choice:
    assert file_type.type is not None
    ncols = ne[0]
    named = next((rule.type for rule in options.tensor_type if rule.pattern.search(name)), None)
    role = role_of(name)
    if role is Role.TOKEN_EMBEDDING and options.token_embedding_type is not None:
        # The per-layer table follows `token_embedding_type`, but it is a large one: a rule may name it.
        if not (name == "per_layer_token_embd.weight" and named is not None):
            return _forced(name, ncols, "`token_embedding_type`", options.token_embedding_type, file_type)
    elif role is Role.OUTPUT and options.output_tensor_type is not None:
        return _forced(name, ncols, "`output_tensor_type`", options.output_tensor_type, file_type)
    if not file_type.type.info.quantized:
        return Choice(file_type.type)
    if named is not None:
        wanted = named
    elif options.pure:
        wanted = file_type.type
    else:
        wanted = mixture.type_for(name, ne)
    type_ = _fitting(wanted, ncols)
    if type_ is T.F16 and wanted.info.block_size > 32 and wanted not in _FALLBACK:
        raise OptionError(
            f"tensor {name}: rows of {ncols} are not whole blocks of {wanted.info.block_size}, which "
            f"{wanted.name} needs, and nothing stands in for it; set one with `tensor_type` '{name}=q8_0'"
        )
    return Choice(type_, None if type_ is wanted else wanted, _needs_imatrix(name, type_, file_type))


def _forced(name: str, ncols: int, option: str, type_: GGMLQuantizationType, file_type: FileType) -> Choice:
    if ncols % type_.info.block_size:
        raise OptionError(
            f"tensor {name}: rows of {ncols} are not whole blocks of {type_.info.block_size}, "
            f"which {option} {type_.name} needs; take {_fitting(type_, ncols).name}"
        )
    return Choice(type_, None, _needs_imatrix(name, type_, file_type))


#: Garbage without importances.
_NEED_IMATRIX = {T.IQ1_S, T.IQ1_M, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS}


def _needs_imatrix(name: str, type_: GGMLQuantizationType, file_type: FileType) -> bool:
    special = role_of(name) in (Role.OUTPUT, Role.TOKEN_EMBEDDING)
    needs = type_ in _NEED_IMATRIX or (type_ is T.Q2_K and file_type.name == "Q2_K_S")
    return needs and not special


def check_choices(tensors: Sequence[Weight], choices: Sequence[Choice], options: Options) -> None:
    """Raise what would stop the work before it starts.

    Raises
    ------
    DataError
        A tensor is quantized already and would get another type without `Options.allow_requantize`, its type
        cannot be decoded, or it must not be quantized without an importance matrix and there is none.
    """
    for (name, _, type_), choice in zip(tensors, choices, strict=True):
        if choice.needs_imatrix and options.imatrix is None:
            raise MissingImatrix(name, choice.type)
        if choice.type is type_:
            continue
        if type_.info.quantized and not options.allow_requantize:
            raise DataError(
                f"tensor {name} is quantized already ({type_.name}) and would become {choice.type.name}; "
                "start from an F16, BF16 or F32 file, or accept the loss with `allow_requantize=True`"
            )
        if not type_.info.has_codec:
            raise DataError(
                f"tensor {name} is {type_.name}, which gguffast cannot turn into {choice.type.name}; "
                "start from an F16, BF16 or F32 file"
            )

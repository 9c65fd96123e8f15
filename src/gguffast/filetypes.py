"""File types (``Q4_K_M``): what a whole file is called after its mixture of tensor types."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from gguffast.errors import OptionError, did_you_mean, quote
from gguffast.types import GGMLQuantizationType

T = GGMLQuantizationType


class LlamaFileType(IntEnum):
    """File types, by their number in ``general.file_type`` (``enum llama_ftype`` of llama.cpp)."""

    ALL_F32 = 0
    MOSTLY_F16 = 1
    MOSTLY_Q4_0 = 2
    MOSTLY_Q4_1 = 3
    MOSTLY_Q8_0 = 7
    MOSTLY_Q5_0 = 8
    MOSTLY_Q5_1 = 9
    MOSTLY_Q2_K = 10
    MOSTLY_Q3_K_S = 11
    MOSTLY_Q3_K_M = 12
    MOSTLY_Q3_K_L = 13
    MOSTLY_Q4_K_S = 14
    MOSTLY_Q4_K_M = 15
    MOSTLY_Q5_K_S = 16
    MOSTLY_Q5_K_M = 17
    MOSTLY_Q6_K = 18
    MOSTLY_IQ2_XXS = 19
    MOSTLY_IQ2_XS = 20
    MOSTLY_Q2_K_S = 21
    MOSTLY_IQ3_XS = 22
    MOSTLY_IQ3_XXS = 23
    MOSTLY_IQ1_S = 24
    MOSTLY_IQ4_NL = 25
    MOSTLY_IQ3_S = 26
    MOSTLY_IQ3_M = 27
    MOSTLY_IQ2_S = 28
    MOSTLY_IQ2_M = 29
    MOSTLY_IQ4_XS = 30
    MOSTLY_IQ1_M = 31
    MOSTLY_BF16 = 32
    MOSTLY_TQ1_0 = 36
    MOSTLY_TQ2_0 = 37
    MOSTLY_MXFP4_MOE = 38
    MOSTLY_NVFP4 = 39
    MOSTLY_Q1_0 = 40
    MOSTLY_Q2_0 = 41


#: Added to the number when the file does not tell its type and it was guessed from the tensors.
GUESSED = 1024


class FileType(NamedTuple):
    """What the user asks for.

    Attributes
    ----------
    name : str
        As users write it: ``Q4_K_M``.
    number : LlamaFileType
        As ``general.file_type`` states it.
    type : GGMLQuantizationType or None
        What a weight becomes unless a rule says otherwise; None for COPY, which keeps every type.
    """

    name: str
    number: LlamaFileType
    type: GGMLQuantizationType | None

    @property
    def copies(self) -> bool:
        """True for COPY."""
        return self.type is None


_DEFAULT_TYPE: dict[str, GGMLQuantizationType] = {
    "Q1_0": T.Q1_0,
    "Q2_0": T.Q2_0,
    "TQ1_0": T.TQ1_0,
    "TQ2_0": T.TQ2_0,
    "IQ1_S": T.IQ1_S,
    "IQ1_M": T.IQ1_M,
    "IQ2_XXS": T.IQ2_XXS,
    "IQ2_XS": T.IQ2_XS,
    "IQ2_S": T.IQ2_XS,
    "IQ2_M": T.IQ2_S,
    "IQ3_XXS": T.IQ3_XXS,
    "IQ3_XS": T.IQ3_S,
    "IQ3_S": T.IQ3_S,
    "IQ3_M": T.IQ3_S,
    "Q2_K": T.Q2_K,
    "Q2_K_S": T.Q2_K,
    "Q3_K_S": T.Q3_K,
    "Q3_K_M": T.Q3_K,
    "Q3_K_L": T.Q3_K,
    "Q4_0": T.Q4_0,
    "Q4_1": T.Q4_1,
    "Q4_K_S": T.Q4_K,
    "Q4_K_M": T.Q4_K,
    "Q5_0": T.Q5_0,
    "Q5_1": T.Q5_1,
    "Q5_K_S": T.Q5_K,
    "Q5_K_M": T.Q5_K,
    "Q6_K": T.Q6_K,
    "Q8_0": T.Q8_0,
    "IQ4_NL": T.IQ4_NL,
    "IQ4_XS": T.IQ4_XS,
    "MXFP4_MOE": T.MXFP4,
    "F16": T.F16,
    "BF16": T.BF16,
    "F32": T.F32,
}

#: Every file type that gguffast produces, by name.
FILE_TYPES: dict[str, FileType] = {
    name: FileType(name, LlamaFileType.ALL_F32 if name == "F32" else LlamaFileType[f"MOSTLY_{name}"], type_)
    for name, type_ in _DEFAULT_TYPE.items()
} | {"COPY": FileType("COPY", LlamaFileType.ALL_F32, None)}

#: Short names: what llama-quantize takes them for.
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

#: By number, as text.
_NAMES = {str(int(number)): number.name.partition("_")[2] for number in LlamaFileType}


def parse_file_type(text: str | int | FileType) -> FileType:
    """Find the file type that the user means.

    Parameters
    ----------
    text : str, int, LlamaFileType or FileType
        A name in any case (``"q4_k_m"``), an alias (``"Q4_K"``) or the number (``15``, ``"15"``; 0 is F32).

    Raises
    ------
    OptionError
        The name is unknown (the nearest ones are suggested), or known but not produced.
    """
    if isinstance(text, FileType):
        return text
    name = str(int(text)) if isinstance(text, int) else text.strip().upper()
    if name.isascii() and name.isdecimal():
        name = name.lstrip("0") or "0"
    name = _NAMES.get(name, name)
    name = ALIASES.get(name, name)
    if name in FILE_TYPES:
        return FILE_TYPES[name]
    if name in _NAMES.values():
        raise OptionError(
            f"file type {name} is known, but not one that gguffast produces yet; "
            f"choose one of {', '.join(FILE_TYPES)}"
        )
    raise OptionError(f"unknown file type {quote(str(text))}; {did_you_mean(name, [*FILE_TYPES, *ALIASES])}")


def file_type_name(number: object) -> str | None:
    """Name what ``general.file_type`` states, guessed or not: ``Q4_K_M``; None if it states nothing known."""
    return _NAMES.get(str(number & ~GUESSED)) if isinstance(number, int) else None

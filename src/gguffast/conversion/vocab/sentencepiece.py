"""SentencePiece models: tokenizer.model, and the added tokens beside it.

The file is a protocol buffer, ``ModelProto`` of sentencepiece_model.proto. Only the pieces matter to GGUF, so
a small reader takes the place of the sentencepiece package: field 1 of the model, repeated, holds a piece
with its text (1), its score (2, float) and its type (3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from ...errors import FormatError
from .added import written
from .files import Files, as_dict, as_id, content, dicts, is_id
from .special import special_entries
from .table import TokenTable, TokenType, Vocab

NAME = "tokenizer.model"
_PIECES = 1
_SPECS = (2, 3)  # how it was trained, how it normalizes: every real model has them after its pieces
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT = struct.Struct("<f")
_PADDING_SCORE = -10000.0
_ADDED_SCORE = -1000.0


def load(files: Files, size: int | None, literal: bool) -> Vocab:
    """Read a SentencePiece tokenizer.

    Parameters
    ----------
    files : Files
        The checkpoint's tokenizer files; tokenizer.model must be there.
    size : int, optional
        Rows of the embedding. Tokens beyond it are left out with a warning, missing ones are padding. None:
        as many as the model has pieces.
    literal : bool
        Phi-3's way: added tokens are written as they stand, and tokenizer.json's list counts as well.

    Raises
    ------
    FormatError
        A damaged model, malformed added tokens, or duplicates.
    """
    pieces = read_pieces(files.bytes(NAME), str(files.path(NAME)))
    table = TokenTable(len(pieces) if size is None else size, _PADDING_SCORE)
    warnings: list[str] = []
    if len(pieces) > len(table):
        warnings.append(
            f"{files.path(NAME)}: tokens from {len(table)} on are left out: config.json's vocab_size"
        )
    for number, (text, score, kind) in enumerate(pieces[: len(table)]):
        # The reference converter writes SentencePiece's user-defined pieces as normal ones.
        table.put(number, text, TokenType.NORMAL if kind == TokenType.USER_DEFINED else kind, score)
    for number, text, kind in _added(files, literal):
        if number < len(table):
            table.put(number, text, kind, _ADDED_SCORE)
        else:
            warnings.append(
                f"{files.directory}: added token {number} {text!r} is left out: config.json's vocab_size"
            )
    entries = table.entries(str(files.path(NAME)), "llama", "default")
    return Vocab(entries + special_entries(files, len(table), warnings), len(table), warnings)


def _added(files: Files, literal: bool) -> Iterator[tuple[int, str, TokenType]]:
    for text, number in files.json("added_tokens.json").items():
        if not is_id(number):
            raise files.damaged("added_tokens.json", f"token {text!r} has the id {number!r}")
        yield number, text, TokenType.USER_DEFINED
    decoder = as_dict(files.json("tokenizer_config.json").get("added_tokens_decoder"))
    listed: list[tuple[str, Any, Any]] = [
        ("tokenizer_config.json", key, token) for key, token in decoder.items()
    ]
    if literal:
        tokens = dicts(files.json("tokenizer.json").get("added_tokens"))
        listed += [("tokenizer.json", token.get("id"), token) for token in tokens]
    for name, key, token in listed:
        yield _added_token(files, name, key, as_dict(token), literal)


def _added_token(
    files: Files, name: str, key: Any, token: dict[str, Any], literal: bool
) -> tuple[int, str, TokenType]:
    number = as_id(key)
    text = content(token)
    if text is None or not is_id(number):
        raise files.damaged(name, f"added token {text!r} has the id {key!r}")
    special = bool(token.get("special"))
    if literal:
        return number, text, TokenType.CONTROL if special else TokenType.USER_DEFINED
    return number, *written(text, special)


def read_pieces(data: bytes, source: str) -> list[tuple[str, float, int]]:
    """Read the pieces of a SentencePiece model.

    Parameters
    ----------
    data : bytes
        The serialized ``ModelProto``.
    source : str
        Name of the file, for error messages.

    Returns
    -------
    list of (str, float, int)
        Text, score and type of each piece; the position is the id.

    Raises
    ------
    FormatError
        Not a SentencePiece model, or a truncated one.
    """
    pieces = []
    others = set()
    try:
        for field, start, stop in _fields(data, 0, len(data)):
            if field == _PIECES:
                pieces.append(_piece(data, start, stop))
            else:
                others.add(field)
    except _Malformed as error:
        raise FormatError(f"{source}: not a SentencePiece model, or a truncated one ({error})") from None
    except UnicodeDecodeError:
        raise FormatError(f"{source}: not a SentencePiece model: a piece is not UTF-8") from None
    if not pieces:
        raise FormatError(f"{source}: not a SentencePiece model: it has no pieces")
    if others.isdisjoint(_SPECS):
        raise FormatError(f"{source}: the file is truncated: nothing follows its {len(pieces)} pieces")
    return pieces


class _Malformed(Exception):
    """Bytes that are no protocol buffer."""


def _piece(data: bytes, start: int, stop: int) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, int(TokenType.NORMAL)
    for field, begin, end in _fields(data, start, stop):
        if field == 1:
            text = data[begin:end].decode()
        elif field == 2 and end - begin == 4:
            score = _FLOAT.unpack_from(data, begin)[0]
        elif field == 3:
            kind = _varint(data, begin, end)[0]
    if not text:
        raise _Malformed(f"empty piece at byte {start}")
    if not TokenType.NORMAL <= kind <= TokenType.BYTE:
        raise _Malformed(f"piece of type {kind} at byte {start}")
    return text, score, kind


def _fields(data: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, first byte and end of every field of the message in ``data[at:stop]``."""
    while at < stop:
        tag, begin = _varint(data, at, stop)
        wire = tag & 7
        if wire == _BYTES:
            length, begin = _varint(data, begin, stop)
            end = begin + length
        elif wire == _VARINT:
            end = _varint(data, begin, stop)[1]
        elif wire in (_FIXED32, _FIXED64):
            end = begin + (4 if wire == _FIXED32 else 8)
        else:
            raise _Malformed(f"wire type {wire} at byte {at}")
        if end > stop:
            raise _Malformed(f"field at byte {at} ends {end - stop} bytes too late")
        yield tag >> 3, begin, end
        at = end


def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """Value of the number at `at`, and where it ends."""
    if at < stop and data[at] < 0x80:
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            raise _Malformed(f"number cut off at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Malformed(f"number of more than 64 bits before byte {at}")

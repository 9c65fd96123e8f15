"""SentencePiece models: tokenizer.model, and the added tokens beside it.

The file is a protocol buffer, ``ModelProto`` of sentencepiece_model.proto. Only the pieces matter to GGUF, so
a small reader takes the place of the sentencepiece package: field 1 of the model, repeated, holds a piece
with its text (1), its score (2, float) and its type (3).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from ...documents import shown
from ...errors import FormatError
from .added import written
from .files import Files, as_dict, as_id, content, dicts, is_id
from .special import flag_entry, id_entry, special_entries
from .table import TokenTable, TokenType, Vocab, table_size

NAME = "tokenizer.model"
_PIECES = 1
_SPECS = (2, 3)  # how it was trained, how it normalizes: every real model has them after its pieces
_TRAINER, _NORMALIZER = _SPECS
_MODEL_TYPE, _UNIGRAM = 3, 1  # of the trainer's fields, and its value
_CHARACTERS, _SPACE_PREFIX, _STRIPS = 2, 3, 4  # of the normalizer's
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_FIELDS = 64
_MAX_PIECES = 1 << 17  # and one more for each 24 bytes; real files have 16 to 20 bytes a piece
_FLOAT = struct.Struct("<f")
_PADDING_SCORE = -10000.0
_ADDED_SCORE = -1000.0


def load(files: Files, size: int | None, literal: bool, internlm: bool = False) -> Vocab:
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
    internlm : bool
        InternLM 2's: whether words begin with a space is written as the model has it, reserved pieces are
        unused, the character 0, which would end a C string, is a dragon, and a chat model's answers end with
        ``<|im_end|>``, whatever the files say.

    Raises
    ------
    FormatError
        A damaged model, malformed added tokens, or duplicates.
    """
    pieces = read_pieces(files.bytes(NAME), str(files.path(NAME)))
    count = table_size(str(files.path(NAME)), size, len(pieces) - 1, len(pieces))
    table = TokenTable(count, _PADDING_SCORE)
    warnings: list[str] = []
    if len(pieces) > len(table):
        warnings.append(
            f"{files.path(NAME)}: tokens from {len(table)} on are left out: config.json's vocab_size"
        )
    for number, (text, score, kind) in enumerate(pieces[: len(table)]):
        if internlm and text.startswith("[UNUSED"):
            kind = TokenType.UNUSED
        elif internlm and text == "\0":
            text = "\N{DRAGON}"
        # The reference converter writes SentencePiece's user-defined pieces as normal ones.
        table.put(number, text, TokenType.NORMAL if kind == TokenType.USER_DEFINED else kind, score)
    left_out: list[str] = []
    chat_end: int | None = None
    for number, text, kind in _added(files, literal):
        if number < len(table):
            table.put(number, text, kind, _ADDED_SCORE)
            chat_end = number if text == "<|im_end|>" else chat_end
        else:
            left_out.append(f"{number} {shown(text)}")
    if left_out:
        warnings.append(
            f"{files.directory}: {len(left_out)} added tokens are left out, from {left_out[0]} on: "
            "config.json's vocab_size"
        )
    entries = table.entries(str(files.path(NAME)), "llama", "default")
    if internlm:
        normalizer = read_normalizer(files.bytes(NAME), str(files.path(NAME)))
        entries.append(flag_entry("add_space_prefix", normalizer.space_prefix))
    vocab = Vocab(entries + special_entries(files, len(table), warnings), len(table), warnings)
    if internlm and chat_end is not None:
        vocab.set([id_entry("eos", chat_end)])
    return vocab


def _added(files: Files, literal: bool) -> Iterator[tuple[int, str, TokenType]]:
    for text, number in files.json("added_tokens.json").items():
        if not is_id(number):
            raise files.damaged("added_tokens.json", f"token {shown(text)} has the id {shown(number)}")
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
        raise files.damaged(name, f"added token {shown(text)} has the id {shown(key)}")
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
    pieces: list[tuple[str, float, int]] = []
    most = _MAX_PIECES + len(data) // 24
    others = 0
    trained = False
    try:
        at = _plain_pieces(data, pieces, most)
        for field, start, stop in _fields(data, at, len(data)):
            if field == _PIECES:
                pieces.append(_piece(data, start, stop))
            else:
                others += 1
                trained |= field in _SPECS
            if len(pieces) > most or others > _MAX_FIELDS:
                raise _Malformed(
                    f"more pieces or other fields before byte {stop} than its {len(data)} bytes warrant"
                )
    except _Malformed as error:
        raise FormatError(f"{source}: not a SentencePiece model, or a truncated one ({error})") from None
    except UnicodeDecodeError:
        raise FormatError(f"{source}: not a SentencePiece model: a piece is not UTF-8") from None
    if not pieces:
        raise FormatError(f"{source}: not a SentencePiece model: it has no pieces")
    if not math.isfinite(sum(score for _, score, _ in pieces)):
        raise FormatError(f"{source}: the score of a piece is infinite, or no number")
    if not trained:
        raise FormatError(f"{source}: the file is truncated: nothing follows its {len(pieces)} pieces")
    return pieces


class Normalizer(NamedTuple):
    """How a SentencePiece model was trained and how it treats text, as far as GGUF has keys for it."""

    unigram: bool
    space_prefix: bool
    strips: bool
    """Whether it leaves out spaces at the ends, and all but one of several."""
    characters: bytes
    """Its precompiled character map."""


def read_normalizer(data: bytes, source: str) -> Normalizer:
    """Read what `Normalizer` holds; the same arguments and errors as for :func:`read_pieces`."""
    unigram, prefix, strips, characters = True, True, True, b""
    try:
        for field, start, stop in _fields(data, 0, len(data)):
            if field == _TRAINER:
                for inner, begin, end in _fields(data, start, stop):
                    if inner == _MODEL_TYPE:
                        unigram = _varint(data, begin, end)[0] == _UNIGRAM
            elif field == _NORMALIZER:
                for inner, begin, end in _fields(data, start, stop):
                    if inner == _CHARACTERS:
                        characters = data[begin:end]
                    elif inner == _SPACE_PREFIX:
                        prefix = _varint(data, begin, end)[0] != 0
                    elif inner == _STRIPS:
                        strips = _varint(data, begin, end)[0] != 0
    except _Malformed as error:
        raise FormatError(f"{source}: not a SentencePiece model, or a truncated one ({error})") from None
    return Normalizer(unigram, prefix, strips, characters)


class _Malformed(Exception):
    """Bytes that are no protocol buffer."""


def _plain_pieces(data: bytes, pieces: list[tuple[str, float, int]], most: int) -> int:
    """Read pieces as long as they have the usual form; give the byte where that ends.

    Text (field 1), score (field 2), and perhaps a type (field 3), all of them short: a quick way for a
    quarter of a million of them. Whatever else comes is left to the reader of the format at large.
    """
    at, unpack = 0, _FLOAT.unpack_from
    while at + 4 < len(data) and data[at] == 0x0A and data[at + 2] == 0x0A and len(pieces) < most:
        length, text = data[at + 1], data[at + 3]
        end, score = at + 2 + length, at + 4 + text
        rest = end - score
        if length > 0x7F or not text or end > len(data) or rest not in (5, 7) or data[score] != 0x15:
            break
        kind = 1
        if rest == 7:
            kind = data[score + 6]
            if data[score + 5] != 0x18 or not TokenType.NORMAL <= kind <= TokenType.BYTE:
                break
        pieces.append((data[at + 4 : score].decode(), unpack(data, score + 1)[0], kind))
        at = end
    return at


def _piece(data: bytes, start: int, stop: int) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, int(TokenType.NORMAL)
    for number, (field, begin, end) in enumerate(_fields(data, start, stop)):
        if number == _MAX_FIELDS:
            raise _Malformed(f"a piece of more than {_MAX_FIELDS} fields at byte {start}")
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

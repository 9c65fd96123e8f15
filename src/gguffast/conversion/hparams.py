"""A checkpoint's ``config.json``, with the defaults that its class fills in.

A key that the file leaves out is not absent: the Hugging Face class has a default for it, and the model was
trained with that. Each architecture therefore declares the defaults that reach the output.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gguffast.errors import FileError, FormatError

Default = Any | Callable[["Hparams"], Any]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file whose root is an object.

    Raises
    ------
    FileError
        If the file cannot be read.
    FormatError
        If it is not JSON, or its root is not an object; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 text (byte {error.start}); fetch the file again") from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise FormatError(f"{path}: not valid JSON at {place}: {error.msg}; fetch the file again") from error
    except (RecursionError, ValueError) as error:
        raise FormatError(f"{path}: not usable JSON: {error}; fetch the file again") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: expected a JSON object at the root, found {type(value).__name__}")
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a checkpoint, with the text model's part moved to the root.

    Raises
    ------
    FileError
        If the folder or the file is missing.
    FormatError
        If the file is not a JSON object.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise FileError(f"{folder}: not a folder; expected one with a Hugging Face checkpoint")
    if not path.is_file():
        raise FileError(f"{folder}: no config.json; expected a folder with a Hugging Face checkpoint")
    config = read_json(path)
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def class_name(config: Mapping[str, Any], path: Path) -> str:
    """Return the model class: the first of ``architectures``.

    Raises
    ------
    FormatError
        If the file names none.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise FormatError(
            f'{path}: no "architectures", so the model class is unknown; is this a whole checkpoint?'
        )
    return names[0]


class Hparams:
    """Configuration values, checked as they are asked for.

    Parameters
    ----------
    config : mapping
        What :func:`read_config` returned.
    defaults : mapping of str to value or callable
        Class defaults. A plain value fills a missing key; a callable (given the hyperparameters) fills a
        missing or null one.
    ignored : sequence of str
        Keys that the class does not look at.
    path : Path
        The file, for messages.
    """

    def __init__(
        self, config: Mapping[str, Any], defaults: Mapping[str, Default], ignored: Sequence[str], path: Path
    ) -> None:
        self._values = {key: value for key, value in config.items() if key not in ignored}
        self.path = path
        for key, default in defaults.items():
            if callable(default):
                if self._values.get(key) is None:
                    self._values[key] = default(self)
            else:
                self._values.setdefault(key, default)
        self.rope = self._rope()

    @property
    def values(self) -> Mapping[str, Any]:
        """All values, the class defaults among them."""
        return self._values

    def get(self, key: str) -> Any:
        """Return the value, or None if it is missing or null."""
        return self._values.get(key)

    def integer(self, key: str, minimum: int = 1) -> int:
        """Return a whole number of at least `minimum` (and less than 2**31).

        Raises
        ------
        FormatError
            If the value is missing or something else.
        """
        value = self._values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value < 2**31:
            self._refuse(key, value, f"a whole number of at least {minimum}")
        return value

    def number(self, key: str) -> float:
        """Return a finite number.

        Raises
        ------
        FormatError
            If the value is missing or something else.
        """
        return self._number(key, self._values.get(key))

    def rope_number(self, key: str, default: float | None = None) -> float:
        """Return a finite number from the rope parameters, or `default` if it is missing."""
        value = self.rope.get(key)
        if value is None and default is not None:
            return default
        return self._number(f"rope_scaling.{key}", value)

    def mapping(self, key: str) -> dict[str, Any]:
        """Return an object; an empty one if it is missing or null.

        Raises
        ------
        FormatError
            If the value is something else.
        """
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            self._refuse(key, value, "an object or null")
        return value or {}

    @property
    def rope_theta_local(self) -> float | None:
        """Base frequency of sliding-window layers, or None."""
        local = self._rope_groups().get("sliding_attention")
        value = local.get("rope_theta") if isinstance(local, dict) else self.get("rope_local_base_freq")
        return None if value is None else self._number("rope_local_base_freq", value)

    def _number(self, key: str, value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value):
            self._refuse(key, value, "a number")
        return float(value)

    def _refuse(self, key: str, value: Any, expected: str) -> NoReturn:
        found = "is missing" if value is None else f"is {json.dumps(value)[:60]}"
        raise FormatError(f'{self.path}: "{key}" {found}; expected {expected}')

    def _rope_groups(self) -> dict[str, Any]:
        return self.mapping("rope_parameters") or self.mapping("rope_scaling")

    def _rope(self) -> dict[str, Any]:
        """Rope parameters of the full-attention layers, the older spellings brought to the newer one."""
        groups = self._rope_groups()
        full = groups.get("full_attention")
        if full is not None and not isinstance(full, dict):
            self._refuse("rope_parameters.full_attention", full, "an object")
        rope = dict(full or groups)
        rope.setdefault("rope_type", rope.get("type"))
        if "full_attention" in groups:
            return rope
        for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
            rope.setdefault(key, self.get(key))
        return rope

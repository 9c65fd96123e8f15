"""``general.*`` metadata: what the model card, the configuration and the folder's name say about a model.

The rules are those of the ``gguf`` package, which also fixes the keys' order; this module adds the checks
around them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gguffast.documents import read_json
from gguffast.errors import FileError, FormatError, OptionError
from gguffast.gguf import KV, GGUFValueType, kv

if TYPE_CHECKING:
    import gguf


class Weights(NamedTuple):
    """How many weights a model has, for the size label.

    Attributes
    ----------
    total : int
        All of them.
    active : int
        All that are not in experts, and one expert's.
    experts : int
        Number of experts; 0 for a dense model.
    """

    total: int
    active: int
    experts: int


def count_weights(tensors: Iterable[tuple[str, Sequence[int]]]) -> Weights:
    """Count weights; `tensors` are GGUF names with shapes in NumPy order."""
    total = active = experts = stacks = 0
    for name, shape in tensors:
        n = 1
        for length in shape:
            n *= length
        total += n
        if "_exps." in name and len(shape) == 3:
            active += n // shape[0]
            experts += shape[0]
            stacks += 1
        else:
            active += n
    return Weights(total, active, experts // stacks if stacks else 0)


@dataclass(frozen=True)
class General:
    """What is known about a model.

    Attributes
    ----------
    kvs : list of KV
        ``general.sampling.*``, ``general.name`` and so on, in file order.
    """

    kvs: list[KV]
    _metadata: gguf.Metadata

    def file_name(self, encoding: str | None) -> str:
        """Return the name by the GGUF naming convention; without `encoding`, that of a vocabulary."""
        import gguf

        m = self._metadata
        if encoding is None:
            return (
                gguf.naming_convention(m.name, m.basename, m.finetune, m.version, None, None, "vocab")
                + ".gguf"
            )
        return (
            gguf.naming_convention(m.name, m.basename, m.finetune, m.version, m.size_label, encoding)
            + ".gguf"
        )


def read_general(
    folder: Path, weights: Weights, *, model_name: str | None = None, override: Path | None = None
) -> General:
    """Gather what is known about the model in `folder`.

    Parameters
    ----------
    folder : Path
        The checkpoint, absolute: its last part may become the model's name.
    weights : Weights
        For the size label; a total of 0 gives none.
    model_name : str, optional
        ``general.name``, whatever else is found.
    override : Path, optional
        JSON object of ``general.*`` keys that count more than what is found.

    Raises
    ------
    FormatError
        A model card or an override that cannot be used.
    FileError
        The override cannot be read.
    OptionError
        The packages for conversion are not installed.
    """
    if override is not None:
        _check_override(override)
    try:
        import gguf
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise OptionError(
            f"converting needs the package {error.name!r}: pip install 'gguffast[convert]'"
        ) from error
    try:
        found = gguf.Metadata.load(override, folder, model_name, weights.total)
        _repetition_penalty(found, folder, override)
        if found.name is None:
            found.name = folder.name
        if found.size_label is None and weights.total:
            found.size_label = gguf.size_label(weights.total, weights.active, 0, weights.experts)
        return General(_encode(found), found)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 2}" if mark else ""
        raise FormatError(
            f"{folder / 'README.md'}{line}: the head of the model card is not valid YAML; mend it"
        ) from error
    except (AttributeError, KeyError, OptionError, TypeError, ValueError) as error:
        raise FormatError(
            f"{folder}: model card (README.md) or --metadata: a value of an unexpected kind ({error})"
        ) from error


def _check_override(path: Path) -> None:
    if not path.is_file():
        raise FileError(f"{path}: no such file; --metadata needs a JSON file of general.* keys")
    read_json(path)


def _repetition_penalty(found: gguf.Metadata, folder: Path, override: Path | None) -> None:
    # Generation configs say "repetition_penalty"; gguf 0.19.0 looks for "penalty_repeat" only.
    if found.sampling_penalty_repeat is None:
        found.sampling_penalty_repeat = gguf_generation_config(folder).get("repetition_penalty")


def gguf_generation_config(folder: Path) -> dict[str, Any]:
    """Return ``generation_config.json``; as the reference does, nothing if it is missing or damaged."""
    import gguf

    config = gguf.Metadata.load_generation_config(folder)
    return config if isinstance(config, dict) else {}


def _encode(metadata: gguf.Metadata) -> list[KV]:
    import gguf

    writer = gguf.GGUFWriter(None, "")
    writer.kv_data[0].clear()  # general.architecture, which is not this module's
    metadata.set_gguf_meta_model(writer)
    return [kv(key, v.value, GGUFValueType(v.type)) for key, v in writer.kv_data[0].items()]

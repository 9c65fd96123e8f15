"""The small language in which a model family is declared: what a rule, a key and a size are.

An architecture file (see ``architectures/``) says which Hugging Face classes it covers, what each of their
tensors is called in GGUF and which shape it has, and which configuration values become which metadata keys.
Its words come from four modules: this one has the sentences and the sizes, `blocks` the groups of tensors
that many families share, `steps` what is done to tensors on the way, and `keys` the metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gguffast.conversion.hparams import Default, Hparams, Mtp
from gguffast.errors import OptionError
from gguffast.gguf import KV
from gguffast.sources.lazy import LazyTensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Size = Callable[[Hparams], int]
"""A length that the configuration makes; in a layer's tensor it may look at ``h.layer``."""

When = Callable[[Hparams], bool]
"""Whether something is so for a model, or for the layer ``h.layer`` of one."""

Share = Callable[[LazyTensor, list[int]], list[LazyTensor]]
"""How one tensor becomes several, of so many rows each."""

Step = Callable[[LazyTensor, Hparams], LazyTensor]
"""Something that is done to a tensor on its way; lazy, like all of :mod:`gguffast.sources.lazy`."""


class Rule(NamedTuple):
    """What becomes of one tensor (pattern) of a checkpoint.

    Attributes
    ----------
    name : str or tuple of str
        GGUF name without its ending; several names share the rows of the matrix, or of each one of a stack.
    shape : tuple of Size
        Expected shape, NumPy order. A bias has the first size alone. Without one it is not looked at.
    steps : tuple of Step
        What is done to it, in this order, before its rows are shared out.
    parts : tuple of Size
        How many rows each of several names gets; evenly without it.
    share : Share, optional
        How they get them; None: one behind the other.
    ending : str, optional
        Ending of the GGUF name; None is that of the checkpoint's, ``.weight`` if it has none.
    bias : bool
        Whether a ``.bias`` has to be there; without it one is taken if it is there.
    stack : Size, optional
        How many tensors, numbered in the name where a layer's number would be, are one stack.
    optional : bool or callable
        Whether the tensor may be missing (in the layer ``h.layer``).
    when : callable, optional
        Whether the model, or the layer ``h.layer``, has the tensor.
    """

    name: str | tuple[str, ...]
    shape: tuple[Size, ...]
    steps: tuple[Step, ...] = ()
    parts: tuple[Size, ...] = ()
    share: Share | None = None
    ending: str | None = None
    bias: bool = False
    stack: Size | None = None
    optional: bool | When = False
    when: When | None = None


class Generated(NamedTuple):
    """A tensor that comes from the configuration: GGUF name and float32 values."""

    name: str
    values: NDArray[np.float32]


class Facts(NamedTuple):
    """What a metadata key may be made of."""

    name: str
    """``general.architecture``."""
    hparams: Hparams
    file_type: int


Key = Callable[[Facts], Iterator[KV]]


@dataclass(frozen=True)
class Architecture:
    """One Hugging Face model class.

    Attributes
    ----------
    hf_class : str
        First of ``architectures`` in config.json.
    name : str
        ``general.architecture``.
    tensors : mapping of str to Rule or None
        By Hugging Face name without ``.weight``; ``{i}`` stands for the layer, ``{e}`` for the expert.
        Experts are stacked in the order of their numbers. None: known, and left out.
    keys : sequence of Key
        Metadata from ``general.type`` on, in file order.
    defaults : mapping
        See :class:`Hparams`.
    early_keys : sequence of Key
        Metadata that stands right after ``general.architecture``.
    ignored : sequence of str
        Configuration keys that the class does not look at.
    generated : callable
        Tensors that come from the configuration; they stand first.
    experts : Size, optional
        Number of experts, where tensors have an ``{e}``.
    nextn : Size, optional
        Number of layers for multi-token prediction that follow the model's own; None: there are none.
    variant : callable, optional
        Which of several architectures the configuration makes it, where one class covers them.
    rename : callable, optional
        Gives a tensor of the checkpoint the name that `tensors` has, or None to leave it out.
    vocabulary : callable
        What the family asks of the tokenizer's reader: keyword arguments of
        :func:`gguffast.conversion.vocab.load_vocab`.
    """

    hf_class: str
    name: str
    tensors: Mapping[str, Rule | None]
    keys: Sequence[Key]
    defaults: Mapping[str, Default] = field(default_factory=dict)
    early_keys: Sequence[Key] = ()
    ignored: Sequence[str] = ()
    generated: Callable[[Hparams], Iterator[Generated]] = lambda hparams: iter(())
    experts: Size | None = None
    nextn: Size | None = None
    variant: Callable[[Mapping[str, Any]], Architecture] | None = None
    rename: Callable[[str, Hparams], str | None] | None = None
    vocabulary: Callable[[Hparams], dict[str, Any]] = lambda hparams: {"kinds": ("bpe",)}

    def hparams(
        self,
        config: Mapping[str, Any],
        path: Path,
        tensors: Mapping[str, LazyTensor] | None = None,
        mtp: Mtp = Mtp.WITH,
    ) -> Hparams:
        """Read a configuration as this class does.

        Parameters
        ----------
        config : mapping
            What :func:`gguffast.conversion.hparams.read_config` returned.
        path : Path
            Its file, for messages.
        tensors : mapping of str to LazyTensor
            The checkpoint's tensors: not every configuration says how many layers for multi-token prediction
            there are.
        mtp : Mtp
            What becomes of those layers.

        Raises
        ------
        FormatError
            A value of another kind than it has to be.
        OptionError
            There are no such layers, though `mtp` asks for nothing else.
        """
        h = Hparams(config, self.defaults, self.ignored, path)
        h.tensors, h.mtp = tensors or {}, mtp
        nextn = self.nextn(h) if self.nextn else 0
        if mtp is Mtp.ONLY and not nextn:
            raise OptionError(f"{path.parent}: the model has no layers for multi-token prediction")
        h.nextn = 0 if mtp is Mtp.WITHOUT else nextn
        return h


def classes(architecture: Architecture, *names: str) -> tuple[Architecture, ...]:
    """Declare several Hugging Face classes that are one architecture."""
    return tuple(replace(architecture, hf_class=name) for name in names)


MAX_LAYERS = 512
"""As many as llama.cpp loads (``LLAMA_MAX_LAYERS``)."""

MAX_WIDTH = 1 << 16
"""Widest head of attention; real ones have up to 576 numbers."""

# Sizes


def size(key: str, times: int = 1) -> Size:
    """Take a size from the configuration."""
    return lambda h: h.integer(key, 1) * times


def one(h: Hparams) -> int:
    """Be the size 1."""
    return 1


def head_dim(h: Hparams) -> int:
    """Width of one attention head."""
    if h.get("head_dim") is None:
        return HIDDEN(h) // HEADS(h)
    return h.integer("head_dim", 1, MAX_WIDTH)


def kv_heads(h: Hparams) -> int:
    """Heads of keys and values; as many as queries have, if the configuration does not say."""
    return HEADS(h) if h.get("num_key_value_heads") is None else h.integer("num_key_value_heads", 1)


def query_width(h: Hparams) -> int:
    """Width of all query heads together."""
    return HEADS(h) * head_dim(h)


def kv_width(h: Hparams) -> int:
    """Width of all key heads together."""
    return kv_heads(h) * head_dim(h)


def layers(h: Hparams) -> int:
    """Count the layers."""
    return h.integer("num_hidden_layers", 1, MAX_LAYERS)


def blocks(h: Hparams) -> int:
    """Count the layers, and those for multi-token prediction behind them."""
    return layers(h) + h.nextn


def is_nextn(h: Hparams) -> bool:
    """Tell whether the layer is one for multi-token prediction."""
    return h.layer is not None and h.layer >= layers(h)


def layer_kind(h: Hparams) -> str | None:
    """Name the kind of the layer: its entry in ``layer_types``; None for multi-token prediction.

    Raises
    ------
    FormatError
        There is no such list of text, with an entry for every layer.
    """
    kinds = h.items("layer_types")
    if len(kinds) != layers(h) or not all(isinstance(kind, str) for kind in kinds):
        h.refuse("layer_types", f"a list of {layers(h)} kinds, one a layer")
    return None if h.layer is None or is_nextn(h) else kinds[h.layer]


HEADS = size("num_attention_heads")
HIDDEN = size("hidden_size")
FEED_FORWARD = size("intermediate_size")
VOCABULARY = size("vocab_size")

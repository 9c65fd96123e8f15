"""From a checkpoint's tensors to the GGUF file's, by a family's rules: names, order, shapes, stacks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from gguffast.conversion.architecture import Architecture, Rule, blocks, layers
from gguffast.conversion.hparams import Hparams, Mtp
from gguffast.conversion.steps import share_rows
from gguffast.documents import short
from gguffast.errors import FormatError
from gguffast.sources.lazy import DType, LazyTensor, from_array, stack

_NUMBER = re.compile(r"(?<=\.)[0-9]{1,9}(?=\.|$)")
_ENDING = re.compile(r"\.(weight|bias)$")

# Buffers that old checkpoints carry along, and the parts of a multimodal model that are not its text model.
_DROPPED = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")
_NOT_TEXT = re.compile(
    r"^(vit|vpm|mlp|merger|resampler)\b|(vision|visual|audio|talker)[._]|projector\.|pre_mm_projector_norm"
    r"|image_newline|patch_embed|patch_merger\."
)


class Mapped(NamedTuple):
    """A tensor under its GGUF name."""

    name: str
    tensor: LazyTensor


class _Place(NamedTuple):
    """Which tensor of a model a name means."""

    pattern: str
    ending: str
    layer: int | None
    expert: int | None


def is_text(name: str) -> bool:
    """Tell the tensors of the text model from the rest."""
    return not name.endswith(_DROPPED) and not _NOT_TEXT.search(name)


def map_tensors(
    architecture: Architecture, hparams: Hparams, tensors: Mapping[str, LazyTensor], vocabulary: int
) -> list[Mapped]:
    """Apply an architecture's rules to a checkpoint.

    Parameters
    ----------
    architecture, hparams
        The rules, and the sizes.
    tensors : mapping of str to LazyTensor
        The checkpoint, in the order in which the output shall stand. Stacked experts stand where the last of
        a layer's experts is met.
    vocabulary : int
        Tokens that the tokenizer has.

    Raises
    ------
    FormatError
        A tensor that is missing, unknown, there twice, or of another shape than the configuration says.
    """
    hparams.tokens = vocabulary
    mapping = _Mapping(architecture, hparams)
    found = [Mapped(g.name, from_array(g.name, g.values)) for g in architecture.generated(hparams)]
    for name, tensor in tensors.items():
        if is_text(name):
            found.extend(mapping.take(name, tensor))
    mapping.check(found)
    # What is quantized already, and only repacked, stands first.
    return sorted(found, key=lambda mapped: mapped.tensor.dtype is not DType.MXFP4)


def map_some(architecture: Architecture, hparams: Hparams, tensors: Mapping[str, LazyTensor]) -> list[Mapped]:
    """Apply an architecture's rules to some of a checkpoint's tensors; parameters as for :func:`map_tensors`.

    Raises
    ------
    FormatError
        As there, but only the rest of a stack is missed.
    """
    mapping = _Mapping(architecture, hparams)
    found = [mapped for name, tensor in tensors.items() for mapped in mapping.take(name, tensor)]
    mapping.check_stacks()
    return found


class _Mapping:
    def __init__(self, architecture: Architecture, hparams: Hparams) -> None:
        self._architecture = architecture
        self._h = hparams
        self._own = layers(hparams)
        self._layers = blocks(hparams)
        # Layers for multi-token prediction that are in the checkpoint, wanted or not.
        self._known = self._own + (architecture.nextn(hparams) if architecture.nextn else 0)
        self._views = [hparams.at(layer) for layer in range(self._layers)]
        self._experts = architecture.experts(hparams) if architecture.experts else 0
        self._waiting: dict[int, dict[tuple[str, int], LazyTensor]] = {}
        self._members: dict[str, dict[int, LazyTensor]] = {}
        self._stacked = [pattern for pattern in architecture.tensors if "{e}" in pattern]
        self._seen: set[str] = set()
        self._made: set[str] = set()

    def take(self, name: str, tensor: LazyTensor) -> Iterator[Mapped]:
        """Give the tensors that are complete once this one has come."""
        plain: str | None = name.replace("language_model.", "")
        if self._architecture.rename:
            plain = self._architecture.rename(name.replace("language_model.", ""), self._h)
        if plain is None:
            return
        place = self._place(name, plain)
        rule = self._architecture.tensors[place.pattern]
        if rule is not None and rule.stack:
            yield from self._take_member(name, tensor, place, rule, rule.stack(self._h))
            return
        if place.layer is not None:
            self._check_range(name, "layer", place.layer, self._known)
        if rule is None or not self._wanted(place.layer):
            return
        h = self._h if place.layer is None else self._views[place.layer]
        if rule.when and not rule.when(h):
            what = "the model" if place.layer is None else f"layer {place.layer}"
            raise self._error(f"tensor {short(name)}: {self._h.path} makes {what} another kind")
        self._check_shape(name, tensor, rule, place.ending, h)
        if place.layer is not None and place.expert is not None:
            yield from self._take_expert(name, tensor, place.pattern, place.layer, place.expert)
            return
        ending = rule.ending if rule.ending is not None else place.ending or ".weight"
        for new_name, part in self._apply(rule, tensor, h):
            yield self._named(new_name.format(i=place.layer) + ending, part, name)

    def check(self, found: list[Mapped]) -> None:
        """Name what is missing."""
        self.check_stacks()
        names = {mapped.name for mapped in found}
        for pattern, rule in self._architecture.tensors.items():
            if rule is None:
                continue
            if rule.stack:
                numbers = self._members.get(pattern, {})
                missing = [str(i) for i in range(rule.stack(self._h)) if i not in numbers]
                self._check_present(pattern.replace("{i}", *missing[:1] or "0"), rule, None, names)
                continue
            for h in self._views if "{i}" in pattern else (self._h,):
                if self._wanted(h.layer) and self._needs(pattern, rule, h):
                    self._check_present(pattern.replace("{i}", str(h.layer)), rule, h.layer, names)

    def check_stacks(self) -> None:
        """Name what is missing in stacks that are there in part."""
        waiting = next(iter(self._waiting.items()), None)
        if waiting:
            self._refuse_experts(*waiting)
        for pattern, members in self._members.items():
            rule = self._architecture.tensors[pattern]
            assert rule is not None
            assert rule.stack is not None
            missing = [str(i) for i in range(rule.stack(self._h)) if i not in members]
            if missing:
                raise self._missing(pattern.replace("{i}", missing[0]) + ".weight")

    def _needs(self, pattern: str, rule: Rule, h: Hparams) -> bool:
        if rule.when and not rule.when(h):
            return False
        if pattern == "lm_head" and not h.get("tie_word_embeddings"):
            return True
        return not (rule.optional(h) if callable(rule.optional) else rule.optional)

    def _wanted(self, layer: int | None) -> bool:
        if layer is None:
            return True
        return layer >= self._own if self._h.mtp is Mtp.ONLY else layer < self._layers

    def _place(self, name: str, plain: str) -> _Place:
        if plain in self._seen:
            raise self._error(f"tensor {short(name)} is there twice")
        self._seen.add(plain)
        numbers = [int(n) for n in _NUMBER.findall(plain)][:2]
        ending = _ENDING.search(plain)
        slots = iter(("{i}", "{e}"))
        pattern = _NUMBER.sub(lambda match: next(slots, match[0]), _ENDING.sub("", plain))
        if pattern not in self._architecture.tensors:
            raise self._error(f"tensor {short(name)}: {self._architecture.hf_class} has no such tensor")
        place = _Place(pattern, ending[0] if ending else "", *numbers, *(None,) * (2 - len(numbers)))
        if place.expert is not None:
            self._check_range(name, "expert", place.expert, self._experts)
        return place

    def _check_range(self, name: str, what: str, number: int, count: int) -> None:
        if number >= count:
            raise self._error(
                f"tensor {short(name)}: {what} {number}, but {self._h.path} says there are {count}"
            )

    def _check_shape(self, name: str, tensor: LazyTensor, rule: Rule, ending: str, h: Hparams) -> None:
        expected = tuple(size(h) for size in rule.shape)
        if ending == ".bias":
            expected = expected[:1]
        if rule.shape and tensor.shape != expected:
            raise self._error(
                f"tensor {short(name)}: shape {list(tensor.shape)}, "
                f"but {self._h.path} makes it {list(expected)}"
            )

    def _take_member(
        self, name: str, tensor: LazyTensor, place: _Place, rule: Rule, count: int
    ) -> Iterator[Mapped]:
        assert place.layer is not None
        assert isinstance(rule.name, str)
        self._check_range(name, "number", place.layer, count)
        self._check_shape(name, tensor, rule, place.ending, self._h)
        members = self._members.setdefault(place.pattern, {})
        members[place.layer] = tensor
        if len(members) == count and self._wanted(None):
            yield self._named(f"{rule.name}.weight", stack([members[i] for i in range(count)]), name)

    def _take_expert(
        self, name: str, tensor: LazyTensor, pattern: str, layer: int, expert: int
    ) -> Iterator[Mapped]:
        group = self._waiting.setdefault(layer, {})
        if (pattern, expert) in group:
            raise self._error(f"tensor {short(name)} is there twice")
        group[pattern, expert] = tensor
        if len(group) < len(self._stacked) * self._experts:
            return
        del self._waiting[layer]
        h = self._views[layer]
        for pattern in self._stacked:
            rule = self._architecture.tensors[pattern]
            assert rule is not None
            members = [
                part for e in range(self._experts) for _, part in self._apply(rule, group[pattern, e], h)
            ]
            yield self._named(f"{rule.name}.weight".format(i=layer), stack(members), name)

    def _apply(self, rule: Rule, tensor: LazyTensor, h: Hparams) -> Iterator[tuple[str, LazyTensor]]:
        for step in rule.steps:
            tensor = step(tensor, h)
        if isinstance(rule.name, str):
            yield rule.name, tensor
            return
        rows = tensor.shape[-2] if len(tensor.shape) > 1 else tensor.shape[0]
        heights = [part(h) for part in rule.parts] or [rows // len(rule.name)] * len(rule.name)
        yield from zip(rule.name, (rule.share or share_rows)(tensor, heights), strict=True)

    def _named(self, name: str, tensor: LazyTensor, hf_name: str) -> Mapped:
        if name in self._made:
            raise self._error(f"tensor {short(hf_name)}: another tensor has become {name} already")
        self._made.add(name)
        return Mapped(name, tensor)

    def _check_present(self, hf_name: str, rule: Rule, layer: int | None, names: set[str]) -> None:
        outputs = (rule.name,) if isinstance(rule.name, str) else rule.name
        endings = (".weight", ".bias") if rule.bias else (".weight",)
        for ending in endings if rule.ending is None else (rule.ending,):
            if any(output.format(i=layer) + ending not in names for output in outputs):
                hf_name = hf_name.replace("{e}", "0") + (ending if rule.ending is None else "")
                raise self._missing(hf_name)

    def _refuse_experts(self, layer: int, group: dict[tuple[str, int], LazyTensor]) -> None:
        for pattern in self._stacked:
            for expert in range(self._experts):
                if (pattern, expert) not in group:
                    name = pattern.format(i=layer, e=expert)
                    raise self._missing(f"{name}.weight")

    def _missing(self, name: str) -> FormatError:
        return self._error(f"tensor {name} is missing; is the checkpoint complete?")

    def _error(self, message: str) -> FormatError:
        return FormatError(f"{self._h.path.parent}: {message}")

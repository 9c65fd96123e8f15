"""Special ids, ``add_*`` flags, chat templates: what every kind of tokenizer adds after its tokens.

The order of the keys and the precedence of the files are the reference converter's (``SpecialVocab`` of its
gguf-py): tokenizer_config.json names the tokens, tokenizer.json knows their ids and what its post-processor
adds, config.json fills the gaps with plain ids.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from typing import Any

from .files import Files, as_dict, content, dicts
from .table import Entry

KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_ID_KEYS = {  # "seperator" is how the format spells it; "cls" has no key that anybody reads
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "mask": "mask",
    "eot": "eot",
    "eom": "eom",
}
_FLAG_KINDS = ("bos", "eos", "sep")
_NAME_LETTERS = frozenset(string.ascii_letters + string.digits)


def id_entry(kind: str, token: int) -> Entry:
    """Build the key of one special id, `kind` as in ``bos`` or ``eot``."""
    return Entry(f"tokenizer.ggml.{_ID_KEYS[kind]}_token_id", token, "UINT32")


def flag_entry(name: str, value: bool) -> Entry:
    """Build a key such as ``tokenizer.ggml.add_bos_token``."""
    return Entry(f"tokenizer.ggml.{name}", value, "BOOL")


def special_entries(
    files: Files, size: int | None, warnings: list[str], known: Mapping[str, int] | None = None
) -> list[Entry]:
    """Collect special ids, flags, templates and normalizer switches.

    Parameters
    ----------
    files : Files
        The checkpoint's tokenizer files.
    size : int, optional
        Ids from here on are left out with a warning; None (byte-level BPE) writes them as they are.
    warnings : list of str
        Receives the warnings.
    known : mapping of str to int, optional
        Ids by kind that fill what the files leave open.

    Returns
    -------
    list of Entry
    """
    reader = _Reader(files, size, warnings)
    found = reader.ids | {kind: token for kind, token in (known or {}).items() if kind not in reader.ids}
    ids = [id_entry(kind, token) for kind, token in found.items() if kind in _ID_KEYS]
    flags = [
        flag_entry(f"add_{kind}_token", value) for kind, value in reader.flags.items() if kind in _FLAG_KINDS
    ]
    return [*ids, *flags, *chat_template_entries(files), *reader.normalizer]


class _Reader:
    """Special ids and flags; one object for one reading, since the files amend each other."""

    def __init__(self, files: Files, size: int | None, warnings: list[str]) -> None:
        self.files, self.size, self.warnings = files, size, warnings
        self.kinds = list(KINDS)
        self.ids: dict[str, int] = {}
        self.flags: dict[str, bool] = {}
        self.config = dict(files.json("tokenizer_config.json"))
        tokenizer = files.json("tokenizer.json")
        self.normalizer = list(_normalizer_entries(tokenizer.get("normalizer")))
        if tokenizer:
            self._read_post_processor(tokenizer)
        if self.config:
            self._read_tokenizer_config(tokenizer)
        self._read_config()

    def _read_post_processor(self, tokenizer: dict[str, Any]) -> None:
        self.bos, self.eos = self.config.get("bos_token"), self.config.get("eos_token")
        self.cls, self.sep = self.config.get("cls_token"), self.config.get("sep_token")
        if not self.bos and self.cls:
            self.bos = self._amend("bos", self.cls)
        if not self.eos and self.sep:
            self.eos = self._amend("eos", self.sep)
        whole = as_dict(tokenizer.get("post_processor"))
        for processor in dicts(whole.get("processors", [whole])):
            if processor.get("type") == "ByteLevel":
                self.flags.setdefault("bos", False)
                self.flags.setdefault("eos", False)
            elif processor.get("type") == "RobertaProcessing":
                self._read_roberta(processor)
            elif processor.get("type") == "TemplateProcessing":
                self._read_template(processor)

    def _amend(self, kind: str, token: Any) -> Any:
        # Without a tokenizer_config.json nothing is looked up by name, so nothing needs amending.
        if self.config:
            self.config[f"{kind}_token"] = token
        return token

    def _read_roberta(self, processor: dict[str, Any]) -> None:
        self.flags.update(bos=True, eos=True, sep=True)
        if not self.cls:
            self.cls = self._amend("cls", _first(processor.get("cls"), self.bos))
        if not self.sep:
            self.sep = self._amend("sep", _first(processor.get("sep"), self.eos))

    def _read_template(self, processor: dict[str, Any]) -> None:
        single, pair = list(dicts(processor.get("single"))), list(dicts(processor.get("pair")))
        first = last = None
        if len(single) > 1:
            if first := _special(single[0]):
                self._read_leading(first)
            if last := _special(single[-1]):
                self._read_trailing(last)
        if pair:
            self._read_pair(pair, first, last)

    def _read_leading(self, token: str) -> None:
        if not self.config:
            self.bos = token
        elif token not in (self.bos, self.cls):
            self.bos = self.bos or self._amend("bos", token)
            self.cls = self.cls or self._amend("cls", token)
        self.flags["bos"] = token in (self.bos, self.cls)

    def _read_trailing(self, token: str) -> None:
        if not self.config:
            self.eos = token
        elif token != self.eos:
            # What ends a text here is not the configured end: that one becomes the end of a turn (or of a
            # message).
            for kind in ("eot", "eom"):
                if kind not in self.kinds:
                    self.kinds.append(kind)
                    self._amend(kind, self.eos)
                    break
            self.eos = self._amend("eos", token)
        self.flags["eos"] = token == self.eos

    def _read_pair(self, pair: list[dict[str, Any]], first: str | None, last: str | None) -> None:
        start = 1 if first and _special(pair[0]) == first else 0
        stop = len(pair) - 1 if last and _special(pair[-1]) == last else len(pair)
        middle = pair[start:stop]
        if len(middle) < 3 or _sequence(middle[0]) != "A" or _sequence(middle[-1]) != "B":
            return
        between = [_special(item) for item in middle[1:-1]]
        ends = (self.sep, self.eos)
        add = between[0] is not None and between[0] in ends and not last
        if len(between) == 2 and between[1] is not None and between[1] in ends:
            add = True
        self.flags["sep"] = add
        if add and not self.sep:
            self._amend("sep", self.eos)

    def _read_tokenizer_config(self, tokenizer: dict[str, Any]) -> None:
        ids: dict[str, Any] = {}
        for added in dicts(tokenizer.get("added_tokens")):
            if (text := content(added)) is not None:
                ids.setdefault(text, added.get("id"))
        for kind in self.kinds:
            flag = self.config.get(f"add_{kind}_token")
            if isinstance(flag, bool):
                self.flags.setdefault(kind, flag)
            if (text := content(self.config.get(f"{kind}_token"))) is not None:
                self._set(kind, ids.get(text), "tokenizer.json")

    def _read_config(self) -> None:
        config = self.files.json("config.json")
        for kind in self.kinds:
            token = config.get(f"{kind}_token_id")
            if token is None:
                token = as_dict(config.get("text_config")).get(f"{kind}_token_id")
            self._set(kind, token, "config.json")

    def _set(self, kind: str, token: Any, source: str) -> None:
        if type(token) is not int:  # a list of ids has no place in the format; null means "none"
            return
        if not 0 <= token < 1 << 32:
            raise self.files.damaged(source, f"{token} cannot be the id of the {kind} token")
        if self.size is not None and token >= self.size:
            self.warnings.append(f"the {kind} token {token} is left out: there are only {self.size} tokens")
        else:
            self.ids.setdefault(kind, token)


def _first(value: Any, default: Any) -> Any:
    return value[0] if isinstance(value, list) and value else default


def _special(item: dict[str, Any]) -> str | None:
    name = as_dict(item.get("SpecialToken")).get("id")
    return name if isinstance(name, str) else None


def _sequence(item: dict[str, Any]) -> Any:
    return as_dict(item.get("Sequence")).get("id")


def _normalizer_entries(normalizer: Any) -> Iterator[Entry]:
    switches: dict[str, bool] = {}
    for step in _flatten(normalizer):
        if step.get("type") == "Lowercase":
            switches["lowercase"] = True
        elif step.get("type") == "StripAccents":
            switches["strip_accents"] = True
        elif step.get("type") == "BertNormalizer":
            switches.update(
                {
                    name: step[name]
                    for name in ("lowercase", "strip_accents")
                    if isinstance(step.get(name), bool)
                }
            )
    for name in ("lowercase", "strip_accents"):
        if name in switches:
            yield flag_entry(f"normalizer.{name}", switches[name])


def _flatten(normalizer: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(normalizer, dict):
        return
    if normalizer.get("type") == "Sequence":
        for step in dicts(normalizer.get("normalizers")):
            yield from _flatten(step)
    else:
        yield normalizer


def chat_template_entries(files: Files) -> list[Entry]:
    """Find the chat template: in tokenizer_config.json, else chat_template.jinja, else chat_template.json.

    Without a tokenizer_config.json there is none, as in the reference converter. A list of named templates
    becomes one key for each, and ``default`` the plain one.
    """
    config = files.json("tokenizer_config.json")
    if not config:
        return []
    template = config["chat_template"] if "chat_template" in config else _template_file(files)
    if isinstance(template, str):
        return _template_entry("tokenizer.chat_template", template)
    named = {}
    for choice in dicts(template):
        name, text = choice.get("name"), choice.get("template")
        if isinstance(name, str) and name and isinstance(text, str):
            named["".join(c if c in _NAME_LETTERS else "_" for c in name)] = text
    default = named.pop("default", "")
    entries = [
        e for name, text in named.items() for e in _template_entry(f"tokenizer.chat_template.{name}", text)
    ]
    if named:  # the reference writes the names in the order of a set, another one in every run
        entries.append(Entry("tokenizer.chat_templates", sorted(named), "ARRAY/STRING"))
    return entries + _template_entry("tokenizer.chat_template", default)


def _template_entry(key: str, text: str) -> list[Entry]:
    return [Entry(key, text, "STRING")] if text else []


def _template_file(files: Files) -> Any:
    if files.has("chat_template.jinja"):
        text = files.text("chat_template.jinja")
        more = sorted(files.path("additional_chat_templates").glob("*.jinja"))
        if not more:
            return text
        named = [(path.stem, files.text(str(path.relative_to(files.directory)))) for path in more]
        return [{"name": name, "template": text} for name, text in [("default", text), *named]]
    return files.json("chat_template.json").get("chat_template")

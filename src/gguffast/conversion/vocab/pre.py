r"""Pre-tokenizers: how text is cut before merging, recognised by the structure of tokenizer.json.

llama.cpp knows its pre-tokenizers by name (``tokenizer.ggml.pre``) and holds their regular expressions
itself. The reference converter finds the name by tokenizing a check text and hashing the ids, which fails for
every vocabulary it has not seen. The structure tells the same without a tokenizer engine, and for fine-tunes
with more tokens as well.

The steps of ``pre_tokenizer`` are written as regular expressions: ``Split`` as its own, ``Digits`` as
``\p{N}`` (or ``\p{N}+``), ``ByteLevel`` with its regex as `GPT2`. Families that share their steps are told
apart by a token at a certain id. A new family is one line in `TABLE`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ...documents import short, shown
from .files import Files, as_dict, content, dicts
from .pre_hashes import CHECK_TEXT, HASHES

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SHORT_FORMS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_SYMBOLS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
LLAMA3 = _SHORT_FORMS + "|" + _WORDS + r"|\p{N}{1,3}" + _SYMBOLS + _TAIL
QWEN2 = _SHORT_FORMS + "|" + _WORDS + r"|\p{N}" + _SYMBOLS + _TAIL
_LOWER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _TAIL
TEKKEN = _LOWER + "|" + _UPPER + r"|\p{N}" + _CASED_TAIL
GPT4O = f"{_LOWER}{_SHORT_FORMS}?|{_UPPER}{_SHORT_FORMS}?" + r"|\p{N}{1,3}" + _CASED_TAIL
_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + _TAIL
)
_DEEPSEEK_LETTERS = (  # code points, for many of these letters look like others
    r"\s?[A-Za-z"
    "\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
    "]+"
)
_DEEPSEEK_SYMBOLS = r"\s?[" "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002" "]+"
_DEEPSEEK_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_BLOOM = r" ?[^(\s|[.,!?" "\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c" "])]+"
_BERT = ("BertPreTokenizer", "no bytes")
_AYA_DIGITS = r"\d{1,3}(?=(?:\d{3})*\b)"


class Rule(NamedTuple):
    """One family: a name that llama.cpp knows, its steps, and what else tells it from the others.

    `tokens` must be in the vocabulary at these ids (None: at any); `bos` says whether BOS is put before every
    text.
    """

    name: str
    steps: tuple[str, ...]
    tokens: Mapping[str, int | None] = {}
    bos: bool | None = None

    def fits(self, steps: tuple[str, ...], vocab: Mapping[str, int], bos: bool) -> bool:
        """Whether a tokenizer with these steps, tokens and habit is of the family."""
        return (
            self.steps == steps
            and self.bos in (None, bos)
            and all(text in vocab and number in (None, vocab[text]) for text, number in self.tokens.items())
        )


# The first rule that fits counts: within one set of steps, those with tokens come before the general one.
TABLE = (
    Rule("bert-bge-large", _BERT, {"[CLS]": 101, "\u4e00": 671}),  # the Chinese BERT's vocabulary
    Rule("bert-bge", _BERT),  # llama.cpp tells no WordPiece tokenizer from another
    Rule("lfm2", (LLAMA3,), {"<|startoftext|>": 1}),
    Rule("glm4", (LLAMA3,), {"[gMASK]": None}),
    Rule("dbrx", (LLAMA3,), {"<|endoftext|>": 100257}, bos=False),  # cl100k: DBRX, Phi-4, OLMo 2
    Rule("llama-bpe", (LLAMA3,), bos=True),
    Rule("smaug-bpe", (LLAMA3,), bos=False),  # Llama 3's first tokenizer.json, SmolLM3
    Rule("deepseek-r1-qwen", (QWEN2,), {"<｜begin▁of▁sentence｜>": 151646}, bos=True),  # noqa: RUF001
    Rule("stablelm2", (QWEN2,), {"<|endoftext|>": 100257}),
    Rule("qwen2", (QWEN2,)),
    Rule("modern-bert", (GPT2,), {"[CLS]": 50281}),
    Rule("olmo", (GPT2,), {"<|padding|>": 1, "  ": 50276}),  # GPT-NeoX's vocabulary with its runs of spaces
    Rule("mpt", (GPT2,), {"<|padding|>": 1}),
    Rule("phi-2", (GPT2,), {"<|endoftext|>": 50256, " " * 31: 50257}),
    Rule("gpt-2", (GPT2,)),
    Rule("command-r", (r"\p{N}", GPT2), {"<BOS_TOKEN>": 5}),
    Rule("starcoder", (r"\p{N}", GPT2), {"<repo_name>": 5, "<file_sep>": 6}),  # StarCoder 2
    Rule("refact", (r"\p{N}", GPT2), {"<fim_prefix>": 1, "<filename>": 5}),  # StarCoder 1, Granite 3
    Rule("smollm", (r"\p{N}", GPT2)),
    Rule("falcon", ("Punctuation Contiguous", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    Rule("tekken", (TEKKEN,)),
    Rule("llama4", (GPT4O,), {"<|begin_of_text|>": 200000}),
    Rule("gpt-4o", (GPT4O,)),
    Rule("tiny_aya", (_AYA_DIGITS, GPT4O)),
    Rule("joyai-llm", (r"\p{N}{1,3}", _CJK, _DEEPSEEK3), {"<｜begin▁of▁sentence｜>": 0}, bos=False),  # noqa: RUF001
    Rule("deepseek-v3", (r"\p{N}{1,3}", _CJK, _DEEPSEEK3)),
    Rule(
        "deepseek-llm",
        (r"[\r\n]", _DEEPSEEK_LETTERS, _DEEPSEEK_SYMBOLS, r"\s+$", _DEEPSEEK_CJK, r"\p{N}"),
    ),
    Rule("deepseek-coder", (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, r"\p{N}")),
    Rule(
        "qwen35",
        (_SHORT_FORMS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _TAIL,),
    ),
    Rule("minicpm5", (r"\p{N}{1,3}", LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+"))),
    Rule("ufakzeka", (QWEN2.removeprefix(_SHORT_FORMS + "|"),)),
    Rule(
        "bailingmoe",
        (
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
            r"|\s*[\r\n]|\s+(?!\S)|\s+",
        ),
    ),
    Rule(
        "seed-coder",
        (_SHORT_FORMS + "|" + _WORDS + r"|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+" + _TAIL,),
    ),
    Rule("bloom", (_BLOOM,)),
    Rule("viking", (_BLOOM, r"\p{N}")),
    # Gemma 3 without its tokenizer.model: SentencePiece-style BPE that llama.cpp runs under this name.
    Rule("granite-embed-multi-311m", ("MergedWithPrevious ' '", "no bytes"), {"<bos>": 2}),
)


def recognise(files: Files, vocab: Mapping[str, int]) -> str:
    """Find the name of a tokenizer's pre-tokenizer.

    Parameters
    ----------
    files : Files
        The checkpoint's tokenizer files.
    vocab : mapping of str to int
        Tokens of the tokenizer's model.

    Returns
    -------
    str
        Value for ``tokenizer.ggml.pre``.

    Raises
    ------
    FormatError
        A pre-tokenizer that is not in the table.
    """
    tokenizer = files.json("tokenizer.json")
    found = steps(tokenizer)
    bos = adds_bos(files)
    known = dict(vocab)
    for token in dicts(tokenizer.get("added_tokens")):
        if (text := content(token)) is not None and type(token.get("id")) is int:
            known[text] = token["id"]
    for rule in TABLE:
        if rule.fits(found, known, bos):
            return rule.name
    if name := _by_hash(files, known):
        return name
    raise files.damaged(
        "tokenizer.json",
        f"unknown pre-tokenizer '{short(' then '.join(found), 2000)}': name one that cuts text alike with "
        "`pre` (llama-bpe, …)",
    )


def steps(tokenizer: Mapping[str, Any]) -> tuple[str, ...]:
    """Write the steps of a tokenizer's pre-tokenizer as regular expressions."""
    flat = list(_flatten(tokenizer.get("pre_tokenizer")))
    written = [text for step in flat if (text := _step(step))]
    normalizer = list(_flatten(tokenizer.get("normalizer")))
    if not any(step.get("type") == "ByteLevel" for step in flat + normalizer):
        written.append("no bytes")
    return tuple(written)


def _flatten(value: Any) -> Iterator[dict[str, Any]]:
    for step in dicts([value]):
        if step.get("type") == "Sequence":
            for name in ("pretokenizers", "normalizers", "processors"):
                for part in dicts(step.get(name)):
                    yield from _flatten(part)
        else:
            yield step


def _step(step: dict[str, Any]) -> str:
    kind = step.get("type")
    if kind == "ByteLevel":
        return GPT2 if step.get("use_regex", True) else ""  # the switch is younger than the type
    if kind == "Digits":
        return r"\p{N}" if step.get("individual_digits") else r"\p{N}+"
    if kind == "Split":
        return _split(step)
    return f"{kind} {step.get('behavior', '')}".rstrip()


def _split(step: dict[str, Any]) -> str:
    pattern = as_dict(step.get("pattern"))
    behavior, text = step.get("behavior"), pattern.get("Regex")
    if not isinstance(text, str):
        return f"{behavior} {shown(pattern.get('String'))}"
    text = text.replace("\r", r"\r").replace("\n", r"\n")
    text = text.replace(r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", _SHORT_FORMS)
    # What the regex matches is a piece: said as "isolate the matches" or as "remove nothing but the matches".
    if behavior == "Isolated" or (behavior == "Removed" and step.get("invert") is True):
        return text
    return f"{behavior} {text}"


def adds_bos(files: Files) -> bool:
    """Whether the tokenizer puts BOS before every text.

    transformers rebuilds the post-processor of Llama's own classes from ``add_bos_token``.
    """
    config = files.json("tokenizer_config.json")
    if str(config.get("tokenizer_class")).removesuffix("Fast") in ("LlamaTokenizer", "CodeLlamaTokenizer"):
        return config.get("add_bos_token", True) is not False
    for step in _flatten(files.json("tokenizer.json").get("post_processor")):
        single = list(dicts(step.get("single"))) if step.get("type") == "TemplateProcessing" else []
        if len(single) > 1 and "SpecialToken" in single[0]:
            return True
    return False


def _by_hash(files: Files, vocab: Mapping[str, int]) -> str | None:
    """Try the reference's way, when the optional tokenizers package is there."""
    encoded = _encode(files)
    if encoded is None:
        return None
    plain, whole = encoded
    bos = vocab.get(content(files.json("tokenizer_config.json").get("bos_token")) or "")
    if bos is not None and adds_bos(files) and plain[:1] != [bos]:
        plain.insert(0, bos)
    for ids in (plain, whole):
        if name := HASHES.get(hashlib.sha256(str(ids).encode()).hexdigest()):
            return name
    return None


# What the package does with a tokenizer made to hurt (it panics, runs regular expressions without end, asks
# for gigabytes, which aborts) happens to a process that nobody misses.
_CHILD = """
import json, resource, sys
path, memory, text = sys.argv[1], int(sys.argv[2]), sys.argv[3]
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(path)
print(json.dumps([tokenizer.encode(text, add_special_tokens=special).ids for special in (False, True)]))
"""


def _encode(files: Files) -> tuple[list[int], list[int]] | None:
    """Ids of the check text, without and with special tokens; None if the package cannot say."""
    if importlib.util.find_spec("tokenizers") is None:
        return None
    path = files.path("tokenizer.json").absolute()
    memory = (96 << 20) + 8 * path.stat().st_size  # real ones take half of it
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _CHILD, path, str(memory), CHECK_TEXT],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            timeout=30,
            check=True,
        )
        plain, whole = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):  # it only was the last resort
        return None
    return plain, whole

"""Chat templates in Go's text/template, for servers that cannot use the Jinja template of a GGUF.

The formats are those of the models' own Jinja templates. A beginning-of-text token is left out: the server's
tokenizer adds it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Template:
    """How one family of models wants a conversation written.

    Attributes
    ----------
    family : str
    text : str
        In Go's text/template.
    stop : tuple of str
        What ends an answer.
    """

    family: str
    text: str
    stop: tuple[str, ...]


def _then(first: str, second: str) -> str:
    """Give a pattern for one text somewhere before another, which reads a template once.

    ``first.*second`` would look for the second anew from every place that holds the first.
    """
    return rf"\A(?s:(?>.*?{first}).*{second})"


_EACH = "{{ range .Messages }}%s{{ end }}%s"
# For models that know no system prompt, which then stands before the first question.
_TURNS = (
    '{{- $system := "" }}{{ range .Messages }}'
    '{{ if eq .Role "system" }}{{ $system = .Content }}'
    '{{ else if eq .Role "user" }}%s{{ if $system }}%s{{ $system = "" }}{{ end }}{{ .Content }}%s'
    '{{ else if eq .Role "assistant" }}%s{{ end }}{{ end }}%s'
)

# Family, what its Jinja template holds, what it must not hold, Go template, stop texts. The first that fits.
_FAMILIES = (
    (
        "phi4",
        r"<\|im_sep\|>",
        None,
        _EACH
        % ("<|im_start|>{{ .Role }}<|im_sep|>{{ .Content }}<|im_end|>", "<|im_start|>assistant<|im_sep|>"),
        ("<|im_start|>", "<|im_end|>"),
    ),
    (
        "chatml",
        _then(r"<\|im_start\|>", r"<\|im_end\|>"),
        None,
        _EACH % ("<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n", "<|im_start|>assistant\n"),
        ("<|im_start|>", "<|im_end|>"),
    ),
    (
        "llama3",
        _then(r"<\|start_header_id\|>", r"<\|eot_id\|>"),
        None,
        _EACH
        % (
            "<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    (
        "llama4",
        _then(r"<\|header_start\|>", r"<\|eot\|>"),
        None,
        _EACH
        % (
            "<|header_start|>{{ .Role }}<|header_end|>\n\n{{ .Content }}<|eot|>",
            "<|header_start|>assistant<|header_end|>\n\n",
        ),
        ("<|header_start|>", "<|header_end|>", "<|eot|>"),
    ),
    (
        "gemma",
        _then(r"<start_of_turn>", r"<end_of_turn>"),
        None,
        _TURNS
        % (
            "<start_of_turn>user\n",
            "{{ $system }}\n\n",
            "<end_of_turn>\n",
            "<start_of_turn>model\n{{ .Content }}<end_of_turn>\n",
            "<start_of_turn>model\n",
        ),
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    (
        "granite",
        _then(r"<\|start_of_role\|>", r"<\|end_of_role\|>"),
        None,
        _EACH
        % (
            "<|start_of_role|>{{ .Role }}<|end_of_role|>{{ .Content }}<|end_of_text|>\n",
            "<|start_of_role|>assistant<|end_of_role|>",
        ),
        ("<|start_of_role|>", "<|end_of_text|>"),
    ),
    (
        "phi3",
        _then(r"<\|(?:user|assistant)\|>", r"<\|end\|>") + "|" + _then(r"<\|end\|>", r"<\|assistant\|>"),
        r"<\|channel\|>|<\|start\|>",  # gpt-oss
        _EACH % ("<|{{ .Role }}|>\n{{ .Content }}<|end|>\n", "<|assistant|>\n"),
        ("<|end|>", "<|user|>", "<|assistant|>"),
    ),
    (
        "zephyr",
        r"<\|user\|>(?:\\n|\n)' ?\+ ?message\['content'\] ?\+ ?eos_token",
        None,
        _EACH % ("<|{{ .Role }}|>\n{{ .Content }}</s>\n", "<|assistant|>\n"),
        ("<|system|>", "<|user|>", "<|assistant|>", "</s>"),
    ),
    (
        "olmo2",
        r"<\|user\|>(?:\\n|\n)' ?\+ ?message\['content'\] ?\+ ?'(?:\\n|\n)'",
        None,
        _EACH
        % (
            '<|{{ .Role }}|>\n{{ .Content }}{{ if eq .Role "assistant" }}<|endoftext|>{{ end }}\n',
            "<|assistant|>\n",
        ),
        ("<|user|>", "<|endoftext|>"),
    ),
    (
        "llama2",
        _then(r"\[INST\]", "<<SYS>>") + "|" + _then("<<SYS>>", r"\[INST\]"),
        None,
        _TURNS
        % ("[INST] ", "<<SYS>>\n{{ $system }}\n<</SYS>>\n\n", " [/INST]", " {{ .Content }} </s><s>", ""),
        ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    ),
    (
        "mistral",
        r"\[INST\]",
        r"\[SYSTEM_PROMPT\]",
        "",  # see _mistral
        ("[INST]", "[/INST]"),
    ),
    (
        "mistral-v7",
        _then(r"\[SYSTEM_PROMPT\]", r"\[INST\]") + "|" + _then(r"\[INST\]", r"\[SYSTEM_PROMPT\]"),
        None,
        '{{ range .Messages }}{{ if eq .Role "system" }}[SYSTEM_PROMPT]{{ .Content }}[/SYSTEM_PROMPT]'
        '{{ else if eq .Role "user" }}[INST]{{ .Content }}[/INST]'
        '{{ else if eq .Role "assistant" }}{{ .Content }}</s>{{ end }}{{ end }}',
        ("[INST]", "[/INST]", "[SYSTEM_PROMPT]"),
    ),
    (
        "deepseek",
        _then("<｜User｜>", "<｜Assistant｜>"),  # noqa: RUF001
        None,
        '{{ range .Messages }}{{ if eq .Role "system" }}{{ .Content }}'
        '{{ else if eq .Role "user" }}<｜User｜>{{ .Content }}'  # noqa: RUF001
        '{{ else if eq .Role "assistant" }}<｜Assistant｜>{{ .Content }}<｜end▁of▁sentence｜>'  # noqa: RUF001
        "{{ end }}{{ end }}<｜Assistant｜>",  # noqa: RUF001
        ("<｜User｜>", "<｜end▁of▁sentence｜>"),  # noqa: RUF001
    ),
)


def recognise(jinja: str) -> Template | None:
    """Find the family that a model's Jinja template belongs to.

    Parameters
    ----------
    jinja : str
        ``tokenizer.chat_template`` of a GGUF.

    Returns
    -------
    Template or None
        None if it belongs to no known family.
    """
    for family, has, lacks, text, stop in _FAMILIES:
        if re.search(has, jinja) and not (lacks and re.search(lacks, jinja)):
            return Template(family, _default_system(jinja) + (text or _mistral(jinja)), stop)
    return None


def _default_system(jinja: str) -> str:
    """Keep the system prompt that a model has when it is given none, as SmolLM2 and Qwen2.5 have."""
    found = re.search(r"""<\|im_start\|>system(?:\\n|\n)([^<>{}'"\\]+)<\|im_end\|>""", jinja)
    if not found:
        return ""
    return f"{{{{ if not .System }}}}<|im_start|>system\n{found[1]}<|im_end|>\n{{{{ end }}}}"


def _mistral(jinja: str) -> str:
    """Take the spaces from the model's own template: every tokenizer version of Mistral's has others."""
    before = "[INST] " if "[INST] " in jinja else "[INST]"
    after = " [/INST]" if " [/INST]" in jinja else "[/INST]"
    answer = " " if re.search(r"""(['"]) \1 ?\+ ?message\[""", jinja) else ""
    return _TURNS % (before, "{{ $system }}\n\n", after, f"{answer}{{{{ .Content }}}}</s>", "")

"""Chat templates are recognised by what models really ship."""

from __future__ import annotations

import pytest

from gguffast.ollama.templates import recognise
from support.bounded import run_bounded
from support.templates import CHATML


@pytest.mark.parametrize(
    ("jinja", "family"),
    [
        (CHATML, "chatml"),
        ("{{ '<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>' }}", "phi4"),
        ("{{ '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + content + '<|eot_id|>' }}", "llama3"),
        ("{{ '<|header_start|>user<|header_end|>\n\n' + content + '<|eot|>' }}", "llama4"),
        ("{{ '<start_of_turn>' + role + '\n' + content + '<end_of_turn>\n' }}", "gemma"),
        ("{{ '<|start_of_role|>user<|end_of_role|>' + content + '<|end_of_text|>\n' }}", "granite"),
        ("{{ '<|user|>\n' + content + '<|end|>\n<|assistant|>\n' }}", "phi3"),
        ("{{ '<|user|>\\n' + message['content'] + eos_token }}{{ '<|assistant|>' }}", "zephyr"),
        ("{{ '<|user|>\\n' + message['content'] + '\\n' }}{{ '<|assistant|>\\n' }}", "olmo2"),
        (
            "{% set content = '<<SYS>>\\n' + s + '\\n<</SYS>>' %}{{ '[INST] ' + content + ' [/INST]' }}",
            "llama2",
        ),
        ("{{ '[INST] ' + message['content'] + ' [/INST]' }}", "mistral"),
        ("{{ '[SYSTEM_PROMPT]' + s + '[/SYSTEM_PROMPT]' }}{{ '[INST]' + c + '[/INST]' }}", "mistral-v7"),
        ("{{ '<｜User｜>' + c }}{{ '<｜Assistant｜>' }}", "deepseek"),  # noqa: RUF001
    ],
)
def test_families(jinja: str, family: str) -> None:
    found = recognise(jinja)
    assert found is not None
    assert found.family == family
    assert ".Messages" in found.text
    assert found.text.count("{{") == found.text.count("}}")


@pytest.mark.parametrize(
    "jinja",
    ["", "{{ messages[0].content }}", "<|start|>assistant<|channel|>final<|message|>{{ x }}<|end|><|user|>"],
)
def test_others_are_not_guessed(jinja: str) -> None:
    assert recognise(jinja) is None


@pytest.mark.parametrize("newline", ["\\n", "\n"])
def test_a_default_system_prompt_is_kept(newline: str) -> None:
    default = f"{{{{ '<|im_start|>system{newline}You are SmolLM.<|im_end|>{newline}' }}}}"
    found = recognise(default + CHATML)
    plain = recognise(CHATML)
    assert found is not None
    assert plain is not None
    prompt = "<|im_start|>system\nYou are SmolLM.<|im_end|>\n"
    assert found.text == f"{{{{ if not .System }}}}{prompt}{{{{ end }}}}{plain.text}"


def test_mistrals_spaces_are_the_models_own() -> None:
    old = recognise(
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}{{ ' ' + message['content'] + eos_token }}"
    )
    new = recognise("{{ '[INST]' + message['content'] + '[/INST]' }}{{ message['content'] + eos_token }}")
    assert old is not None
    assert new is not None
    assert "[INST] {{" in old.text
    assert "}} [/INST]" in old.text
    assert "}} {{ .Content }}</s>" in old.text
    assert "[INST]{{" in new.text
    assert "}}[/INST]" in new.text
    assert "}}{{ .Content }}</s>" in new.text


@pytest.mark.parametrize(
    "piece", ["<|im_start|>", "<|user|>", "<|end|>", "<start_of_turn>", "[INST]", "<<SYS>>"]
)
def test_a_long_template_is_read_once(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    run_bounded(recognise, text, file_bytes=len(text))

"""Modelfiles: the grammar, its errors, and that printing can be read back."""

from __future__ import annotations

import contextlib
import os
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguffast.errors import FileError, FormatError, OptionError
from gguffast.ollama import Command, Modelfile
from support.bounded import run_bounded

# What decides where a value ends, and everything else.
TEXTS = st.text(st.one_of(st.sampled_from("\" \t\r\n#'a"), st.characters(codec="utf-8")))
WORDS = st.text(string.ascii_letters + "/.:~ -", min_size=1).filter(lambda s: s.strip())
COMMANDS = st.one_of(
    st.builds(Command, st.sampled_from(["system", "template", "license"]), TEXTS),
    st.builds(Command, st.sampled_from(["from", "adapter", "draft", "renderer", "parser"]), WORDS),
    st.builds(Command, st.just("requires"), st.sampled_from(["0.14.0", "v1.2.3-rc1"])),
    st.builds(Command, st.just("message"), TEXTS, st.sampled_from(["system", "user", "assistant"])),
    st.builds(Command, st.just("parameter"), TEXTS, st.just("stop")),
    st.builds(Command, st.just("parameter"), st.integers(-9, 9).map(str), st.just("seed")),
)


@given(st.lists(COMMANDS))
def test_what_is_printed_reads_as_it_was(commands: list[Command]) -> None:
    all_commands = [Command("from", "x"), *commands]
    if any(_has_a_line_that_ends_in_quotes(c.value) for c in commands):
        try:
            modelfile = Modelfile(all_commands)
        except OptionError:  # there is no way to write some such texts
            return
    modelfile = Modelfile(all_commands)
    assert Modelfile.parse(str(modelfile)) == modelfile


def _has_a_line_that_ends_in_quotes(text: str) -> bool:
    return any(line.rstrip().endswith('"') for line in re.split("[\r\n]", text))


def commands_of(text: str) -> list[tuple[str, str, str]] | None:
    """The grammar stated a second time, a letter at a time and slowly: names, keys and values.

    None if a quoted text is not closed. Which names and values exist is not the grammar's business.
    """
    found = []
    state, words = "between", [""]
    for letter in text + "\n":
        ends = letter in "\r\n"
        if state == "between" and letter == "#":
            state = "comment"
        elif state == "comment":
            state = "between" if ends else "comment"
        elif state == "between" and letter not in " \t\r\n":
            state, words = "name", [letter]
        elif ends and state == "value" and (text_of(words[-1]) is None):
            words[-1] += letter
        elif ends and state != "between":
            name, key, value = [*words, "", ""][:3] if has_key(words) else [words[0], "", *words[1:], ""][:3]
            found.append((name.lower(), key, text_of(value) or ""))
            state = "between"
        elif letter in " \t" and state == "name":
            state = "key" if has_key(words) else "value"
            words.append("")
        elif letter in " \t" and state == "key":
            if words[-1]:
                state = "value"
                words.append("")
        elif state != "between":
            words[-1] += letter
    return found if state in ("between", "comment") else None


def has_key(words: list[str]) -> bool:
    return words[0].lower() in ("parameter", "message")


def text_of(value: str) -> str | None:
    value = value.strip(" \t\r\n")
    quote = '"""' if value.startswith('"""') else '"' if value.startswith('"') else ""
    if len(value) < 2 * len(quote) or not value.endswith(quote):
        return None
    return value[len(quote) : len(value) - len(quote)]


def is_allowed(name: str, key: str, value: str) -> bool:
    """Of what PIECES can make."""
    if name in ("message", "parameter"):
        return key == {"message": "user", "parameter": "stop"}[name]
    return name in ("system", "license") or (name == "from" and value != "")


PIECES = [
    *("FROM", "from x\n", "System", "LICENSE", "message", "MESSAGE user", "parameter stop", "PARAMETER"),
    *('"', '"""', "#", "a", "\v", "\u00a0", " ", "\t", "\r", "\n", "\r\n"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_the_grammar(text: str) -> None:
    text = f"FROM x\n{text}"
    expected = commands_of(text)
    try:
        found = [(c.name, c.key, c.value) for c in Modelfile.parse(text).commands]
    except FormatError:
        assert expected is None or not all(is_allowed(*command) for command in expected)
    else:
        assert found == expected


# Each of these took minutes: what they are made of was read again for each of its lines.
@pytest.mark.parametrize(
    "text",
    [
        "LICENSE MIT\n" * 80_000,
        "MESSAGE user hello\n" * 50_000,
        "\n" * 1_000_000,
        "#\n" * 500_000,
        'SYSTEM """' + "\n" * 1_000_000 + '"""',
        'SYSTEM "' + '"x' * 500_000,
        'SYSTEM """' + '" \n' * 300_000,
        "PARAMETER temperature " + "1" * 1_000_000 + "x",
        "X" * 1_000_000,
        "PARAMETER low_vram\n" * 50_000,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_the_longest_modelfile_costs_little(text: str) -> None:
    def read() -> None:
        with contextlib.suppress(FormatError):
            modelfile = Modelfile.parse(f"FROM x\n{text}")
            assert Modelfile.parse(str(modelfile)) == modelfile
            assert len(modelfile.warnings) <= 1

    run_bounded(read, file_bytes=len(text))


@given(st.text(st.sampled_from('FROMSYEPAT "\n\r\t#xé1')))
def test_any_text_is_a_modelfile_or_has_a_mistake_that_is_named(text: str) -> None:
    try:
        modelfile = Modelfile.parse(text)
    except FormatError as caught:
        error = str(caught)
    else:
        assert Modelfile.parse(str(modelfile)) == modelfile
        return
    assert error.startswith("Modelfile:")


def test_every_command_and_way_to_quote() -> None:
    text = '''# a comment
from ./model.gguf
  Template """{{ range .Messages }}
{{ .Content }}"""
SYSTEM "two
lines" \t
ADAPTER ~/a b.gguf
LICENSE MIT
LICENSE """say "hi" """
PARAMETER  temperature 1
PARAMETER temperature .5
PARAMETER num_ctx 4096
PARAMETER use_mmap false
PARAMETER stop "<|im_end|>"
PARAMETER stop # no comment
MESSAGE user Hello "there"
MESSAGE assistant """
Hi
"""
RENDERER r
PARSER p
REQUIRES 0.14.0
DRAFT d.gguf
SYSTEM last wins'''
    modelfile = Modelfile.parse(text)
    assert modelfile.sources == ["./model.gguf"]
    assert modelfile.get("template") == "{{ range .Messages }}\n{{ .Content }}"
    assert [c.value for c in modelfile.commands if c.name == "system"] == ["two\nlines", "last wins"]
    assert modelfile.get("SYSTEM") == "last wins"
    assert modelfile.get("adapter") == "~/a b.gguf"
    assert modelfile.licenses == ["MIT", 'say "hi" ']
    assert modelfile.parameters == {
        "temperature": 0.5,
        "num_ctx": 4096,
        "use_mmap": False,
        "stop": ["<|im_end|>", "# no comment"],
    }
    assert modelfile.messages == [("user", 'Hello "there"'), ("assistant", "\nHi\n")]
    assert [modelfile.get(c) for c in ("renderer", "parser", "requires", "draft")] == [
        "r",
        "p",
        "0.14.0",
        "d.gguf",
    ]
    assert modelfile.commands[1].line == 3
    assert modelfile.warnings == []


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("FORM x", "1:1", "unknown command 'FORM'; did you mean FROM?"),
        ("\n# x\n  FROM\nSYSTEM y", "3:7", "FROM needs a value"),
        (
            "FROM x\r\nPARAMETER temprature 1",
            "2:11",
            "unknown parameter 'temprature'; did you mean temperature?",
        ),
        ("FROM x\nPARAMETER xyzzy 1", "2:11", "unknown parameter 'xyzzy'; known are "),
        ("FROM x\nPARAMETER temperature hot", "2:23", "parameter temperature is a number, not 'hot'"),
        ("FROM x\nPARAMETER num_ctx 4k", "2:19", "parameter num_ctx is a whole number, not '4k'"),
        ("FROM x\nPARAMETER seed 9223372036854775808", "2:16", "parameter seed is a whole number"),
        ("FROM x\nPARAMETER top_p 1e39", "2:17", "parameter top_p is a number"),
        ("FROM x\nPARAMETER use_mmap yes", "2:20", "parameter use_mmap is true or false, not 'yes'"),
        ("FROM x\nREQUIRES " + "9" * 9999, "2:10", "REQUIRES is a version of Ollama, as 0.14.0, not '999"),
        ("FROM x\nPARAMETER", "2:10", "PARAMETER needs a name and a value"),
        ("MESSAGE bot hi", "1:9", "the role of a MESSAGE is system, user or assistant, not 'bot'"),
        ('FROM x\nSYSTEM """abc\n', "2:8", 'the text of SYSTEM begins with """, but no line ends with """'),
        ('FROM x\nSYSTEM "abc\n', "2:8", 'the text of SYSTEM begins with ", but no line ends with "'),
    ],
)
def test_a_mistake_is_named_by_line_and_column(text: str, where: str, what: str) -> None:
    with pytest.raises(FormatError) as error:
        Modelfile.parse(text, "My.file")
    assert str(error.value).startswith(f"My.file:{where}: {what}")


@pytest.mark.parametrize("text", ["", "# nothing\n", "SYSTEM x"])
def test_there_must_be_a_from(text: str) -> None:
    with pytest.raises(FormatError, match="Modelfile: no FROM line"):
        Modelfile.parse(text)


def test_deprecated_parameters_are_left_out_with_a_warning() -> None:
    modelfile = Modelfile.parse("FROM x\nPARAMETER mirostat 2\nPARAMETER seed 1")
    assert modelfile.parameters == {"seed": 1}
    assert modelfile.warnings == ["line 2: the parameter mirostat is deprecated and has no effect"]


def test_editing() -> None:
    modelfile = Modelfile.parse("FROM x\nSYSTEM a\nLICENSE l\nSYSTEM b\nPARAMETER seed 1\nPARAMETER top_k 1")
    modelfile.set("system", "one\ntwo")
    modelfile.set("parameter", 7, "seed")
    modelfile.set("parameter", True, "use_mmap")
    modelfile.add("message", "Hello", "user")
    modelfile.remove("parameter", "top_k")
    assert str(modelfile) == (
        'FROM x\nSYSTEM "one\ntwo"\nLICENSE l\nPARAMETER seed 7\n'
        "PARAMETER use_mmap true\nMESSAGE user Hello\n"
    )
    before = list(modelfile.commands)
    for name, value, key in (
        ("sytem", "x", ""),
        ("parameter", "x", "seed"),
        ("parameter", "x", "seeed"),
        ("message", "x", "bot"),
        ("system", "x", "key"),
        ("system", 'a"""\nb', ""),
    ):
        with pytest.raises(OptionError):
            modelfile.set(name, value, key)
    assert modelfile.commands == before


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    path.write_text("FROM x\nSYSTEM naïve\n", encoding=encoding)
    assert Modelfile.read(path).get("system") == "naïve"


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF\n\xff\xff")
    with pytest.raises(FormatError, match=r"model\.gguf:2: not UTF-8 text \(byte 5\)"):
        Modelfile.read(path)
    with pytest.raises(FileError, match="it is a folder"):
        Modelfile.read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(FileError, match="it is not a regular file"):
            Modelfile.read(name)


def test_a_file_that_is_no_modelfile_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match="are more than a Modelfile can have"):
        run_bounded(Modelfile.read, path, file_bytes=0)
    with pytest.raises(FormatError, match="more than 1 MiB of text"):
        Modelfile.parse("FROM x\n" * 200_000)


def test_a_long_mistake_is_shown_in_part() -> None:
    for text in ("X" * 9999, "FROM x\nPARAMETER seed " + "9" * 9999, f"FROM x\nMESSAGE {'u' * 9999} x"):
        with pytest.raises(FormatError) as error:
            Modelfile.parse(text)
        assert len(str(error.value)) < 500

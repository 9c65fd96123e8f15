"""Documents from strangers: what is wrong is one line, and nothing costs more than its length warrants."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gguffast import documents
from gguffast.documents import Values, json_object, parse_json, parse_yaml, read_bytes, read_json, read_text
from gguffast.errors import FileError, FormatError, GGUFFastError, OptionError
from support.bounded import run_bounded

BAD_JSON: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not valid JSON at line 1, column 1"),
    "place": (b'{"a": 1,\n "b" 2}', "line 2, column 6"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), r"not UTF-8 text \(byte 0\)"),
    "surrogate in UTF-8": (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
    "high surrogate": (rb'{"a": "\ud83d"}', "half a surrogate pair at byte 7"),
    "low surrogate": (rb'["\\", "\uDE00"]', "half a surrogate pair at byte 8"),
    "pair in the wrong order": (rb'["\uDE00\ud83d"]', "half a surrogate pair at byte 2"),
    "deep list": (b"[" * 100_000, "nested more than 64"),
    "deep, and complete": (b"[" * 65 + b"]" * 65, "nested more than 64"),
    "deep object": (b'{"a":' * 500 + b"1" + b"}" * 500, "nested more than 64"),
    "digits": (b'{"a": ' + b"9" * 5000 + b"}", "a number of thousands of digits"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_what_is_no_json_is_one_line(case: str) -> None:
    data, message = BAD_JSON[case]
    with pytest.raises(FormatError, match=f"^a.json: .*{message}") as caught:
        parse_json(data, "a.json")
    assert "\n" not in str(caught.value)


def test_what_is_json() -> None:
    assert parse_json(rb'["\ud83d\ude00", "\\ud83d", "\u00e9"]', "x") == ["😀", "\\ud83d", "é"]
    assert parse_json(b'\xef\xbb\xbf{"a": [1, NaN]}', "x")["a"][0] == 1
    assert parse_json(b"[" * 64 + b"]" * 64, "x") is not None
    with pytest.raises(FormatError, match="x: expected a JSON object at the root, found a list"):
        json_object(b"[]", "x")


def refused(parse: Callable[[], Any], message: str = "") -> bool:
    """Whether something is refused, in one line."""
    try:
        parse()
    except GGUFFastError as error:
        return "\n" not in str(error) and message in str(error)
    return False


@pytest.mark.parametrize("unit", ["[]", "{}", '"ab"', '{"a":{}}', "1", "0.5", '"  "', '"\N{GRINNING FACE}"'])
def test_json_costs_little_for_its_length(unit: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"[{','.join([unit] * 100_000)}]")
    size = path.stat().st_size
    assert run_bounded(lambda: len(parse_json(path.read_bytes(), path)), file_bytes=size) == 100_000
    path.write_text(f'{{"a":[{",".join([unit] * (4_500_000 // len(unit.encode() + b",")))}]}}')
    size = path.stat().st_size
    dense = run_bounded(refused, lambda: read_json(path), "more values than such a file", file_bytes=size)
    assert dense or unit not in ("[]", "{}", '{"a":{}}')


def test_a_large_tokenizer_without_spaces_is_read() -> None:
    # As dense as real ones get: short tokens, merges as lists of pairs.
    tokens = ",".join(f'"Ġ{i:x}":{i}' for i in range(100_000))
    merges = ",".join(f'["Ġ{i:x}","e"]' for i in range(200_000))
    data = f'{{"model":{{"vocab":{{{tokens}}},"merges":[{merges}]}}}}'.encode()
    assert parse_json(data, "x")["model"]["merges"][7] == ["Ġ7", "e"]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "none", "x" * 300, "nul\0"):
        with pytest.raises(FileError, match="cannot read"):
            read_bytes(tmp_path / name)
    with pytest.raises(FileError, match="not a regular file"):
        read_bytes(Path("/dev/zero"))


def test_long_files_and_pointers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(FormatError, match=f"a.json: {1 << 40} bytes, more than"):
        run_bounded(read_json, path, file_bytes=1000)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(FormatError, match="git lfs pull"):
        read_json(path)


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jinja"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(path) == "a\nb\nc\n"
    path.write_bytes(b"ab\xff")
    with pytest.raises(FormatError, match=r"a.jinja: not UTF-8 text \(byte 2\)"):
        read_text(path)


# --- YAML ------------------------------------------------------------------------------------------------


def test_scalars_are_their_text() -> None:
    found = parse_yaml("a: 1.10\nb: no\nc:\nd: ~\ne: 2024-01-01\nf: [null, 0x10]\n<<: {g: 1}\nh: ''\n", "x")
    assert found == {
        "a": "1.10",
        "b": "no",
        "c": None,
        "d": None,
        "e": "2024-01-01",
        "f": [None, "0x10"],
        "<<": {"g": "1"},
        "h": "",
    }
    assert parse_yaml("a: !!python/object/apply:os.system [echo hacked]", "x") == {"a": ["echo hacked"]}


BAD_YAML: dict[str, tuple[str, str]] = {
    "open list": ("a: b\nc: [x\n", "README.md, line 4: not valid YAML"),
    "tabs": ("a:\n\t- b\n", "README.md, line 3"),
    "NUL": ("a: \0", "not valid YAML"),
    "lone surrogate": ("a: \ud800", "not valid YAML"),
    "unknown alias": ("a: *b", "not valid YAML"),
    "itself": ("a: &a [*a]", "not valid YAML"),
    "a list as a key": ("? [a]\n: b", "not valid YAML"),
    "flow": ("[" * 100_000, "YAML|nested"),
    "flow, complete": ("[" * 70 + "]" * 70, "nested more than 64"),
    "blocks": ("\n".join(" " * i + "a:" for i in range(500)), "nested more than 64"),
    "long": ("a" * (1 << 21), "2097152 characters of YAML"),
}


@pytest.mark.parametrize("case", BAD_YAML)
@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_no_yaml_is_one_line(case: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.delattr("yaml.CBaseLoader")
    text, message = BAD_YAML[case]
    with pytest.raises(FormatError, match=message) as caught:
        parse_yaml(text, "README.md", 2)
    assert "\n" not in str(caught.value)


def test_aliases_are_not_copies() -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 40))
    assert len(run_bounded(lambda: list(parse_yaml(bomb, "x")), file_bytes=len(bomb))) == 40


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(OptionError, match=r"'yaml': pip install 'gguffast\[convert\]'"):
        parse_yaml("", "x")


# --- Values ----------------------------------------------------------------------------------------------

GETTERS: dict[str, Callable[[Values], Any]] = {
    "integer": lambda v: v.integer("k"),
    "number": lambda v: v.number("k"),
    "text": lambda v: v.text("k"),
    "flag": lambda v: v.flag("k"),
    "items": lambda v: v.items("k"),
    "within": lambda v: v.within("k"),
}
FITS = {
    "integer": [0, 7, 2**31 - 1],
    "number": [0, -1, 0.5, 1e38],
    "text": ["", "x"],
    "flag": [True, False],
    "items": [[], [1]],
    "within": [{}, {"a": 1}, None],
}
VALUES = [
    None,
    True,
    False,
    0,
    7,
    -1,
    2**31 - 1,
    2**31,
    10**400,
    0.5,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
]


@pytest.mark.parametrize("kind", GETTERS)
def test_values_are_of_the_kind_that_is_asked_for(kind: str) -> None:
    for value in [*VALUES, [], [1], {}, {"a": 1}]:
        values = Values({"k": value}, "config.json", "text_config.")
        fits = any(value is v or (type(value) is type(v) and value == v) for v in FITS[kind])
        if kind == "number" and type(value) is int and abs(value) < 2**32:
            fits = True
        if fits:
            assert kind == "within" or GETTERS[kind](values) == value
        else:
            with pytest.raises(
                FormatError, match=r'^config.json: "text_config\.k" is .*; expected '
            ) as caught:
                GETTERS[kind](values)
            assert len(str(caught.value)) < 200


def test_missing_values_have_a_default_or_are_an_error() -> None:
    values = Values({"a": None, "b": {"c": "x"}}, "x.json")
    for key in ("a", "z"):
        assert values.integer(key, default=None) is None
        assert values.number(key, default=2.5) == 2.5
        with pytest.raises(
            FormatError, match=f'x.json: "{key}" is missing; expected a whole number of at least 3'
        ):
            values.integer(key, 3)
    with pytest.raises(FormatError, match=r"\"b\.c\" is 'x'; expected a whole number from 0 to 9"):
        values.within("b").integer("c", 0, 9)


def test_what_is_shown_is_one_short_line() -> None:
    for value in (10**4000, "a\nb\x1b[31m" * 50, {"a": [object()]}, "x" * 10**6, float("nan")):
        text = documents.shown(value)
        assert len(text) <= 60
        assert text.isprintable()


# A loaded machine is no finding.
unhurried = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@unhurried
@given(JSON)
def test_json_is_read_as_python_reads_it(value: Any) -> None:
    data = json.dumps(value).encode()
    assert json.dumps(parse_json(data, "x")) == json.dumps(value)


@unhurried
@given(st.binary() | st.text().map(lambda text: text.encode()))
@example(b"\\ud800")
@example(b'"\\')
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    for parse in (lambda: parse_json(data, "x"), lambda: parse_yaml(data.decode(errors="replace"), "x")):
        refused(parse)  # and no other error leaves it

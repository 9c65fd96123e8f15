"""The user's say: whatever is given is understood, or refused in words; each option is stated once."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gguffast.cli import main
from gguffast.conversion.options import ConvertOptions
from gguffast.errors import GGUFFastError, OptionError
from gguffast.filetypes import FileType, parse_file_type
from gguffast.job import JobOptions, MakeOptions
from gguffast.recipe.metadata import output_kvs
from gguffast.recipe.options import (
    Options,
    Override,
    RecipeOptions,
    TensorRule,
    options_in,
    parse_override,
    parse_tensor_rule,
    read_tensor_rules,
)
from gguffast.types import GGMLQuantizationType

# Arguments as a shell hands them over: bytes, of which Python makes surrogates where they are no UTF-8.
words = st.one_of(
    st.text(),
    st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.from_regex(r"[a-z.*+?(){}\[\]0-9|^$\\]{0,20}=q8_0", fullmatch=True),
    st.from_regex(r"[a-z.]{1,5}=(int|float|bool|str):[-+_0-9a-z.]{0,400}", fullmatch=True),
    st.sampled_from(["9" * 5000, "a{99999999999}=q8_0", "(" * 3000 + ")" * 3000 + "=q8_0", "\ud800=str:a"]),
)


def read(function: Callable[..., Any], *given: Any) -> tuple[Any, str]:
    """What comes of it, and what the refusal says."""
    try:
        return function(*given), ""
    except GGUFFastError as error:
        return None, str(error)


@given(words)
def test_a_file_type_is_found_or_refused(text: str) -> None:
    found, refusal = read(parse_file_type, text)
    assert isinstance(found, FileType) or 0 < len(refusal) < 1000


@given(words)
def test_a_tensor_rule_is_read_or_refused(text: str) -> None:
    rule, refusal = read(parse_tensor_rule, text)
    assert isinstance(rule, TensorRule) or 0 < len(refusal) < 1000


@given(words)
def test_an_override_is_read_and_written_or_refused(text: str) -> None:
    kvs, refusal = read(lambda: output_kvs([], 0, [parse_override(text)]))
    if kvs:
        assert text.startswith(f"{kvs[-1].key}=")
    else:
        assert 0 < len(refusal) < 1000


@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.none())))
def test_overrides_from_python_are_written_or_refused(pairs: dict[str, Any]) -> None:
    try:
        kvs = output_kvs([], 0, Options({"override_kv": pairs}).override_kv)
    except OptionError:
        return
    assert [pair.key for pair in kvs if pair.key in pairs] == list(pairs)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_file_of_rules_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "rules"
    path.write_bytes(data)
    rules, refusal = read(read_tensor_rules, path)
    assert str(path) in refusal if rules is None else all(isinstance(rule, TensorRule) for rule in rules)


@pytest.mark.parametrize("value", [None, b"x", [1], 2**5000, -(2**32), 1e39])
def test_values_that_no_override_can_have(value: Any) -> None:
    with pytest.raises(OptionError, match=r"override '?a'?: "):
        Options({"override_kv": [Override("a", value)]})


def test_rules_and_files_of_rules_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text("b=q5_0\nc=q5_1")
    options = Options({"tensor_type": [("a", "q4_0"), path, ("d", "q8_0")]})
    assert [rule.pattern.pattern for rule in options.tensor_type] == ["a", "b", "c", "d"]
    assert options.files == [path]


def test_what_is_listed_is_what_is_read() -> None:
    source = inspect.getsource(Options)
    assert set(re.findall(r'given\.get\(\s*"(\w+)"', source)) == RecipeOptions.__annotations__.keys()


def test_a_key_is_that_of_what_is_said(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text("a=q5_0")
    same: list[RecipeOptions] = [
        {"tensor_type": [path], "output_tensor_type": "q4_0", "pure": True, "override_kv": {"a": 1}},
        {"tensor_type": iter([("A", "Q5_0")]), "output_tensor_type": GGMLQuantizationType.Q4_0, "pure": True,
         "override_kv": [Override("a", 1)], "allow_requantize": True, "leave_output_tensor": False},
    ]  # fmt: skip
    keys = [Options(given).key for given in same]
    assert keys[0] == keys[1] != ""
    assert Options({**same[0], "override_kv": {"a": True}}).key != keys[0]
    assert Options({"allow_requantize": True, "pure": False, "tensor_type": []}).key == ""


@pytest.mark.parametrize(
    ("command", "kind"),
    [("quantize", JobOptions), ("convert", ConvertOptions), ("import", MakeOptions), ("create", MakeOptions)],
)
def test_the_command_line_has_every_option(
    command: str, kind: type, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for name in options_in(kind):
        assert f"--{name.replace('_', '-')}" in text

"""The choice of types against llama-quantize's, on real and made-up models; options, errors, output metadata.

data/quantized holds what llama-quantize wrote; data/recipe.json and data/output_kvs.json what it said to
made-up models (data/make_recipe.py asks it).
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguffast import DataError, FormatError, GGMLQuantizationType, GGUFFile, OptionError
from gguffast.errors import FileError
from gguffast.filetypes import FILE_TYPES, FileType, LlamaFileType, parse_file_type
from gguffast.gguf import KV, GGUFValueType
from gguffast.imatrix import ImportanceMatrix
from gguffast.recipe.choose import Choice, check_choices, choose_types
from gguffast.recipe.metadata import file_type_number, output_kvs
from gguffast.recipe.model import Weight, order_key
from gguffast.recipe.options import (
    Options,
    Override,
    TensorRule,
    parse_override,
    parse_tensor_rule,
    parse_tensor_type,
    read_tensor_rules,
    tensor_rule,
)
from support.gguf_files import GGUF

T = GGMLQuantizationType
DATA = Path(__file__).parents[1] / "data"
RECIPES = json.loads((DATA / "recipe.json").read_text())
OUTPUT_KVS = json.loads((DATA / "output_kvs.json").read_text())
DIGESTS = {path.stem: json.loads(path.read_text()) for path in sorted((DATA / "quantized").glob("*.json"))}
TYPES = {letter: T[name] for letter, name in RECIPES["letters"].items()}


def options(has_imatrix: bool = False, **given: Any) -> Options:
    """Options, and perhaps a matrix of which the recipe only knows that it is there."""
    options = Options(given)
    if has_imatrix:
        options.imatrix = ImportanceMatrix("", {"blk.0.attn_q.weight": np.ones(1, np.float32)})
    return options


def parse_options(args: list[str], has_imatrix: bool = False) -> Options:
    """The options of a llama-quantize command line."""
    given: dict[str, Any] = {"tensor_type": [], "override_kv": []}
    words = iter(args)
    for word in words:
        key = word.removeprefix("--").replace("-", "_")
        if word in ("--pure", "--leave-output-tensor", "--allow-requantize"):
            given[key] = True
        elif word in ("--output-tensor-type", "--token-embedding-type"):
            given[key] = parse_tensor_type(next(words))
        elif word == "--tensor-type":
            given["tensor_type"].append(parse_tensor_rule(next(words)))
        elif word == "--override-kv":
            given["override_kv"].append(parse_override(next(words)))
        else:
            assert (word, next(words)) == ("--imatrix", "FILE")
            has_imatrix = True
    return options(has_imatrix, **given)


def made_up(name: str) -> tuple[dict[str, Any], list[Weight]]:
    model = RECIPES["models"][name]
    return model["metadata"], [(tensor, ne, TYPES[letter]) for tensor, ne, letter in model["tensors"]]


def digest_input(name: str) -> tuple[dict[str, Any], list[Weight]]:
    if name.lower().startswith("smollm2"):
        metadata, tensors = made_up("smollm2-q4_1")
        if "f16" in name:
            tensors = [(n, ne, T.F16 if t.info.quantized else t) for n, ne, t in tensors]
        return metadata, tensors
    with GGUFFile(GGUF / name) as file:
        return dict(file.metadata), [(t.name, t.ne, t.type) for t in file.tensors]


def digest_cases() -> Iterator[Any]:
    for stem, digests in DIGESTS.items():
        for name, by_type in digests.items():
            if name not in ("args", "imatrix"):
                for file_type, expected in by_type.items():
                    if file_type != "input_sha256":
                        args = [digests["args"], digests["imatrix"], name, file_type, expected]
                        yield pytest.param(*args, id=f"{stem}-{name}-{file_type}")


@pytest.mark.parametrize(("args", "has_imatrix", "name", "file_type", "expected"), list(digest_cases()))
def test_choices_are_those_of_the_reference(
    args: str, has_imatrix: bool, name: str, file_type: str, expected: dict[str, Any]
) -> None:
    options = parse_options(args.split(), has_imatrix)
    metadata, tensors = digest_input(name)
    choices = choose_types(metadata, tensors, parse_file_type(file_type), options)
    if "error" in expected:
        assert "requires an imatrix" in expected["error"]
        with pytest.raises(DataError, match=r"needs an importance matrix; give one with `imatrix` or"):
            check_choices(tensors, choices, options)
        return
    check_choices(tensors, choices, options)
    chosen = {tensor[0]: choice.type.name for tensor, choice in zip(tensors, choices, strict=True)}
    order = sorted(chosen, key=order_key)
    assert [(n, chosen[n]) for n in order] == [(n, type_) for n, type_, _ in expected["tensors"]]


def test_every_digest_was_compared() -> None:
    assert len(list(digest_cases())) == 105


@pytest.mark.parametrize("run", RECIPES["runs"], ids=lambda run: f"{run['model']} {run['args']}".strip())
def test_made_up_models_get_the_types_of_the_reference(run: dict[str, Any]) -> None:
    metadata, tensors = made_up(run["model"])
    options = parse_options(run["args"].split())
    for file_type, expected in run["by_file_type"].items():
        wanted = parse_file_type(file_type)
        if "error" in expected:
            complaint = r"tensor .*: (expected a name blk.N|rows of .* nothing stands in for it)"
            with pytest.raises((DataError, OptionError), match=complaint):
                choose_types(metadata, tensors, wanted, options)
            continue
        choices = choose_types(metadata, tensors, wanted, options)
        assert [choice.type for choice in choices] == [TYPES[letter] for letter in expected["types"]], (
            file_type
        )
        assert sum(choice.fallback_from is not None for choice in choices) == expected["fallbacks"], file_type
        needed = any(choice.needs_imatrix for choice in choices) and options.imatrix is None
        assert needed == expected["needs_imatrix"], file_type


def choose(file_type: str, *tensors: Weight, options: Options | None = None, **metadata: Any) -> list[Choice]:
    facts = {"general.architecture": "llama", "llama.block_count": 8} | metadata
    return choose_types(facts, tensors, parse_file_type(file_type), options or Options())


V = [(f"blk.{i}.attn_v.weight", (256, 256), T.F16) for i in range(8)]


def test_choices_do_not_depend_on_the_order_of_the_tensors() -> None:
    straight = choose("Q4_K_M", *V)
    assert [c.type.name for c in straight] == ["Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K"]
    assert choose("Q4_K_M", *reversed(V)) == straight[::-1]


def test_a_row_that_no_block_fits_is_reported_with_what_it_should_have_been() -> None:
    assert choose("Q4_K_M", ("blk.0.attn_q.weight", (64, 4), T.F16)) == [Choice(T.Q5_0, T.Q4_K)]
    assert choose("Q4_K_M", ("blk.0.attn_q.weight", (33, 4), T.F16)) == [Choice(T.F16, T.Q4_K)]


def test_a_four_dimensional_weight_is_quantized() -> None:
    assert choose("Q8_0", ("a.weight", (32, 1, 1, 2), T.F16), ("b.weight", (32, 1, 1, 1), T.F16)) == [
        Choice(T.Q8_0),
        Choice(T.F16),
    ]


def test_mixtures_need_the_block_count_but_plain_types_do_not() -> None:
    down = ("blk.0.ffn_down.weight", (256, 4), T.F16)
    with pytest.raises(FormatError, match=r"lack mpt\.block_count"):
        choose("Q4_K_M", down, **{"general.architecture": "mpt"})
    assert choose("F16", down, **{"general.architecture": "mpt"}) == [Choice(T.F16)]


# --- what stops the work ------------------------------------------------------------------------------------


def check(tensor: Weight, choice: Choice, options: Options | None = None) -> None:
    check_choices([tensor], [choice], options or Options())


def test_quantizing_again_must_be_allowed() -> None:
    tensor = ("a.weight", (256, 2), T.Q8_0)
    with pytest.raises(
        DataError, match=r"tensor a\.weight is quantized already \(Q8_0\) and would become Q4_K; .*F16"
    ):
        check(tensor, Choice(T.Q4_K))
    check(tensor, Choice(T.Q4_K), options(allow_requantize=True))
    check(tensor, Choice(T.Q8_0))


@pytest.mark.parametrize("type_", [T.Q8_1, T.Q8_K, T.I32, T.F64])
def test_a_type_that_cannot_be_decoded_can_only_be_copied(type_: GGMLQuantizationType) -> None:
    tensor = ("a.weight", (256, 2), type_)
    with pytest.raises(
        DataError, match=rf"tensor a\.weight is {type_.name}, which gguffast cannot turn into Q4_K"
    ):
        check(tensor, Choice(T.Q4_K), options(allow_requantize=True))
    check(tensor, Choice(type_))


def test_q2_k_s_needs_an_importance_matrix_even_for_tensors_that_are_q2_k_already() -> None:
    tensor = ("a.weight", (256, 2), T.Q2_K)
    [choice] = choose("Q2_K_S", tensor)
    assert choice == Choice(T.Q2_K, None, needs_imatrix=True)
    with pytest.raises(DataError, match="needs an importance matrix"):
        check(tensor, choice)
    check_choices([tensor], [choice], options(has_imatrix=True))
    assert not choose("Q2_K", tensor)[0].needs_imatrix


@pytest.mark.parametrize("type_", ["output_tensor_type", "token_embedding_type"])
def test_a_forced_type_that_does_not_divide_the_rows_is_an_error(type_: str) -> None:
    # llama-quantize writes past its buffer or fails with "quantized data validation failed"
    tensors = [("token_embd.weight", (64, 2), T.F16), ("output.weight", (64, 2), T.F16)]
    with pytest.raises(
        OptionError, match=r"rows of 64 are not whole blocks of 256, which `\w+` Q4_K needs; take Q5_0"
    ):
        choose("Q8_0", *tensors, options=options(**{type_: T.Q4_K}))


@pytest.mark.parametrize(
    "given",
    [
        {"output_tensor_type": T.Q8_1},
        {"token_embedding_type": T.Q8_K},
        {"tensor_type": [TensorRule(tensor_rule("a", "q8_0").pattern, T.I8)]},
    ],
)
def test_types_without_codec_cannot_be_asked_for(given: dict[str, Any]) -> None:
    with pytest.raises(
        OptionError, match=r"tensor type \w+ is known, but not one that gguffast produces yet"
    ):
        Options(given)


# --- what the user writes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "number"),
    [
        ("Q4_K_M", "Q4_K_M", 15),
        ("q4_k_m", "Q4_K_M", 15),
        ("15", "Q4_K_M", 15),
        (15, "Q4_K_M", 15),
        (LlamaFileType.MOSTLY_Q4_K_M, "Q4_K_M", 15),
        ("Q3_k", "Q3_K_M", 12),
        ("q4_k", "Q4_K_M", 15),
        ("Q5_K", "Q5_K_M", 17),
        ("0", "F32", 0),
        ("f32", "F32", 0),
        ("copy", "COPY", 0),
        ("bf16", "BF16", 32),
        ("iq4_xs", "IQ4_XS", 30),
    ],
)
def test_file_types_are_found_by_name_alias_and_number(text: str | int, name: str, number: int) -> None:
    found = parse_file_type(text)
    assert (found.name, found.number) == (name, number)
    assert parse_file_type(found) is found


def test_the_numbers_are_those_of_llama_cpp() -> None:
    import gguf

    ours = {number.name: int(number) for number in LlamaFileType if number not in (40, 41)}
    theirs = {number.name: int(number) for number in gguf.LlamaFileType}
    assert ours.items() <= theirs.items()


@pytest.mark.parametrize("name", ["NVFP4", "39"])
def test_known_file_types_that_are_not_produced_say_so(name: str) -> None:
    with pytest.raises(
        OptionError, match=r"is known, but not one that gguffast produces yet; choose one of Q1_0, "
    ):
        parse_file_type(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Q4_KM", "unknown file type 'Q4_KM'; did you mean Q4_K_M or "),
        ("q8", r"unknown file type 'q8'; did you mean Q8_0\?"),
        ("int4-awq", "unknown file type 'int4-awq'; choose one of Q1_0, "),
        ("4", "unknown file type '4'; "),
        ("-1", "unknown file type '-1'; "),
        ("²", "unknown file type '²'; "),
        ("15GB.gguf", "unknown file type '15GB.gguf'; "),
        ("", "unknown file type ''; "),
    ],
)
def test_unknown_file_types_get_a_suggestion(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_file_type(text)


def test_tensor_types() -> None:
    assert parse_tensor_type("q4_k") is T.Q4_K
    assert parse_tensor_type(T.BF16) is T.BF16
    with pytest.raises(OptionError, match=r"unknown tensor type 'q4_k_m'; did you mean Q4_K"):
        parse_tensor_type("q4_k_m")
    with pytest.raises(OptionError, match=r"tensor type Q8_K is known, but .* yet; choose one of F32, "):
        parse_tensor_type("q8_k")


def test_a_tensor_rule_is_lower_cased_and_searched() -> None:
    rule = parse_tensor_rule(r"BLK\.[0-3]\.FFN_(up|gate)=Q5_K")
    assert rule.type is T.Q5_K
    assert rule.pattern.search("blk.2.ffn_gate_exps.weight")
    assert not rule.pattern.search("blk.4.ffn_gate.weight")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attn_v", r"cannot read tensor type 'attn_v'; expected REGEX=TYPE"),
        ("=q8_0", "expected REGEX=TYPE"),
        ("attn_v=", "expected REGEX=TYPE"),
        (
            "ffn_(up=q8_0",
            r"bad regular expression 'ffn_\(up' at position 4: missing \), unterminated subpattern",
        ),
        ("*=q8_0", r"bad regular expression '\*' at position 0: nothing to repeat"),
        ("[[:digit:]]=q8_0", r"bad regular expression .* write \[0-9\]"),
        ("attn_v=q8", "unknown tensor type 'q8'; did you mean Q8_0"),
        ("attn_v=q8_1", "tensor type Q8_1 is known, but not one"),
    ],
)
def test_bad_tensor_rules(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_tensor_rule(text)


def test_tensor_rules_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "types.txt"
    path.write_text("attn_v=q8_0 ffn_down=q6_k\n\n  token_embd=f16\t")
    rules = read_tensor_rules(path)
    assert [(r.pattern.pattern, r.type) for r in rules] == [
        ("attn_v", T.Q8_0),
        ("ffn_down", T.Q6_K),
        ("token_embd", T.F16),
    ]
    path.write_text("attn_v=q8_0\nattn_k")
    with pytest.raises(OptionError, match=r"types\.txt: cannot read tensor type 'attn_k'"):
        read_tensor_rules(path)
    with pytest.raises(FileError, match=r"cannot read .*none\.txt: there is no such file"):
        read_tensor_rules(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k=int:8", 8),
        ("k=int:-8", -8),
        ("k=float:1e6", 1e6),
        ("k=bool:true", True),
        ("k=bool:false", False),
        ("k=str:a=b:c", "a=b:c"),
        ("k=str:", ""),
    ],
)
def test_overrides(text: str, value: object) -> None:
    override = parse_override(text)
    assert override == ("k", value)
    assert type(override.value) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k", r"cannot read override 'k'; expected KEY=TYPE:VALUE with TYPE int, float, bool or str"),
        ("k=8", "expected KEY=TYPE:VALUE"),
        ("=int:8", "expected KEY=TYPE:VALUE"),
        ("k=u32:8", "override 'k=u32:8' has the unknown type 'u32'"),
        ("k=int:eight", "'eight' is not a value of type int"),
        ("k=int:1_000", "'1_000' is not a value of type int"),
        ("k=int:", "'' is not a value of type int"),
        ("k=float:x", "'x' is not a value of type float"),
        ("k=bool:yes", "'yes' is not a value of type bool"),
        ("k=int:4294967296", "does not fit an unsigned 32-bit integer"),
        ("k=float:1e39", "does not fit a 32-bit float"),
        ("k=str:" + "é" * 64, "a text has at most 127 bytes, found 128"),
        ("k" * 128 + "=int:1", "a key has 1 to 127 bytes"),
        ("general.alignment=int:64", "general.alignment cannot be overridden"),
    ],
)
def test_bad_overrides(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_override(text)


# --- order and metadata -------------------------------------------------------------------------------------


def test_output_order_is_by_layer_then_name() -> None:
    names = ["blk.10.a", "blk.2.b", "output.weight", "blk.2.a", "rope.weight", "blk.x.a", "blk.3b", "Z", "é"]
    expected = [
        "Z",
        "blk.x.a",
        "output.weight",
        "rope.weight",
        "é",
        "blk.2.a",
        "blk.2.b",
        "blk.3b",
        "blk.10.a",
    ]
    for some in itertools.islice(itertools.permutations(names), 0, 5000, 97):
        assert sorted(some, key=order_key) == expected


def pairs(rows: list[Any]) -> list[KV]:
    return [KV(key, GGUFValueType(number), bytes.fromhex(raw)) for key, number, raw in rows]


@pytest.mark.parametrize("run", OUTPUT_KVS["runs"], ids=lambda run: f"{run['source']} {run['file_type']}")
def test_output_metadata_is_that_of_the_reference(run: dict[str, Any]) -> None:
    source = OUTPUT_KVS["sources"][run["source"]]
    kvs = pairs(source["kvs"])
    overrides = [parse_override(text) for text in run["overrides"]]
    tensors = [(name, ne, T[type_]) for name, ne, type_ in source["tensors"]]
    number = file_type_number(
        parse_file_type(run["file_type"]), {kv.key: kv.value for kv in kvs}, tensors, overrides
    )
    assert output_kvs(kvs, number, overrides) == pairs(run["kvs"])


def test_metadata_of_the_importance_matrix_come_last() -> None:
    extra = [KV("quantize.imatrix.file", GGUFValueType.STRING, b"\0" * 8)]
    out = output_kvs(extra, 7, [Override("a", 1)], extra)
    assert [kv.key for kv in out] == ["general.quantization_version", "general.file_type", "a", extra[0].key]


def test_overrides_from_python_are_checked_too() -> None:
    with pytest.raises(OptionError, match=r"general\.alignment cannot be overridden"):
        output_kvs([], 7, [Override("general.alignment", 64)])


@pytest.mark.parametrize("file_type", list(FILE_TYPES.values()), ids=lambda file_type: file_type.name)
def test_the_output_says_its_file_type(file_type: FileType) -> None:
    number = file_type_number(file_type, {"general.file_type": 99}, [])
    assert number == (99 if file_type.copies else file_type.number)


def test_choosing_needs_no_numpy() -> None:
    code = "import sys, gguffast.recipe; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

"""Pooling: the files of sentence-transformers, whole and damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gguffast.conversion.architecture import Facts
from gguffast.conversion.hparams import Hparams
from gguffast.conversion.pooling import pooling
from gguffast.errors import FormatError

POOLING = "sentence_transformers.models.Pooling"


def key(folder: Path, modules: Any, config: Any) -> list[tuple[str, Any]]:
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    hparams = Hparams({}, {}, (), folder / "config.json")
    return [(pair.key, pair.value) for pair in pooling(Facts("bert", hparams, 0))]


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, 1),
        ({"pooling_mode_cls_token": True, "pooling_mode": "mean"}, 2),
        ({"pooling_mode_lasttoken": True}, 3),
        ({"pooling_mode": "lasttoken"}, 3),
    ],
)
def test_the_way_is_named(tmp_path: Path, config: dict[str, Any], mode: int) -> None:
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    found = key(tmp_path, [*modules, {"type": POOLING, "path": "1_Pooling"}], config)
    assert found == [("bert.pooling_type", mode)]


def test_without_modules_nothing_is_said(tmp_path: Path) -> None:
    assert key(tmp_path, [], {"pooling_mode": "max"}) == []


@pytest.mark.parametrize("place", ["../elsewhere", "/etc", None, 7])
def test_other_folders_are_not_read(tmp_path: Path, place: object) -> None:
    with pytest.raises(FormatError, match=r"modules\.json: .* is not the name of a folder beside it"):
        key(tmp_path, [{"type": POOLING, "path": place}], {"pooling_mode": "mean"})


@pytest.mark.parametrize("config", [{}, {"pooling_mode": "max"}, {"pooling_mode_max_tokens": True}])
def test_a_way_that_llama_cpp_does_not_know(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r'1_Pooling/config\.json: "pooling_mode" .*mean, cls, last'):
        key(tmp_path, [{"type": POOLING, "path": "1_Pooling"}], config)


def test_modules_that_are_no_list(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"modules\.json: not a list of modules"):
        key(tmp_path, {"type": POOLING}, {})

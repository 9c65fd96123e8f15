"""A real Ollama server whose llama-quantize is gguffast's, beside one that has its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gguffast
from gguffast.cli import main
from support.gguf_files import GGUF
from support.ollama_servers import VERSIONS, Server, installed, running, split

pytestmark = pytest.mark.ollama

MODEL = GGUF / "llama-wide-f16.gguf"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """The one that has its own, and the one that has ours."""
    own = installed(VERSIONS[-1])
    folder = tmp_path_factory.mktemp("servers")
    ours = folder / own.parents[1].name
    shutil.copytree(own.parents[1], ours, copy_function=os.link)
    assert main(["link-llama-quantize", str(ours / "lib" / "ollama")]) == 0
    for name in ("own", "ours"):
        (folder / name).mkdir()
    with running(own, folder / "own") as first, running(ours / "bin" / "ollama", folder / "ours") as second:
        yield first, second


def post(server: Server, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(f"http://{server.host}{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        return [json.loads(line) for line in answer]


def create(server: Server, files: list[Path], type_: str | None) -> tuple[list[dict[str, Any]], str | None]:
    """What the server says, and the id of the model."""
    digests = {}
    for path in files:
        data = path.read_bytes()
        digests[path.name] = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if not (server.models / "blobs" / digests[path.name].replace(":", "-")).exists():
            url = f"http://{server.host}/api/blobs/{digests[path.name]}"
            urllib.request.urlopen(urllib.request.Request(url, data, method="POST")).close()
    body: dict[str, Any] = {"model": "it", "files": digests}
    said = post(server, "/api/create", body | ({"quantize": type_} if type_ else {}))
    with urllib.request.urlopen(f"http://{server.host}/api/tags") as answer:
        ids = [model["digest"] for model in json.load(answer)["models"]]
    return said, ids[0] if ids else None


@pytest.mark.parametrize("type_", [None, "Q4_K_M", "Q4_K_S", "Q8_0", "BF16"])
def test_the_same_model_and_a_bar_that_moves(servers: tuple[Server, Server], type_: str | None) -> None:
    own, own_id = create(servers[0], [MODEL], type_)
    ours, our_id = create(servers[1], [MODEL], type_)
    assert own[-1] == ours[-1] == {"status": "success"}
    assert our_id == own_id
    assert not [line for line in own if "completed" in line]
    completed = [line["completed"] for line in ours if "completed" in line]
    assert len(completed) == 39
    assert completed == sorted(completed)


def test_split_input(servers: tuple[Server, Server], tmp_path: Path) -> None:
    first = split(MODEL, tmp_path)
    shards = sorted(first.parent.glob("part-*.gguf"))
    ids = [create(server, shards, "Q4_K_M")[1] for server in servers]
    assert ids[0] == ids[1]


def test_the_reason_for_a_refusal_is_in_the_log(servers: tuple[Server, Server], tmp_path: Path) -> None:
    path = tmp_path / "damaged.gguf"
    shutil.copy(MODEL, path)
    with gguffast.GGUFFile(path) as file:
        tensor = [tensor for tensor in file.tensors if tensor.type.name == "F16"][-1]
        at = tensor.offset
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\x00\x7e")
    said, _ = create(servers[1], [path], "Q8_0")
    assert "llama-quantize failed: exit status 1" in said[-1]["error"]
    assert f"tensor '{tensor.name}', row 0: NaN or infinity in the source" in servers[1].log


def test_the_model_answers(servers: tuple[Server, Server], real_model_f16: Path) -> None:
    said, _ = create(servers[1], [real_model_f16], "Q8_0")
    assert said[-1] == {"status": "success"}
    question = {"role": "user", "content": "What is the capital of France?"}
    options = {"temperature": 0, "num_predict": 16}
    body = {"model": "it", "stream": False, "messages": [question], "options": options}
    [answer] = post(servers[1], "/api/chat", body)
    assert "Paris" in answer["message"]["content"]

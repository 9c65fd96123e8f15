"""A real Ollama server: models are registered in every way, listed, asked and removed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import gguffast
from gguffast.errors import ServerError
from gguffast.ollama import Client, Modelfile, create, templates
from gguffast.ollama.templates import recognise
from support.ollama_servers import Server, split

pytestmark = pytest.mark.ollama

# Of a small model on a slow machine: enough words for one fact.
BRIEF = "PARAMETER num_predict 12\nPARAMETER temperature 0\nPARAMETER num_ctx 512\n"
QUESTION = "What is the capital of France?"


@pytest.fixture
def models(server: Server) -> Iterator[Server]:
    """The server, without models before and after."""
    yield server
    with Client(server.host) as client:
        for model in client.list():
            client.delete(model.name)


def write(folder: Path, text: str) -> Path:
    path = folder / "Modelfile"
    path.write_text(text)
    return path


def done(completed: subprocess.CompletedProcess[str]) -> str:
    lines = completed.stderr.splitlines()
    said = [line for line in lines if not re.match(r" *[0-9]+ %  ", line)]  # progress, on a slow machine
    assert (completed.returncode, said) == (0, [])
    return completed.stdout


def shown(server: Server, name: str) -> dict[str, Any]:
    found = json.loads(done(server.gguffast("show", name, "--json")))
    assert isinstance(found, dict)
    return found


def names(server: Server) -> list[str]:
    return [line.split()[0] for line in done(server.gguffast("list")).splitlines()[1:]]


def test_a_gguf_with_a_modelfile(models: Server, bf16: Path, tmp_path: Path) -> None:
    q4 = tmp_path / "model.gguf"
    gguffast.quantize(bf16, q4, "Q4_K_M")
    file = write(tmp_path, f"FROM ./model.gguf\n{BRIEF}")
    disk = os.statvfs(models.models)
    made = done(models.gguffast("create", "france", "-f", file))
    after = os.statvfs(models.models)
    size = q4.stat().st_size
    assert "linked into the server's store" in made
    if models.is_new:  # it renders the model's own template
        assert "chat template" not in made
    else:
        assert "chat template  chatml" in made
        assert "You are a helpful AI assistant named SmolLM" in shown(models, "france")["template"]
    (blob,) = [path for path in models.blobs() if path.stat().st_size == size]
    assert (
        blob.stat().st_ino == q4.stat().st_ino or after.f_bfree > disk.f_bfree - size // after.f_frsize // 2
    )
    assert "Paris" in done(models.gguffast("run", "france", *QUESTION.split()))
    assert names(models) == ["france:latest"]
    assert "Q4_K_M" in done(models.gguffast("list"))
    # The server's own Modelfile, read by ours.
    served = Modelfile.parse(done(models.gguffast("show", "france", "--modelfile")))
    assert served.parameters["num_ctx"] == 512
    assert done(models.gguffast("rm", "france")) == "removed france\n"
    assert names(models) == []
    assert q4.stat().st_size == size  # removing the model leaves the user's file
    again = models.gguffast("rm", "france")
    assert again.returncode == 1
    assert again.stderr.startswith("gguffast: error: removing france: the server has no such model")


@pytest.mark.parametrize("type_", ["Q3_K_M", "Q6_K", "IQ4_XS"])
def test_types_that_the_server_does_not_make(type_: str, models: Server, bf16: Path, tmp_path: Path) -> None:
    file = write(tmp_path, f"FROM {bf16}\n{BRIEF}")
    done(models.gguffast("create", "q", "-f", file, "-q", type_.lower()))
    has_no_name = type_ == "IQ4_XS" and not models.is_new
    assert shown(models, "q")["details"]["quantization_level"] == ("unknown" if has_no_name else type_)
    assert "Paris" in done(models.gguffast("run", "q", stdin=QUESTION))
    assert sorted(os.listdir(models.models)) == ["blobs", "manifests"]
    # One file, which only the store has.
    (blob,) = [path for path in models.blobs() if path.stat().st_size > 1 << 20]
    assert blob.stat().st_nlink == 1


def test_a_checkpoint_folder(models: Server, checkpoint: Path, tmp_path: Path) -> None:
    file = write(tmp_path, f"FROM {checkpoint}\n{BRIEF}")
    before = sorted(os.listdir(checkpoint))
    done(models.gguffast("create", "hf:q4", "-f", file, "-q", "Q4_K_M"))
    assert sorted(os.listdir(checkpoint)) == before
    assert names(models) == ["hf:q4"]
    assert "Paris" in done(models.gguffast("run", "hf:q4", QUESTION))


def test_a_custom_prompt(models: Server, real_model: Path, tmp_path: Path) -> None:
    system = "You are Mario from Super Mario Bros. Answer as Mario, the assistant, only."
    file = write(
        tmp_path, f"FROM {real_model}\nPARAMETER temperature 1\nPARAMETER num_ctx 4096\nSYSTEM {system}"
    )
    done(models.gguffast("create", "mario", "-f", file))
    facts = shown(models, "mario")
    parameters = dict(line.split(maxsplit=1) for line in facts["parameters"].splitlines())
    assert (parameters["temperature"], parameters["num_ctx"]) == ("1", "4096")
    assert Modelfile.parse(facts["modelfile"]).get("system") == system
    assert f"system      {system}" in done(models.gguffast("show", "mario"))
    body = {
        "model": "mario",
        "stream": False,
        "messages": [{"role": "user", "content": "Who are you?"}],
        "options": {"num_predict": 12, "temperature": 0, "num_ctx": 512},
    }
    request = urllib.request.Request(f"http://{models.host}/api/chat", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        assert "Mario" in json.load(answer)["message"]["content"]


def test_a_model_of_the_server(models: Server, real_model: Path, tmp_path: Path) -> None:
    write(tmp_path, f"FROM {real_model}")
    done(models.gguffast("create", "base", "-f", tmp_path))
    before = models.blobs()
    write(tmp_path, "FROM base\nSYSTEM Be brief.")
    done(models.gguffast("create", "derived", "-f", tmp_path))
    assert len(models.blobs()) <= len(before) + 2
    assert Modelfile.parse(shown(models, "derived")["modelfile"]).get("system") == "Be brief."


def test_copies_where_links_are_forbidden(models: Server, bf16: Path, tmp_path: Path) -> None:
    # A file of its own: a new server keeps what an earlier test sent.
    gguffast.quantize(bf16, tmp_path / "fresh.gguf", "Q5_0")
    file = write(tmp_path, "FROM fresh.gguf")
    made = done(models.gguffast("create", "copied", "-f", file, "--no-link"))
    assert "sent to the server" in made
    assert (tmp_path / "fresh.gguf").stat().st_nlink == 1
    assert "was there already" in done(models.gguffast("create", "again", "-f", file, "--no-link"))


def test_a_server_that_dies_in_the_middle_of_an_upload(models: Server, bf16: Path, tmp_path: Path) -> None:
    modelfile = Modelfile.parse(f"FROM {bf16}")
    sending = threading.Event()

    def kill(step: Any) -> None:
        if step.tensor.startswith("uploading") and step.done > step.total // 3 and not sending.is_set():
            sending.set()
            models.stop(signal.SIGKILL)

    with Client(models.host) as client, pytest.raises(ServerError, match="went away; see that it runs"):
        create("m", modelfile, client, link=False, progress=kill)
    assert sending.is_set()
    models.start()
    assert names(models) == []
    with Client(models.host) as client:
        made = create("m", modelfile, client, link=False)
    assert made.uploaded == bf16.stat().st_size
    assert names(models) == ["m:latest"]


def test_a_terminated_create_registers_nothing(models: Server, bf16: Path, tmp_path: Path) -> None:
    file = write(tmp_path, f"FROM {bf16}")
    command = [sys.executable, "-m", "gguffast", "create", "m", "-f", file, "-q", "Q2_K"]
    before = models.blobs()
    process = subprocess.Popen(command, env=models.environment, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(models.models.glob(".gguffast-*/.gguffast-*")):
        pass
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr.splitlines()[-1].startswith("gguffast: interrupted; m was not registered")
    assert names(models) == []
    assert models.blobs() == before
    assert sorted(os.listdir(models.models)) == ["blobs", "manifests"]


def test_go_accepts_every_template(models: Server, real_model: Path) -> None:
    with Client(models.host) as client:
        create("base", Modelfile.parse(f"FROM {real_model}"), client)
        texts = [text for _, _, _, text, _ in templates._FAMILIES if text]
        found = recognise("{{ '[INST] ' + message['content'] + ' [/INST]' }}")
        assert found is not None
        for text in [*texts, found.text]:
            client.create("t", {"from": "base", "template": text})
            assert client.show("t").template == text
        with pytest.raises(ServerError, match="the server refuses the TEMPLATE; it must be Go's"):
            client.create("t", {"from": "base", "template": "{{ range .Messages }}"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM model.gguf\nTEMPLATE {{ end }}", "the server refuses the TEMPLATE"),
        ("FROM model.gguf\nPARAMETER x 1", "Modelfile:2:11: unknown parameter 'x'"),
        ("FROM other.gguf", "there is no"),
        ("FROM notes.gguf", "not a GGUF file"),
    ],
)
def test_every_error_is_one_line(
    text: str, message: str, models: Server, real_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.gguf").symlink_to(real_model)
    (tmp_path / "notes.gguf").write_text("no model at all, but long enough to be read as one")
    found = models.gguffast("create", "m", "-f", write(tmp_path, text))
    assert found.returncode == 1
    assert found.stderr.startswith("gguffast: error: ")
    assert found.stderr.count("\n") == 1
    assert message in found.stderr
    assert names(models) == []


def test_split_input(models: Server, bf16: Path, tmp_path: Path) -> None:
    file = write(tmp_path, f"FROM {split(bf16, tmp_path).name}\n{BRIEF}")
    done(models.gguffast("create", "whole", "-f", file, "-q", "Q8_0"))
    assert shown(models, "whole")["details"]["quantization_level"] == "Q8_0"
    assert "Paris" in done(models.gguffast("run", "whole", QUESTION))


def test_an_adapter(models: Server, real_model: Path, tmp_path: Path) -> None:
    """A LoRA of one tensor, which the server loads beside the model."""
    writer = gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 1.0)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.full((4, 576), 0.01, np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.full((576, 4), 0.01, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = write(tmp_path, f"FROM {real_model}\nADAPTER lora.gguf\n{BRIEF}")
    done(models.gguffast("create", "adapted", "-f", file))
    assert "Paris" in done(models.gguffast("run", "adapted", QUESTION))
    assert "loading lora adapter" in models.log or "loaded 2 tensors from lora file" in models.log


def test_an_answer_has_an_end(models: Server, real_model: Path, tmp_path: Path) -> None:
    file = write(tmp_path, f"FROM {real_model}\nPARAMETER temperature 0\nPARAMETER num_ctx 512")
    done(models.gguffast("create", "m", "-f", file))
    said = done(models.gguffast("run", "m", "Count from one to a hundred.", "--num-predict", "8"))
    assert 1 <= len(said.split()) <= 8


def test_nothing_is_left_running(models: Server, real_model: Path, tmp_path: Path) -> None:
    done(models.gguffast("create", "m", "-f", write(tmp_path, f"FROM {real_model}\n{BRIEF}")))
    done(models.gguffast("run", "m", QUESTION))
    # The model is kept in a process of its own.
    assert len(models.processes()) >= 2
    models.stop()
    assert models.processes() == {}
    models.start()


@pytest.mark.parametrize("what", ["converted", "quantized", "checkpoint"])
def test_the_store_holds_a_model_once(
    what: str, models: Server, checkpoint: Path, bf16: Path, tmp_path: Path
) -> None:
    """The server copies what it is given; what is linked must be what that copy will be."""
    before = models.models_in_store()
    source = {"converted": bf16, "quantized": tmp_path / "q.gguf", "checkpoint": checkpoint}[what]
    if what == "quantized":
        gguffast.quantize(bf16, source, "Q5_K_S")
    file = write(tmp_path, f"FROM {source}\n{BRIEF}")
    made = models.gguffast("create", "once", "-f", file, *(("-q", "Q5_1") if what == "checkpoint" else ()))
    assert "linked into the server's store" in done(made)
    (blob,) = set(models.models_in_store()) - set(before)
    assert blob.name.removeprefix("sha256-") in shown(models, "once")["modelfile"]


def test_asking_what_is_not_there(models: Server) -> None:
    found = models.gguffast("run", "nothing", "Hello")
    assert found.returncode == 1
    assert "the server has no such model" in found.stderr
    empty = models.gguffast("run", "nothing")
    assert (empty.returncode, empty.stderr) == (
        1,
        "gguffast: error: no PROMPT was given, and there is nothing on standard input\n",
    )

"""``gguffast import``: from a name to a model in Ollama, and on again after a failure."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gguffast
from gguffast.errors import FileError, FormatError, OptionError
from gguffast.gguf import GGUFFile
from gguffast.importer import import_model
from gguffast.obtain import scratch_folder
from support.gguf_files import GGUF
from support.local_hub import TOKEN, Repo, refused

NOWHERE = "127.0.0.1:9"
GEMMA = GGUF / "gemma2-f32.gguf"


@pytest.fixture
def environment(tmp_path, stub):
    """A stub of Ollama, and a cache of our own."""
    return {
        "OLLAMA_HOST": stub.host,
        "OLLAMA_MODELS": tmp_path / "no-store",
        "GGUFFAST_CACHE": tmp_path / "cache",
    }


@pytest.fixture
def run(run_with_hub, environment):
    return lambda *args, **more: run_with_hub(*args, **environment | more)


@pytest.fixture
def tiny(hub, unpacked):
    """A checkpoint on the Hub."""
    files = {p.name: p.read_bytes() for p in (unpacked / "llama3").iterdir()}
    hub.repos["owner/Tiny-Chat"] = Repo(files | {"pytorch_model.bin": b"not wanted"})
    return unpacked / "llama3"


def steps(done):
    return re.findall(r"^(\d/\d \w+ .*)$", done.stderr, re.MULTILINE)


def again(done):
    """The command to go on with, as the message has it."""
    words = shlex.split(re.search(r"continue with: gguffast (import .*)", done.stderr)[1])
    assert TOKEN not in words
    return words


def test_from_the_hub(hub, run, tiny, stub, tmp_path):
    options = ["--system", "Be brief.", "--param", "temperature=1", "--param", "num_ctx=4096"]
    options += ["--param", "stop=A", "--param", "stop=B"]
    done = run("import", "owner/Tiny-Chat", "--as", "tiny:q8", "-q", "q8_0", "--keep", "out", *options)
    assert done.returncode == 0, done
    assert steps(done) == [
        "1/3 download owner/Tiny-Chat",
        "2/3 convert  Tiny-Chat to Q8_0",
        "3/3 register tiny:q8",
    ]
    assert "pytorch_model.bin" not in hub.downloads()
    path = tmp_path / "out" / "Tiny-Chat-Q8_0.gguf"
    assert f"GGUF file      {path}\n" in done.stdout
    body = stub.created()
    assert body["model"] == "tiny:q8"
    assert body["system"] == "Be brief."
    assert body["parameters"] == {"temperature": 1.0, "num_ctx": 4096, "stop": ["A", "B"]}
    assert list(stub.blobs) == list(body["files"].values())
    # What convert makes of a folder with the repo's name, to the byte, in llama-quantize's order.
    (tmp_path / "Tiny-Chat").symlink_to(tiny)
    gguffast.convert(tmp_path / "Tiny-Chat", tmp_path / "converted.gguf", "q8_0")
    gguffast.quantize(tmp_path / "converted.gguf", tmp_path / "same.gguf", "COPY")
    assert path.read_bytes() == (tmp_path / "same.gguf").read_bytes()
    with GGUFFile(path) as file:
        assert file.metadata["general.name"] == "Tiny Chat"


def test_without_ollama_the_file_is_made_and_the_same_command_goes_on(hub, run, tiny, stub, tmp_path):
    done = run("import", "owner/Tiny-Chat", "--as", "tiny", OLLAMA_HOST=NOWHERE)
    assert (done.returncode, done.stdout) == (1, "")
    *_, last = done.stderr.splitlines()
    assert "step 3 of 3 (register): no Ollama server answers at http://127.0.0.1:9" in last
    path = Path(re.search(r"the GGUF file is ready, (\S+\.gguf); continue with", last)[1])
    assert path.name == "Tiny-Chat-Q4_K_M.gguf"
    assert path.is_relative_to(tmp_path / "cache" / "imports")
    before = path.stat().st_mtime_ns, path.stat().st_ino
    hub.requests.clear()
    again_failed = run(*again(done), OLLAMA_HOST=NOWHERE)
    assert again(again_failed) == again(done)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    finished = run(*again(done))
    assert finished.returncode == 0, finished
    assert steps(finished) == [
        "1/3 download owner/Tiny-Chat (done before)",
        "2/3 quantize Tiny-Chat-Q4_K_M.gguf (done before)",
        "3/3 register tiny",
    ]
    assert hub.downloads() == []
    assert stub.created()["model"] == "tiny"
    # Registered, so that nothing is left for a next time.
    assert list((tmp_path / "cache" / "imports").iterdir()) == []


def test_a_newer_commit_is_imported_anew(hub, run, tiny):
    assert run("import", "owner/Tiny-Chat", "--as", "tiny", OLLAMA_HOST=NOWHERE).returncode == 1
    hub.repos["owner/Tiny-Chat"].files["README.md"] = b"---\nlicense: mit\n---\n"
    done = run("import", "owner/Tiny-Chat", "--as", "tiny", OLLAMA_HOST=NOWHERE)
    assert steps(done)[:2] == ["1/3 download owner/Tiny-Chat", "2/3 convert  Tiny-Chat to Q4_K_M"]
    # Without the Hub, what there is must do.
    gone = run("import", "owner/Tiny-Chat", "--as", "tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert gone.returncode == 0, gone


def test_upload(hub, run, tiny, tmp_path):
    command = ["import", "owner/Tiny-Chat", "--as", "tiny", "--upload", "me/Tiny-GGUF", "--private"]
    text = refused(run(*command), "uploading needs a token with write permission")
    assert "continue with" not in text
    hub.refuse_uploads = True
    failed = run(*command, "--token", TOKEN)
    assert failed.returncode == 1
    assert "step 4 of 4 (upload): " in failed.stderr
    assert TOKEN not in failed.stderr
    hub.refuse_uploads = False
    done = run(*again(failed), HF_TOKEN=TOKEN)
    assert done.returncode == 0, done
    assert done.stderr.splitlines()[:-1] == steps(done)[:-1]  # no bars in a log
    assert "2/4 quantize Tiny-Chat-Q4_K_M.gguf (done before)" in steps(done)
    assert f"uploaded to    {hub.url}/me/Tiny-GGUF\n" in done.stdout
    repo = hub.repos["me/Tiny-GGUF"]
    assert repo.private
    assert {"README.md", "Tiny-Chat-Q4_K_M.gguf"} <= repo.files.keys()
    assert b"base_model: owner/Tiny-Chat\n" in repo.files["README.md"]


def test_a_checkpoint_folder_that_changes(run, copy_of, tmp_path):
    folder = copy_of("llama3")
    command = ["import", folder, "--as", "tiny", "--keep", "out", "-q", "Q8_0"]
    assert steps(run(*command)) == ["1/2 convert  llama3 to Q8_0", "2/2 register tiny"]
    assert "1/2 quantize llama3-Q8_0.gguf (done before)" in steps(run(*command))
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    assert "1/2 convert  llama3 to Q8_0" in steps(run(*command))
    (tmp_path / "out" / "llama3-Q8_0.gguf").write_bytes(b"damaged")
    assert "1/2 convert  llama3 to Q8_0" in steps(run(*command))


def test_a_gguf_file(run, tmp_path, stub):
    done = run("import", GEMMA, "--as", "gemma", "--keep", "out")
    assert steps(done) == ["1/2 quantize gemma2-f32.gguf to Q4_K_M", "2/2 register gemma"]
    made = tmp_path / "out" / "gemma2-q4_k_m.gguf"
    assert made.read_bytes() == gguffast.quantize(GEMMA, tmp_path / "same.gguf", "Q4_K_M").dst.read_bytes()
    stub.requests.clear()
    done = run("import", made, "--as", "gemma")
    assert steps(done)[0] == "1/2 quantize gemma2-q4_k_m.gguf is Q4_K_M already (done before)"
    assert made.exists()
    done = run("import", made, "--as", "gemma", "-q", "Q8_0", "--keep", "out")
    assert "--allow-requantize" in done.stderr
    assert run(*again(done), "--allow-requantize").returncode == 0


def test_a_file_of_another_recipe_is_made_anew(run, tmp_path):
    def imported(*options):
        done = run("import", GEMMA, "--as", "gemma", "-q", "Q4_0", *options, OLLAMA_HOST=NOWHERE)
        assert "step 2 of 2 (register): no Ollama server answers" in done.stderr, done
        return "done before" in steps(done)[0], Path(re.search(r"is ready, (\S+\.gguf)", done.stderr)[1])

    rules = tmp_path / "rules"
    rules.write_text("ffn_up=q8_0")
    said = f"--tensor-type attn_v=q6_K --tensor-type-file {rules} --override-kv a.b=int:7 --pure".split()
    before, path = imported(*said)
    assert not before
    options = {"tensor_type": [("attn_v", "q6_k"), rules], "override_kv": {"a.b": 7}, "pure": True}
    same = gguffast.quantize(GEMMA, tmp_path / "same.gguf", "Q4_0", **options).dst
    assert path.read_bytes() == same.read_bytes()
    assert imported(*said) == (True, path)
    assert imported() != (True, path)
    assert imported(*said[:-1])[0] is False
    rules.write_text("ffn_up=q5_0")
    assert imported(*said)[0] is False
    # An importance matrix is its path, which becomes metadata, its size and its time.
    matrix = tmp_path / "imatrix.dat"
    with GGUFFile(GEMMA) as model:
        shapes = {tensor.name: tensor.ne[0] for tensor in model.tensors}
    entries = [(name.encode(), n) for name, n in shapes.items() if "attn_q." in name or "ffn_down." in name]
    with open(matrix, "wb") as file:
        file.write(struct.pack("<i", len(entries)))
        for name, n in entries:
            file.write(struct.pack(f"<i{len(name)}sii{n}f", len(name), name, 1, n, *range(n)))
    said = ["--imatrix", matrix, "--exclude-weights", "ffn_down"]
    assert [imported(*said)[0], imported(*said)[0], imported(*said[:2])[0]] == [False, True, False]
    os.utime(matrix, (1, 1))
    assert [imported(*said)[0], imported(*said)[0]] == [False, True]


def test_a_kept_file_of_another_recipe_stays(run, tmp_path):
    command = ["import", GEMMA, "--as", "gemma", "-q", "Q8_0", "--keep", "out"]
    assert run(*command).returncode == 0
    (kept,) = (tmp_path / "out").glob("*.gguf")
    before = kept.read_bytes()
    done = run(*command, "--output-tensor-type", "q4_0")
    assert "already exists and is not from a former import with the same options; move it" in done.stderr
    assert kept.read_bytes() == before


def test_a_ready_file_with_a_recipe(run, stub, tmp_path):
    path = gguffast.quantize(GEMMA, tmp_path / "m-q8_0.gguf", "Q8_0").dst
    done = run(
        "import", path, "--as", "m", "-q", "Q8_0", "--keep", "out", "--override-kv", "general.name=str:Other"
    )
    assert done.returncode == 0, done
    with GGUFFile(next((tmp_path / "out").glob("*.gguf"))) as file:
        assert file.metadata["general.name"] == "Other"
    done = run("import", path, "--as", "m", "-q", "Q8_0", "--token-embedding-type", "q4_0")
    assert "is quantized already (Q8_0) and would become Q4_0" in done.stderr
    assert again(done)[-2:] == ["--token-embedding-type", "q4_0"]


def test_one_gguf_of_many_on_the_hub(hub, run, tmp_path):
    q8 = gguffast.quantize(GEMMA, tmp_path / "q8.gguf", "Q8_0").dst.read_bytes()
    hub.repos["owner/quants"] = Repo(
        {"m-Q8_0.gguf": q8, "m-Q5_K_M.gguf": b"another", "mmproj-Q8_0.gguf": b"no", "mmproj-F16.gguf": b"no"}
    )
    for source in (
        "hf.co/owner/quants:Q8_0",
        "owner/quants:q8_0",
        "owner/quants:m-Q8_0.gguf",
        "owner/quants",
    ):
        done = run("import", source, "--as", "m", "-q", "Q8_0")
        assert done.returncode == 0, done
        assert steps(done)[0] == f"1/3 download {source.removeprefix('hf.co/')}"
    assert set(hub.downloads()) == {"m-Q8_0.gguf"}
    done = run("import", "owner/quants:F16", "--as", "m")
    assert "has no GGUF model 'F16'; it has m-Q5_K_M.gguf, m-Q8_0.gguf" in done.stderr
    done = run("import", "owner/quants", "--as", "m")
    assert "none is Q4_K_M or BF16 or F16 or F32; choose one, as in owner/quants:m-Q5_K_M: " in done.stderr
    # What can be quantized, where the wanted type is not there.
    hub.repos["owner/quants"].files["m-F32.gguf"] = GEMMA.read_bytes()
    done = run("import", "owner/quants", "--as", "m")
    assert steps(done)[1] == "2/3 quantize m-F32.gguf to Q4_K_M"


def test_a_folder_of_gguf_files(run, tmp_path):
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (folder / "mmproj-F16.gguf").write_bytes(b"no model")
    shutil.copyfile(GEMMA, folder / "sub" / "m-F32.gguf")
    done = run("import", folder, "--as", "m", "-q", "Q8_0")
    assert done.returncode == 0, done
    assert steps(done) == ["1/2 quantize m-F32.gguf to Q8_0", "2/2 register m"]
    shutil.copyfile(GEMMA, folder / "x-F32.gguf")
    refused(
        run("import", folder, "--as", "m"),
        f"{folder} has 2 GGUF models; name one of them, as in {folder}/sub/m-F32.gguf: sub/m-F32.gguf, x-",
    )


def test_an_interruption(hub, run, hub_environment, environment, tiny):
    hub.hold_after["model.safetensors"] = 1000
    command = [sys.executable, "-m", "gguffast", "import", "owner/Tiny-Chat", "--as", "tiny"]
    own = hub_environment | {k: str(v) for k, v in environment.items()}
    with subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True) as process:
        assert hub.held.wait(30)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 1
        assert process.stderr.read().endswith(
            "gguffast: interrupted; continue with: gguffast import owner/Tiny-Chat --as tiny -q Q4_K_M\n"
        )
    assert run("import", "owner/Tiny-Chat", "--as", "tiny").returncode == 0


def test_an_interruption_of_create(hub, hub_environment, environment, tiny, tmp_path):
    hub.hold_after["model.safetensors"] = 1000
    (tmp_path / "Modelfile").write_text("FROM hf.co/owner/Tiny-Chat")
    command = [sys.executable, "-m", "gguffast", "create", "tiny", "-f", tmp_path / "Modelfile"]
    own = hub_environment | {k: str(v) for k, v in environment.items()}
    with subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True) as process:
        assert hub.held.wait(30)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 1
        said = "gguffast: interrupted; tiny was not registered; what was downloaded is kept\n"
        assert process.stderr.read().endswith(said)


def test_what_a_killed_run_left_is_removed(tmp_path):
    old, new, busy = (tmp_path / f".gguffast-{name}.scratch" for name in ("old", "new", "busy"))
    for folder in (old, new, busy):
        folder.mkdir()
        (folder / "m.gguf").write_bytes(b"part")
    for folder in (old, busy):
        os.utime(folder, (0, 0))
    held = os.open(busy, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with contextlib.ExitStack() as stack:
        made = scratch_folder(1, [None, tmp_path], stack)
        assert made.parent == tmp_path
        assert {*tmp_path.iterdir()} == {made, new, busy}
    os.close(held)
    assert {*tmp_path.iterdir()} == {new, busy}


def test_two_at_once(hub, hub_environment, environment, tiny, stub, tmp_path):
    hub.hold_after["model.safetensors"] = 1000
    command = [sys.executable, "-m", "gguffast", "import", "owner/Tiny-Chat", "--as"]
    own = hub_environment | {k: str(v) for k, v in environment.items()}
    with (
        open(tmp_path / "said", "a") as said,
        subprocess.Popen([*command, "one"], env=own, stderr=said, stdout=said) as first,
        subprocess.Popen([*command, "two"], env=own, stderr=said, stdout=said) as second,
    ):
        words = "gguffast: the same import of owner/Tiny-Chat is at work; waiting until it is done\n"
        while words not in (tmp_path / "said").read_text():
            assert first.poll() is None or second.poll() is None
            time.sleep(0.05)
        hub.go_on.set()
        assert (first.wait(60), second.wait(60)) == (0, 0)
    made = [body["model"] for _, path, body in stub.requests if path == "/api/create"]
    assert sorted(made) == ["one", "two"]
    assert not list((tmp_path / "cache" / "imports").iterdir())


def test_one_goes_on_where_another_was_killed(hub, run, hub_environment, environment, tiny, tmp_path):
    hub.hold_after["model.safetensors"] = 1000
    command = [sys.executable, "-m", "gguffast", "import", "owner/Tiny-Chat", "--as", "tiny"]
    own = hub_environment | {k: str(v) for k, v in environment.items()}
    with subprocess.Popen(command, env=own, stderr=subprocess.DEVNULL) as process:
        assert hub.held.wait(30)
        process.kill()
    done = run("import", "owner/Tiny-Chat", "--as", "tiny")
    assert done.returncode == 0, done
    assert "waiting" not in done.stderr
    assert not list((tmp_path / "cache" / "imports").iterdir())


def test_no_password_in_what_to_do_next(run, copy_of):
    done = run("import", copy_of("llama3"), "--as", "tiny", "--host", "http://me:SECRET@127.0.0.1:9")
    assert done.returncode == 1
    assert "SECRET" not in done.stderr
    assert "--host http://USER:PASSWORD@127.0.0.1:9\n" in done.stderr


def test_refused_before_anything_is_done(hub, run, tiny, tmp_path):
    def refuse(pattern, *options, source="owner/Tiny-Chat", name="tiny"):
        refused(run("import", source, "--as", name, *options), pattern)

    refuse("'bad name' is no model name", name="bad name")
    refuse("unknown parameter 'temprature'; did you mean temperature", "--param", "temprature=1")
    refuse("parameter temperature is a number, not 'hot'", "--param", "temperature=hot")
    refuse("unknown file type 'Q4KM'", "-q", "Q4KM")
    refuse("COPY is no type to quantize to", "-q", "copy")
    refuse("cannot read none.txt: there is no such file", "--template", "none.txt")
    refuse("cannot read /dev/zero: it is not a regular file", "--template", "/dev/zero")
    refuse("--threads must be at most 4096", "--threads", "99999")
    refuse("there is no such user", source="~nosuchuser/m.gguf")
    refuse("--imatrix", "--include-weights", "ffn")
    refuse("cannot read none: there is no such file", "--imatrix", "none")
    refuse("private is for a repo", "--private")
    refuse("'me/a/b' is not the name of a Hub repo", "--upload", "me/a/b")
    refuse("model.gguf: there is no such file or folder", source="./model.gguf")
    refuse("'a b' is not the name of a Hub repo", source="a b")
    assert hub.requests == []
    (tmp_path / "Tiny-Chat-Q4_K_M.gguf").write_text("mine")
    done = run("import", "owner/Tiny-Chat", "--as", "tiny", "--keep", ".")
    assert "Tiny-Chat-Q4_K_M.gguf already exists and is not from a former import" in done.stderr
    assert (tmp_path / "Tiny-Chat-Q4_K_M.gguf").read_text() == "mine"


def test_from_python(stub, copy_of, tmp_path, monkeypatch):
    monkeypatch.setenv("GGUFFAST_CACHE", str(tmp_path / "cache"))
    seen = []
    done = gguffast.import_model(
        copy_of("llama3"),
        name="tiny",
        file_type=7,
        parameters={"temperature": 0.5, "stop": ["A", "B"]},
        template="{{ .Prompt }}",
        host=stub.host,
        on_step=lambda step: seen.append((step.number, step.total, step.action)),
    )
    assert seen == [(1, 2, "convert"), (2, 2, "register")]
    assert (done.name, done.path, done.url) == ("tiny", None, None)
    assert done.result.file_type == "Q8_0"
    assert stub.created()["template"] == "{{ .Prompt }}"
    assert stub.created()["parameters"] == {"temperature": 0.5, "stop": ["A", "B"]}
    (tmp_path / "llama3" / "config.json").write_text("{}")
    with pytest.raises(FormatError):
        import_model(tmp_path / "llama3", name="tiny", host=stub.host)
    assert not list((tmp_path / "cache" / "imports").iterdir())
    with pytest.raises(FileError, match="no such file or folder"):
        import_model(tmp_path / "none", name="tiny")
    with pytest.raises(OptionError, match="is not the name of a Hub repo"):
        import_model("a b", name="tiny")


@pytest.mark.ollama
def test_a_real_model_answers(server, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("GGUFFAST_CACHE", str(tmp_path / "cache"))
    parameters = ["--param", "temperature=0", "--param", "seed=1", "--param", "num_predict=16"]
    done = server.gguffast("import", checkpoint, "--as", "imported", *parameters)
    assert done.returncode == 0, done
    answer = server.gguffast("run", "imported", "What is the capital of France?")
    assert "Paris" in answer.stdout, answer
    assert not list((tmp_path / "cache").rglob("*.gguf"))
    assert os.path.isdir(checkpoint)


@pytest.mark.ollama
@pytest.mark.parametrize("file_type", ["F16", "Q8_0", "Q4_K_M"])
def test_the_file_that_is_kept_is_the_servers(server, unpacked, tmp_path, file_type):
    before = set(server.blobs())
    done = server.gguffast("import", unpacked / "llama3", "--as", "kept", "-q", file_type, "--keep", tmp_path)
    assert done.returncode == 0, done
    path = tmp_path / f"llama3-{file_type}.gguf"
    assert [blob for blob in server.blobs() if blob.stat().st_ino == path.stat().st_ino]
    # Nothing is there twice: whatever the server makes of it, it has already.
    new = [blob for blob in server.blobs() if blob not in before and blob.stat().st_size > 100_000]
    assert {blob.name.removeprefix("sha256-") for blob in new} <= named_in(server.models / "manifests")


def named_in(manifests):
    """Digests of the models that any manifest names."""
    found = set()
    for path in manifests.rglob("*"):
        if path.is_file():
            layers = json.loads(path.read_text())["layers"]
            found |= {x["digest"].partition(":")[2] for x in layers if x["mediaType"].endswith("image.model")}
    return found

"""Creating models against a stub: what is sent to servers of every age, and what is left behind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import gguffast
from gguffast import Created, create
from gguffast.engine import Progress
from gguffast.errors import DataError, FileError, FormatError, OptionError, ServerError
from gguffast.gguf import GGUFFile, GGUFValueType, kv, serialize_header
from gguffast.obtain import is_copied
from gguffast.ollama import Client, Modelfile
from gguffast.ollama.store import HashedFile, Store
from support.gguf_files import GGUF
from support.ollama_servers import Stub
from support.templates import CHATML


def gguf(path: Path, template: str | None = CHATML) -> Path:
    """A model of one tensor, or what counts as one here."""
    pairs = [kv("general.architecture", "llama", GGUFValueType.STRING)]
    if template is not None:
        pairs.append(kv("tokenizer.chat_template", template, GGUFValueType.STRING))
    path.write_bytes(serialize_header(pairs, []))
    gguffast.quantize(path, path.with_suffix(".copy"), "COPY")
    return path.with_suffix(".copy").replace(path)


@pytest.fixture
def client(stub: Stub) -> Iterator[Client]:
    with Client(stub.host) as client:
        yield client


def make(client: Client, text: str, folder: Path, **options: object) -> Created:
    return create("m", Modelfile.parse(text), client, folder=folder, **options)  # type: ignore[arg-type]


def test_everything_of_a_modelfile_is_sent(client: Client, stub: Stub, tmp_path: Path) -> None:
    gguf(tmp_path / "a.gguf")
    (tmp_path / "adapter.gguf").write_bytes(b"adapter")
    (tmp_path / "draft.gguf").write_bytes(b"draft")
    text = """FROM ./a.gguf
ADAPTER adapter.gguf
DRAFT draft.gguf
SYSTEM Be brief.
TEMPLATE {{ .Prompt }}
LICENSE one
LICENSE two
PARAMETER temperature 1
PARAMETER stop x
MESSAGE user Hi
RENDERER r
PARSER p
REQUIRES 0.14.0"""
    made = make(client, text, tmp_path)
    body = stub.created()
    assert {key: list(body.pop(key)) for key in ("files", "adapters", "draft_files")} == {
        "files": ["0-a.gguf"],
        "adapters": ["adapter.gguf"],
        "draft_files": ["draft.gguf"],
    }
    assert body == {
        "model": "m",
        "stream": True,
        "system": "Be brief.",
        "template": "{{ .Prompt }}",
        "license": ["one", "two"],
        "parameters": {"temperature": 1.0, "stop": ["x"]},
        "messages": [{"role": "user", "content": "Hi"}],
        "renderer": "r",
        "parser": "p",
        "requires": "0.14.0",
    }
    assert sorted(stub.blobs.values()) == sorted((tmp_path / f).stat().st_size for f in os.listdir(tmp_path))
    assert made.uploaded == made.size == sum(stub.blobs.values())
    assert made.linked == 0


def test_what_the_server_has_is_not_sent_again(client: Client, stub: Stub, tmp_path: Path) -> None:
    gguf(tmp_path / "a.gguf")
    assert make(client, "FROM a.gguf", tmp_path).uploaded > 0
    assert make(client, "FROM a.gguf", tmp_path).uploaded == 0
    assert [method for method, path, _ in stub.requests if "blobs" in path] == ["HEAD", "POST", "HEAD"]


def test_servers_before_0_5_5_get_a_modelfile(client: Client, stub: Stub, tmp_path: Path) -> None:
    stub.version = "0.5.4"
    gguf(tmp_path / "a.gguf")
    make(client, "FROM a.gguf\nSYSTEM Be\nPARAMETER seed 1", tmp_path)
    body = stub.created()
    (digest,) = stub.blobs
    assert body["name"] == "m"
    sent = Modelfile.parse(body["modelfile"])
    assert sent.sources == [f"@{digest}"]
    assert sent.get("system") == "Be"
    assert "<|im_start|>" in str(sent.get("template"))
    assert sent.parameters == {"seed": 1, "stop": ["<|im_start|>", "<|im_end|>"]}


@pytest.mark.parametrize("version", ["0.24.0", "0.0.0"])
def test_the_template_of_a_known_family_is_sent(
    version: str, client: Client, stub: Stub, tmp_path: Path
) -> None:
    stub.version = version
    gguf(tmp_path / "a.gguf")
    made = make(client, "FROM a.gguf", tmp_path)
    assert (made.template, made.warnings) == ("chatml", ())
    assert "<|im_start|>assistant" in stub.created()["template"]
    assert stub.created()["parameters"] == {"stop": ["<|im_start|>", "<|im_end|>"]}


@pytest.mark.parametrize(
    ("template", "warning"), [("{{ x }}", "is of no known family"), (None, "the model has no chat template")]
)
def test_an_unknown_template_is_said(
    template: str | None, warning: str, client: Client, stub: Stub, tmp_path: Path
) -> None:
    stub.version = "0.24.0"
    gguf(tmp_path / "a.gguf", template)
    (found,) = make(client, "FROM a.gguf", tmp_path).warnings
    assert warning in found
    assert "template" not in stub.created()


def test_since_0_30_the_models_own_template_counts(client: Client, stub: Stub, tmp_path: Path) -> None:
    gguf(tmp_path / "a.gguf", "{{ x }}")
    made = make(client, "FROM a.gguf", tmp_path)
    assert (made.template, made.warnings) == ("", ())
    assert not {"template", "parameters", "modelfile"} & set(stub.created())


def test_quantizing_and_joining_leave_nothing_behind(client: Client, stub: Stub, tmp_path: Path) -> None:
    source = GGUF / "llama-wide-f16.gguf"
    (tmp_path / "in.gguf").symlink_to(source)
    gguffast.quantize(source, tmp_path / "expected.gguf", "Q3_K_M")
    size = (tmp_path / "expected.gguf").stat().st_size
    steps: list[Progress] = []
    make(client, "FROM in.gguf", tmp_path, file_type="q3_k_m", progress=steps.append)
    assert list(stub.blobs.values()) == [size]
    assert {step.tensor.split(":")[0] for step in steps} == {
        "quantizing to Q3_K_M",
        "hashing in.gguf",
        "uploading in.gguf",
    }
    assert sorted(os.listdir(tmp_path)) == ["expected.gguf", "in.gguf"]
    # The type that it has already is no work at all.
    make(client, "FROM expected.gguf", tmp_path, file_type="Q3_K_M")
    assert list(stub.blobs.values()) == [size]
    with pytest.raises(DataError, match="is quantized already"):
        make(client, "FROM expected.gguf", tmp_path, file_type="Q2_K")
    make(client, "FROM expected.gguf", tmp_path, file_type="Q2_K", allow_requantize=True)
    assert len(stub.blobs) == 2
    assert sorted(os.listdir(tmp_path)) == ["expected.gguf", "in.gguf"]


def test_a_recipe_is_followed(client: Client, stub: Stub, tmp_path: Path) -> None:
    source = GGUF / "llama-wide-f16.gguf"
    options = {"tensor_type": [("attn", "q8_0")], "override_kv": {"general.name": "Other"}, "pure": True}
    make(client, f"FROM {source}", tmp_path, file_type="Q4_0", **options)
    made = gguffast.quantize(source, tmp_path / "expected.gguf", "Q4_0", **options).dst  # type: ignore[arg-type]
    assert list(stub.blobs) == [f"sha256:{hashlib.sha256(made.read_bytes()).hexdigest()}"]
    with pytest.raises(TypeError, match="create\\(\\) has no argument 'purr'; did you mean pure"):
        make(client, f"FROM {source}", tmp_path, purr=True)


def test_a_projector_is_not_quantized(client: Client, stub: Stub, tmp_path: Path) -> None:
    pairs = [
        kv("general.architecture", "clip", GGUFValueType.STRING),
        kv("general.type", "mmproj", GGUFValueType.STRING),
    ]
    (tmp_path / "mmproj.gguf").write_bytes(serialize_header(pairs, []))
    make(client, f"FROM {GGUF / 'llama-wide-f16.gguf'}\nFROM mmproj.gguf", tmp_path, file_type="Q8_0")
    assert (tmp_path / "mmproj.gguf").stat().st_size in stub.blobs.values()
    assert list(stub.created()["files"]) == ["0-llama-wide-f16.gguf", "1-mmproj.gguf"]


@pytest.mark.parametrize("version", ["0.24.0", "0.30.0", "0.0.0"])
def test_a_file_is_as_the_server_would_make_it(
    version: str, unpacked: Path, client: Client, stub: Stub, tmp_path: Path
) -> None:
    # Since 0.30.0 it runs llama-quantize's COPY over every model; older ones keep what they get.
    stub.version = version
    gguffast.convert(unpacked / "llama2", tmp_path / "m.gguf", "F16")
    gguffast.quantize(tmp_path / "m.gguf", tmp_path / "copied.gguf", "COPY")
    assert is_copied(tmp_path / "copied.gguf")
    assert not is_copied(tmp_path / "m.gguf")
    before = sorted(os.listdir(tmp_path))
    for text in ("FROM m.gguf", f"FROM {unpacked / 'llama2'}"):
        make(client, text, tmp_path, file_type="F16")
    wanted = {"copied.gguf"} if version != "0.24.0" else {"copied.gguf", "m.gguf"}
    digests = {f"sha256:{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}" for name in wanted}
    assert stub.blobs.keys() == digests
    assert sorted(os.listdir(tmp_path)) == before


def test_shards_become_one_file(unpacked: Path, client: Client, stub: Stub, tmp_path: Path) -> None:
    gguffast.convert(unpacked / "llama2", tmp_path / "x.gguf", "f16", split_max_tensors=8)
    gguffast.convert(unpacked / "llama2", tmp_path / "whole.gguf", "f16")
    shards = sorted(tmp_path.glob("x-*.gguf"))
    assert len(shards) > 1
    make(client, f"FROM {shards[0].name}", tmp_path)
    (size,) = stub.blobs.values()
    with GGUFFile(tmp_path / "whole.gguf") as whole:
        assert size > sum(t.nbytes for t in whole.tensors)


def test_a_checkpoint_folder_is_converted(unpacked: Path, client: Client, stub: Stub, tmp_path: Path) -> None:
    before = sorted(os.listdir(unpacked / "llama2"))
    gguffast.convert(unpacked / "llama2", tmp_path / "expected.gguf", "Q8_0", model_name=None)
    make(client, f"FROM {unpacked / 'llama2'}", tmp_path, file_type="Q8_0")
    assert list(stub.blobs.values()) == [(tmp_path / "expected.gguf").stat().st_size]
    assert sorted(os.listdir(unpacked / "llama2")) == before


def test_folders_as_the_hubs_cache_has_them(
    unpacked: Path, client: Client, stub: Stub, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(sorted((unpacked / "llama2").iterdir())):
        shutil.copyfile(path, tmp_path / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (tmp_path / "llama2").symlink_to(snapshot)
    make(client, "FROM llama2", tmp_path, file_type="Q4_K_M")
    expected = gguffast.convert(unpacked / "llama2", tmp_path / "expected.gguf", "Q4_K_M").dst.read_bytes()
    assert list(stub.blobs) == [f"sha256:{hashlib.sha256(expected).hexdigest()}"]
    make(client, f"FROM {tmp_path / 'expected.gguf'}\nADAPTER llama2", tmp_path)
    adapters = stub.requests[-1][2]["adapters"]
    weights = (snapshot / "model.safetensors").read_bytes()
    assert adapters["model.safetensors"] == f"sha256:{hashlib.sha256(weights).hexdigest()}"


@pytest.mark.parametrize("key", ["general.type", "general.file_type", "tokenizer.chat_template"])
@pytest.mark.parametrize("value", [[1], ["x"], 1.5, -1, True, "text"])
def test_metadata_of_another_kind(key: str, value: object, client: Client, tmp_path: Path) -> None:
    kinds = {bool: "BOOL", int: "INT8", float: "FLOAT32", str: "STRING", list: "ARRAY"}
    item = [] if not isinstance(value, list) else [GGUFValueType[kinds[type(value[0])]]]
    pairs = [
        kv("general.architecture", "llama", GGUFValueType.STRING),
        kv(key, value, GGUFValueType[kinds[type(value)]], *item),
    ]
    (tmp_path / "a.gguf").write_bytes(serialize_header(pairs, []))
    if value == "text" and key != "general.file_type":
        make(client, "FROM a.gguf", tmp_path, file_type="Q8_0")
    else:
        with pytest.raises(FormatError, match=rf"a\.gguf: the key '{key}' is .*, expected a "):
            make(client, "FROM a.gguf", tmp_path, file_type="Q8_0")


def test_a_folder_with_one_gguf_is_that(client: Client, stub: Stub, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    gguf(folder / "a.gguf")
    make(client, "FROM folder", tmp_path)
    assert len(stub.blobs) == 1
    gguf(folder / "b.gguf")
    with pytest.raises(
        OptionError, match=r"has 2 GGUF models; name one of them, as in .*a\.gguf: a\.gguf, b\.gguf"
    ):
        make(client, "FROM folder", tmp_path)


def test_a_repository_of_the_hub_is_downloaded(
    client: Client, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The download has tests of its own; here it counts what it is asked for.
    import gguffast.hub

    asked = []

    def download(repo: str, *, prefer: tuple[str, ...], **options: object) -> Path:
        asked.append((repo, prefer))
        return gguf(tmp_path / "downloaded.gguf")

    monkeypatch.setattr(gguffast.hub, "download", download)
    make(client, "FROM hf.co/me/model", tmp_path)
    make(client, "FROM https://huggingface.co/me/model:Q4_K_M", tmp_path)
    assert asked == [("me/model", ("Q4_K_M", "Q8_0")), ("me/model:Q4_K_M", ("Q4_K_M", "Q8_0"))]


def test_a_model_of_the_server(client: Client, stub: Stub, tmp_path: Path) -> None:
    make(client, "FROM llama3.2:1b\nSYSTEM x", tmp_path, file_type="q4_k_m")
    assert stub.created() == {
        "model": "m",
        "stream": True,
        "from": "llama3.2:1b",
        "quantize": "Q4_K_M",
        "system": "x",
    }
    with pytest.raises(OptionError, match="the server, which quantizes its own only to F32"):
        make(client, "FROM llama3.2:1b", tmp_path, file_type="Q6_K")
    with pytest.raises(OptionError, match="the server, which knows no `pure`"):
        make(client, "FROM llama3.2:1b", tmp_path, pure=True)
    with pytest.raises(OptionError, match="names both a model of the server, base, and"):
        make(client, f"FROM base\nFROM {gguf(tmp_path / 'a.gguf')}", tmp_path)


@pytest.mark.parametrize("value", ["./no.gguf", "no.gguf", "/no/such", "../x"])
def test_a_missing_file_is_no_model_name(value: str, client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="paths are relative to the Modelfile"):
        make(client, f"FROM {value}", tmp_path)


@pytest.mark.parametrize("command", ["RENDERER r", "PARSER p", "REQUIRES 0.12.0"])
def test_a_server_too_old_for_a_command(command: str, client: Client, stub: Stub, tmp_path: Path) -> None:
    stub.version = "0.11.4"
    with pytest.raises(ServerError, match=r"needs Ollama 0\.12\.0 or newer, but the server .* is 0\.11\.4"):
        make(client, f"FROM x\n{command}", tmp_path)
    assert not [path for _, path, _ in stub.requests if path == "/api/create"]


def test_without_a_server_nothing_is_done(tmp_path: Path) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ServerError, match="no Ollama server answers"):
        make(client, "FROM ./huge.gguf", tmp_path, file_type="Q4_K_M")


class TestStore:
    """A store on this machine."""

    @pytest.fixture
    def blobs(self, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        blobs = tmp_path / "store" / "blobs"
        blobs.mkdir(parents=True)
        monkeypatch.setenv("OLLAMA_MODELS", str(blobs.parent))
        answer = stub.answer

        def with_store(method: str, path: str, body: bytes) -> tuple[int, bytes]:
            name = path.rpartition("/")[2].replace(":", "-")
            if method == "HEAD" and (blobs / name).exists():
                return 200, b""
            return answer(method, path, body)

        monkeypatch.setattr(stub, "answer", with_store)
        return blobs

    def test_files_are_linked(self, client: Client, stub: Stub, blobs: Path, tmp_path: Path) -> None:
        path = gguf(tmp_path / "a.gguf")
        made = make(client, "FROM a.gguf", tmp_path)
        (blob,) = blobs.iterdir()
        assert blob.read_bytes() == path.read_bytes()
        assert (made.linked, made.uploaded) == (path.stat().st_size, 0)
        assert not stub.blobs

    def test_unless_it_is_forbidden(self, client: Client, stub: Stub, blobs: Path, tmp_path: Path) -> None:
        path = gguf(tmp_path / "a.gguf")
        assert make(client, "FROM a.gguf", tmp_path, link=False).uploaded == path.stat().st_size
        assert not list(blobs.iterdir())

    def test_a_refused_model_leaves_no_link(
        self, client: Client, stub: Stub, blobs: Path, tmp_path: Path
    ) -> None:
        gguf(tmp_path / "a.gguf")
        stub.create = [{"status": "validating GGUF model"}, {"error": "unknown model architecture: 'x'"}]
        with pytest.raises(ServerError, match="too old for this model"):
            make(client, "FROM a.gguf", tmp_path)
        assert not list(blobs.iterdir())

    def test_an_answer_that_was_cut_leaves_what_the_server_may_need(
        self, client: Client, stub: Stub, blobs: Path, tmp_path: Path
    ) -> None:
        gguf(tmp_path / "a.gguf")
        stub.create = [{"status": "writing manifest"}]
        with pytest.raises(ServerError, match="stopped half-way"):
            make(client, "FROM a.gguf", tmp_path)
        assert len(list(blobs.iterdir())) == 1

    def test_a_store_of_another_server_stays_as_it_is(
        self, client: Client, stub: Stub, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()
        monkeypatch.setenv("OLLAMA_MODELS", str(blobs.parent))
        path = gguf(tmp_path / "a.gguf")
        assert make(client, "FROM a.gguf", tmp_path).uploaded == path.stat().st_size
        assert not list(blobs.iterdir())

    def test_a_file_that_changed_since_is_not_linked(
        self, client: Client, stub: Stub, blobs: Path, tmp_path: Path
    ) -> None:
        path = gguf(tmp_path / "a.gguf")

        def change(step: Progress) -> None:
            if step.tensor.startswith("hashing") and step.done == step.total:
                path.write_bytes(b"another")

        with pytest.raises(FileError, match="was changed while it was read"):
            make(client, "FROM a.gguf", tmp_path, progress=change)
        assert not list(blobs.iterdir())

    @pytest.mark.parametrize("doing", ["quantizing", "hashing"])
    def test_an_interruption_leaves_nothing(
        self, doing: str, client: Client, stub: Stub, blobs: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "in.gguf").symlink_to(GGUF / "llama-wide-f16.gguf")

        def interrupt(step: Progress) -> None:
            if step.tensor.startswith(doing):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            make(client, "FROM in.gguf", tmp_path, file_type="Q4_0", progress=interrupt)
        assert sorted(os.listdir(blobs.parent)) == ["blobs"]
        assert not list(blobs.iterdir())

    def test_a_refused_model_leaves_what_another_needs(
        self, client: Client, stub: Stub, blobs: Path, tmp_path: Path
    ) -> None:
        """Two registrations of one file at once: the first links it and is refused, the second goes on."""
        gguf(tmp_path / "a.gguf")

        second_is_at_work, first_is_done = threading.Event(), threading.Event()

        def second() -> None:
            with Client(stub.host) as other:
                make(other, "FROM a.gguf", tmp_path)

        def accept() -> None:
            second_is_at_work.set()
            first_is_done.wait(30)
            stub.create = [{"status": "success"}]

        def refuse() -> None:
            stub.on_create = accept
            thread.start()
            second_is_at_work.wait(30)
            stub.create = [{"error": "unknown model architecture: 'x'"}]

        thread = threading.Thread(target=second)
        stub.on_create = refuse
        with pytest.raises(ServerError, match="too old for this model"):
            make(client, "FROM a.gguf", tmp_path)
        assert len(list(blobs.iterdir())) == 1
        first_is_done.set()
        thread.join()
        assert len(list(blobs.iterdir())) == 1

    def test_a_refused_model_leaves_what_a_model_is_made_of(
        self, client: Client, stub: Stub, blobs: Path, tmp_path: Path
    ) -> None:
        gguf(tmp_path / "a.gguf")
        manifest = blobs.parent / "manifests" / "registry.ollama.ai" / "library" / "m" / "latest"
        manifest.parent.mkdir(parents=True)
        digest = HashedFile(tmp_path / "a.gguf").digest
        stub.on_create = lambda: manifest.write_text(json.dumps({"layers": [{"digest": digest}]}))
        stub.create = [{"error": "unknown model architecture: 'x'"}]
        with pytest.raises(ServerError, match="too old for this model"):
            make(client, "FROM a.gguf", tmp_path)
        assert len(list(blobs.iterdir())) == 1

    def test_a_link_of_a_moment_sooner(
        self, client: Client, stub: Stub, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = gguf(tmp_path / "a.gguf")
        link = Store.link

        def too_late(store: Store, file: HashedFile) -> bool:
            os.link(path, blobs / file.digest.replace(":", "-"))
            return link(store, file)

        monkeypatch.setattr(Store, "link", too_late)
        stub.create = [{"error": "unknown model architecture: 'x'"}]
        with pytest.raises(ServerError, match="too old for this model"):
            make(client, "FROM a.gguf", tmp_path)
        assert len(list(blobs.iterdir())) == 1  # it is not ours to take back
        assert not stub.blobs


def test_a_file_is_hashed_as_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 9999)
    file = HashedFile(path)
    assert file.digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert file.is_unchanged(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="it is not a regular file"):
        HashedFile(tmp_path / "pipe")

    def replace(done: int, total: int) -> None:
        os.replace(tmp_path / "other", path) if (tmp_path / "other").exists() else None

    (tmp_path / "other").write_bytes(b"other")
    with pytest.raises(FileError, match="was replaced while it was read"):
        HashedFile(path, replace)


def test_the_server_must_be_able_to_read_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gguffast.ollama.store, "_clone", lambda file, target: False
    )  # it has rights of its own
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    path = tmp_path / "file"
    path.write_bytes(b"x")
    path.chmod(0o600)
    os.chown(blobs, 65534, 65534) if os.geteuid() == 0 else None
    with Store(tmp_path) as store:
        assert store.link(HashedFile(path)) == (os.geteuid() != 0)
        path.chmod(0o644)
        if os.geteuid() == 0:
            assert store.link(HashedFile(path))
        assert len(list(blobs.iterdir())) == 1
    assert not list(blobs.iterdir())

"""``gguffast upload`` with the real client against a local Hub, and the model card."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import gguffast
from gguffast.errors import FormatError
from gguffast.hub.card import Entry, model_card, read_entry
from support.gguf_files import GGUF
from support.local_hub import TOKEN, Repo, refused

GEMMA = GGUF / "gemma2-f32.gguf"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two files of one model."""
    folder = tmp_path_factory.mktemp("models")
    settings = {
        "general.name": "Tiny",
        "general.license": "apache-2.0",
        "general.base_model.0.repo_url": "https://huggingface.co/maker/Tiny-Base",
    }
    return [
        gguffast.quantize(GEMMA, folder / f"Tiny-{t}.gguf", t, override_kv=settings).dst
        for t in ("Q4_K_M", "Q8_0")
    ]


def test_upload_creates_the_repo_and_writes_a_card(hub, run_with_hub, models):
    done = run_with_hub("upload", *models, "me/Tiny-GGUF", "--create", HF_TOKEN=TOKEN)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{hub.url}/me/Tiny-GGUF\n", "")
    repo = hub.repos["me/Tiny-GGUF"]
    assert not repo.private
    assert repo.messages == ["Upload Tiny-Q4_K_M.gguf, Tiny-Q8_0.gguf"]
    for path in models:
        assert repo.files[path.name] == path.read_bytes()
    _, head, body = repo.files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(head) == {
        "base_model": "maker/Tiny-Base",
        "base_model_relation": "quantized",
        "license": "apache-2.0",
        "tags": ["gguf"],
    }
    assert "\n# Tiny-GGUF\n" in body
    assert "ollama run hf.co/me/Tiny-GGUF:Q4_K_M\n" in body
    assert "llama-cli -hf me/Tiny-GGUF:Q4_K_M\n" in body
    for path in models:
        entry = read_entry(path)
        bits = f"{entry.tensor_bytes * 8 / entry.weights:.2f}"
        row = rf"\| {re.escape(path.name)} \| {entry.file_type} \| [\d.]+ [kM]B \| {bits} \|".replace(
            "_", r"\\?_"
        )
        assert re.search(row, body), body


def test_a_second_upload_keeps_the_card_and_what_is_there(hub, run_with_hub, models):
    hub.repos["me/tiny"] = Repo({"README.md": b"my words"})
    assert run_with_hub("upload", models[0], "me/tiny", HF_TOKEN=TOKEN).returncode == 0
    hub.requests.clear()
    options = ["--message", "Both", "--create", "--token", TOKEN]
    assert run_with_hub("upload", *options, *models, "me/tiny").returncode == 0
    repo = hub.repos["me/tiny"]
    assert repo.files["README.md"] == b"my words"
    assert repo.messages[1:] == ["Both"]
    assert repo.files.keys() == {"README.md", *(m.name for m in models)}
    assert [r.path for r in hub.requests if r.method == "PUT"] == [
        f"/lfs/{oid}" for oid, data in hub.blobs.items() if data == models[1].read_bytes()
    ]


def test_private_repo_and_branch(hub, run_with_hub, models):
    command = ["upload", models[0], "me/mine", "--private", "--revision", "next"]
    refused(run_with_hub(*command, HF_TOKEN=TOKEN), "private is for a repo that is created; add --create")
    assert run_with_hub(*command, "--create", HF_TOKEN=TOKEN).returncode == 0
    assert hub.repos["me/mine"].private
    assert hub.repos["me/mine"].branches == ["main", "next"]


def test_refusals(hub, run_with_hub, models, tmp_path):
    (tmp_path / "text.gguf").write_text("hello")
    hub.repos["me/tiny"] = Repo()
    model = models[0]
    refused(
        run_with_hub("upload", model, "me/tiny"), "uploading needs a token with write permission; make one at"
    )
    refused(run_with_hub("upload", model, "me/none", HF_TOKEN=TOKEN), "no repo me/none.*--create makes it")
    refused(run_with_hub("upload", model, "me/tiny", "--revision", "x", HF_TOKEN=TOKEN), "no branch.*'x'")
    refused(run_with_hub("upload", "text.gguf", "me/tiny", HF_TOKEN=TOKEN), "text.gguf: .*GGUF")
    refused(run_with_hub("upload", "none.gguf", "me/tiny", HF_TOKEN=TOKEN), "none.gguf: no such file")
    refused(run_with_hub("upload", model, model, "me/tiny", HF_TOKEN=TOKEN), "have the same name")
    text = refused(run_with_hub("upload", model, "me/tiny", HF_TOKEN="hf_wrong"), "does not accept the token")
    assert "hf_wrong" not in text
    assert hub.repos["me/tiny"].files == {}


def test_card_of_odd_metadata(tmp_path):
    path = tmp_path / "odd | name.gguf"
    odd = {
        "general.license": "other",
        "general.license.name": 'mine: "yes"\n---',
        "general.license.link": "https://example.org/#1",
    }
    gguffast.quantize(GEMMA, path, "Q8_0", override_kv=odd)
    card = model_card("me/tiny", [read_entry(path)], "maker/base")
    assert yaml.safe_load(card.split("\n---\n")[0]) == {
        "base_model": "maker/base",
        "base_model_relation": "quantized",
        "license": "other",
        "license_name": 'mine: "yes"\n---',
        "license_link": "https://example.org/#1",
        "tags": ["gguf"],
    }
    assert r"| odd \| name.gguf | Q8_0 |" in card


TEXTS = st.text(max_size=20) | st.sampled_from(
    ["no", "\0", "- a: [", "---", "\x85", "\ufffe", "\udc80", "😀"]
)
ANYTHING = st.none() | st.integers() | st.floats() | TEXTS | st.lists(TEXTS | st.integers() | st.lists(TEXTS))


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["license", "license.name", "license.link", "tags", "languages", "base_model.0.repo_url", "name"]
        ),
        ANYTHING,
    ),
    TEXTS,
)
def test_any_metadata_make_a_card(general, name):
    card = model_card("me/tiny", [Entry(f"{name}.gguf", "Q8_0", 1, 1, 1, {"x": 1, **general})])
    front = yaml.safe_load(card.split("\n---\n")[0])
    assert front["tags"][0] == "gguf"
    licence = general.get("license")
    if isinstance(licence, str) and licence:
        assert front["license"] == licence.encode("utf-8", "replace").decode()
    assert card.split("\n---\n")[1].count("\n| ") == 3


def test_card_without_metadata_of_origin():
    card = model_card("me/tiny", [read_entry(GEMMA)])
    assert card.startswith("---\ntags:\n- gguf\n---\n")
    assert "GGUF files, made with gguffast." in card


def test_a_split_model_is_one_row(tmp_path):
    for i in (1, 2):
        shutil.copyfile(GEMMA, tmp_path / f"m-0000{i}-of-00002.gguf")
    card = model_card("me/m", [read_entry(path) for path in sorted(tmp_path.iterdir())])
    size = f"{2 * GEMMA.stat().st_size / 1e3:.1f} kB"
    assert f"| m.gguf (2 files) | F32 | {size} | 32.00 |" in card


def test_not_gguf(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"nothing at all, really")
    with pytest.raises(FormatError, match=r"x\.gguf"):
        read_entry(tmp_path / "x.gguf")

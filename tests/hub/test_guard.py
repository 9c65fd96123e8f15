"""A Hub that is silent, boundless or lying."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import string
from itertools import repeat
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gguffast
from gguffast.errors import FormatError, GGUFFastError, HubError
from gguffast.hub import client as hub_client
from gguffast.hub import guard
from support.local_hub import Repo, git_hash

FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 1000}
INFO = "GET /api/models/.*"
MEGABYTE = b" " * (1 << 20)


@pytest.fixture
def cache(hub, monkeypatch, tmp_path):
    """The client in this process speaks with the local Hub, impatiently."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DOWNLOAD_TIMEOUT": 0.5,
        "HF_TOKEN_PATH": str(tmp_path / "none"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.repos["owner/tiny"] = Repo(dict(FILES))
    return tmp_path / "cache"


def download(**options):
    return gguffast.download("owner/tiny", quiet=True, **options)


def files(folder):
    return sorted(p for p in Path(folder).rglob("*") if p.is_file() and ".cache" not in p.parts)


def test_nothing_odd(cache):
    folder = download()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == FILES


def test_a_large_file_is_bounded_by_its_size_alone(hub, cache, monkeypatch):
    monkeypatch.setattr(guard, "_ANSWER_BYTES", 1000)
    assert len(FILES["model.safetensors"]) > 1000
    folder = download()
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    endless = {"GET /storage/.*": lambda handler: handler.stream(200, repeat(MEGABYTE))}
    hub.repos["owner/tiny"].files["model.safetensors"] = b"other"
    hub.instead = endless
    with pytest.raises(FormatError, match="more than the 5 bytes that were to come"):
        download()


def test_the_guard_goes_when_it_is_done(cache):
    before = huggingface_hub.utils._http._GLOBAL_CLIENT_FACTORY
    download()
    assert huggingface_hub.utils._http._GLOBAL_CLIENT_FACTORY is before


# ---- silent and slow ---------------------------------------------------------------------------------------


def test_a_silent_hub(hub, cache):
    hub.instead[INFO] = lambda handler: hub.go_on.wait(60)
    with pytest.raises(HubError, match=r"owner/tiny: the connection to .* broke \(timed out\); what has"):
        download()


def test_a_silent_file(hub, cache):
    hub.instead["(HEAD|GET) .*/resolve/.*"] = lambda handler: hub.go_on.wait(60)
    with pytest.raises(HubError, match=r"run the command again to continue|check the connection"):
        download()


def test_an_answer_that_drips(hub, cache, monkeypatch):
    # The clock runs a minute with each look at it.
    minutes = iter(range(0, 10**9, 60))
    monkeypatch.setattr(guard.time, "monotonic", lambda: next(minutes))
    hub.instead[INFO] = lambda handler: handler.stream(200, repeat(b" ", 1000))
    with pytest.raises(HubError, match="the answer is not whole after 6 s"):
        download()


def test_a_hub_that_asks_to_wait_for_ever(hub, cache, monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    hub.instead["GET .*/resolve/.*"] = lambda handler: handler.answer(429, b"", Retry_After=10**6)
    with pytest.raises(HubError, match="asks to slow down"):
        download()
    assert slept
    assert max(slept) <= 10
    # A sensible time is waited for.
    hub.instead["GET .*/resolve/.*"] = lambda handler: handler.answer(429, b"", Retry_After=100)
    with pytest.raises(HubError, match="asks to slow down"):
        download()
    assert max(slept) == 101


def test_redirects_in_circles(hub, cache):
    hub.instead[INFO] = lambda handler: handler.answer(302, b"", Location=handler.path)
    with pytest.raises(HubError, match="redirects in circles; check HF_ENDPOINT"):
        download()


# ---- without bounds ----------------------------------------------------------------------------------------


def test_an_endless_answer(hub, cache, monkeypatch):
    monkeypatch.setattr(guard, "_ANSWER_BYTES", 1 << 20)
    hub.instead[INFO] = lambda handler: handler.stream(200, repeat(MEGABYTE))
    with pytest.raises(FormatError, match="the Hub sent more than the 1048576 bytes that were to come"):
        download()


def test_an_endless_error(hub, cache):
    hub.instead[INFO] = lambda handler: handler.stream(503, repeat(b"trouble! " * 100000))
    with pytest.raises(HubError, match="the Hub has trouble") as failure:
        download()
    assert len(str(failure.value)) < 1000


def test_an_answer_that_is_a_bomb(hub, cache, monkeypatch):
    monkeypatch.setattr(guard, "_ANSWER_BYTES", 1 << 20)
    bomb = gzip.compress(MEGABYTE * 20)
    hub.instead[INFO] = lambda handler: handler.answer(200, bomb, Content_Encoding="gzip")
    with pytest.raises(FormatError, match="more than the 1048576 bytes"):
        download()
    hub.instead[INFO] = lambda handler: handler.answer(200, b"bomb", Content_Encoding="gzip")
    with pytest.raises(FormatError, match="a compressed file that is damaged"):
        download()
    hub.instead[INFO] = lambda handler: handler.answer(200, b"bomb", Content_Encoding="br")
    with pytest.raises(FormatError, match="the encoding 'br'"):
        download()


def test_a_compressed_file_though_not_asked_for(hub, cache):
    packed = gzip.compress(FILES["config.json"])
    hub.instead["GET .*/config.json"] = lambda handler: handler.answer(200, packed, Content_Encoding="gzip")
    assert (download() / "config.json").read_bytes() == FILES["config.json"]
    assert all(r.headers["Accept-Encoding"] == "identity" for r in hub.requests)


def test_more_than_was_announced(hub, cache):
    hub.instead["GET .*/config.json"] = lambda handler: handler.stream(200, repeat(MEGABYTE))
    with pytest.raises(FormatError, match="more than the 2 bytes that were to come"):
        download()
    assert not [p for p in files(cache) if p.name == git_hash(FILES["config.json"])]
    assert sum(p.stat().st_size for p in files(cache)) < 1 << 20


def test_a_size_that_is_none(hub, cache):
    hub.instead["HEAD .*/config.json"] = lambda handler: handler.answer(200, b"", X_Linked_Size="-5")
    with pytest.raises(FormatError, match="the X-Linked-Size '-5'"):
        download()


@pytest.mark.parametrize("opening", ['{"siblings": ', "[", '{"a": '])
def test_a_deep_answer(hub, cache, opening):
    hub.instead[INFO] = lambda handler: handler.answer(200, opening.encode() * 200_000)
    with pytest.raises(FormatError, match="the Hub sent what is no answer"):
        download()


def test_twenty_thousand_shards():
    names = [f"a[1]/m-{i:05}-of-20000.gguf" for i in range(1, 20001)]
    assert hub_client._patterns([*names, "x.json"]) == [
        "a[[]1]/m-[0-9][0-9][0-9][0-9][0-9]-of-20000.gguf",
        "x.json",
    ]
    # A part of them is named file by file.
    assert hub_client._patterns(names[1:3]) == [f"a[[]1]/m-0000{i}-of-20000.gguf" for i in (2, 3)]


# ---- lies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("local_dir", [None, "model"])
@pytest.mark.parametrize("name", list(FILES))
def test_other_contents_than_stated(hub, cache, tmp_path, name, local_dir):
    wrong = bytes(len(FILES[name]))
    hub.instead[f"GET .*/{name}"] = lambda handler: handler.answer(200, wrong)
    folder = None if local_dir is None else tmp_path / local_dir
    digest = hashlib.sha256(wrong).hexdigest() if name.startswith("model") else git_hash(wrong)
    words = rf"{name} came damaged: its digest is {digest}, but the Hub states \w+; it was removed, run the"
    with pytest.raises(FormatError, match=words):
        download(local_dir=folder)
    assert wrong not in [p.read_bytes() for p in files(tmp_path)]
    hub.instead.clear()
    assert (download(local_dir=folder) / name).read_bytes() == FILES[name]


PATHS = ["../../../evil", "/tmp/evil", "..", "a/b", "", "a\\b", "x" * 300]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("local_dir", [False, True])
def test_hashes_that_are_paths(hub, cache, tmp_path, path, local_dir):
    options = {"local_dir": tmp_path / "model"} if local_dir else {}
    entry = {"type": "file", "path": "config.json", "size": 2, "oid": path}
    hub.instead = {"GET .*/tree/.*": lambda h: h.answer(200, json.dumps([entry]).encode())}
    with pytest.raises(FormatError, match="for a file's hash"):
        download(**options)
    good = git_hash(FILES["config.json"])
    commit = hub.repos["owner/tiny"].sha
    head = "HEAD .*/config.json"
    for headers in ({"ETag": path, "X_Repo_Commit": commit}, {"ETag": good, "X_Repo_Commit": path}):
        hub.instead = {head: lambda handler, headers=headers: handler.answer(200, b"", **headers)}
        with pytest.raises(FormatError, match=r"the Hub sent the (ETag|commit) "):
            download(**options)
    info = {"id": "owner/tiny", "sha": path, "siblings": [{"rfilename": name} for name in FILES]}
    hub.instead = {
        "GET /api/models/owner/tiny(/revision/main)?": lambda h: h.answer(200, json.dumps(info).encode())
    }
    with pytest.raises(FormatError, match="for the commit"):
        download(**options)
    assert not list(tmp_path.rglob("*evil*"))
    assert not os.path.exists("/tmp/evil")


def test_no_hub_at_all(hub, cache):
    hub.instead[INFO] = lambda handler: handler.answer(200, b"<html>Welcome to the hotel</html>")
    with pytest.raises(FormatError, match=r"the Hub sent what is no answer .* check HF_ENDPOINT"):
        download()


KEYS = [
    *("id", "sha", "siblings", "rfilename", "type", "path", "size", "oid", "lfs", "xetHash", "tags", "gated"),
    *("createdAt", "lastModified", "cardData", "config", "safetensors", "gguf", "error", "author"),
]
LEAVES = [None, True, -1, 10**30, 0.5, "", "\0", "x", "a" * 40, "file", "main", "../x"]
VALUES = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)
INFOS = st.fixed_dictionaries(
    {"id": st.just("owner/tiny"), "sha": st.just("a" * 40) | VALUES},
    optional=dict.fromkeys(("cardData", "config", "gguf", "lastModified", "safetensors", "tags"), VALUES)
    | {"siblings": st.lists(st.fixed_dictionaries({"rfilename": st.sampled_from(list(FILES))})) | VALUES},
)


@pytest.mark.parametrize("where", ["/api/models/owner/tiny(/revision/[^/]+)?", ".*/tree/.*"])
def test_any_answer_is_an_error_in_words_or_none(hub, cache, where):
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(VALUES | INFOS)
    def check(answer):
        hub.instead = {f"GET {where}": lambda handler: handler.answer(200, json.dumps(answer).encode())}
        with contextlib.suppress(GGUFFastError):
            download()

    check()


HEADERS = st.dictionaries(
    st.sampled_from(["ETag", "X-Linked-ETag", "X-Repo-Commit", "X-Linked-Size", "Location", "X-Error-Code"]),
    st.text(string.printable.strip(), max_size=20) | st.just("a" * 40) | st.just("2"),
)


def test_any_headers_are_an_error_in_words_or_none(hub, cache):
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from([200, 204, 302, 307, 403, 404, 416, 418]), HEADERS)
    def check(status, headers):
        hub.instead = {"HEAD .*/config.json": lambda handler: handler.answer(status, b"", **headers)}
        with contextlib.suppress(GGUFFastError):
            download()

    check()

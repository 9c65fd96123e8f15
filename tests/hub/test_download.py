"""``gguffast download`` with the real client against a local Hub."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys

import pytest

from gguffast.errors import FormatError, OptionError
from gguffast.hub.select import check_names, find_gguf, gguf_models, needed_files, parse_repo, repo_id
from support.local_hub import TOKEN, Repo, refused

CHECKPOINT = {
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"# Tiny",
    "LICENSE": b"free",
    "model-00001-of-00002.safetensors": b"one",
    "model-00002-of-00002.safetensors": b"two",
    "model.safetensors.index.json": b"{}",
}
SURPLUS = {
    ".gitattributes": b"",
    "pytorch_model.bin": b"again",
    "consolidated.safetensors": b"again",
    "original/consolidated.00.pth": b"again",
    "onnx/model.onnx": b"again",
    "flax_model.msgpack": b"again",
    "tf_model.h5": b"again",
    "model.safetensors": b"again",
    "picture.png": b"no",
}


# ---- which files -------------------------------------------------------------------------------------------


def test_only_what_a_conversion_needs(hub, run_with_hub, tmp_path):
    hub.repos["owner/tiny"] = Repo(CHECKPOINT | SURPLUS)
    done = run_with_hub("download", "hf.co/owner/tiny", "--local-dir", "model")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'model'}\n"
    found = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir() if p.is_file()}
    assert found == CHECKPOINT


def test_the_cache_is_the_clients(hub, run_with_hub, tmp_path):
    hub.repos["owner/tiny"] = Repo(CHECKPOINT | SURPLUS)
    first = run_with_hub("download", "owner/tiny")
    assert first.returncode == 0
    folder = first.stdout.strip()
    assert folder.startswith(str(tmp_path / "hf" / "hub" / "models--owner--tiny" / "snapshots"))
    assert {p.name for p in os.scandir(folder)} == CHECKPOINT.keys()
    hub.requests.clear()
    again = run_with_hub("download", "owner/tiny")
    assert again.stdout == first.stdout
    assert hub.downloads() == []
    hub.requests.clear()
    offline = run_with_hub("download", "owner/tiny", HF_HUB_OFFLINE=1)
    assert offline.stdout == first.stdout
    assert hub.requests == []


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "pytorch_model.bin.index.json"], ["pytorch_model.bin"]),
        (
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"],
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"],
        ),
        (["model.fp16.safetensors", "model.safetensors"], ["model.safetensors"]),
        (["model-q4.gguf", "model.safetensors"], ["model.safetensors"]),
        (["sub/model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]),
    ],
)
def test_weights_once(names, wanted):
    assert needed_files("o/m", ["config.json", *names]) == sorted(["config.json", *wanted])


def test_a_single_gguf(hub, run_with_hub):
    hub.repos["owner/quants"] = Repo({"README.md": b"", "m-Q3_K_M.gguf": b"three", "m-Q8_0.gguf": b"eight"})
    done = run_with_hub("download", "owner/quants", "--include", "*Q3_K_M*")
    assert done.returncode == 0
    path = done.stdout.strip()
    assert path.endswith("/m-Q3_K_M.gguf")
    with open(path, "rb") as file:
        assert file.read() == b"three"
    assert hub.downloads() == ["m-Q3_K_M.gguf"]
    done = run_with_hub("download", "owner/quants:q3_k_m")
    assert done.stdout.strip() == path
    assert run_with_hub("download", "owner/quants").stdout.endswith("/m-Q8_0.gguf\n")
    refused(
        run_with_hub("download", "owner/quants:Q5_K"), "no GGUF model 'Q5_K'; it has m-Q3_K_M.gguf, m-Q8_0"
    )
    del hub.repos["owner/quants"].files["m-Q8_0.gguf"]
    hub.repos["owner/quants"].files["m-Q2_K.gguf"] = b"two"
    refused(
        run_with_hub("download", "owner/quants"),
        "2 GGUF models, and none is Q4_K_M or Q8_0; choose one, as in owner/quants:m-Q2_K: m-Q2_K.gguf, m-Q3",
    )
    refused(
        run_with_hub("download", "owner/quants", "--include", "*Q5*"),
        r"no file fits '\*Q5\*'; it has README.md",
    )


def test_a_split_gguf_is_one_model():
    shards = [f"q8/m-Q8_0-0000{i}-of-00002.gguf" for i in (1, 2)]
    assert needed_files("o/m", ["README.md", *shards, "mmproj-F16.gguf"]) == shards


MANY = [
    *("README.md", "imatrix.dat", "m-imatrix.gguf", "mmproj-F16.gguf", "mmproj-Q8_0.gguf", "mtp-m-Q8_0.gguf"),
    *("m-BF16.gguf", "m-Q2_K.gguf", "m-UD-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "f32/m_f32.gguf"),
    *("m-Q8_0-other.gguf", "m-q8_0.gguf", "Q6_K/m-00001-of-00002.gguf", "Q6_K/m-00002-of-00002.gguf"),
]


@pytest.mark.parametrize(
    ("tag", "wanted"),
    [
        ("Q4_K_M", "m-Q4_K_M.gguf"),
        ("q4_k_s", "m-Q4_K_S.gguf"),
        ("Q4_K", "m-Q4_K_M.gguf"),  # llama-quantize's alias
        ("q8_0", "m-q8_0.gguf"),
        ("Q8_0", "m-q8_0.gguf"),
        ("bf16", "m-BF16.gguf"),
        ("F32", "f32/m_f32.gguf"),
        ("Q6_K", "Q6_K/m.gguf"),
        ("Q2_K", "m-Q2_K.gguf"),
        ("UD-Q2_K", "m-UD-Q2_K.gguf"),
        ("m-Q4_K_S", "m-Q4_K_S.gguf"),
        ("M-Q4_K_S.gguf", "m-Q4_K_S.gguf"),
        ("F16", None),  # neither the projector nor BF16
        ("mmproj-F16", None),
        ("imatrix", None),
        ("Q3_K", None),
        ("Q4", None),
        (".*", None),
    ],
)
def test_tags_as_llama_cpp_and_ollama_read_them(tag, wanted):
    assert find_gguf(gguf_models(MANY), tag) == wanted


def test_a_tag_picks_whole_models():
    assert needed_files("o/m", MANY, tag="Q6_K") == [
        "Q6_K/m-00001-of-00002.gguf",
        "Q6_K/m-00002-of-00002.gguf",
    ]
    assert needed_files("o/m", MANY, prefer=("Q5_0", "Q4_K_M")) == ["m-Q4_K_M.gguf"]
    assert needed_files("o/m", [*MANY, "config.json", "model.safetensors"], tag="BF16") == ["m-BF16.gguf"]
    with pytest.raises(
        OptionError, match=r"o/m has no GGUF model 'F16'; it has Q6_K/m\.gguf, f32/m_f32\.gguf, m-"
    ):
        needed_files("o/m", MANY, tag="F16")
    with pytest.raises(OptionError, match=r"o/m has no GGUF model 'F16', nor any other; it has model\.bin"):
        needed_files("o/m", ["model.bin"], tag="F16")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("owner/tiny", ("owner/tiny", None)),
        ("owner/tiny:q4_k_m", ("owner/tiny", "q4_k_m")),
        ("https://huggingface.co/owner/tiny", ("owner/tiny", None)),
        ("https://hf.co/owner/tiny:m-F16.gguf", ("owner/tiny", "m-F16.gguf")),
        ("tiny:x", ("tiny", "x")),
    ],
)
def test_names_of_models(text, wanted):
    assert parse_repo(text) == wanted


def test_exclude():
    names = [*CHECKPOINT, "extra.txt"]
    assert "README.md" not in needed_files("o/m", names, [], ["*.md"])
    assert needed_files("o/m", names, ["*.txt", "*.json"], ["*config*", "model*"]) == [
        "extra.txt",
        "tokenizer.json",
    ]


def test_nothing_to_convert():
    with pytest.raises(FormatError, match="weights that can be converted"):
        needed_files("o/m", ["adapter_model.safetensors", "README.md"])
    with pytest.raises(FormatError, match=r"no config\.json"):
        needed_files("o/m", ["model.safetensors"])
    with pytest.raises(FormatError, match="it has no files"):
        needed_files("o/m", [])


@pytest.mark.parametrize(
    "text",
    [
        "owner/tiny",
        " owner/tiny/ ",
        "hf.co/owner/tiny",
        "https://huggingface.co/owner/tiny",
        "hf://owner/tiny",
    ],
)
def test_names_of_repos(text):
    assert repo_id(text) == "owner/tiny"


@pytest.mark.parametrize("text", ["", "a/b/c", "../x", "a/..", "/etc/passwd", "a b/c", "own--er/x", "-x/y"])
def test_names_that_are_none(text):
    with pytest.raises(OptionError, match="is not the name of a Hub repo"):
        repo_id(text)


# ---- interruptions -----------------------------------------------------------------------------------------


@pytest.fixture
def large(hub):
    """A model of which the client writes a part before it is whole."""
    data = random.Random(0).randbytes(12 << 20)
    hub.repos["owner/large"] = Repo({"m.gguf": data})
    return data


def ranges(hub):
    return [r.headers.get("Range") for r in hub.requests if r.method == "GET" and "/resolve/" in r.path]


def test_a_cut_connection_is_resumed(hub, run_with_hub, large):
    hub.cut_after["m.gguf"] = 11 << 20
    done = run_with_hub("download", "owner/large")
    assert (done.returncode, done.stderr) == (0, "")
    with open(done.stdout.strip(), "rb") as file:
        assert file.read() == large
    first, second = ranges(hub)
    assert first is None
    assert re.fullmatch(r"bytes=[1-9]\d+-", second)


def test_progress_is_told_instead_of_shown(hub_environment, large):
    code = (
        "import gguffast\n"
        "seen = []\n"
        "gguffast.download('owner/large', progress=seen.append)\n"
        "print(*sorted(p.done for p in seen), {(p.total, p.tensor) for p in seen})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=hub_environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    *counts, total, name = done.stdout.replace("{(", "").split()
    assert counts == [str(10 << 20), str(12 << 20)]
    assert (total, name) == (f"{12 << 20},", "'owner/large')}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_at_once_and_the_same_command_continues(
    hub, run_with_hub, hub_environment, large, number
):
    hub.hold_after["m.gguf"] = 11 << 20
    command = [sys.executable, "-m", "gguffast", "download", "owner/large"]
    with subprocess.Popen(command, env=hub_environment, stderr=subprocess.PIPE, text=True) as process:
        assert hub.held.wait(30)
        process.send_signal(number)
        assert process.wait(10) == 1
        assert process.stderr.read() == (
            "gguffast: interrupted; what has come is kept; the same command continues\n"
        )
    hub.requests.clear()
    done = run_with_hub("download", "owner/large")
    assert done.returncode == 0, done
    with open(done.stdout.strip(), "rb") as file:
        assert file.read() == large
    assert len(hub.downloads()) == 1


# ---- refusals ----------------------------------------------------------------------------------------------


def test_a_gated_repo(hub, run_with_hub):
    hub.repos["owner/gated"] = Repo(CHECKPOINT, gated=True)
    text = refused(run_with_hub("download", "owner/gated"), "owner/gated is gated: accept its conditions at")
    assert f"{hub.url}/owner/gated" in text
    assert f"{hub.url}/settings/tokens" in text
    text = refused(run_with_hub("download", "owner/gated", HF_TOKEN=TOKEN), "your account has no access")
    assert TOKEN not in text


def test_a_private_repo(hub, run_with_hub):
    hub.repos["owner/private"] = Repo(CHECKPOINT, private=True)
    refused(
        run_with_hub("download", "owner/private"),
        "no repo owner/private .* or it is private and needs a token",
    )
    for way in ({"HF_TOKEN": TOKEN}, {}):
        options = [] if way else ["--token", TOKEN]
        done = run_with_hub("download", "owner/private", *options, **way)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("options", [[], ["--debug"]])
def test_a_wrong_token_is_refused_and_never_shown(hub, run_with_hub, options):
    hub.repos["owner/tiny"] = Repo(CHECKPOINT)
    for token in ("hf_wrongSECRET", "hf_with blankSECRET", "hf_ünSECRET"):
        done = run_with_hub("download", "owner/tiny", "--token", token, *options)
        assert done.returncode == 1
        assert "token" in done.stderr
        assert "SECRET" not in done.stdout + done.stderr


def test_an_answer_that_repeats_the_token_is_not_repeated(hub, run_with_hub):
    hub.broken = 418
    done = run_with_hub("download", "owner/tiny", "--debug", HF_TOKEN=TOKEN)
    assert "upstream trouble, you sent Bearer <token>" in done.stderr
    assert TOKEN not in done.stderr


def test_a_mirrors_password_is_not_shown(hub, run_with_hub):
    hub.broken = 418
    for endpoint in (hub.url.replace("//", "//me:SECRET@"), "http://me:SECRET@127.0.0.1:9"):
        text = refused(
            run_with_hub("download", "owner/none", HF_ENDPOINT=endpoint), "owner/none|cannot reach"
        )
        assert "SECRET" not in text


def test_no_such_thing(hub, run_with_hub):
    hub.repos["owner/tiny"] = Repo(CHECKPOINT)
    refused(run_with_hub("download", "owner/none"), "there is no repo owner/none at")
    refused(
        run_with_hub("download", "owner/none", HF_TOKEN=TOKEN), "or it is private and the token has no access"
    )
    refused(
        run_with_hub("download", "owner/tiny", "--revision", "v9"),
        "owner/tiny has no branch, tag or commit 'v9'",
    )
    refused(run_with_hub("download", "not a repo"), "'not a repo' is not the name of a Hub repo")


def test_no_network(hub, run_with_hub):
    hub.repos["owner/tiny"] = Repo(CHECKPOINT)
    gone = "http://127.0.0.1:9"
    text = refused(
        run_with_hub("download", "owner/tiny", HF_ENDPOINT=gone), "cannot reach http://127.0.0.1:9"
    )
    assert "not in the cache" in text
    assert run_with_hub("download", "owner/tiny").returncode == 0
    text = refused(
        run_with_hub("download", "owner/tiny", HF_ENDPOINT=gone), "cannot reach http://127.0.0.1:9"
    )
    assert "in the cache: HF_HUB_OFFLINE=1 uses it" in text
    refused(
        run_with_hub("download", "owner/other", HF_HUB_OFFLINE=1),
        "owner/other is not in the cache, and HF_HUB_OFFLINE forbids",
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], r"\(/.*/hf/hub\); free .* continues, or set HF_HOME to a folder on another disk\n"),
        (["--local-dir", "model"], r"\(model\); free .* continues, or name another folder\n"),
    ],
)
def test_a_full_disk(hub, hub_environment, options, said):
    hub.repos["owner/large"] = Repo({"m.gguf": bytes(1 << 20)})
    # No disk of a test machine is full: the first write of the download says what a full one would.
    code = (
        "import errno, sys, huggingface_hub.file_download as client\n"
        "def http_get(*given, **more): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "client.http_get = http_get\n"
        "from gguffast.cli import main\n"
        "sys.exit(main(['download', 'owner/large', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *options],
        env=hub_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    refused(done, r"owner/large: the disk is full " + said)


def test_names_that_leave_the_folder(hub, run_with_hub, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "outside")
    for name, options in [
        ("../evil.gguf", ["--local-dir", "in"]),
        ("../../../../evil.gguf", []),
        ("link/evil.gguf", ["--local-dir", "in"]),
    ]:
        hub.repos["owner/evil"] = Repo({name: b"evil"})
        refused(
            run_with_hub("download", "owner/evil", *options), "leads out of the target folder; nothing was"
        )
    assert not list(tmp_path.rglob("*evil.gguf"))
    assert hub.downloads() == []


@pytest.mark.parametrize(
    "name",
    ["/tmp/x", "a/../../x", "..", "a//x", "./x", "a\\..\\x", "C:x", "a\0b", "a\x1b[2J", "a/.."],
)
def test_names_that_no_folder_takes(tmp_path, name):
    for folder in (None, tmp_path):
        check_names("o/m", ["a/b/x.gguf", "..x"], folder)
        with pytest.raises(FormatError, match="leads out of the target folder"):
            check_names("o/m", ["fine", name], folder)


def test_without_the_client(hub_environment, tmp_path):
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError('gone', name='huggingface_hub')")
    path = f"{tmp_path}{os.pathsep}{hub_environment.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "gguffast", "download", "owner/tiny"],
        env=hub_environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    refused(done, r"needs the package 'huggingface_hub': pip install 'gguffast\[hub\]'")

"""gguffast in the place of llama-quantize: command lines of those who call it, and the real program."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

import gguffast
from gguffast.compat.llama_quantize import main
from gguffast.filetypes import FILE_TYPES
from support.gguf_files import GGUF
from support.llama_cpp import program

DATA = Path(__file__).parents[1] / "data"
CALLERS = [c for c in json.loads((DATA / "callers.json").read_text()) if "program" not in c]
PLAIN = json.loads((DATA / "quantized" / "plain.json").read_text())
OURS = [sys.executable, "-m", "gguffast.compat.llama_quantize"]
WIDE = "llama-wide-f16.gguf"


@pytest.fixture
def folder(tmp_path):
    for name in (WIDE, "gemma2-f32.gguf"):
        shutil.copy(GGUF / name, tmp_path)
    write_imatrix(tmp_path / "wide.imatrix.gguf", tmp_path / WIDE)
    (tmp_path / "types.txt").write_text("attn_v=q8_0\nffn_down=q6_k\n")
    return tmp_path


def write_imatrix(path, model):
    """An importance matrix for every matrix of a model."""
    rng = np.random.default_rng(3)
    writer = gguf.GGUFWriter(path, "")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", 4)
    writer.add_uint32("imatrix.chunk_size", 512)
    with gguffast.GGUFFile(model) as file:
        for tensor in file.tensors:
            if len(tensor.ne) > 1:
                sums = rng.exponential(size=(1, tensor.ne[0])).astype(np.float32)
                writer.add_tensor(f"{tensor.name}.in_sum2", sums)
                writer.add_tensor(f"{tensor.name}.counts", np.full((1, 1), 2048, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def run(*args, cwd, streams="apart", **how):
    stderr = subprocess.STDOUT if streams == "merged" else subprocess.PIPE
    return subprocess.run(
        [*OURS, *map(str, args)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=False,
        **how,
    )


@pytest.fixture
def call(folder, monkeypatch, capfd):
    """The program without a process: what matters is neither streams nor signals."""
    monkeypatch.chdir(folder)

    def called(*args):
        code = main(["llama-quantize", *map(str, args)])
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(args, code, out, err)

    return called


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- who calls it ------------------------------------------------------------------------------------------


def quantized_by_us(folder, args, out):
    """What `gguffast.quantize`, which other tests hold to llama.cpp's bytes, makes of the same request."""
    options = {"tensor_type": []}
    words = iter(args)
    for word in words:
        name = word.removeprefix("--").replace("-", "_")
        if word in ("--allow-requantize", "--pure", "--leave-output-tensor"):
            options[name] = True
        elif word == "--tensor-type":
            options["tensor_type"].append(tuple(next(words).split("=")))
        elif word == "--include-weights":
            options[name] = [next(words)]
        elif word == "--override-kv":
            options[name] = {"general.name": "Tiny"}
            assert next(words) == "general.name=str:Tiny"
        elif word.startswith("--"):
            options[name] = next(words)
        else:
            break
    _, _, file_type, *_ = word, *words
    here = Path.cwd()
    os.chdir(folder)  # the importance matrix's path stands in the file as it is given
    try:
        gguffast.quantize(folder / WIDE, out, file_type, **options)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller["caller"])
def test_command_lines_of_callers(folder, caller):
    os.rename(folder / WIDE, folder / caller["in"])
    places = {
        "IN": caller["in"],
        "OUT": caller.get("out"),
        "IMATRIX": "wide.imatrix.gguf",
        "TYPES": "types.txt",
    }
    args = [places.get(arg, arg) for arg in caller["args"]]
    held = (folder / caller["out"]).open("wb+") if caller.get("out_exists") else None
    done = run(*args, cwd=folder, streams="merged" if caller.get("progress_from") == "merged" else "apart")
    assert done.returncode == 0, done.stderr or done.stdout

    if "progress" in caller:
        seen = [(int(i), int(n)) for i, n in re.findall(caller["progress"], done.stdout)]
        wanted = 30 if "--prune-layers" in args else 39
        assert seen == ([(i + 1, 39) for i in range(wanted)] if caller.get("sees_progress", True) else [])

    if "out" not in caller:
        assert not [path for path in folder.iterdir() if "Q4_K" in path.name]
        return
    out = folder / caller["out"]
    if held:
        assert os.path.samestat(os.fstat(held.fileno()), out.stat())
        assert held.read() == out.read_bytes()
        held.close()
    os.rename(folder / caller["in"], folder / WIDE)
    digests = {"Q8_0": "Q8_0", "COPY": "COPY", "q4_k_m": "Q4_K_M"}
    if all(not arg.startswith("--") for arg in args):
        [digest] = [PLAIN[WIDE][digests[arg]]["file_sha256"] for arg in args if arg in digests]
        assert sha256(out) == digest
    elif "--prune-layers" not in args:  # which only the real program is asked about, below
        quantized_by_us(folder, args, folder / "expected.gguf")
        assert out.read_bytes() == (folder / "expected.gguf").read_bytes()


def test_a_probe_for_help(folder):
    """unsloth waits five seconds, and wants exit code 0 or the word "usage"."""
    done = run("--help", cwd=folder, timeout=60)
    assert done.returncode == 1
    assert "usage" in done.stdout.lower()
    assert done.stderr == ""


def test_progress_comes_while_it_works(folder):
    """A line for each tensor, in the order of the file, the first ones long before the last."""
    source, times, order = folder / WIDE, [], []
    process = subprocess.Popen(
        [*OURS, str(source), str(folder / "out.gguf"), "Q4_K_M", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for line in process.stderr:
        if found := re.match(rb"\[ *(\d+)/ *39\] (\S+)", line):
            times.append(process.poll())
            order.append(int(found[1]))
    assert process.wait() == 0
    process.stdout.close()
    process.stderr.close()
    assert order == list(range(1, 40))
    assert times[0] is None


# ---- names, streams, exit codes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["q4_k_m"], "ggml-model-Q4_K_M.gguf"),
        (["Q4_K"], "ggml-model-Q4_K.gguf"),
        (["15"], "ggml-model-Q4_K.gguf"),
        (["0"], "ggml-model-F32.gguf"),
        (["copy", "1"], "ggml-model-COPY.gguf"),
        (["no-extension", "Q4_0"], "no-extension"),
        (["15.bin", "Q4_0"], "15.bin"),
    ],
)
def test_names_of_the_output(folder, call, args, name):
    (folder / "in").mkdir()
    source = folder / "in" / "model"
    shutil.move(folder / WIDE, source)
    done = call(source, *args)
    assert done.returncode == 0, done.stderr
    assert (source.with_name(name) if len(args) == 1 or args[0] == "copy" else folder / name).exists()


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([WIDE, "out", "Q9"], r"llama_quantize: invalid ftype 'Q9': unknown file type 'Q9'; "),
        ([WIDE, "out"], r"llama_quantize: missing ftype"),
        ([WIDE, WIDE, "Q4_0"], r"llama_quantize: error: input and output files are the same: 'llama-wide"),
        ([WIDE, "out", "Q4_0", "two"], r"llama_quantize: invalid nthread 'two'"),
        (["nope.gguf", "out", "Q4_0"], r"failed to quantize: .*nope\.gguf.* no such file"),
        (["types.txt", "out", "Q4_0"], r"failed to quantize: types\.txt: "),
        (["--imatrix", "nope", WIDE, "out", "Q4_0"], r"failed to quantize: .*nope.* no such file"),
        (["--imatrix", WIDE, WIDE, "out", "Q4_0"], r"failed to quantize: .* not an importance matrix"),
        (["--tensor-type-file", "nope", WIDE, "out", "Q4_0"], r"failed to quantize: .*nope.* no such file"),
        (
            ["gemma2-f32.gguf", "out", "Q1_0"],
            r"tensor blk\.0\.attn_k\.weight: rows of 64 are not whole blocks",
        ),
        (
            [WIDE, "out", "Q2_K_S"],
            r"(?s)ERROR: this quantization requires an importance matrix!.*"
            r"- offending tensor: blk\.0\.attn_k\.weight\n.*- target type: q2_K\n.*with --imatrix",
        ),
        ([WIDE, "no/such/folder/out", "Q4_0"], r"failed to quantize: .*the folder .* does not exist"),
    ],
)
def test_failures_have_a_reason_on_stderr_and_exit_code_1(folder, call, args, reason):
    done = call(*args)
    assert done.returncode == 1
    assert re.search(reason, done.stderr), done.stderr
    assert "usage" not in done.stdout
    assert "Traceback" not in done.stderr
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], ""),
        ([WIDE], ""),
        (["--help"], ""),
        (["--pure", "--dry-run"], "bad arguments"),
        (["--fast", WIDE, "out", "Q4_0"], "unknown option --fast"),
        (["--pure_", WIDE, "out", "Q4_0"], "unknown option --pure_"),
        (["--imatrix-file", "x", WIDE, "out", "Q4_0"], "unknown option --imatrix-file"),
        (["--output-tensor-type", "q9", WIDE, "out", "Q4_0"], "unknown tensor type 'q9'"),
        (["--tensor-type", "attn_v", WIDE, "out", "Q4_0"], "expected REGEX=TYPE"),
        (["--override-kv", "a=b", WIDE, "out", "Q4_0"], "expected KEY=TYPE:VALUE"),
        (["--prune-layers", "1,x", WIDE, "out", "Q4_0"], "invalid layers '1,x'"),
        (["--max-buffer-size", "0", WIDE, "out", "Q4_0"], "invalid size '0'"),
        (["--dry-run", "--imatrix"], "--imatrix: needs a value"),
        (
            ["--include-weights", "a", "--exclude-weights", "b", WIDE, "out", "Q4_0"],
            "cannot be used together",
        ),
    ],
)
def test_what_is_no_command_line_gets_the_usage_on_stdout(folder, call, args, reason):
    done = call(*args)
    assert done.returncode == 1
    assert done.stdout.startswith("usage: ")
    assert len(done.stdout.splitlines()) == 92
    assert done.stderr.startswith(f"llama_quantize: {reason}" if reason and "-" in reason[:2] else "")
    assert reason in done.stderr
    assert (done.stderr == "") == (reason == "")


def test_the_bare_progress_is_for_a_pipe_that_stdout_has_alone(folder):
    bare = re.compile(r"^\[ *\d+/ *39\]$", re.MULTILINE)
    apart = run(WIDE, "out", "Q4_0", cwd=folder)
    assert len(bare.findall(apart.stdout)) == 39
    assert not bare.search(apart.stderr)
    merged = run(WIDE, "out", "Q4_0", cwd=folder, streams="merged")
    assert not bare.search(merged.stdout)
    assert len(re.findall(r"^\[ *\d+/ *39\] ", merged.stdout, re.MULTILINE)) == 39
    with open(folder / "log", "w") as log:
        subprocess.run(
            [*OURS, WIDE, "out", "Q4_0"], cwd=folder, stdout=log, stderr=subprocess.PIPE, check=True
        )
    assert not bare.search((folder / "log").read_text())


def test_readers_that_go_away_do_not_stop_it(folder):
    process = subprocess.Popen(
        [*OURS, WIDE, "out", "Q8_0"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    process.stderr.close()
    assert process.wait() == 0
    assert sha256(folder / "out") == PLAIN[WIDE]["Q8_0"]["file_sha256"]
    (folder / "out").unlink()
    quiet = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" >&- 2>&-', *OURS, WIDE, "out", "Q8_0"], cwd=folder, check=False
    )
    assert quiet.returncode == 0


def test_a_name_cannot_pass_for_a_line(folder):
    path = folder / "odd.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_name("a\n[  39/  39] b\x1b[2J")
    writer.add_tensor("blk.0.x\n[   2/   2].weight", np.zeros((2, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    done = run("odd.gguf", "out", "Q4_0", cwd=folder)
    assert done.returncode == 0
    assert "\x1b" not in done.stderr
    [line] = re.findall(r"^\[.*", done.stderr, re.MULTILINE)
    assert line.startswith(r"[   1/   1] blk.0.x\n[   2/   2].weight ")


# ---- in place ----------------------------------------------------------------------------------------------


def test_an_existing_output_keeps_its_inode_its_links_and_its_mode(folder):
    out, link = folder / "out", folder / "link"
    out.write_bytes(b"x" * 10_000_000)  # longer than what will be there
    out.chmod(0o640)
    os.link(out, link)
    assert run(WIDE, "out", "Q8_0", cwd=folder).returncode == 0
    assert sha256(link) == PLAIN[WIDE]["Q8_0"]["file_sha256"]
    assert out.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


def test_a_failure_on_the_way_leaves_the_file_that_the_caller_holds_empty(folder):
    with gguffast.GGUFFile(folder / WIDE) as file:
        last = [tensor for tensor in file.tensors if tensor.type.name == "F16"][-1]
        at = last.offset
    with open(folder / WIDE, "r+b") as file:
        file.seek(at)
        file.write(b"\x00\x7e" * 8)  # NaN
    with open(folder / "out", "wb+") as held:
        done = run(WIDE, "out", "Q8_0", cwd=folder)
        assert done.returncode == 1
        assert f"tensor '{last.name}', row 0: NaN or infinity" in done.stderr
        assert held.read() == b""
    fresh = run(WIDE, "fresh", "Q8_0", cwd=folder)
    assert fresh.returncode == 1
    assert not (folder / "fresh").exists()


@pytest.fixture
def large(folder):
    """A model that takes a while, so that there is a half-way."""
    path = folder / "large.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    weights = np.random.default_rng(0).standard_normal((2048, 2048), np.float32)
    for i in range(8):
        writer.add_tensor(f"blk.0.ffn_up{i}.weight", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killed_half_way(folder, large, number):
    with open(folder / "out", "wb+") as held:
        process = subprocess.Popen(
            [*OURS, "--pure", large, folder / "out", "Q2_K", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for line in process.stderr:
            if line.startswith(b"[   1/"):
                process.send_signal(number)
                break
        rest = process.stderr.read().decode()
        assert process.wait() != 0
        process.stdout.close()
        process.stderr.close()
        left = held.read()
    if number == signal.SIGKILL:
        assert left[:4] == b"\0\0\0\0"  # nobody takes it for a GGUF file
    else:
        assert left == b""
        assert "failed to quantize: interrupted" in rest


def test_a_full_disk(folder):
    limit = (
        "import resource, os, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    (folder / "out").touch()
    done = subprocess.run(
        [sys.executable, "-c", limit, *OURS, WIDE, "out", "Q8_0"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot write out: File too large; it is empty now" in done.stderr
    assert (folder / "out").read_bytes() == b""


# ---- the real program --------------------------------------------------------------------------------------

COMMAND_LINES = [
    [WIDE, "q4_k_m"],
    [WIDE, "out.gguf", "15", "2"],
    ["noext", "tmpfile", "COPY"],
    ["--imatrix", "wide.imatrix.gguf", WIDE, "out.gguf", "Q4_K_M"],
    ["--imatrix", "wide.imatrix.gguf", "--exclude-weights", "attn", WIDE, "out.gguf", "Q4_K_M"],
    ["--imatrix", "wide.imatrix.gguf", "--prune-layers", "0,2", WIDE, "out.gguf", "Q4_K_S"],
    [
        "--allow-requantize",
        "--tensor-type",
        "attn_v=Q8_0",
        "--tensor-type",
        r"BLK\.[01]\.ffn=f16",
        WIDE,
        "o",
        "Q4_K_M",
    ],
    ["--dry-run", WIDE, "Q4_K"],
    ["--dry-run", WIDE, "out.gguf", "Q2_K_S"],
    ["--pure", "--leave-output-tensor", WIDE, "out.gguf", "Q5_K_S", "3"],
    ["--tensor-type-file", "types.txt", WIDE, "out.gguf", "Q4_0"],
    ["--output-tensor-type", "Q6_K", "--token-embedding-type", "Q4_K", WIDE, "out.gguf", "q4_k_m", "2"],
    ["--override-kv", "general.name=str:Neu", "--override-kv", "a.b=int:-5", WIDE, "out.gguf", "Q4_0"],
    ["shards-00001-of-00006.gguf", "out.gguf", "Q4_K_M"],
    ["--keep-split", "shards-00001-of-00006.gguf", "out.gguf", "Q4_K_M"],
    ["--keep-split", "shards-00001-of-00006.gguf", "Q4_K_M"],
    ["--keep-split", WIDE, "one", "Q4_0"],
    ["--prune-layers", "1", WIDE, "out.gguf", "Q4_K_M"],
    ["--prune-layers", "1", "--keep-split", "shards-00001-of-00006.gguf", "out", "Q4_K_M"],
    ["--max-buffer-size", "64", "gemma2-f32.gguf", "out.gguf", "Q4_K_M"],
    ["gemma2-f32.gguf", "out.gguf", "TQ1_0"],
    ["--tensor-type", "ffn=nvfp4", WIDE, "out.gguf", "MXFP4_MOE"],
    ["gemma2-f32.gguf", "out.gguf", "Q1_0"],
    *(["--imatrix", "wide.imatrix.gguf", WIDE, "out.gguf", name] for name in FILE_TYPES),
    [WIDE, "out.gguf", "Q9"],
    [WIDE, "out.gguf", "Q2_K_S"],
    [WIDE, WIDE, "Q4_0"],
    ["nope.gguf", "out.gguf", "Q4_0"],
]
#: What the real program says besides: its version, what it took from options, and failures in its own words.
BESIDES = re.compile(
    r"version: |built with|llama_tensor_get_type: |validate_override: |gguf_init_from|load_imatrix|"
    r"llama_model_quantize_impl: (pruning|tensor )|llama_model_quantize: failed|.*dry run completed|"
    r"llama_quantize: (invalid|error)"
)


@pytest.mark.ollama
@pytest.mark.parametrize("args", COMMAND_LINES, ids=" ".join)
def test_the_same_as_the_real_program(folder, args):
    shutil.copy(folder / WIDE, folder / "noext")
    split = [program("llama-gguf-split"), "--split", "--split-max-tensors", "7", WIDE, "shards"]
    subprocess.run(split, cwd=folder, capture_output=True, check=True)
    before = {path.name for path in folder.iterdir()}

    def outcome(command):
        done = subprocess.run([*command, *args], cwd=folder, capture_output=True, text=True, check=False)
        files = {}
        for path in folder.iterdir():
            if path.name not in before:
                files[path.name] = sha256(path)
                path.unlink()
        # In the middle of a tensor's line, where the real one says it; a line of its own, where we do.
        text = re.sub(r"((?<=, )\n|(?<=\n))=+ \S+ did not find weights for \S+\n", "", done.stderr)
        said = [line for line in text.splitlines() if not BESIDES.match(line)]
        return done.returncode, files, said

    code, files, said = outcome([program("llama-quantize")])
    assert files or code or "--dry-run" in args
    our_code, our_files, our_said = outcome(OURS)
    assert (our_code, our_files) == (code, files)
    # Of a tensor without a stand-in, the real one prints half a line.
    said = [line for line in said if "failed to quantize: no tensor type fallback" not in line]
    assert our_said == said, "\n".join(difflib.unified_diff(said, our_said, lineterm=""))

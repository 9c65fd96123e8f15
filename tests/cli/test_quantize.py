"""``gguffast quantize`` as a user runs it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

import gguf
import numpy as np
import pytest

import gguffast
from gguffast.cli import main, terminal
from gguffast.engine import Progress
from gguffast.gguf import GGUFFile
from gguffast.quantizer import quantize
from support.gguf_bytes import array, header, scalar, string, tensor, text, with_data
from support.gguf_files import GGUF

WIDE = GGUF / "llama-wide-f16.gguf"
GEMMA = GGUF / "gemma2-f32.gguf"
IMATRIX = GGUF / "smollm2.imatrix.gguf"


def run(*args, cwd=None, **options):
    command = [sys.executable, "-m", "gguffast", *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **options)


def assert_refused(done, pattern):
    """Exit code 1, one line on stderr, nothing on stdout."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert done.stderr.startswith("gguffast: error: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    assert re.search(pattern, done.stderr), done.stderr


# ---- command line ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def q4_k_m(tmp_path_factory):
    """What gemma2 becomes as Q4_K_M."""
    return quantize(GEMMA, tmp_path_factory.mktemp("made") / "out.gguf", "Q4_K_M").dst.read_bytes()


@pytest.mark.parametrize(
    "line",
    [
        "IN OUT Q4_K_M",
        "IN OUT q4_k",
        "IN OUT 15",
        "IN OUT Q4_K_M 2",
        "IN OUT Q4_K_M 0",
        "IN OUT Q4_K_M --threads 3",
        "--threads 1 IN OUT Q4_K_M",
        "--quiet IN OUT --threads=2 Q4_K_M",
        "IN --force OUT Q4_K_M --quiet",
        "--allow-requantize --quiet IN OUT Q4_K_M 8",
    ],
)
def test_arguments_in_any_order(tmp_path, q4_k_m, line):
    out = tmp_path / "out.gguf"
    places = {"IN": str(GEMMA), "OUT": str(out)}
    assert main(["quantize", *(places.get(word, word) for word in line.split())]) == 0
    assert out.read_bytes() == q4_k_m


def test_output_without_a_suffix(tmp_path, monkeypatch, q4_k_m):
    monkeypatch.chdir(tmp_path)
    assert main(["quantize", str(GEMMA), "out", "15"]) == 0
    assert main(["quantize", str(GEMMA), "Q4KM", "15", "2"]) == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "Q4KM").read_bytes() == q4_k_m


@pytest.mark.parametrize("line", ["IN Q4_K_M", "IN 15", "IN q4_k 2", "--quiet IN --force q4_k_m"])
def test_default_output_lies_beside_the_input(tmp_path, q4_k_m, line):
    shutil.copyfile(GEMMA, tmp_path / "gemma2-F32.gguf")
    arguments = [str(tmp_path / "gemma2-F32.gguf") if word == "IN" else word for word in line.split()]
    assert main(["quantize", *arguments]) == 0
    assert (tmp_path / "gemma2-Q4_K_M.gguf").read_bytes() == q4_k_m


def test_options_reach_the_quantizer(tmp_path):
    rules = tmp_path / "rules.txt"
    rules.write_text("attn_k=q8_0\nffn_gate=q5_1 ffn_down=f16")
    out = tmp_path / "out.gguf"
    options = ["--tensor-type", "attn_q=q4_0", "--tensor-type-file", rules, "--tensor-type", "ffn=q2_k"]
    options += ["--output-tensor-type", "Q5_K", "--token-embedding-type", "bf16"]
    options += ["--override-kv", "general.name=str:mine", "--override-kv", "own.number=int:7"]
    done = run("quantize", *options, WIDE, out, "q4_k_m")
    assert (done.returncode, done.stderr) == (0, "")
    with GGUFFile(out) as file:
        types = {
            t.name: t.type.name for t in file.tensors if t.name.startswith("blk.0") or "." not in t.name[:-7]
        }
        assert (file.metadata["general.name"], file.metadata["own.number"]) == ("mine", 7)
    assert types["output.weight"] == "Q5_K"
    assert types["token_embd.weight"] == "BF16"
    assert types["blk.0.attn_q.weight"] == "Q4_0"
    assert types["blk.0.attn_k.weight"] == "Q8_0"
    assert types["blk.0.ffn_gate.weight"] == "Q5_1"
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == "Q2_K"


def test_pure_and_leave_output(tmp_path):
    assert main(["quantize", "--pure", "--leave-output-tensor", str(WIDE), str(tmp_path / "o"), "q5_k"]) == 0
    with GGUFFile(tmp_path / "o") as file:
        types = {t.type.name for t in file.tensors if t.name != "output.weight" and len(t.ne) > 1}
        assert types == {"Q5_K"}
        assert file.tensors["output.weight"].type.name == "F16"


def test_summary(tmp_path):
    done = run("quantize", GEMMA, tmp_path / "out.gguf", "q4_k_m", "2")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == str(tmp_path / "out.gguf")
    assert re.fullmatch(r"  size       459\.9 kB -> 10\d\.\d kB \(2\d %\)", lines[1])
    assert re.fullmatch(r"  bits       32\.00 -> \d\.\d\d a weight", lines[2])
    assert re.fullmatch(r"  types      Q\S+ x \d+ \(\d+\.\d kB\), .*F32 x \d+.*", lines[3])
    assert re.fullmatch(r"  fallbacks  14 of 24 tensors: Q4_K -> Q5_0 \(\d+\).*", lines[4])
    assert re.fullmatch(r"  time       \d+\.\d\d s, \d+ M weights/s, 2 threads", lines[5])


def test_quiet(tmp_path):
    done = run("quantize", "--quiet", GEMMA, tmp_path / "out.gguf", "q4_k_m")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_json(tmp_path):
    out = tmp_path / "out.gguf"
    done = run("quantize", "--json", GEMMA, out, "q4_k_m")
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert summary["dst"] == str(out)
    assert summary["file_type"] == "Q4_K_M"
    assert summary["size_out"] == out.stat().st_size
    assert sum(share["tensors"] for share in summary["types"].values()) == summary["n_tensors"]
    assert {"tensor": "blk.0.attn_q.weight", "wanted": "Q4_K", "type": "Q5_0"} in summary["fallbacks"]
    assert summary["weights_per_second"] == pytest.approx(summary["n_weights"] / summary["seconds"])


def test_dry_run(tmp_path):
    done = run("quantize", "--dry-run", WIDE, tmp_path / "out.gguf", "q4_k_m", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(tmp_path) == []
    summary = json.loads(done.stdout)
    assert (summary["dst"], summary["dry_run"]) == (str(tmp_path / "out.gguf"), True)
    assert summary["size_out"] == quantize(WIDE, tmp_path / "out.gguf", "q4_k_m").size_out


def test_missing_importances_are_a_warning(tmp_path, real_model):
    args = ["--imatrix", IMATRIX, "--allow-requantize", "--token-embedding-type", "q4_0", real_model]
    done = run("quantize", *args, tmp_path / "out.gguf", "q4_k_m", "--json")
    assert done.returncode == 0
    assert re.fullmatch(r"gguffast: warning: .* no entry for 1 tensor, .*: token_embd\.weight\n", done.stderr)
    assert json.loads(done.stdout)["imatrix_missing"] == ["token_embd.weight"]


# ---- help ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["--help"], ["quantize", "--help"], ["--version"]])
def test_help_needs_no_heavy_imports(args):
    code = (
        "import sys; from gguffast.cli import main; code = main(sys.argv[1:]);"
        "assert not {'numpy', 'rich', 'gguf'} & set(sys.modules), 'slow'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_names_every_type_and_command():
    assert "quantize" in run("--help").stdout
    shown = run("quantize", "--help").stdout
    assert "gguffast quantize [options] INPUT.gguf [OUTPUT.gguf] TYPE [THREADS]" in shown
    for word in ["Q4_K_M", "IQ4_XS", "BF16", "COPY", "--tensor-type-file", "--override-kv"]:
        assert word in shown


def test_version():
    assert run("--version").stdout == f"gguffast {gguffast.__version__}\n"


@pytest.mark.parametrize(
    "args", [[], ["no-such"], ["--no-such"], ["quantize"], ["quantize", "x", "--no-such"]]
)
def test_malformed_command_line(args):
    done = run(*args)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: gguffast")
    assert "Traceback" not in done.stderr


# ---- what is refused -------------------------------------------------------------------------------------

PAIRS = (text("general.architecture", "llama"), scalar("llama.block_count", 4, 1))


def model(*tensors, size=4096, pairs=PAIRS, **lies):
    return with_data(header(pairs, tensors, **lies), size)


UP = "blk.0.ffn_up.weight"

BAD_FILES = {
    "empty": (b"", "the file is empty"),
    "not-gguf": (b"PK\3\4" + bytes(100), "not a GGUF file"),
    "version-1": (b"GGUF" + struct.pack("<III", 1, 0, 0), "GGUF version 1"),
    "version-4": (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "GGUF version 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "cut-in-counts": (b"GGUF" + struct.pack("<I", 3) + b"\0" * 5, "ends after"),
    "cut-in-pair": (header(PAIRS)[:-3], "ends after|has room"),
    "cut-in-tensor": (header(PAIRS, [tensor(UP, (32, 2))])[:-9], "ends after|has room"),
    "cut-in-data": (model(tensor(UP, (1024, 1)))[:-1], "tensor 'blk.0.ffn_up.weight' .*data up to byte"),
    "too-many-pairs": (model(n_pairs=2**63), r"counts 9223372036854775808 key-value pairs"),
    "too-many-tensors": (model(n_tensors=2**60), "counts 1152921504606846976 tensors"),
    "string-overflow": (
        model(pairs=[text("general.architecture", "x"), string("k", 2**64 - 1)]),
        "bytes from byte",
    ),
    "array-overflow": (model(pairs=[array("a", 4, [], count=2**62)]), "'a' counts 4611686018427387904 items"),
    "shape-overflow": (model(tensor(UP, (2**62, 2**62))), "more bytes than 63 bits"),
    "negative-dimension": (model(tensor(UP, (-1, 2))), "negative size -1"),
    "too-many-dimensions": (model(tensor(UP, (1,) * 5)), "has 5 dimensions"),
    "partial-block": (model(tensor(UP, (33, 1), kind=8)), "rows of 33 weights, but blocks of 32"),
    "offset-past-end": (model(tensor(UP, (32, 1), offset=2**40)), "data up to byte"),
    "offset-overflow": (model(tensor(UP, (32, 1), offset=2**64 - 32)), "tensor 'blk.0.ffn_up.weight'"),
    "offset-misaligned": (model(tensor(UP, (32, 1), offset=4)), "offset 4, not a multiple of 32"),
    "overlap": (model(tensor("a", (32, 1)), tensor("b", (32, 1))), "tensor 'b' shares bytes"),
    "duplicate-tensor": (model(tensor("a", (8,)), tensor("a", (8,), offset=32)), "tensor 'a' is there twice"),
    "duplicate-key": (model(pairs=[*PAIRS, PAIRS[0]]), "'general.architecture' is there twice"),
    "unknown-type": (model(tensor(UP, (32, 1), kind=99)), "unknown type id 99"),
    "alignment": (
        model(pairs=[*PAIRS, scalar("general.alignment", 4, 48)]),
        "48, which is not a power of two",
    ),
    "control-codes": (model(tensor("\x1b[31m\n", (32, 1), offset=4)), r"tensor '\\x1b\[31m\\n'"),
    "no-block-count": (model(tensor(UP, (256, 2)), pairs=PAIRS[:1]), "lack llama.block_count"),
}


@pytest.mark.parametrize(("content", "pattern"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file(tmp_path, content, pattern):
    (tmp_path / "in.gguf").write_bytes(content)
    done = run("quantize", "in.gguf", "out.gguf", "Q4_K_M", cwd=tmp_path)
    assert_refused(done, pattern)
    assert "in.gguf" in done.stderr
    assert os.listdir(tmp_path) == ["in.gguf"]
    assert (tmp_path / "in.gguf").read_bytes() == content


@pytest.fixture
def folder(tmp_path):
    """A folder with inputs good and bad."""
    shutil.copyfile(WIDE, tmp_path / "wide-F16.gguf")
    shutil.copyfile(IMATRIX, tmp_path / "other.imatrix")
    shutil.copyfile(WIDE, tmp_path / "nan.gguf")
    with GGUFFile(WIDE) as file:
        info = file.tensors["blk.1.ffn_down.weight"]
    with open(tmp_path / "nan.gguf", "r+b") as file:
        file.seek(info.offset + 2 * (7 * info.ne[0] + 5))
        file.write(np.float16("nan").tobytes())
    quantize(WIDE, tmp_path / "q8.gguf", "q8_0")
    write_imatrix(tmp_path / "wrong-size.imatrix", {"blk.0.attn_q.weight": 300})
    write_imatrix(tmp_path / "partial.imatrix", {"blk.0.attn_q.weight": 512})
    write_imatrix(tmp_path / "good.imatrix", {"blk.0.attn_q.weight": 256})
    (tmp_path / "exists.gguf").write_bytes(b"old")
    (tmp_path / "link.gguf").symlink_to("wide-F16.gguf")
    (tmp_path / "hardlink.gguf").hardlink_to(tmp_path / "wide-F16.gguf")
    (tmp_path / "folder").mkdir()
    (tmp_path / "rules").write_text("attn_v=q8_0 ffn=no_such")
    return tmp_path


def write_imatrix(path, sizes):
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, size in sizes.items():
        writer.add_tensor(f"{name}.in_sum2", np.ones((1, size), np.float32))
        writer.add_tensor(f"{name}.counts", np.ones((1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("missing.gguf out.gguf q4_k_m", "missing.gguf: there is no such file"),
        ("folder out.gguf q4_k_m", "folder: it is a folder"),
        ("wide-F16.gguf out.gguf q4_k_x", "unknown file type 'q4_k_x'; did you mean Q4_K"),
        ("wide-F16.gguf q4km", "unknown file type 'q4km'; did you mean Q4_K_M"),
        ("wide-F16.gguf q4km 8", "unknown file type 'q4km'"),
        ("wide-F16.gguf out.gguf", "no TYPE after OUTPUT out.gguf"),
        ("wide-F16.gguf out.gguf 99", "unknown file type '99'"),
        ("wide-F16.gguf out.gguf nvfp4", "NVFP4 is known, but not one that gguffast produces"),
        ("wide-F16.gguf out.gguf q4_k_m many", "THREADS must be a number, found 'many'"),
        ("wide-F16.gguf out.gguf q4_k_m 2 3", "unexpected argument '3'"),
        ("wide-F16.gguf out.gguf q4_k_m 2 --threads 3", "given twice"),
        ("wide-F16.gguf out.gguf q4_k_m --threads 0", "--threads must be at least 1, found 0"),
        ("nan.gguf out.gguf q4_k_m", r"tensor 'blk\.1\.ffn_down\.weight', row 7: NaN or infinity"),
        ("nan.gguf out.gguf copy", r"tensor 'blk\.1\.ffn_down\.weight', row 7: NaN or infinity"),
        ("q8.gguf out.gguf q4_k_m", "is quantized already .Q8_0. .*--allow-requantize"),
        ("--imatrix other.imatrix wide-F16.gguf out.gguf q4_k_m", "other.imatrix: .*another model"),
        (
            "--imatrix wrong-size.imatrix wide-F16.gguf out.gguf q4_k_m",
            "wrong-size.imatrix: .*blk.0.attn_q.weight.*300",
        ),
        (
            "--imatrix partial.imatrix wide-F16.gguf out.gguf q2_k_s",
            "partial.imatrix: tensor .* no importances",
        ),
        ("--imatrix wide-F16.gguf wide-F16.gguf out.gguf q4_k_m", "wide-F16.gguf: .*importance"),
        ("--imatrix rules wide-F16.gguf out.gguf q4_k_m", "rules: "),
        ("--imatrix no.imatrix wide-F16.gguf out.gguf q4_k_m", "cannot read no.imatrix"),
        ("wide-F16.gguf out.gguf q2_k_s", "needs an importance matrix"),
        ("--include-weights a wide-F16.gguf out.gguf q4_k_m", "need an importance matrix"),
        (
            "--tensor-type ffn_(up=q8_0 wide-F16.gguf out.gguf q4_k_m",
            "bad regular expression 'ffn_.up' at position 4",
        ),
        (
            "--tensor-type ffn wide-F16.gguf out.gguf q4_k_m",
            "cannot read tensor type 'ffn'; expected REGEX=TYPE",
        ),
        ("--tensor-type ffn=q9 wide-F16.gguf out.gguf q4_k_m", "unknown tensor type 'q9'"),
        ("--tensor-type-file rules wide-F16.gguf out.gguf q4_k_m", "rules: unknown tensor type 'no_such'"),
        ("--tensor-type-file none wide-F16.gguf out.gguf q4_k_m", "cannot read none: there is no such file"),
        ("--output-tensor-type q9 wide-F16.gguf out.gguf q4_k_m", "unknown tensor type 'q9'"),
        ("--override-kv a=b wide-F16.gguf out.gguf q4_k_m", "cannot read override 'a=b'"),
        ("--override-kv a=int:x wide-F16.gguf out.gguf q4_k_m", "'x' is not a value of type int"),
        ("wide-F16.gguf exists.gguf q4_k_m", "exists.gguf already exists; .*--force"),
        ("wide-F16.gguf wide-F16.gguf q4_k_m", "input and output are the same file"),
        ("--force wide-F16.gguf wide-F16.gguf q4_k_m", "input and output are the same file"),
        ("--force wide-F16.gguf ./folder/../wide-F16.gguf q4_k_m", "input and output are the same file"),
        ("--force wide-F16.gguf link.gguf q4_k_m", "input and output are the same file"),
        ("--force wide-F16.gguf hardlink.gguf q4_k_m", "input and output are the same file"),
        ("--force --imatrix good.imatrix wide-F16.gguf good.imatrix q4_k_m", "input and output are the same"),
        ("--force wide-F16.gguf f16", "input and output are the same file"),
        ("--force wide-F16.gguf folder q4_k_m", "folder is a folder; name the file"),
        ("--force wide-F16.gguf /dev/null q4_k_m", "/dev/null is not a regular file"),
        ("wide-F16.gguf none/out.gguf q4_k_m", "folder .*none does not exist"),
        ("wide-F16.gguf /proc/out.gguf q4_k_m", "cannot write into the folder /proc"),
    ],
)
def test_bad_request(folder, line, pattern):
    before = state(folder)
    assert_refused(run("quantize", *line.split(), cwd=folder), pattern)
    assert state(folder) == before


def state(folder):
    """What changes when anything is written."""
    stats = {path.name: path.lstat() for path in folder.iterdir()}
    return {name: (s.st_ino, s.st_size, s.st_mtime_ns) for name, s in stats.items()}


def test_folder_without_write_permission(capsys):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        # root may write everywhere, so be nobody for a while.
        user = os.geteuid()
        os.seteuid(user or 65534)
        try:
            code = main(["quantize", str(GEMMA), f"{folder}/out.gguf", "q8_0"])
        finally:
            os.seteuid(user)
        assert os.listdir(folder) == []
    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert err == f"gguffast: error: cannot write into the folder {folder}: Permission denied\n"


def limit_file_size(n):
    """A preexec function: a full disk for any user, since writing beyond the limit is an error."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))


def test_disk_refuses_the_size(folder):
    before = sorted(os.listdir(folder))
    done = run(
        "quantize", "wide-F16.gguf", "out.gguf", "q4_k_m", cwd=folder, preexec_fn=limit_file_size(100_000)
    )
    assert_refused(done, "File too large")
    assert sorted(os.listdir(folder)) == before


def test_not_enough_disk(tmp_path):
    """A model that takes no disk itself, but more when quantized than any disk has."""
    rows = (os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize) // 144 + 1
    sparse_model(tmp_path / "in.gguf", rows, 256)
    done = run("quantize", "in.gguf", "out.gguf", "q4_k_s", cwd=tmp_path)
    assert_refused(done, r"not enough disk space for out\.gguf: \S+ [MGT]B needed, \S+ [MGT]B free")
    assert os.listdir(tmp_path) == ["in.gguf"]


def test_disk_full_midway(tmp_path, monkeypatch, capsys):
    # The limit comes when the file has its full length already, and its contents do not fit any more.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextlib.contextmanager
    def show_progress(*, hidden):
        yield lambda progress: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    monkeypatch.setattr(terminal, "show_progress", show_progress)
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["quantize", str(WIDE), "out.gguf", "q4_k_m"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "gguffast: error: cannot write out.gguf: File too large; nothing was left behind\n"
    assert os.listdir(tmp_path) == []


def test_debug_shows_the_traceback(tmp_path):
    done = run("quantize", "missing.gguf", "out.gguf", "q4_k_m", "--debug", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith("gguffast: error: cannot read missing.gguf")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ZeroDivisionError("oops"), "error: ZeroDivisionError: oops; this should not happen: .*--debug"),
        (MemoryError(), "error: out of memory"),
        (ModuleNotFoundError("x", name="yaml"), r"error: the package 'yaml' is missing: pip install 'gguff"),
        (OSError(5, "Input/output error"), r"error: \[Errno 5\] Input/output error"),
        (KeyboardInterrupt(), "gguffast: interrupted"),
    ],
)
def test_unexpected_errors_are_one_line(monkeypatch, capsys, error, words):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr("gguffast.gguf.GGUFFile", fail)
    assert main(["inspect", str(WIDE)]) == 1
    err = capsys.readouterr().err
    assert re.search(words, err)
    assert err.count("\n") == 1


def test_reader_that_goes_away(tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = [
        sys.executable,
        "-m",
        "gguffast",
        "quantize",
        "--json",
        str(GEMMA),
        str(tmp_path / "o.gguf"),
        "q8_0",
    ]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
    assert (tmp_path / "o.gguf").exists()


def test_summary_that_cannot_be_written(tmp_path):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "gguffast", "quantize", str(GEMMA), str(tmp_path / "o.gguf"), "q8_0"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "gguffast: error: [Errno 28] No space left on device\n")


# ---- signals ---------------------------------------------------------------------------------------------


def sparse_model(path, rows, columns):
    """A model of one F32 tensor of zeros that takes no disk."""
    head = with_data(header(PAIRS, [tensor(UP, (columns, rows))]), 0)
    path.write_bytes(head)
    os.truncate(path, len(head) + 4 * rows * columns)


def interrupt(folder, number, *options, limit=60):
    """Start a long run, send a signal when it has begun to write, and wait for the end."""
    sparse_model(folder / "in.gguf", 1 << 20, 4096)  # 16 GiB
    command = [sys.executable, "-m", "gguffast", "quantize", *options, "in.gguf", "out.gguf", "q2_k", "2"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + limit
        while not written(folder):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=limit)
    return process.returncode, out, err


def written(folder):
    """Whether a hidden file has got contents, not only its length."""
    return any(path.stat().st_blocks > 64 for path in folder.glob(".gguffast-*"))


@pytest.mark.parametrize("options", [(), ("--quiet",), ("--json",)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_leaves_nothing(tmp_path, number, options):
    code, out, err = interrupt(tmp_path, number, *options)
    assert (code, out, err) == (1, "", "gguffast: interrupted; nothing was written to out.gguf\n")
    assert os.listdir(tmp_path) == ["in.gguf"]


def test_signal_leaves_the_old_file(tmp_path):
    (tmp_path / "out.gguf").write_bytes(b"old")
    code, _, err = interrupt(tmp_path, signal.SIGTERM, "--force")
    assert (code, err) == (1, "gguffast: interrupted; nothing was written to out.gguf\n")
    assert sorted(os.listdir(tmp_path)) == ["in.gguf", "out.gguf"]
    assert (tmp_path / "out.gguf").read_bytes() == b"old"


# ---- progress --------------------------------------------------------------------------------------------


def test_bar_on_a_terminal(tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gguffast", "quantize", str(WIDE), str(tmp_path / "out.gguf"), "q4_k_m"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    out = process.communicate()[0]
    assert process.returncode == 0
    assert "━" in shown.decode()
    assert "5.3/5.3 MB" in shown.decode()
    assert b"weights/s" in out


def test_lines_in_a_log(monkeypatch):
    now = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(now))
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with terminal.show_progress(hidden=False) as show:
        for done in (0, 250_000, 300_000, 500_000):
            show(Progress(done, 1_000_000, "blk.0.ffn_up.weight"))
    assert log.getvalue().splitlines() == [
        " 25 %  250.0 kB of 1.0 MB, 41.7 kB/s, 18 s left, blk.0.ffn_up.weight",
        " 50 %  500.0 kB of 1.0 MB, 41.7 kB/s, 12 s left, blk.0.ffn_up.weight",
    ]


def test_hidden_progress():
    with terminal.show_progress(hidden=True) as show:
        assert show is None

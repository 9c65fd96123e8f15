"""Jobs: inputs are never harmed, whatever is asked for, and an output is all there or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguffast import convert, quantize
from gguffast.cli import main
from gguffast.errors import FileError, GGUFFastError, OptionError
from support import gguf_bytes
from support.bounded import peak_memory, run_bounded
from support.gguf_files import GGUF

WIDE = GGUF / "llama-wide-f16.gguf"
IMATRIX = GGUF / "smollm2.imatrix.gguf"


def state(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


# --- inputs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [Path, "symlink", "hardlink"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.model", "README.md", "generation_config.json"]
)
def test_a_checkpoint_is_not_overwritten(
    name: str, how: Any, copy_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy_of("llama2")
    (folder / "README.md").touch()
    (folder / "generation_config.json").write_text("{}")
    out = folder / name
    if how != Path:
        out = tmp_path / "out.gguf"
        getattr(out, f"{how}_to")(folder / name)
    before = state(folder)
    with pytest.raises(OptionError, match="input and output are the same file"):
        convert(folder, out, force=True)
    assert state(folder) == before


def test_files_behind_options_are_not_overwritten(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy_of("llama2")
    rules, metadata = tmp_path / "rules", tmp_path / "metadata.json"
    rules.write_text("attn_v=q8_0")
    metadata.write_text("{}")
    options: dict[str, Any] = {"tensor_type": [rules], "metadata": metadata, "force": True}
    for path in (rules, metadata):
        before = state(tmp_path)
        with pytest.raises(OptionError, match="input and output are the same file"):
            convert(folder, path, "q4_0", **options)
        assert state(tmp_path) == before
    with pytest.raises(OptionError, match="input and output are the same file"):
        quantize(WIDE, rules, "q4_0", tensor_type=[rules], force=True)


def test_shards_do_not_fall_on_inputs(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("llama2")
    other = folder / "x-00002-of-00005.gguf"
    other.hardlink_to(folder / "config.json")
    before = state(folder)
    with pytest.raises(OptionError, match="input and output are the same file"):
        convert(folder, folder / "x.gguf", split_max_tensors=5, force=True)
    assert state(folder) == before


@pytest.mark.parametrize("change", ["time", "size"])
def test_an_input_that_is_overwritten_meanwhile_is_noticed(change: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.gguf", tmp_path / "out.gguf"
    shutil.copyfile(WIDE, source)

    def overwrite(progress: Any) -> None:
        with open(source, "r+b") as file:
            file.seek(0 if change == "time" else source.stat().st_size)
            file.write(b"GGUF")
        os.utime(source, (1, 1))

    with pytest.raises(FileError, match=r"in\.gguf was changed while it was read"):
        quantize(source, out, "q8_0", progress=overwrite)
    assert os.listdir(tmp_path) == ["in.gguf"]


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_an_input_may_go_meanwhile(how: str, tmp_path: Path) -> None:
    # It is open, and whole: what is done with its name does not matter.
    source, out = tmp_path / "in.gguf", tmp_path / "out.gguf"
    shutil.copyfile(WIDE, source)

    def change(progress: Any) -> None:
        source.unlink(missing_ok=True)
        if how == "replaced":
            source.write_bytes(b"other")

    quantize(source, out, "q8_0", progress=change)
    quantize(WIDE, tmp_path / "expected.gguf", "q8_0")
    assert out.read_bytes() == (tmp_path / "expected.gguf").read_bytes()


@pytest.mark.parametrize("option", ["imatrix", "tensor_type"])
def test_pipes_and_devices_are_refused(option: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        given: Any = path if option == "imatrix" else [path]
        with pytest.raises(GGUFFastError, match="not a regular file"):
            quantize(WIDE, tmp_path / "out.gguf", "q4_0", **{option: given})


# --- output -------------------------------------------------------------------------------------------------


def test_a_file_that_came_meanwhile_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"

    def make(progress: Any) -> None:
        out.write_bytes(b"somebody else's")

    with pytest.raises(FileError, match=r"out\.gguf was made by another program meanwhile; .*nothing"):
        quantize(WIDE, out, "q8_0", progress=make)
    assert state(tmp_path) == {out: b"somebody else's"}


def test_replacing_keeps_the_permissions(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    out.chmod(0o600)
    modes = []

    def look(progress: Any) -> None:
        modes.extend(stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir())

    quantize(WIDE, out, "q8_0", force=True, progress=look)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert set(modes) == {0o600}  # also as long as it is written


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_shards_are_replaced_comes_too_late(
    number: int,
    unpacked: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["convert", str(unpacked / "llama2"), "--outfile", str(tmp_path / "x.gguf"), "--quiet"]
    command += ["--split-max-tensors", "5", "--force"]
    assert main(command) == 0
    expected = state(tmp_path)
    for path in expected:
        path.write_bytes(b"old")
    real = os.replace

    def replace(src: Path, dst: Path) -> None:
        real(src, dst)
        signal.raise_signal(number)

    monkeypatch.setattr(os, "replace", replace)
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said == f"gguffast: interrupted; {min(expected)} (and 4 more) is complete\n"
    assert state(tmp_path) == expected


# --- memory -----------------------------------------------------------------------------------------------


def test_one_row_of_all_weights_is_read_in_pieces(tmp_path: Path) -> None:
    # 2**26 weights in one row: 256 MiB, of which the file has nothing on the disk.
    source = tmp_path / "in.gguf"
    info = gguf_bytes.tensor("output_norm.weight", (2**26,))
    pairs = [gguf_bytes.text("general.architecture", "llama"), gguf_bytes.scalar("llama.block_count", 4, 1)]
    head = gguf_bytes.with_data(gguf_bytes.header(pairs, [info]), 0)
    source.write_bytes(head)
    os.truncate(source, len(head) + 4 * 2**26)

    def work() -> None:
        quantize(source, tmp_path / "out.gguf", "Q4_0", threads=4)

    assert peak_memory(work) < 90 << 20


def test_a_long_row_with_importances_costs_no_more_than_its_file(tmp_path: Path) -> None:
    source, matrix, n, name = tmp_path / "in.gguf", tmp_path / "some.dat", 1 << 22, b"blk.0.ffn_up.weight"
    pairs = [gguf_bytes.text("general.architecture", "llama"), gguf_bytes.scalar("llama.block_count", 4, 1)]
    info = gguf_bytes.tensor(name.decode(), (n, 2))
    head = gguf_bytes.with_data(gguf_bytes.header(pairs, [info]), 0)
    entry = struct.pack(f"<ii{len(name)}sii", 1, len(name), name, 1, n)
    for path, start, size in ((source, head, 8 * n), (matrix, entry, 4 * n)):
        path.write_bytes(start)
        os.truncate(path, len(start) + size)
    result = run_bounded(
        lambda: quantize(source, tmp_path / "out.gguf", "Q4_K_M", imatrix=matrix, threads=2),
        file_bytes=source.stat().st_size + matrix.stat().st_size,
    )
    assert result.imatrix_used == 1

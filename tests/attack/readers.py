"""Every reader, fed with damaged files through the command line or the function that a user calls.

A mutant is read, or refused in one line. Everything else is a finding: another exception, a signal, more
memory than 64 MiB and four times the input, more processor time than 2 s and as much again for each 10 MB.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import shutil
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from attack import mutate
from gguffast import cli, imatrix
from gguffast.errors import GGUFFastError
from gguffast.ollama import Modelfile
from support import tokenizers_by_hand as by_hand
from support.bounded import TooExpensive, run_bounded
from support.gguf_bytes import small_file
from support.gguf_files import GGUF

_BATCH = 20


@dataclass(frozen=True)
class Reader:
    """A file that is damaged, and what reads it.

    Attributes
    ----------
    folder : Path
        What is read lies here, with all that the file needs beside it.
    file : str
        Its name there.
    mutate : callable
        How it is damaged.
    read : callable
        Reads it; gets `folder`.
    """

    folder: Path
    file: str
    mutate: mutate.Mutator
    read: Callable[[Path], None]


@dataclass
class Tally:
    """What became of the mutants of a reader."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[str, bytes]] = field(default_factory=list)

    def __str__(self) -> str:
        counts = self.outcomes
        return f"{counts.total():>7} mutants: {counts['read']} read, {counts['refused']} refused"


class Finding(Exception):
    """A mutant was neither read nor refused in one line."""


def command(*args: object) -> None:
    """Run a command in this process; only its own errors, in one line, are fine."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(arg) for arg in args])
    said = err.getvalue()
    if "should not happen" in said or "Traceback" in said or "Warning:" in said:
        raise Finding(said[-600:])
    if code and not (said.startswith("gguffast: error: ") and said.count("\n") == 1):
        raise Finding(f"exit code {code}: {said[-600:]}")
    if code:
        raise GGUFFastError(said)


def _inspect(folder: Path) -> None:
    command("inspect", "--json", folder / "model.gguf")


def _quantize(folder: Path) -> None:
    command(
        "quantize", folder / "model.gguf", folder / "out.gguf", "Q4_K_M", "1", "--force", "--allow-requantize"
    )


def _quantize_with_importance(folder: Path) -> None:
    matrix, model = folder / "imatrix", folder / "model.gguf"
    command("quantize", "--imatrix", matrix, model, folder / "out.gguf", "Q4_K_M", "1", "--force")


def _load_importance(folder: Path) -> None:
    imatrix.load(folder / "imatrix").kvs()


def _convert(folder: Path) -> None:
    command("convert", folder, "--outfile", folder / "out.gguf", "--force", "--threads", "1")


def _convert_vocabulary(folder: Path) -> None:
    command("convert", folder, "--outfile", folder / "out.gguf", "--force", "--vocab-only")


def _modelfile(folder: Path) -> None:
    text = (folder / "Modelfile").read_bytes().decode("utf-8", "surrogateescape")
    Modelfile.parse(text)


def legacy_importance() -> bytes:
    """An importance matrix for the small models, in the older format."""
    names = [b"blk.0.attn_q.weight", b"blk.0.attn_k.weight", b"blk.0.ffn_up.weight"]
    entries = [struct.pack("<i", len(n)) + n + struct.pack("<ii64f", 4, 64, *[1.0] * 64) for n in names]
    return struct.pack("<i", len(entries)) + b"".join(entries) + struct.pack("<ii", 7, 4) + b"wiki"


MODELFILE = b'''# made by hand
FROM ./model.gguf
PARAMETER temperature 0.7
PARAMETER stop "<|end|>"
TEMPLATE """{{ if .System }}{{ .System }}{{ end }}{{ .Prompt }}"""
SYSTEM You are a llama.
LICENSE """
Apache 2.0
"""
MESSAGE user Hello
'''


def tekken() -> bytes:
    """A small tekken.json."""
    words = [*(bytes([i]) for i in range(256)), b"ab", b"abc"]
    vocab = [
        {"rank": i, "token_bytes": base64.b64encode(w).decode(), "token_str": None}
        for i, w in enumerate(words)
    ]
    config = {
        "pattern": "x",
        "default_vocab_size": 22 + 258,
        "default_num_special_tokens": 22,
        "version": "v3",
    }
    return json.dumps({"config": config, "vocab": vocab}).encode()


def readers(work: Path, checkpoints: Path) -> dict[str, list[Reader]]:
    """Lay the seeds out in `work`, a folder each; several for a name take turns."""
    made: dict[str, list[Reader]] = {}

    def add(
        name: str,
        source: Path | None,
        file: str,
        how: mutate.Mutator,
        read: Callable[[Path], None],
        **more: bytes | None,
    ) -> None:
        place = work / f"{name}-{len(made.get(name, []))}"
        shutil.copytree(source, place) if source else place.mkdir(parents=True)
        for other, content in more.items():
            if content is not None:
                (place / other.replace("__", ".")).write_bytes(content)
        made.setdefault(name, []).append(Reader(place, file, how, read))

    models = [small_file(), (GGUF / "gemma2-f32.gguf").read_bytes()]
    for model in models:
        add("gguf inspect", None, "model.gguf", mutate.damaged, _inspect, model__gguf=model)
    add("gguf quantize", None, "model.gguf", mutate.damaged, _quantize, model__gguf=models[1])
    own, real = legacy_importance(), (GGUF / "smollm2.imatrix.gguf").read_bytes()
    add(
        "imatrix",
        None,
        "imatrix",
        mutate.damaged,
        _quantize_with_importance,
        model__gguf=models[1],
        imatrix=own,
    )
    add("imatrix", None, "imatrix", mutate.damaged, _load_importance, imatrix=real)
    for name in ("llama3", "qwen2moe"):
        add("safetensors", checkpoints / name, "model.safetensors", mutate.damaged_safetensors, _convert)
    add("torch pickle", checkpoints / "llama-bin", "pytorch_model.bin", mutate.damaged_zip, _convert)
    add("torch pickle", checkpoints / "llama-bin-legacy", "pytorch_model.bin", mutate.damaged, _convert)
    for name in ("llama3", "gemma3", "mixtral", "phi3", "qwen3moe", "granite"):
        add("config.json", checkpoints / name, "config.json", mutate.damaged_json, _convert)
    for name in ("llama3", "qwen2"):
        add("tokenizer.json", checkpoints / name, "tokenizer.json", mutate.damaged_json, _convert_vocabulary)
        add(
            "tokenizer_config.json",
            checkpoints / name,
            "tokenizer_config.json",
            mutate.damaged_json,
            _convert_vocabulary,
        )
    add("sentencepiece", checkpoints / "gemma", "tokenizer.model", mutate.damaged, _convert_vocabulary)
    pieces = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        *((chr(97 + i), -float(i), 1) for i in range(20)),
    ]
    add(
        "sentencepiece",
        checkpoints / "llama2",
        "tokenizer.model",
        mutate.damaged,
        _convert_vocabulary,
        tokenizer__model=by_hand.sentencepiece(pieces),
    )
    add(
        "tekken.json",
        checkpoints / "mistral",
        "tekken.json",
        mutate.damaged_json,
        _convert_vocabulary,
        tekken__json=tekken(),
    )
    (made["tekken.json"][0].folder / "tokenizer.model").unlink()
    add("Modelfile", None, "Modelfile", mutate.damaged_text, _modelfile, Modelfile=MODELFILE)
    return made


def attack(takers: list[Reader], seconds: float, rng: random.Random) -> Tally:
    """Feed mutants to the readers of one name, in turn, until the time is up."""
    tally = Tally()
    originals = {reader: (reader.folder / reader.file).read_bytes() for reader in takers}
    for reader in takers:
        # What it imports is not counted as a mutant's; and whoever cannot read the original tests nothing.
        reader.read(reader.folder)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for reader in takers:
            mutants = [reader.mutate(originals[reader], rng) for _ in range(_BATCH)]
            for mutant, outcome in zip(mutants, _outcomes(reader, mutants), strict=True):
                kind = outcome.partition(":")[0]
                tally.outcomes[kind] += 1
                if kind not in ("read", "refused"):
                    tally.findings.append((outcome, mutant))
            (reader.folder / reader.file).write_bytes(originals[reader])
    return tally


def _outcomes(reader: Reader, mutants: list[bytes]) -> list[str]:
    """Read a batch in one child; if that child fails, one by one to find whose fault it was."""
    try:
        outcomes: list[str] = run_bounded(
            lambda: list(_read(reader, mutants)), file_bytes=_size(reader, mutants)
        )
    except (TooExpensive, MemoryError) as error:
        if len(mutants) == 1:
            return [f"expensive: {error!r}"]
        return [outcome for mutant in mutants for outcome in _outcomes(reader, [mutant])]
    return outcomes


def _size(reader: Reader, mutants: list[bytes]) -> int:
    others = sum(
        path.stat().st_size for path in reader.folder.iterdir() if path.name not in (reader.file, "out.gguf")
    )
    return others + max(map(len, mutants))


def _read(reader: Reader, mutants: list[bytes]) -> Iterator[str]:
    for mutant in mutants:
        (reader.folder / reader.file).write_bytes(mutant)
        start = time.process_time()
        try:
            reader.read(reader.folder)
            outcome = "read"
        except GGUFFastError:
            outcome = "refused"
        except MemoryError:
            raise
        except BaseException as error:
            outcome = f"finding: {type(error).__name__}: {str(error)[:600]}"
        spent = time.process_time() - start
        yield outcome if spent < 2 + len(mutant) / 5e6 else f"slow: {spent:.1f} s for {len(mutant)} bytes"

"""GGUF in, quantized GGUF out: llama-quantize's file, byte for byte."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Unpack

from gguffast.filetypes import FileType, parse_file_type
from gguffast.job import JobOptions, Result, Worker, quantization
from gguffast.recipe.options import Options, takes
from gguffast.shards import parse_shard_name
from gguffast.sources.gguf import GGUFSource

# The last part of a name by the GGUF naming convention: the encoding, as people write it.
_ENCODING = re.compile(
    r"(?<=[-._])(?:bf16|fp?16|fp?32|mxfp4(?:_moe)?|nvfp4|i?q\d(?:_[a-z0-9]+)*|tq\d_\d)$", re.IGNORECASE
)


@takes(JobOptions)
def quantize(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str] | None,
    file_type: str | int | FileType,
    **options: Unpack[JobOptions],
) -> Result:
    """Quantize a GGUF file. The output equals llama-quantize's, byte for byte, for every number of threads.

    The output appears under its name when it is complete; an error or Ctrl-C leaves nothing behind.

    The importance matrix's path is stored in the output's metadata as it is given. A pattern of `tensor_type`
    is searched in the tensor's name; an item that is a path names a file of ``REGEX=TYPE``. Of `override_kv`
    an int is stored as UINT32, a float as FLOAT32.

    Parameters
    ----------
    src : path-like
        A GGUF file, or the first shard of a split one.
    dst : path-like or None
        The output; None names it after ``src`` and ``file_type`` (see :func:`default_output`).
    file_type : str, int or LlamaFileType
        The file type, by name (any case) or by number: ``"Q4_K_M"``, ``15``, ``LlamaFileType.MOSTLY_Q4_K_M``;
        ``"COPY"`` keeps every tensor as it is.
    {options}
    progress
        A callable that gets a :class:`Progress` about ten times a second, from the calling thread. What it
        raises stops the work.

    Returns
    -------
    Result
        Sizes, types, fallbacks, time.

    Raises
    ------
    OptionError
        Arguments that do not exist or do not fit together.
    FormatError
        ``src`` or the importance matrix is damaged.
    DataError
        NaN or infinity in a tensor; already quantized; an importance matrix of another model.
    FileError
        A file is missing, exists already, cannot be read or written, or the disk is full.
    """
    worker = Worker(options)
    src = Path(src)
    wanted = parse_file_type(file_type)
    dst = Path(dst) if dst is not None else default_output(src, wanted.name)
    say = Options(options)
    with GGUFSource(src) as source:
        worker.reads(source.files)
        job = quantization(source, wanted, say)
        return worker.run(job, src, dst, file_type=wanted.name, inputs=say.files)


def default_output(src: Path, file_type: str) -> Path:
    """Name the output by the GGUF naming convention: the encoding, the name's last part, changes.

    ``Qwen2-0.5B-F16.gguf`` becomes ``Qwen2-0.5B-Q4_K_M.gguf``, ``model.f16.gguf`` becomes
    ``model.q4_k_m.gguf``, and ``model.gguf`` becomes ``model-Q4_K_M.gguf``. The numbers of a shard are
    dropped. It lies beside ``src``.
    """
    stem = src.stem if src.suffix.lower() == ".gguf" else src.name
    shard = parse_shard_name(f"{stem}.gguf")
    if shard:
        stem = shard.stem
    encoding = _ENCODING.search(stem)
    if encoding is None or file_type == "COPY":
        return src.with_name(f"{stem}-{file_type}.gguf")
    name = file_type.lower() if encoding[0].islower() else file_type
    return src.with_name(f"{stem[: encoding.start()]}{name}.gguf")

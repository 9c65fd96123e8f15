"""convert_hf_to_gguf.py to those who call it: its command line, log, exit codes and files, by our converter.

The log has the lines that callers parse, in the forms of Python's ``logging``, of ``gguf.gguf_writer`` and of
``tqdm``. This file can stand in the place of the script: it needs nothing but an installed gguffast.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, cast

from gguffast.compat.speech import draw, flag_of, print_, reason_of, say
from gguffast.console import open_streams, signals_as_interrupts
from gguffast.errors import FileError, OptionError

if TYPE_CHECKING:
    from gguffast.conversion.options import ConvertOptions
    from gguffast.engine import Progress
    from gguffast.plan import Plan

_SCRIPT, _WRITER = "hf-to-gguf", "gguf.gguf_writer"
_OUTTYPES = ("f32", "f16", "bf16", "q8_0", "tq1_0", "tq2_0", "auto")

#: Flags of the script that need no work here, and why.
_NOT_NEEDED = {
    "use_temp_file": "memory is a few MiB a thread",
    "no_lazy": "every tensor is read when it is written",
    "verbose": "the log is the same",
}
#: Flags that ask for another file. They reach the converter once it knows them.
_OTHER_FILES = {
    "bigendian": "model is executed on a big endian machine",
    "no_tensor_first_split": "leave the first file without tensors",
    "mmproj": "export the multimodal projector alone",
    "dspark": "export the DSpark draft tensors alone",
    "mistral_format": "the model is stored in the Mistral format",
    "disable_mistral_community_chat_template": "no chat templates of the community for Mistral models",
    "sentence_transformers_dense_modules": "include the dense modules of sentence-transformers",
    "fuse_gate_up_exps": "fuse gate_exps and up_exps of experts into one tensor",
    "fp8_as_q8": "store what was FP8 as Q8_0",
    "fuse_qkv": "fuse Q, K and V into one tensor",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what convert_hf_to_gguf.py does.

    Parameters
    ----------
    argv : sequence of str, optional
        The program's name and its arguments; by default those of the process.

    Returns
    -------
    int
        Exit code: 0 if the file was written, 1 if not, 2 for a malformed command line.
    """
    if argv is None:
        open_streams()
        argv = sys.argv
    with signals_as_interrupts():
        try:
            args = _parse(argv)
        except SystemExit as stop:  # argparse has printed the help or what is wrong
            return int(stop.code or 0)
        try:
            if args.print_supported_models:
                _print_supported_models()
            else:
                _convert(args)
        except (Exception, KeyboardInterrupt) as error:
            _log("ERROR", _SCRIPT, reason_of(error))
            return 1
    return 0


def _log(level: str, who: str, text: str) -> None:
    say(f"{level}:{who}:{text}")


# ---- the command line --------------------------------------------------------------------------------------


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=os.path.basename(argv[0]), description="Convert a huggingface model to a GGML compatible file"
    )
    add = parser.add_argument
    add("model", nargs="?", help="folder of the checkpoint, or with --remote a Hugging Face repo")
    add("--outfile", type=Path, help="the output; {ftype} becomes the type (default: named in the folder)")
    add("--outtype", choices=_OUTTYPES, default="auto", help="output format (default: auto)")
    add("--vocab-only", action="store_true", help="extract only the vocab")
    add("--model-name", help="name of the model")
    add("--metadata", type=Path, help="JSON file of metadata that count more than the checkpoint's")
    add("--split-max-tensors", type=int, default=0, help="max tensors in each split")
    add("--split-max-size", default="0", help="max size per split N(M|G)")
    add("--dry-run", action="store_true", help="print the names of the files, write nothing")
    add("--print-supported-models", action="store_true", help="print the supported models")
    add("--remote", action="store_true", help="the model is a Hugging Face repo")
    add("--mtp", action="store_true", help="export only the layers for multi-token prediction")
    add("--no-nextn", "--no-mtp", dest="no_mtp", action="store_true", help="leave these layers out")
    add("--target-model-dir", help="folder of the model that a draft model is for")
    for name, what in (_NOT_NEEDED | _OTHER_FILES).items():
        add(flag_of(name), action="store_true", help=f"not needed: {what}" if name in _NOT_NEEDED else what)
    args = parser.parse_args(argv[1:])
    if not args.print_supported_models and args.model is None:
        parser.error("the following arguments are required: model")
    return args


def _options(args: argparse.Namespace) -> ConvertOptions:
    """Put the arguments into the converter's; what it does not know is an error, not a wrong file."""
    from gguffast.conversion.options import ConvertOptions

    if args.outtype in ("tq1_0", "tq2_0"):
        raise OptionError(
            f"--outtype {args.outtype} of this script is not made here; gguffast convert --outtype "
            f"{args.outtype.upper()} makes what llama-quantize makes of the weights"
        )
    if args.mtp and args.no_mtp:
        raise OptionError("--mtp and --no-nextn are mutually exclusive")
    options: dict[str, object] = {
        "force": True,
        "dry_run": args.dry_run,
        "vocab_only": args.vocab_only,
        "model_name": args.model_name,
        "metadata": args.metadata,
        "split_max_tensors": args.split_max_tensors,
        "split_max_size": args.split_max_size,
        "mtp": "only" if args.mtp else "without" if args.no_mtp else "with",
    }
    for name in [*_OTHER_FILES, "target_model_dir"]:
        value = getattr(args, name)
        if value and name not in ConvertOptions.__annotations__:
            raise OptionError(f"{flag_of(name)} is not supported; use llama.cpp's own script for this model")
        if value:
            options[name] = value
    return cast("ConvertOptions", options)


def _print_supported_models() -> None:
    from gguffast.conversion.architectures import all_architectures

    _log("ERROR", _SCRIPT, "Supported models:")
    _log("ERROR", _SCRIPT, "TEXT models:")
    for name in all_architectures():
        _log("ERROR", _SCRIPT, f"  - {name}")


# ---- the work ----------------------------------------------------------------------------------------------


def _convert(args: argparse.Namespace) -> None:
    from gguffast.conversion.converter import run
    from gguffast.conversion.hparams import class_name, read_config

    options = _options(args)
    with ExitStack() as stack:
        folder, dst = Path(args.model), args.outfile
        if args.remote:
            folder, dst = _fetch(args, options, stack)
        if not folder.is_dir():
            raise FileError(f"Error: {folder} is not a directory")
        _log("INFO", _SCRIPT, f"Loading model: {folder.name}")
        _log("INFO", _SCRIPT, f"Model architecture: {class_name(read_config(folder), folder)}")
        what = "model vocab" if args.vocab_only else "model"
        _log("INFO", _SCRIPT, f"Exporting {what}...")
        bar = _Bar()
        if not args.dry_run:
            options["progress"] = bar
        result = run(folder, dst, args.outtype, options, planned=_say_plan)
        for warning in result.warnings:
            _log("WARNING", _SCRIPT, warning)
    if args.dry_run:
        _log("INFO", _WRITER, "Dry run, not writing files")
        for path in result.outputs:
            print_(str(path))
        return
    bar.end()
    split = args.split_max_tensors > 0 or args.split_max_size != "0"
    out = f"{result.dst.parent}{os.sep}" if split else result.dst
    what = "Model vocab" if args.vocab_only else "Model"
    _log("INFO", _SCRIPT, f"{what} successfully exported to {out}")


def _fetch(args: argparse.Namespace, options: ConvertOptions, stack: ExitStack) -> tuple[Path, Path]:
    """Download a repo; give its folder, and where the output goes. The model is named after the repo."""
    from gguffast import hub
    from gguffast.documents import read_json

    repo = hub.repo_id(args.model)
    folder = hub.download(repo)
    _log("INFO", _SCRIPT, f"Downloaded the model to {folder}")
    values = read_json(args.metadata) if args.metadata else {}
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    metadata = scratch / "metadata.json"
    metadata.write_text(json.dumps(values | {"general.name": repo}), encoding="utf-8")
    options["metadata"] = metadata
    return folder, args.outfile or Path(f"{repo.replace('/', '-')}-{{ftype}}.gguf")


def _say_plan(paths: Sequence[Path], plans: Sequence[Plan]) -> None:
    _log("INFO", _WRITER, "Writing the following files:")
    for path, plan in zip(paths, plans, strict=True):
        size = _size(sum(tensor.target.nbytes for tensor in plan.tensors))
        _log("INFO", _WRITER, f"{path}: n_tensors = {len(plan.tensors)}, total_size = {size}")


def _size(nbytes: float) -> str:
    if not nbytes:
        return "negligible - metadata only"
    for unit in ("", "K", "M", "G"):
        if nbytes < 1000:
            return f"{nbytes:3.1f}{unit}"
        nbytes /= 1000
    return f"{nbytes:.1f}T - over 1TB, split recommended"


class _Bar:
    """A bar as ``tqdm`` draws it, whose percentages callers read."""

    _WIDTH = 10

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._total = 0

    def __call__(self, progress: Progress) -> None:
        self._total = progress.total
        if self._total:
            self._draw(progress.done)

    def end(self) -> None:
        """Draw the whole bar, and go to the next line."""
        if self._total:
            self._draw(self._total)
            say("")

    def _draw(self, done: int) -> None:
        seconds = time.perf_counter() - self._started
        share = done / self._total
        bar = "#" * int(share * self._WIDTH)
        left = _clock(seconds / share - seconds) if share else "?"
        rate = f"{_short(done / seconds)}byte/s" if done else "?byte/s"
        draw(
            f"Writing: {share:4.0%}|{bar:<{self._WIDTH}}| {_short(done)}/{_short(self._total)} "
            f"[{_clock(seconds)}<{left}, {rate}]"
        )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"


def _short(n: float) -> str:
    """Three digits and a unit, as ``tqdm`` has them."""
    for unit in ("", "k", "M", "G"):
        if n < 999.5:
            return f"{n:.{2 if n < 9.995 else 1 if n < 99.95 else 0}f}{unit}"
        n /= 1000
    return f"{n:.2f}T"


if __name__ == "__main__":
    sys.exit(main())

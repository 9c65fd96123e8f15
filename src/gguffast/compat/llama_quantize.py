"""llama-quantize to those who call it: its command line, output, exit codes and files, by gguffast's engine.

Programs parse what it prints, so the lines have the forms of llama.cpp's (``tools/quantize/quantize.cpp``,
``src/llama-quant.cpp``). What differs says more: each failure has its reason, the place and the way on. An
output that exists is written where it stands, for the caller may hold it open.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

# What takes time to import is imported once the first line is out.
from gguffast import __version__
from gguffast.compat.speech import flag_of, print_, reason_of, say
from gguffast.console import open_streams, signals_as_interrupts
from gguffast.errors import OptionError
from gguffast.filetypes import ALIASES, FILE_TYPES, FileType, parse_file_type
from gguffast.recipe.options import Option, RecipeOptions, options_in, parse_tensor_type

if TYPE_CHECKING:
    from gguffast.compat.pruning import Pruned
    from gguffast.engine import Progress
    from gguffast.job import Job
    from gguffast.plan import Plan
    from gguffast.reading import ReadableFile
    from gguffast.recipe.options import Options
    from gguffast.sources import Source
    from gguffast.sources.gguf import GGUFSource

_PROGRAM = "llama_quantize"
_DRIVER = "llama_model_quantize_impl"


def main(argv: Sequence[str] | None = None) -> int:
    """Do what llama-quantize does.

    Parameters
    ----------
    argv : sequence of str, optional
        The program's name and its arguments; by default those of the process.

    Returns
    -------
    int
        Exit code: 0 if the file was written, 1 for anything else, as a request for help.
    """
    if argv is None:
        open_streams()
        argv = sys.argv
    program, *words = argv
    with signals_as_interrupts():
        try:
            command = _Command(words)
        except _Usage as usage:
            if usage.args:
                say(f"{_PROGRAM}: {usage}")
            print_(*_help(program))
            return 1
        except OptionError as error:
            say(f"{_PROGRAM}: {error}")
            return 1
        return _run(command)


# ---- the help ----------------------------------------------------------------------------------------------


_WIDE = 38  # where llama-quantize's descriptions begin
_OPTIONS = {
    "prune_layers": Option("leave these layers out; those behind them move up", "L0,L1,L2..."),
    "keep_split": Option("make the output of the same shards as the input"),
    "dry_run": Option("show the resulting size, write nothing"),
    "max_buffer_size": Option("taken, and not needed: a few MiB a thread are enough for any tensor", "MiB"),
}


_EXAMPLES = (
    "model-F16.gguf Q4_K_M",
    "--imatrix model.imatrix.gguf model-F16.gguf model-IQ4_XS.gguf IQ4_XS 8",
    "--tensor-type attn_v=q8_0 --tensor-type 'ffn_(up|gate)=q5_k' model-F16.gguf Q4_K_M",
    "--allow-requantize model-Q8_0.gguf model-Q4_K_M.gguf Q4_K_M",
    "--dry-run model-F16.gguf Q6_K",
)


def _help(program: str) -> list[str]:
    lines = [
        f"usage: {program} [--help] [OPTIONS] INPUT.gguf [OUTPUT.gguf] TYPE [THREADS]",
        "",
        "Options stand before the names of files. OUTPUT is by default ggml-model-TYPE.gguf beside INPUT;",
        "what stands there is overwritten. THREADS is by default the CPUs that this process may use.",
        "",
    ]
    lines += ["for example:", *(f"  {program} {example}" for example in _EXAMPLES), ""]
    for name, option in (options_in(RecipeOptions) | _OPTIONS).items():
        flag = flag_of(name)
        lines += [f"  {flag} {option.metavar}".rstrip(), " " * _WIDE + option.help]
        if option.repeatable:
            lines += [" " * _WIDE + "may be given several times"]
        if option.from_file:
            lines += [f"  {flag}-file FILE", " " * _WIDE + option.from_file]
    lines += [
        "",
        "note: --include-weights and --exclude-weights cannot be used together",
        "",
        "-" * 77,
        " types, in any case or by number; T is a tensor type such as q8_0",
        "-" * 77,
        "",
    ]
    for name in [*FILE_TYPES, *ALIASES]:
        lines.append(_describe(name))
    return lines


def _describe(name: str) -> str:
    file_type = parse_file_type(name)
    if file_type.type is None:
        return f"          {name:<7} : every tensor as it is"
    info = file_type.type.info
    bits = info.block_bytes * 8 / info.block_size
    what = f"mostly {file_type.type.name}, {bits:.4g} bits a weight"
    if name in ALIASES:
        what = f"the same as {file_type.name}"
    return f"  {int(file_type.number):2}  or  {name:<7} : {what}"


# ---- the command line --------------------------------------------------------------------------------------


class _Usage(Exception):
    """The command line is not one; the reason, if it is not a request for help."""


class _Command:
    """A command line, read."""

    def __init__(self, words: Sequence[str]) -> None:
        self.recipe: dict[str, Any] = {}
        self.keep_split = self.dry_run = False
        self.prune: list[int] = []
        if len(words) < 2:
            raise _Usage
        rest = self._read_options(list(words))
        if len(rest) < 2:
            raise _Usage("bad arguments: expected INPUT [OUTPUT] TYPE")
        if self.recipe.get("include_weights") and self.recipe.get("exclude_weights"):
            raise _Usage("--include-weights and --exclude-weights cannot be used together")
        self.src = rest.pop(0)
        self.dst, self.type_name, self.file_type = self._read_type(rest)
        self.threads = _threads(rest[0]) if rest else None
        self._check_output()

    def _read_options(self, words: list[str]) -> list[str]:
        options = options_in(RecipeOptions) | _OPTIONS
        known = {flag_of(name): name for name in options}
        files = {f"{flag_of(name)}-file": name for name, option in options.items() if option.from_file}
        while words and words[0].startswith("--"):
            flag = words.pop(0)
            if flag == "--help":
                raise _Usage
            name = known.get(flag) or files.get(flag)
            if name is None:
                raise _Usage(f"unknown option {flag}")
            try:
                self._read_option(name, options[name], words, file=flag in files)
            except OptionError as error:
                raise _Usage(f"{flag}: {error}") from None
        return words

    def _read_option(self, name: str, option: Option, words: list[str], *, file: bool) -> None:
        if not option.metavar:
            if name in _OPTIONS:
                setattr(self, name, True)
            else:
                self.recipe[name] = True
            return
        if not words:
            raise OptionError("needs a value")
        text = words.pop(0)
        if name == "prune_layers":
            self.prune = _layers(text)
        elif name == "max_buffer_size":
            if not (text.isdecimal() and int(text)):
                raise OptionError(f"invalid size {text!r}: expected a number of MiB")
        elif option.repeatable:
            self.recipe.setdefault(name, []).append(Path(text) if file else option.read(text))
        else:
            self.recipe[name] = parse_tensor_type(text) if name.endswith("_type") else option.read(text)

    def _read_type(self, rest: list[str]) -> tuple[str, str, FileType]:
        """Tell ``TYPE`` from ``OUTPUT TYPE``: what is a type's name or number is the type."""
        first = rest.pop(0)
        try:
            name, file_type = _file_type(first)
        except OptionError:
            if not rest:
                raise OptionError(f"missing ftype: {first!r} is none, and nothing follows") from None
        else:
            folder = self.src[: self.src.rfind("/") + 1]
            return f"{folder}ggml-model-{name}{'' if self.keep_split else '.gguf'}", name, file_type
        text = rest.pop(0)
        try:
            name, file_type = _file_type(text)
        except OptionError as error:
            raise OptionError(f"invalid ftype '{text}': {error}") from None
        return first.removesuffix(".gguf") if self.keep_split else first, name, file_type

    def _check_output(self) -> None:
        try:
            same = not self.dry_run and os.path.samefile(self.src, self.dst)
        except OSError:
            return
        if same:
            raise OptionError(
                f"error: input and output files are the same: '{self.src}'; name another output"
            )


def _file_type(text: str) -> tuple[str, FileType]:
    """Give a file type as it was named; of a number, the short name."""
    file_type = parse_file_type(text)
    if text.strip().isdecimal():
        short = {name: alias for alias, name in ALIASES.items()}
        return short.get(file_type.name, file_type.name), file_type
    return text.strip().upper(), file_type


def _threads(text: str) -> int | None:
    try:
        threads = int(text)
    except ValueError:
        raise OptionError(f"invalid nthread '{text}': expected a number") from None
    return threads if threads > 0 else None


def _layers(text: str) -> list[int]:
    layers = text.split(",")
    if not all(map(str.isdecimal, layers)):
        raise OptionError(f"invalid layers {text!r}: expected numbers and commas, as in 20,21")
    return sorted({*map(int, layers)})


# ---- the work ----------------------------------------------------------------------------------------------


def _run(command: _Command) -> int:
    started = time.perf_counter()
    say(f"version: gguffast {__version__}, the bytes of llama.cpp")
    what = f"calculating quantization size for '{command.src}'"
    if not command.dry_run:
        what = f"quantizing '{command.src}' to '{command.dst}'"
    threads = f" using {command.threads} threads" if command.threads else ""
    say(f"{_PROGRAM}: {what} as {command.type_name}{threads}")
    try:
        _work(command)
    except (Exception, KeyboardInterrupt) as error:
        return _failed(command, error)
    milliseconds = (time.perf_counter() - started) * 1000
    print_(
        "",
        f"{_PROGRAM}: quantize time = {milliseconds:8.2f} ms",
        f"{_PROGRAM}:    total time = {milliseconds:8.2f} ms",
    )
    return 0


def _failed(command: _Command, error: BaseException) -> int:
    from gguffast.compat.llama_log import type_name
    from gguffast.recipe.choose import MissingImatrix

    if isinstance(error, MissingImatrix):
        say(
            "",
            "=" * 76,
            " ERROR: this quantization requires an importance matrix!",
            f"        - offending tensor: {error.tensor}",
            f"        - target type: {type_name(error.type)}",
            "=" * 76,
            "",
        )
    say(f"llama_model_quantize: failed to quantize: {reason_of(error)}")
    say(f"{_PROGRAM}: failed to quantize model from '{command.src}'")
    return 1


def _work(command: _Command) -> None:
    from gguffast.compat.llama_log import metadata_lines
    from gguffast.compat.pruning import Pruned
    from gguffast.recipe.options import Options
    from gguffast.sources.gguf import GGUFSource

    options = Options(cast("RecipeOptions", command.recipe))
    with GGUFSource(command.src) as opened:
        for line in metadata_lines(opened):
            say(line)
        if options.imatrix:
            say("", f"{_DRIVER}: have importance matrix data with {len(options.imatrix.entries)} entries")
        source: GGUFSource | Pruned = opened
        if command.prune:
            source = Pruned(opened, command.prune)
            options.imatrix = source.importances(options.imatrix)
        job, unready = _job(command, source, options)
        if isinstance(source, Pruned):
            job.kvs = source.with_block_count(job.kvs)
        _say_what_differs(job)
        lines = _Lines(job, len(opened.tensors), dry_run=command.dry_run)
        if command.dry_run:
            lines.print_until(len(job.targets))
        else:
            counts = source.counts if command.keep_split else None
            _write_files(command, job, opened.files, options.files, counts, lines)
        _say_sizes(job, opened)
        if unready:
            say(f"{_DRIVER}: WARNING: dry run completed; the quantization itself will require an imatrix!")


def _say_what_differs(job: Job) -> None:
    """Say which tensors get another type than meant, or none of the importances that were given."""
    from gguffast.compat.llama_log import fallback_line

    columns = {tensor.name: tensor.ne[0] for tensor in job.tensors}
    for fallback in job.fallbacks:
        say(fallback_line(fallback, columns[fallback.tensor]))
    for name in job.missing:
        say(f"====== {_DRIVER}: did not find weights for {name}")


def _say_sizes(job: Job, source: GGUFSource) -> None:
    from gguffast.compat.llama_log import size_line

    n_weights = sum(tensor.n_rows * tensor.ne[0] for tensor in source.tensors)
    before = sum(tensor.n_rows * tensor.row_bytes for tensor in job.tensors)
    after = sum(target.nbytes for target in job.targets)
    say(f"{_DRIVER}: {size_line('model', before, n_weights)}")
    say(f"{_DRIVER}: {size_line('quant', after, n_weights)}")
    if job.fallbacks:
        of = f"{len(job.fallbacks)} of {len(source.tensors)}"
        say(f"{_DRIVER}: WARNING: {of} tensor(s) required fallback quantization")


def _job(command: _Command, source: Source, options: Options) -> tuple[Job, bool]:
    """Decide what becomes of each tensor, and whether that needs an importance matrix that is not there."""
    from gguffast.job import Job, quantization
    from gguffast.recipe.choose import choose_types
    from gguffast.recipe.model import output_order

    if not command.dry_run:
        return quantization(source, command.file_type, options, keep_order=command.keep_split), False
    tensors = output_order(source.tensors)
    weights = [(tensor.name, tensor.ne, tensor.type) for tensor in tensors]
    choices = choose_types(source.metadata, weights, command.file_type, options)
    return Job((), tensors, choices), any(choice.needs_imatrix for choice in choices) and not options.imatrix


def _write_files(
    command: _Command,
    job: Job,
    weights: Sequence[ReadableFile],
    inputs: Sequence[Path],
    counts: Sequence[int] | None,
    lines: _Lines,
) -> None:
    """Write the output; with `counts`, shards of so many tensors."""
    from gguffast.job import Worker
    from gguffast.output import InPlace

    worker = Worker({"threads": command.threads, "progress": lines, "force": True}, output=InPlace)
    worker.reads(weights)
    worker.write(*plan_outputs(job, Path(command.dst), counts), inputs)
    lines.print_until(len(job.targets))


def plan_outputs(job: Job, dst: Path, counts: Sequence[int] | None) -> tuple[list[Path], list[Plan]]:
    """Name and lay out the output; with `counts`, shards of so many tensors."""
    from gguffast.plan import plan_shards
    from gguffast.shards import ShardName

    if counts is None:
        return [dst], plan_shards(job.kvs, [job.targets])
    rest = iter(job.targets)
    shards = [list(islice(rest, count)) for count in counts]
    paths = [dst.with_name(name) for name in ShardName(dst.name, 1, len(counts)).all]
    return paths, plan_shards(job.kvs, shards)


class _Lines:
    """Prints a line for each tensor that is complete, in the order of the file."""

    def __init__(self, job: Job, total: int, *, dry_run: bool) -> None:
        self._targets = job.targets
        self._total = total
        self._dry_run = dry_run
        self._printed = 0
        self._bare = _stdout_is_another_pipe()

    def __call__(self, progress: Progress) -> None:
        self.print_until(progress.complete)

    def print_until(self, complete: int) -> None:
        """Print the lines of the first `complete` tensors that are not out yet."""
        from gguffast.compat.llama_log import tensor_line

        while self._printed < complete:
            target = self._targets[self._printed]
            self._printed += 1
            say(tensor_line(self._printed, self._total, target, dry_run=self._dry_run))
            if self._bare:
                print_(f"[{self._printed:4}/{self._total:4}]")


def _stdout_is_another_pipe() -> bool:
    """Tell whether somebody reads stdout alone, to whom lines on stderr show no progress."""
    try:
        out, err = os.fstat(1), os.fstat(2)
    except OSError:
        return False
    piped = stat.S_ISFIFO(out.st_mode) or stat.S_ISSOCK(out.st_mode)
    return piped and not os.path.samestat(out, err)


if __name__ == "__main__":
    sys.exit(main())

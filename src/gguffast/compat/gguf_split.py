"""llama-gguf-split to those who call it: its command line, output, exit codes and files, by our engine.

The lines have the forms of llama.cpp's ``tools/gguf-split/gguf-split.cpp``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gguffast import __version__
from gguffast.compat.speech import print_, reason_of, say
from gguffast.console import open_streams, signals_as_interrupts
from gguffast.errors import FileError, OptionError

if TYPE_CHECKING:
    from gguffast.splitter import SplitOptions

_HELP = """
usage: {program} [options] GGUF_IN GGUF_OUT

Split GGUF_IN into GGUF_OUT-00001-of-0000N.gguf,
or merge such files, of which GGUF_IN is the first, into GGUF_OUT.
options:
  -h, --help              print this and exit
  --version               print the version and exit
  --split                 split a file into several (the default)
  --merge                 merge several files into one
  --split-max-tensors     most tensors in each file (default: 128)
  --split-max-size N(M|G) most bytes of tensors in each file
  --no-tensor-first-split leave the first file without tensors
  --dry-run               print what would be done, write nothing
  --delete-splits         delete the shards once they are merged
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what llama-gguf-split does.

    Parameters
    ----------
    argv : sequence of str, optional
        The program's name and its arguments; by default those of the process.

    Returns
    -------
    int
        Exit code: 0 if what was asked for is done, 1 if not.
    """
    if argv is None:
        open_streams()
        argv = sys.argv
    program, *words = argv
    with signals_as_interrupts():
        try:
            command = _Command(words)
        except _Answer as answer:
            answer.args[0](program)
            return 0
        except OptionError as error:
            say(f"error: {error}")
            print_(*_HELP.format(program=program).split("\n"))
            return 1
        try:
            (_merge if command.merges else _split)(command)
        except (Exception, KeyboardInterrupt) as error:
            say(f"{'gguf_merge' if command.merges else 'gguf_split'}:  {reason_of(error)}")
            return 1
    return 0


class _Answer(Exception):
    """The command line asks for a text, which the argument prints."""


def _print_help(program: str) -> None:
    print_(*_HELP.format(program=program).split("\n"))


def _print_version(program: str) -> None:
    say(f"version: gguffast {__version__}, the bytes of llama.cpp")


class _Command:
    """A command line, read."""

    def __init__(self, words: Sequence[str]) -> None:
        self.merges = self.dry_run = self.delete_splits = False
        self.options: SplitOptions = {}
        self._words = list(words)
        said: set[str] = set()
        while self._words and self._words[0].startswith("--"):
            flag = self._words.pop(0).replace("_", "-")
            self._read(flag)
            said.add(flag)
        if {"--split", "--merge"} <= said:
            raise OptionError("either --split or --merge can be specified, but not both")
        if len(self._words) != 2:
            raise OptionError("bad arguments: expected GGUF_IN and GGUF_OUT after the options")
        self.src, self.dst = self._words

    def _read(self, flag: str) -> None:
        if flag == "--help":
            raise _Answer(_print_help)
        if flag == "--version":
            raise _Answer(_print_version)
        if flag in ("--split-max-tensors", "--split-max-size"):
            self._read_limit(flag)
        elif flag == "--merge":
            self.merges = True
        elif flag == "--dry-run":
            self.dry_run = True
        elif flag == "--delete-splits":
            self.delete_splits = True
        elif flag == "--no-tensor-first-split":
            self.options["no_tensor_first_split"] = True
        elif flag != "--split":
            raise OptionError(f"unknown argument: {flag}")

    def _read_limit(self, flag: str) -> None:
        if not self._words:
            raise OptionError(f"invalid parameter for argument: {flag}")
        text = self._words.pop(0)
        tensors = flag == "--split-max-tensors"
        if ("split_max_size" if tensors else "split_max_tensors") in self.options:
            raise OptionError("either --split-max-tensors or --split-max-size can be specified, but not both")
        if not re.fullmatch("0*[1-9][0-9]{0,8}" if tensors else "0*[1-9][0-9]{0,8}[MG]", text):
            wanted = "a number from 1 up" if tensors else "a number and M or G, as in 500M"
            raise OptionError(f"{flag} {text!r}: expected {wanted}")
        if tensors:
            self.options["split_max_tensors"] = int(text)
        else:
            self.options["split_max_size"] = text


def _split(command: _Command) -> None:
    from gguffast.job import Worker
    from gguffast.sources.gguf import GGUFSource
    from gguffast.splitter import plan_split, split_paths

    worker = Worker({"force": True})
    with GGUFSource(command.src) as source:
        worker.reads(source.files)
        job, plans = plan_split(source, command.options)
        print_(f"n_split: {len(plans)}")
        for i, plan in enumerate(plans, 1):
            nbytes = len(plan.header) + sum(tensor.target.nbytes for tensor in plan.tensors)
            print_(f"split {i:05}: n_tensors = {len(plan.tensors)}, total_size = {nbytes // 10**6}M")
        if not command.dry_run:
            paths = split_paths(command.dst, len(plans))
            worker.write(paths, plans)
            for path in paths:
                print_(f"Writing file {path} ... done")
    say(f"gguf_split: {len(plans)} gguf split written with a total of {len(job.targets)} tensors.")


def _merge(command: _Command) -> None:
    from gguffast.job import Worker
    from gguffast.plan import make_plan
    from gguffast.sources.gguf import GGUFSource
    from gguffast.splitter import merge_job

    say(f"gguf_merge: {command.src} -> {command.dst}")
    if os.path.lexists(command.dst):
        raise FileError(f"output file {command.dst} already exists; remove it, or name another one")
    worker = Worker({})
    with GGUFSource(command.src) as source:
        worker.reads(source.files)
        job = merge_job(source)
        for path in source.paths:
            say(f"gguf_merge: reading metadata {path} ...done")
        if not command.dry_run:
            worker.write([Path(command.dst)], [make_plan(job.kvs, job.targets)])
    for path in source.paths:
        say(f"gguf_merge: writing tensors {path} ...done")
        if command.delete_splits and not command.dry_run:  # the whole model is on the disk
            os.unlink(path)
            say(f"gguf_merge: deleted file {path}")
    what = f"merged from {len(source.paths)} split with {len(job.targets)} tensors."
    say(f"gguf_merge: {command.dst} {what}")


if __name__ == "__main__":
    sys.exit(main())

"""``gguffast import``: the whole way from a model's name to a conversation in Ollama."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gguffast.cli.options import add_host, add_make_options, list_types, options_of, words_of
from gguffast.cli.transfer import add_token_option, ending_at_once
from gguffast.errors import FormatError, GGUFFastError, OptionError

if TYPE_CHECKING:
    from gguffast.cli import CommandParser
    from gguffast.engine import Progress
    from gguffast.importer import Imported, Step


def add_parser(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "import",
        help="download, convert, quantize and register a model with Ollama",
        description="Bring a model into Ollama: download it from the Hugging Face Hub, convert and quantize "
        "it in one pass, register it, and upload the GGUF file if asked to. After an interruption the same "
        "command continues; no finished step is repeated.",
        allow_abbrev=False,
    )
    parser.make_epilog = list_types
    add = parser.add_argument
    add("source", metavar="SOURCE", help="Hub repo (owner/name, owner/name:Q8_0), folder, or GGUF file")
    add("--as", dest="name", metavar="NAME", required=True, help="the model's name in Ollama")
    add(
        "-q",
        "--quantize",
        dest="file_type",
        metavar="TYPE",
        default="Q4_K_M",
        help="a type of the list (default: Q4_K_M)",
    )
    add("--system", metavar="TEXT", help="system prompt")
    add(
        "--param",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a parameter of Ollama, as in temperature=0.7 (repeatable)",
    )
    add("--template", metavar="FILE", help="chat template in Go's text/template (default: the model's own)")
    add("--upload", metavar="REPO", help="upload the GGUF file to this Hub repo, created if need be")
    add("--private", action="store_true", help="create that repo as a private one")
    add("--keep", metavar="DIR", help="keep the GGUF file in this folder (default: only until all is done)")
    add_host(parser)
    add_token_option(parser)
    add("--quiet", action="store_true", help="print nothing but errors")
    parser.add_options = add_make_options


def run(args: argparse.Namespace) -> int:
    """Import and say what became of the model."""
    from gguffast.importer import import_model
    from gguffast.job import MakeOptions
    from gguffast.ollama.modelfile import parse_parameter

    parameters = [parse_parameter(text) for text in args.param]
    template = None if args.template is None else _read(Path(args.template))
    again = _command(args)
    with ending_at_once(f"continue with: {again}"), _Display(args.quiet) as display:
        try:
            done = import_model(
                args.source,
                name=args.name,
                file_type=args.file_type,
                system=args.system,
                parameters=parameters,
                template=template,
                upload=args.upload,
                private=args.private,
                keep=args.keep,
                host=args.host,
                token=args.token,
                on_step=display.begin,
                progress=display.progress,
                quiet=args.quiet or not sys.stderr.isatty(),
                **options_of(args, MakeOptions),
            )
        except GGUFFastError as error:
            if display.step is None or not display.step.number or isinstance(error, OptionError):
                raise
            raise GGUFFastError(_stopped(display.step, error, again)) from error
    if not args.quiet:
        _report(done)
    return 0


def _stopped(step: Step, error: GGUFFastError, again: str) -> str:
    kept = f"; the GGUF file is ready, {step.made}" if step.made else ""
    return f"step {step.number} of {step.total} ({step.action}): {error}{kept}; continue with: {again}"


def _command(args: argparse.Namespace) -> str:
    """Give the command line again, without token and password, which others may see on the screen."""
    from gguffast.job import MakeOptions

    words = ["gguffast", "import", args.source, "--as", args.name, "-q", args.file_type]
    for option in ("system", "template", "upload", "keep", "host"):
        value = getattr(args, option)
        if option == "host" and value:
            value = re.sub(r"^(\w+://)?[^/]*@", r"\1USER:PASSWORD@", value)
        if value is not None:
            words += [f"--{option}", str(value)]
    for text in args.param:
        words += ["--param", text]
    words += words_of(args, MakeOptions)
    for option in ("private", "quiet"):
        if getattr(args, option):
            words.append(f"--{option}")
    return shlex.join(words)


def _read(path: Path) -> str:
    from gguffast.files import read_file

    try:
        return read_file(path, "a template", 1 << 20).decode()
    except UnicodeDecodeError:
        raise FormatError(f"{path}: the template is not UTF-8 text") from None


class _Display:
    """A line for each step on stderr, and under it a bar while it lasts."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar = contextlib.ExitStack()
        self.step: Step | None = None
        self._show: Callable[[Progress], None] | None = None

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def begin(self, step: Step) -> None:
        from gguffast.cli.terminal import show_progress
        from gguffast.console import one_line

        self._bar.close()
        self._show = None
        self.step = step
        if self._quiet:
            return
        if step.action == "wait":
            print(
                f"gguffast: the same import of {one_line(step.what)} is at work; waiting until it is done",
                file=sys.stderr,
            )
            return
        done = " (done before)" if step.done else ""
        print(f"{step.number}/{step.total} {step.action:8} {one_line(step.what)}{done}", file=sys.stderr)
        if step.action != "upload":  # the Hub's client shows its own bar
            self._show = self._bar.enter_context(show_progress(hidden=False))

    def progress(self, progress: Progress) -> None:
        if self._show:
            self._show(progress)


def _report(done: Imported) -> None:
    from gguffast.cli.create import report
    from gguffast.cli.report import summary

    if done.result:
        print("\n".join(summary(done.result)[1:]))
    report(done.created)
    if done.path:
        print(f"  GGUF file      {done.path}")
    if done.url:
        print(f"  uploaded to    {done.url}")

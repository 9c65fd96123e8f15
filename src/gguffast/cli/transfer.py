"""What the commands that speak with the Hub have in common."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator


def add_token_option(parser: argparse.ArgumentParser) -> None:
    """Declare the access token."""
    parser.add_argument(
        "--token", metavar="T", help="access token of the Hub (default: HF_TOKEN, or that of `hf auth login`)"
    )


@contextlib.contextmanager
def ending_at_once(advice: str) -> Iterator[None]:
    """End the process on Ctrl-C or SIGTERM, and say so.

    The client's threads would be waited for when the interpreter ends, each until its file is whole.
    """
    try:
        yield
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            # A progress bar may stand on the line.
            start = "\n" if sys.stderr.isatty() else ""
            print(f"{start}gguffast: interrupted; {advice}", file=sys.stderr, flush=True)
        os._exit(1)

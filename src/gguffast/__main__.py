"""The program ``gguffast``, also as ``python -m gguffast``."""

from __future__ import annotations

import os
import sys


def open_streams() -> None:
    """Make sure that there are three streams, which print any name."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # The lowest free number, which is that of the closed stream: no file of ours must get it.
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def main() -> int:
    """Run the command line, whatever is closed, and interrupted as soon as may be."""
    open_streams()
    try:
        from gguffast.cli import main

        return main()
    except KeyboardInterrupt:  # while modules were still imported
        print("gguffast: interrupted", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

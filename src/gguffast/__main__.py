"""The program ``gguffast``, also as ``python -m gguffast``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line, whatever is closed, and interrupted as soon as may be."""
    try:
        from gguffast.console import open_streams

        open_streams()
        from gguffast.cli import main

        return main()
    except KeyboardInterrupt:  # while modules were still imported
        print("gguffast: interrupted", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""``python -m gguffast``: the same program as the ``gguffast`` command."""

import sys

from gguffast.cli import main

sys.exit(main())

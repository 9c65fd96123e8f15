"""Digests of what the installed kernels make of every kind of row, as one JSON object.

For builds that this process cannot load beside its own: another compiler's, other flags.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import gguffast
from gguffast import GGMLQuantizationType, _core
from support import inputs

WIDTH = 1024


def digests() -> dict[str, str]:
    """By "target type": SHA-256 of the blocks, and of the weights that they stand for."""
    found = {}
    for target in gguffast.targets():
        gguffast.set_target(target)
        for type_ in GGMLQuantizationType:
            if type_.info.has_codec:
                found[f"{target} {type_.name}"] = _digest(type_)
    return found


def _digest(type_: GGMLQuantizationType) -> str:
    state = hashlib.sha256()
    for kind in inputs.WEIGHTS:
        x = inputs.weights(kind, 2, WIDTH)
        for name in (None, *inputs.IMPORTANCES):
            blocks = np.empty((2, type_.nbytes(WIDTH)), np.uint8)
            back = np.empty_like(x)
            _core.quantize(type_, x, WIDTH, blocks, name and inputs.importance(name, WIDTH))
            _core.dequantize(type_, blocks, back)
            # A NaN's sign is the compiler's choice, and such blocks are refused.
            state.update(blocks.tobytes() if np.isfinite(back).all() else b"refused")
            state.update(back.tobytes() if np.isfinite(back).all() else b"refused")
    return state.hexdigest()


if __name__ == "__main__":
    print(json.dumps({"file": _core.__file__, "digests": digests()}))

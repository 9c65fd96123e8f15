"""Digests of what the installed kernels make of every kind of row, as one JSON object.

For builds that this process cannot load beside its own: another compiler's, other flags. Given the path of a
shared library, that is loaded before the kernels run.
"""

from __future__ import annotations

import ctypes
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


def digests(library: str = "") -> dict[str, str]:
    """By "target type": SHA-256 of the blocks, and of the weights that they stand for."""
    rows = [inputs.weights(kind, 2, WIDTH) for kind in inputs.WEIGHTS]
    importances = [None, *(inputs.importance(name, WIDTH) for name in inputs.IMPORTANCES)]
    if library:
        ctypes.CDLL(library)
    found = {}
    for target in gguffast.targets():
        gguffast.set_target(target)
        for type_ in GGMLQuantizationType:
            if type_.info.has_codec:
                found[f"{target} {type_.name}"] = _digest(type_, rows, importances)
    gguffast.set_target(gguffast.targets()[0])
    return found


def _digest(type_: GGMLQuantizationType, rows: list[np.ndarray], importances: list[np.ndarray | None]) -> str:
    state = hashlib.sha256()
    for x in rows:
        for importance in importances[type_.info.needs_imatrix :]:
            blocks = np.empty((2, type_.nbytes(WIDTH)), np.uint8)
            back = np.empty_like(x)
            _core.quantize(type_, x, WIDTH, blocks, importance)
            _core.dequantize(type_, blocks, back)
            # A NaN's sign is the compiler's choice, and such blocks are refused.
            sound = np.isfinite(back).all()
            state.update(blocks.tobytes() + back.tobytes() if sound else b"refused")
    return state.hexdigest()


if __name__ == "__main__":
    print(json.dumps({"file": _core.__file__, "digests": digests(*sys.argv[1:])}))

"""The kernels of one target as a program of its own: rows go in, and what the kernels made of them comes out.

For what Python cannot load: another machine's instructions, or a build with sanitizers.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from gguffast.types import GGMLQuantizationType
from support import inputs, oracle

ROOT = Path(__file__).parents[2]
FLAGS = ["-std=gnu11", "-O2", "-ffp-contract=off", "-fno-math-errno", "-Icsrc"]
CASES = [(kind, importance) for kind in inputs.WEIGHTS for importance in (None, "exponential", "zeros among")]


def build(folder: Path, compiler: str, target: str, flags: list[str], everywhere: list[str]) -> Path:
    """Compile the target with `flags`, the portable one, which the dispatcher wants, and the program."""
    units = {
        "portable": ("csrc/target.c", ["-DGF_TARGET=portable"]),
        target: ("csrc/target.c", [f"-DGF_TARGET={target}", *flags]),
        "dispatch": ("csrc/dispatch.c", []),
        "codebooks": ("csrc/codebooks.c", []),
        "rows": ("tests/c/rows.c", [f"-DROWS_TABLE=gf_target_{target}"]),
    }
    for name, (source, extra) in units.items():
        command = [compiler, *FLAGS, *everywhere, *extra, "-c", source, "-o", str(folder / f"{name}.o")]
        subprocess.run(command, cwd=ROOT, check=True)
    program = folder / "rows"
    objects = [str(folder / f"{name}.o") for name in units]
    subprocess.run([compiler, *objects, *everywhere, "-lm", "-o", str(program)], check=True)
    return program


def records() -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    """Rows of every kind for every type; two rows of 1280, so that groups of lanes have tails."""
    made = []
    for name in oracle.BLOCKS:
        for kind, importance in CASES:
            if importance is None and name in oracle.NEED_IMPORTANCE:
                continue
            x = inputs.weights(kind, 2, 1280)
            made.append((name, x, importance and inputs.importance(importance, 1280)))
    return made


def check(command: list[str], every_case: bool) -> None:
    """Compare with llama.cpp: all cases, or only those whose result llama.cpp finds valid."""
    made = records()
    stream = bytearray()
    for name, x, importance in made:
        stream += np.array([GGMLQuantizationType[name], *x.shape, importance is not None], np.int32).tobytes()
        stream += x.tobytes() + (b"" if importance is None else importance.tobytes())
    answer = subprocess.run(command, input=bytes(stream), stdout=subprocess.PIPE, check=True).stdout
    at = compared = 0
    for name, x, importance in made:
        expected = oracle.quantize_or_abort(x, name, importance)
        shape = (len(x), x.shape[1] // oracle.BLOCKS[name][1] * oracle.BLOCKS[name][2])
        got = np.frombuffer(answer, np.uint8, shape[0] * shape[1], at).reshape(shape)
        back = np.frombuffer(answer, np.float32, x.size, at + got.size).reshape(x.shape)
        at += got.nbytes + back.nbytes
        if expected is None:
            compared += 1
            assert not oracle.valid(np.ascontiguousarray(got), name)
        elif every_case or oracle.valid(expected, name):
            compared += 1
            np.testing.assert_array_equal(got, expected, name)
            if name != "F32" and oracle.valid(expected, name):
                known = oracle.dequantize(expected, name)
                np.testing.assert_array_equal(back.view(np.uint32), known.view(np.uint32))
    assert at == len(answer)
    assert compared > len(made) / 2

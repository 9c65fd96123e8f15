"""Build the C core: every codec once for each instruction set, and the bridge to Python.

pyproject.toml says everything else. Environment: GGUFFAST_WERROR=1 makes C warnings errors (our CI does;
nobody else's build should break on a new compiler's opinion).
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# The instruction sets of an architecture and the flags that compile target.c for them.
TARGETS = {
    "x86_64": {
        "avx2": ["-mavx2", "-mf16c"],
        "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
    },
    "aarch64": {"neon": []},
}
TARGETS["AMD64"] = TARGETS["x86_64"]
TARGETS["arm64"] = TARGETS["aarch64"]

# Reordered sums or contraction into fused multiply-adds would change bits (see csrc/README.md): these flags
# come after a user's CFLAGS and undo what -Ofast or -ffast-math there would do; when linking too, where that
# would add an object that flushes denormals to zero in the whole process.
PLAIN_MATH = ["-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations"]
FLAGS = ["-std=c11", *PLAIN_MATH, "-ffp-contract=off", "-fno-math-errno"]
STRICT = ["-Wall", "-Wextra", "-Werror"] if os.environ.get("GGUFFAST_WERROR") == "1" else []

SOURCES = [str(path) for path in Path("csrc").rglob("*.*")]

# One binary serves every Python from 3.11 on, where the limited API has the buffer protocol.
LIMITED_API = not (sys.flags.debug or getattr(sys, "_is_gil_enabled", lambda: True)() is False)


class Build(build_ext):
    """Compiles target.c once for each instruction set that the compiler knows."""

    def build_extension(self, ext: Extension) -> None:
        """Add the objects of all targets to the extension, then build it as usual."""
        ext.extra_compile_args, ext.extra_link_args = FLAGS, PLAIN_MATH
        built = {"portable": self._target("portable", STRICT)}
        for name, flags in TARGETS.get(platform.machine(), {}).items():
            try:
                built[name] = self._target(name, [*flags, *STRICT])
            except Exception:  # the compilers' own error classes differ; portable code still works
                if STRICT:
                    raise
                print(f"gguffast: this compiler cannot build for {name}; leaving it out", file=sys.stderr)
        macros = [(f"GF_HAVE_{name.upper()}", "1") for name in built]
        for source in ("csrc/codebooks.c", "csrc/dispatch.c", "csrc/gguf.c"):
            ext.extra_objects += self._compile(source, macros, STRICT, "common")
        for objects in built.values():
            ext.extra_objects += objects
        super().build_extension(ext)

    def _target(self, name: str, flags: list[str]) -> list[str]:
        return self._compile("csrc/target.c", [("GF_TARGET", name)], flags, name)

    def _compile(self, source: str, macros: list, flags: list[str], folder: str) -> list[str]:
        return self.compiler.compile(
            [source],
            output_dir=os.path.join(self.build_temp, folder),
            macros=macros,
            include_dirs=["csrc"],
            extra_postargs=[*FLAGS, *flags],
            depends=SOURCES,
        )


core = Extension(
    "gguffast._core",
    ["src/gguffast/_core.pyx"],
    include_dirs=["csrc"],
    libraries=["m"] if os.name == "posix" else [],
    depends=SOURCES,
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED_API else [],
    py_limited_api=LIMITED_API,
)
setup(
    ext_modules=[core],
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API else {},
)

"""Pack checkpoints of model families for the tests, one archive each, the same bytes every time.

    python tests/data/families/pack.py CHECKPOINTS CONVERTED NAME...

CHECKPOINTS/NAME is a Hugging Face checkpoint, or an adapter, which goes to tests/data/adapters;
CONVERTED/NAME.json what the reference made of it: per run its options (`args`) and either the SHA-256 of the
file, the key of an equal run (`same_as`), or of the files of a split, with what stands in them.
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path


def pack(checkpoint: Path, converted: Path, archive: Path) -> None:
    """Write one archive: the checkpoint's folder, and converted.json."""
    files = {
        f"{checkpoint.name}/{p.relative_to(checkpoint)}": p for p in checkpoint.rglob("*") if p.is_file()
    }
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for name, path in sorted({**files, "converted.json": converted}.items()):
            data = path.read_bytes()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    checkpoints, converted, *names = map(Path, sys.argv[1:])
    for name in names:
        kind = "adapters" if (checkpoints / name / "adapter_config.json").exists() else "families"
        archive = Path(__file__).parents[1] / kind / f"{name}.tar.xz"
        pack(checkpoints / name, converted / f"{name}.json", archive)

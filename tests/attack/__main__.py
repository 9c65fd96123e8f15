"""Attack readers and processes: ``python -m attack --seconds N``, with the folder tests on the path."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from http.server import ThreadingHTTPServer
from pathlib import Path

from attack import kill, readers
from support import checkpoints
from support.local_hub import LocalHub
from support.ollama_servers import Stub


def main() -> int:
    """Attack one after the other; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=10, help="for each reader and each command that is killed"
    )
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--only", default="", help="those whose name contains this")
    parser.add_argument("--findings", type=Path, default=Path("attack-findings"), help="a folder")
    args = parser.parse_args()
    print(f"seed {args.seed}, {args.seconds:g} s each", flush=True)
    found = 0
    # In memory, if there is such a folder: what is damaged is written over and over.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        work = Path(folder)
        checkpoints.unpack(work / "checkpoints")
        found += _attack_readers(args, work)
        found += _attack_processes(args, work)
    print(f"{found} findings")
    return found > 0


def _attack_readers(args: argparse.Namespace, work: Path) -> int:
    found = 0
    for name, takers in readers.readers(work / "readers", work / "checkpoints").items():
        if args.only not in name:
            continue
        # Its own generator for each, so that one can be repeated alone.
        tally = readers.attack(takers, args.seconds, random.Random(f"{args.seed} {name}"))
        print(f"{name:<24}{tally}", flush=True)
        for outcome, mutant in tally.findings:
            args.findings.mkdir(parents=True, exist_ok=True)
            path = args.findings / f"{name.replace(' ', '-')}-{found}"
            path.write_bytes(mutant)
            print(f"    {path}: {outcome}", flush=True)
            found += 1
    return found


def _attack_processes(args: argparse.Namespace, work: Path) -> int:
    found = 0
    # Connections of processes that are killed are reset, which the servers would print.
    ThreadingHTTPServer.handle_error = lambda *args: None  # type: ignore[method-assign]
    stub = Stub()
    try:
        with LocalHub() as hub:
            for name, job in kill.jobs(work, work / "checkpoints", hub, stub).items():
                if args.only not in name:
                    continue
                kills = kill.attack(job, args.seconds, random.Random(f"{args.seed} {name}"))
                print(f"{name:<24}{kills}", flush=True)
                for finding in kills.findings:
                    print(f"    {finding}", flush=True)
                found += len(kills.findings)
    finally:
        stub.close()
    return found


if __name__ == "__main__":
    sys.exit(main())

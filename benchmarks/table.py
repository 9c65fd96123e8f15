"""Markdown of what the kernel benchmarks measured: python benchmarks/table.py [results.json]."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def kernel_table(results: dict[str, Any]) -> str:
    """Speeds in million weights a second, and the factor over llama.cpp where it is not llama.cpp's own."""
    labels: list[str] = []
    for figures in [*results["plain"].values(), *results["imatrix"].values()]:
        labels += [label for label in figures if label not in labels]
    lines = [f"{results['machine']['cpu']}, one thread, Mweights/s (factor over llama.cpp)"]
    for mode, title in (("plain", "Type"), ("imatrix", "Type, with importance matrix")):
        used = [label for label in labels if any(label in figures for figures in results[mode].values())]
        if used:
            lines += ["", _row([title, *used]), _row(["---", *("---:" for _ in used)])]
            lines += [
                _row([name, *(_cell(figures.get(label)) for label in used)])
                for name, figures in results[mode].items()
            ]
    return "\n".join(lines)


def _cell(figure: dict[str, float] | None) -> str:
    if figure is None:
        return "-"
    speed = figure["mweights_per_second"]
    text = f"{speed:.0f}" if speed >= 100 else f"{speed:.1f}"
    if figure["ratio"] != 1:
        text += f" ({figure['ratio']:.1f}x)"
    return text + (" ≠" if figure["differing"] else "")


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results.json"
    print(kernel_table(json.loads(path.read_text())))

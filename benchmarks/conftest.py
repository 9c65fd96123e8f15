"""Collects what the kernel benchmarks measured, prints it as one table and writes it as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from race import machine
from table import kernel_table

RESULTS = pytest.StashKey[dict]()


def pytest_addoption(parser):
    parser.addoption(
        "--results", type=Path, default=Path(__file__).parent / "results.json", help="write the figures here"
    )


def pytest_configure(config):
    config.stash[RESULTS] = {"plain": {}, "imatrix": {}}


@pytest.fixture
def record(request):
    """Keep the figures of one type: record(mode, name, figures)."""

    def keep(mode: str, name: str, figures: dict) -> None:
        request.config.stash[RESULTS][mode][name] = figures

    return keep


def pytest_terminal_summary(terminalreporter, config):
    results = config.stash[RESULTS]
    if any(results.values()):
        document = {"machine": machine(), **results}
        path = config.getoption("--results")
        path.write_text(json.dumps(document, indent=1) + "\n")
        terminalreporter.write_line("\n" + kernel_table(document))
        terminalreporter.write_line(f"written to {path}")

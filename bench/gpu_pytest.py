"""A pytest plugin: a line of JSON for each test as it ends, so that a killed run keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--results", type=Path, help="where a line of JSON a test goes")


class _Recorder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.passed:
            return
        record = {"what": "test", "name": report.nodeid, "outcome": report.outcome}
        if report.failed:
            record["error"] = report.longreprtext[-2000:]
        if report.skipped:
            record["error"] = str(report.longrepr[-1])
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def pytest_configure(config: Any) -> None:
    path = config.getoption("--results")
    if path is not None:
        config.pluginmanager.register(_Recorder(path))

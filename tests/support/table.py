"""The table of faults: a row for each fault, from what its tests put into their reports."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

_PROPERTY = "fault"
_HEADER = (
    "| fault | runs | violations | calls | re-paid | bound | recovery, s |\n"
    "|---|---|---|---|---|---|---|\n"
)


@dataclass
class Row:
    """What one test found out about a fault."""

    fault: str
    calls: int = 0
    repaid: int = 0
    bound: int = 0
    recovery: list[float] = field(default_factory=list)
    """Seconds from each strike to the next committed output."""


def publish(node: pytest.Item, row: Row) -> None:
    """Puts a row into a test's report; to be called when the row is complete."""
    node.user_properties.append((_PROPERTY, asdict(row)))


class FaultTable:
    """A plugin of the process that hears every report: it writes the table when all is done."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, list[tuple[Mapping[str, Any], bool]]] = {}
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes the rows out of the reports."""
        if report.failed:
            self._failed.add(report.nodeid)
        if report.when != "teardown":
            return
        for name, row in report.user_properties:
            if name == _PROPERTY and isinstance(row, dict):
                failed = report.nodeid in self._failed
                self._rows.setdefault(row["fault"], []).append((row, failed))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Writes the table."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = [_line(fault, runs) for fault, runs in sorted(self._rows.items())]
        self._path.write_text(_HEADER + "\n".join(lines) + "\n")
        terminalreporter.write_line(f"Table of faults: {self._path}")


def _line(fault: str, runs: Iterable[tuple[Mapping[str, Any], bool]]) -> str:
    rows, failed = zip(*runs, strict=True)
    calls, repaid, bound = (sum(row[n] for row in rows) for n in ("calls", "repaid", "bound"))
    recoveries = [seconds for row in rows for seconds in row["recovery"]]
    slowest = f"{max(recoveries):.1f}" if recoveries else "–"
    paid = f"{calls} | {repaid} | {bound}" if bound else "– | – | –"
    return f"| {fault} | {len(rows)} | {sum(failed)} | {paid} | {slowest} |"

"""Workers that die at a chosen point of a call or a transaction."""

import signal
import threading

import pytest

from tests.faults.conftest import Bench
from tests.support.failpoints import ABORTING, POINTS
from tests.support.workers import Process

COUNT = 150


def _cases() -> list[object]:
    first = [(point, 3, ()) for point in POINTS]
    more = [(point, at, pytest.mark.long) for point in POINTS for at in (1, 8)]
    return [
        pytest.param(p, at, id=f"{p}, {at}", marks=[pytest.mark.fault(f"SIGKILL {p}"), *_list(m)])
        for p, at, m in [*first, *more]
    ]


def _list(mark: object) -> list[pytest.MarkDecorator]:
    return [mark] if isinstance(mark, pytest.MarkDecorator) else []


def _await_death(bench: Bench, worker: Process) -> None:
    assert worker.wait(60) == -signal.SIGKILL, bench.workers.log()[-3000:]
    bench.struck()


@pytest.mark.parametrize(("point", "at"), _cases())
def test_killed_at(bench: Bench, point: str, at: int) -> None:
    bench.write(COUNT)
    program = ("tests.support.failpoints", f"{point}:{at}")
    _await_death(bench, bench.workers.start("all", program=program))
    # its successor dies there too: what the first one left is no excuse
    _await_death(bench, bench.workers.start("all", program=program))
    bench.run_to_the_end()
    if point in ABORTING:
        bench.check_aborted()


@pytest.mark.fault("SIGKILL during a call")
@pytest.mark.parametrize("at", [1, pytest.param(20, marks=pytest.mark.long)])
def test_killed_during_a_call(bench: Bench, at: int) -> None:
    asked = threading.Event()
    died = threading.Event()

    def strike() -> None:
        if bench.model.requests >= at:
            asked.set()
            died.wait(30)

    bench.model.before = strike
    bench.write(COUNT)
    worker = bench.workers.start("all")
    assert asked.wait(60)
    bench.kill(worker)
    died.set()
    bench.run_to_the_end()

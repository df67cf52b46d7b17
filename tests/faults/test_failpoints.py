"""Workers that die at a chosen point of a call or a transaction."""

import random
import signal
import threading
from collections.abc import Iterator
from itertools import product

import pytest

from tests.faults.conftest import Bench
from tests.support.failpoints import ABORTING, POINTS
from tests.support.workers import Process

COUNT = 150


SELECTED = [("after produce", 3)]
"""Cases that `make test` runs."""


def _cases() -> Iterator[object]:
    for point, at in product(POINTS, (1, 3, 8)):
        marks = [pytest.mark.fault(f"SIGKILL {point}")]
        marks += [] if (point, at) in SELECTED else [pytest.mark.long]
        yield pytest.param(point, at, id=f"{point}, {at}", marks=marks)


def _await_death(bench: Bench, worker: Process) -> None:
    assert worker.wait(180) == -signal.SIGKILL, bench.workers.log()[-3000:]
    bench.struck()


@pytest.mark.parametrize(("point", "at"), list(_cases()))
def test_killed_at(bench: Bench, point: str, at: int) -> None:
    bench.write(COUNT)
    program = ("tests.support.failpoints", f"{point}:{at}")
    _await_death(bench, bench.workers.start("all", program=program))
    # its successor dies there too: what the first one left is no excuse
    _await_death(bench, bench.workers.start("all", program=program))
    bench.run_to_the_end()
    if point in ABORTING:
        bench.check_aborted()


@pytest.mark.long
@pytest.mark.fault("SIGKILL at random, workers of every stage")
def test_killed_at_random_tens_of_times(bench: Bench) -> None:
    dice, clock = random.Random(10), threading.Event()
    stages = ["ask", "shout", "pair", "ask"]
    workers = [bench.workers.start(stage) for stage in stages]
    for _ in range(40):
        bench.write(10)
        clock.wait(dice.uniform(0.2, 4.0))
        victim = dice.randrange(len(stages))
        bench.kill(workers[victim])
        workers[victim] = bench.workers.start(stages[victim])
    bench.await_members("ask", 2)
    bench.finish(workers)


@pytest.mark.long
@pytest.mark.fault("SIGKILL during a call")
@pytest.mark.parametrize("at", [1, 20])
def test_killed_during_a_call(bench: Bench, at: int) -> None:
    asked = threading.Event()
    died = threading.Event()

    def strike() -> None:
        if bench.model.requests >= at:
            asked.set()
            died.wait(180)

    bench.model.before = strike
    bench.write(COUNT)
    worker = bench.workers.start("all")
    assert asked.wait(180)
    bench.kill(worker)
    died.set()
    bench.run_to_the_end()

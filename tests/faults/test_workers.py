"""Workers that are killed, paused, added and taken away: outputs stay exactly once, in order."""

import signal
import threading
import time

import pytest

from tests.faults.conftest import Bench

UNTIL_IDLE = ("--until-idle", "3")


def test_killed_twice_in_the_middle(bench: Bench) -> None:
    bench.write(300)
    for outputs in (60, 150):
        worker = bench.workers.start("all")
        bench.await_outputs("answers", outputs)
        bench.kill(worker)
    bench.run_to_the_end()


def test_finished_answers_behind_a_slow_one_are_not_paid_for_again(bench: Bench) -> None:
    # nothing can be committed before the first line's answer is there, and it does not come
    def stuck() -> object:
        return None if bench.model.requests > 1 else hold.wait()

    hold = threading.Event()
    bench.model.before = stuck
    bench.write(60, keys=1)
    worker = bench.workers.start("ask")
    bench.await_bills(59)
    bench.await_results(59)
    bench.kill(worker)
    bench.model.before = lambda: None
    hold.set()
    bench.run_to_the_end()
    assert len(set(bench.model.bills)) == 60
    assert len(bench.model.bills) <= 60 + 1


@pytest.mark.long
def test_a_parked_call_is_never_made_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.workers.environment["FAULT_ON_UNKNOWN"] = "park"
    bench.write(100)
    worker = bench.workers.start("ask")
    bench.await_outputs("answers", 30)
    bench.kill(worker)
    assert bench.workers.run("all", *UNTIL_IDLE) == 0, bench.workers.log()[-3000:]
    assert len(bench.model.bills) == len(set(bench.model.bills))
    letters = bench.dead_letters()
    assert all("maybe paid" in letter["message"] for letter in letters)
    # what was in flight when it was killed, or when its successor lost its partitions for a moment
    assert 0 < len(letters) <= 16 * (1 + bench.workers.log().count("lost"))
    assert len(bench.outputs("answers")) + len(letters) == 100


@pytest.mark.long
def test_terminated_in_the_middle_pays_for_nothing_twice(bench: Bench) -> None:
    bench.write(200)
    worker = bench.workers.start("all")
    bench.await_outputs("answers", 50)
    bench.workers.signal(worker, signal.SIGTERM)
    assert worker.wait(180) == 0
    bench.run_to_the_end()
    assert sorted(bench.model.bills) == sorted(t for ts in bench.texts.values() for t in ts)


def test_one_worker_two_workers_one_worker(bench: Bench) -> None:
    bench.write(300)
    first = bench.workers.start("all")
    bench.await_outputs("answers", 40)
    second = bench.workers.start("all")
    bench.await_outputs("answers", 120)
    bench.workers.signal(first, signal.SIGTERM)
    assert first.wait(180) == 0
    bench.write(50)
    bench.await_outputs("answers", 200)
    bench.workers.signal(second, signal.SIGTERM)
    assert second.wait(180) == 0
    bench.run_to_the_end()


@pytest.mark.long
def test_partitions_that_come_back_are_read_on(bench: Bench) -> None:
    answers = threading.Event()
    bench.model.before = answers.wait
    bench.write(400)
    first = bench.workers.start("ask")
    # no answer comes: it has taken in all it may and has paused its partitions
    bench.await_members("ask", 1)
    second = bench.workers.start("ask")
    bench.await_members("ask", 2)
    bench.kill(second)
    bench.await_members("ask", 1)
    answers.set()
    bench.finish([first, bench.workers.start("shout", "pair")])


@pytest.mark.long
def test_a_second_worker_killed_while_calls_are_in_flight(bench: Bench) -> None:
    bench.write(300)
    bench.workers.start("all")
    second = bench.workers.start("all")
    bench.await_outputs("answers", 80)
    bench.kill(second)
    bench.await_outputs("answers", 100)
    bench.workers.signal(bench.workers.running[0], signal.SIGTERM)
    bench.run_to_the_end()


@pytest.mark.long
def test_the_endpoint_is_overloaded_and_then_recovers(bench: Bench) -> None:
    bench.model.fault = lambda n: (429, {"retry-after": "0"}) if n % 3 == 0 else None
    bench.write(60)
    bench.run_to_the_end()
    assert len(bench.model.bills) == 60


@pytest.mark.parametrize("status", [401, pytest.param(404, marks=pytest.mark.long)])
def test_a_refused_key_stops_the_worker_and_loses_nothing(bench: Bench, status: int) -> None:
    bench.model.fault = lambda _: (status, {})
    bench.write(20)
    assert bench.workers.run("ask") == 1
    assert "OPENAI_" in bench.workers.log()
    bench.model.fault = lambda _: None
    bench.run_to_the_end()


@pytest.mark.long
def test_the_same_instance_started_twice_leaves_one(bench: Bench) -> None:
    bench.workers.environment["PRESSROOM_INSTANCE"] = "same"
    bench.write(200)
    first = bench.workers.start("ask")
    bench.await_outputs("answers", 20)
    second = bench.workers.start("ask")
    bench.struck()  # what the first one has asked when it hears of it, the second asks again
    until = time.monotonic() + 180
    while first.poll() is None:  # it hears of it when it commits
        assert time.monotonic() < until, bench.workers.log()[-3000:]
        bench.write(10)
        time.sleep(0.1)
    assert first.returncode == 1
    assert "took over" in bench.workers.log()
    bench.workers.signal(second, signal.SIGTERM)
    assert second.wait(180) == 0
    bench.run_to_the_end()


@pytest.mark.long
@pytest.mark.fault("SIGSTOP, shorter than the session")
def test_a_worker_paused_for_less_than_its_session_goes_on(bench: Bench) -> None:
    bench.write(200)
    worker = bench.workers.start("all")
    bench.await_outputs("answers", 20)
    bench.pause(worker)
    threading.Event().wait(4)  # others could have its partitions by now, for all it knows
    bench.workers.signal(worker, signal.SIGCONT)
    bench.finish([worker])


def test_a_worker_paused_beyond_its_session_and_its_transaction_does_no_harm(bench: Bench) -> None:
    bench.write(300)
    paused = bench.workers.start("all")
    bench.await_outputs("answers", 40)
    bench.pause(paused)
    other = bench.workers.start("all")
    # the other one has everything only after the session and the open transaction have timed out
    bench.await_outputs("answers", 250)
    bench.workers.signal(paused, signal.SIGCONT)
    bench.write(60)
    bench.await_outputs("answers", 330)
    for worker in (paused, other):
        bench.workers.signal(worker, signal.SIGTERM)
        assert worker.wait(180) == 0, bench.workers.log()[-3000:]
    bench.run_to_the_end()

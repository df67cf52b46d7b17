"""The broker goes away and comes back: workers that were under way go on by themselves."""

import signal
import time

import pytest

from tests.faults.conftest import Bench
from tests.support.broker import Broker


@pytest.fixture(scope="module")
def bootstrap_servers(own_broker: Broker) -> str:
    return own_broker.address


def test_killed_and_started_again_while_two_workers_run(bench: Bench, broker: Broker) -> None:
    bench.write(600)
    workers = [bench.workers.start("all"), bench.workers.start("all")]
    bench.await_outputs("answers", 100)
    broker.signal(signal.SIGKILL)
    bench.struck(0)
    time.sleep(2)
    assert broker.up() == broker.address
    bench.finish(workers)


@pytest.mark.long
def test_paused_beyond_every_session(bench: Bench, broker: Broker) -> None:
    bench.write(600)
    workers = [bench.workers.start("all"), bench.workers.start("all")]
    bench.await_outputs("answers", 100)
    broker.signal(signal.SIGSTOP)
    bench.struck(0)
    time.sleep(20)
    broker.signal(signal.SIGCONT)
    bench.finish(workers)


@pytest.mark.long
def test_a_worker_leaves_while_the_broker_is_away(bench: Bench, broker: Broker) -> None:
    bench.write(200)
    worker = bench.workers.start("all")
    bench.await_outputs("answers", 50)
    broker.signal(signal.SIGKILL)
    bench.struck(0)
    time.sleep(1)
    bench.workers.signal(worker, signal.SIGTERM)
    worker.wait(180)
    broker.up()
    bench.run_to_the_end()

"""The broker goes away and comes back: workers that were under way go on by themselves."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from streams import local
from streams.local.kafka import Kafka
from streams.settings import Settings
from tests.faults.conftest import Bench
from tests.support.config import client_config


class Broker:
    """An embedded Kafka that belongs to one test."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.address = self.up()

    def up(self) -> str:
        address = local.up(self._home, Settings().cache, model=False).bootstrap_servers
        assert address is not None
        return address

    def signal(self, number: signal.Signals) -> None:
        mark = Kafka(self._home.resolve()).mark
        for process in psutil.process_iter(["cmdline"]):
            if mark in (process.info["cmdline"] or []):
                process.send_signal(number)

    def close(self) -> None:
        self.signal(signal.SIGCONT)
        local.down(self._home)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path / "broker")
    yield made
    made.close()


@pytest.fixture
def bootstrap_servers(broker: Broker) -> str:
    return broker.address


@pytest.fixture
def kafka(bootstrap_servers: str) -> dict[str, object]:
    return client_config(bootstrap_servers)


def test_killed_and_started_again_while_two_workers_run(bench: Bench, broker: Broker) -> None:
    bench.write(600)
    workers = [bench.workers.start("all"), bench.workers.start("all")]
    bench.await_outputs("answers", 100)
    broker.signal(signal.SIGKILL)
    time.sleep(2)
    assert broker.up() == broker.address
    bench.finish(workers)


def test_paused_beyond_every_session(bench: Bench, broker: Broker) -> None:
    bench.write(600)
    workers = [bench.workers.start("all"), bench.workers.start("all")]
    bench.await_outputs("answers", 100)
    broker.signal(signal.SIGSTOP)
    time.sleep(20)
    broker.signal(signal.SIGCONT)
    bench.finish(workers)


def test_a_worker_leaves_while_the_broker_is_away(bench: Bench, broker: Broker) -> None:
    bench.write(200)
    worker = bench.workers.start("all")
    bench.await_outputs("answers", 50)
    broker.signal(signal.SIGKILL)
    time.sleep(1)
    bench.workers.signal(worker, signal.SIGTERM)
    worker.wait(60)
    broker.up()
    assert bench.workers.run("all", "--until-idle", "3") == 0, bench.workers.log()[-3000:]
    bench.check()

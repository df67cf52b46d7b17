"""The broker's disk is full."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Bench
from tests.support.broker import Broker
from tests.support.config import client_config
from tests.support.disk import fill, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as folder:
        yield folder


@pytest.fixture
def broker(disk: Path) -> Iterator[Broker]:
    made = Broker(disk / "home")
    yield made
    made.close()


@pytest.fixture
def bootstrap_servers(broker: Broker) -> str:
    return broker.address


@pytest.fixture
def kafka(bootstrap_servers: str) -> dict[str, object]:
    return client_config(bootstrap_servers)


@pytest.mark.fault("the broker's disk is full")
def test_the_disk_is_full_and_then_has_space_again(
    bench: Bench, broker: Broker, disk: Path
) -> None:
    bench.write(600)
    workers = [bench.workers.start("all"), bench.workers.start("all")]
    bench.await_outputs("answers", 50)
    ballast = fill(disk)
    bench.struck(0)
    # it can't write and leaves, since it has no other disk
    bench.wait_until(lambda: not broker.alive, 120)
    ballast.unlink()
    assert broker.up() == bench.servers
    bench.finish(workers)

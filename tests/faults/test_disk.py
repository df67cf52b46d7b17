"""The broker's disk is full."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Bench
from tests.support.broker import Broker
from tests.support.disk import fill, small_disk


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_disk(tmp_path_factory.mktemp("disk") / "small") as folder:
        yield folder


@pytest.fixture(scope="module")
def broker_home(disk: Path) -> Path:
    return disk / "home"


@pytest.fixture(scope="module")
def bootstrap_servers(own_broker: Broker) -> str:
    return own_broker.address


@pytest.mark.long
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

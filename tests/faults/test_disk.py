"""The broker's disk is full."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Bench
from tests.support.broker import Broker
from tests.support.config import client_config

MEGABYTE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system, and not everywhere")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


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


def _fill(disk: Path) -> Path:
    """Leaves less free than the answers need."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(bytes(free - MEGABYTE // 16))
    return ballast


@pytest.mark.fault("the broker's disk is full")
def test_the_disk_is_full_and_then_has_space_again(
    bench: Bench, broker: Broker, disk: Path
) -> None:
    bench.write(600)
    workers = [bench.workers.start("all"), bench.workers.start("all")]
    bench.await_outputs("answers", 50)
    ballast = _fill(disk)
    bench.struck(0)
    # it can't write and leaves, since it has no other disk
    bench.wait_until(lambda: not broker.alive, 120)
    ballast.unlink()
    assert broker.up() == bench.servers
    bench.finish(workers)

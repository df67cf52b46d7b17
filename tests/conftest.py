"""Fixtures that all tests share: a real Kafka, embedded by default."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.config import client_config
from tests.support.registry import Apicurio
from tests.support.table import FaultTable


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kafka",
        default="embedded",
        help="embedded (default), container (needs Docker), or external:HOST:PORT for one that runs",
    )
    parser.addoption(
        "--only-kafka", action="store_true", help="only the tests that use the Kafka of --kafka"
    )
    parser.addoption("--fault-table", type=Path, help="write the table of faults into this file")
    parser.addoption("--seed", type=int, help="of the nemesis: run this schedule alone")
    parser.addoption(
        "--nemesis-seconds", type=float, default=60.0, help="how long the nemesis strikes"
    )


def pytest_configure(config: pytest.Config) -> None:
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    # how long an example takes says nothing on a machine that others use
    settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("tests")
    # measured: a broker of the tests takes 14 s of CPU rather than 24 without Java's second compiler,
    # whose work pays later than they live
    os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")
    # a shell that puts the tests into the background has them ignore Ctrl-C, and all that they start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    path: Path | None = config.getoption("--fault-table")
    if path is not None and not hasattr(config, "workerinput"):  # a worker of xdist only runs tests
        config.pluginmanager.register(FaultTable(path.resolve()))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--only-kafka"):
        others = [item for item in items if not _uses_shared_kafka(item)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


def _uses_shared_kafka(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    found = item._fixtureinfo.name2fixturedefs.get("bootstrap_servers", ())
    return bool(found) and found[-1].func.__module__ == __name__


@pytest.fixture(scope="session")
def bootstrap_servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a real Kafka."""
    wanted: str = request.config.getoption("--kafka")
    kind, _, address = wanted.partition(":")
    if kind == "external" and address:
        yield address
    elif wanted == "embedded":
        yield from _embedded(tmp_path_factory.mktemp("home"))
    elif wanted == "container":
        from tests.containers.broker import broker

        with broker() as address:
            yield address
    else:
        raise pytest.UsageError(f"--kafka={wanted}: embedded, container, or external:HOST:PORT")


def _embedded(home: Path) -> Iterator[str]:
    from streams import local
    from streams.settings import Settings

    status = local.up(home, Settings().cache, model=False)
    assert status.bootstrap_servers is not None
    yield status.bootstrap_servers
    local.down(home)


@pytest.fixture(scope="session")
def kafka(bootstrap_servers: str) -> dict[str, object]:
    """librdkafka settings for that Kafka."""
    return client_config(bootstrap_servers)


@pytest.fixture(scope="session")
def apicurio(
    bootstrap_servers: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Apicurio]:
    """A real schema registry; what is killed in a test is up again after it."""
    made = Apicurio(bootstrap_servers, tmp_path_factory.mktemp("apicurio"))
    yield made
    made.close()

"""Three brokers, each replica thrice: what is away is done without, and nothing is lost or doubled."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import cast

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
)

from schemas.errors import Stop
from schemas.records import Original
from schemas.topics import Topic
from streams.admin import create_topics, durability_warnings
from tests.faults.conftest import Bench
from tests.support.cluster import BROKERS, Cluster, Layout
from tests.support.config import configure, unique
from tests.support.disk import fill, small_disk
from tests.support.workers import Process

LINES = 500
"""There are some left when the fault comes."""
MORE = 50
"""Written when it is over."""
SMALL_DISK = "small disk"
"""A cluster whose first broker has one."""
PAUSE = 30.0
"""Seconds, longer than any session and than any transaction may last."""


@pytest.fixture(scope="module")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    folder, kind = tmp_path_factory.mktemp("cluster"), getattr(request, "param", "combined")
    with ExitStack() as at_end:
        if kind == SMALL_DISK:
            disk = at_end.enter_context(small_disk(folder / "1"))
            made = Cluster(folder, homes={1: disk})
        else:
            made = Cluster(folder, cast(Layout, kind))
        at_end.callback(made.close)
        yield made


@pytest.fixture(autouse=True)
def healed(cluster: Cluster) -> Iterator[None]:
    """The next test finds the cluster whole."""
    yield
    cluster.heal()


@pytest.fixture(scope="module")
def bootstrap_servers(cluster: Cluster) -> str:
    return cluster.address


def _start(bench: Bench) -> list[Process]:
    """Two workers that are in the middle of it."""
    workers = []
    for name in ("one", "two"):
        bench.workers.environment["PRESSROOM_INSTANCE"] = name
        workers.append(bench.workers.start("all"))
    bench.await_outputs("answers", 100)
    return workers


def _transactional_id(bench: Bench) -> str:
    return f"{bench.module.pipeline.stages['ask'].group}.one"


VICTIMS: dict[str, Callable[[Bench, Cluster], int]] = {
    "input's leader": lambda bench, cluster: cluster.leader(bench.module.lines.name),
    "output's leader": lambda bench, cluster: cluster.leader(bench.module.answers.name),
    "ledger's leader": lambda bench, cluster: cluster.leader(bench.ledger),
    "group coordinator": lambda bench, cluster: cluster.group_coordinator(
        bench.module.pipeline.stages["ask"].group
    ),
    "transaction coordinator": lambda bench, cluster: cluster.transaction_coordinator(
        _transactional_id(bench)
    ),
}
"""Which broker is struck."""


def _described(cluster: Cluster, topic: Topic[Original]) -> tuple[int, str]:
    """The replicas of a topic's partitions, and how many have to be in sync."""
    admin = AdminClient(cluster.config)
    partitions = admin.list_topics(timeout=30).topics[topic.name].partitions.values()
    (replicas,) = {len(p.replicas) for p in partitions}
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic.name)
    settings = admin.describe_configs([resource])[resource].result(30)
    return replicas, str(settings["min.insync.replicas"].value)


@pytest.mark.long
def test_topics_are_replicated_and_those_that_are_not_enough_are_named(cluster: Cluster) -> None:
    by_default, thrice, twice, once = (Topic(unique("replicated"), Original) for _ in range(4))
    for topic, replication in ((by_default, None), (thrice, 3), (twice, 2), (once, 1)):
        create_topics(cluster.config, [topic], replication)
    cluster.await_in_sync()
    assert _described(cluster, by_default) == _described(cluster, thrice) == (3, "2")
    assert _described(cluster, twice) == (2, "1")
    assert not durability_warnings(cluster.config, [by_default, thrice])
    configure(cluster.config, by_default.name, "min.insync.replicas", "3")
    weak = durability_warnings(cluster.config, [by_default, thrice, twice, once])
    assert sorted(line.split(":")[0] for line in weak) == sorted(
        topic.name for topic in (by_default, twice, once)
    )
    assert sum("PRESSROOM_REPLICATION=3" in line for line in weak) == 1
    with pytest.raises(Stop, match="only 3 broker"):
        create_topics(cluster.config, [Topic(unique("replicated"), Original)], 4)


@pytest.mark.long
@pytest.mark.fault("one of three brokers killed")
@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_done_without_and_started_again(bench: Bench, cluster: Cluster, victim: str) -> None:
    bench.write(LINES)
    workers = _start(bench)
    chosen = VICTIMS[victim](bench, cluster)
    cluster.kill(chosen)
    bench.struck(0)
    bench.await_the_rest()
    cluster.up([chosen])
    bench.write(MORE)
    bench.finish(workers)


@pytest.mark.long
@pytest.mark.fault("leaders and coordinators bounce")
def test_leaders_and_coordinators_bounce(bench: Bench, cluster: Cluster) -> None:
    bench.write(LINES)
    workers = _start(bench)
    for victim in VICTIMS.values():
        chosen = victim(bench, cluster)
        cluster.kill(chosen)
        bench.struck(0)
        cluster.up([chosen])
        cluster.await_in_sync()
        bench.write(MORE)
    bench.finish(workers)


@pytest.mark.long
@pytest.mark.fault("rolling restart of all brokers")
def test_all_brokers_are_restarted_one_after_the_other(bench: Bench, cluster: Cluster) -> None:
    bench.write(LINES)
    workers = _start(bench)
    for number in BROKERS:
        bench.struck(0)
        cluster.restart(number)
        bench.write(4 * MORE)
    bench.finish(workers)


@pytest.mark.long
@pytest.mark.fault("one of three brokers paused 30 s")
@pytest.mark.parametrize("victim", VICTIMS)
def test_paused_and_done_without(bench: Bench, cluster: Cluster, victim: str) -> None:
    bench.write(LINES)
    workers = _start(bench)
    chosen = VICTIMS[victim](bench, cluster)
    cluster.pause(chosen)
    bench.struck(0)
    until = time.monotonic() + PAUSE
    bench.await_the_rest()
    time.sleep(max(until - time.monotonic(), 0))
    cluster.go_on(chosen)
    cluster.await_in_sync()
    bench.write(MORE)
    bench.finish(workers)


@pytest.mark.long
@pytest.mark.fault("min in-sync replicas lost and regained")
@pytest.mark.parametrize("cluster", ["combined", "apart"], indirect=True)
def test_two_brokers_are_away_and_come_back(bench: Bench, cluster: Cluster) -> None:
    bench.write(LINES)
    workers = _start(bench)
    left = VICTIMS["output's leader"](bench, cluster)
    away = [number for number in BROKERS if number != left]
    cluster.kill(*away)
    bench.struck(0)
    time.sleep(PAUSE / 2)
    bench.struck(0)
    cluster.up(away)
    cluster.await_in_sync()
    bench.write(MORE)
    bench.finish(workers)


@pytest.mark.long
@pytest.mark.fault("the disk of one of three brokers is full")
@pytest.mark.parametrize("cluster", [SMALL_DISK], indirect=True)
def test_a_disk_is_full_and_done_without(bench: Bench, cluster: Cluster) -> None:
    bench.write(LINES)
    workers = _start(bench)
    ballast = fill(cluster.home(1))
    bench.struck(0)
    # it can't write and leaves, since it has no other disk
    bench.wait_until(lambda: not cluster.brokers[1].alive, 120)
    bench.await_the_rest()
    ballast.unlink()
    cluster.up([1])
    cluster.await_in_sync()
    bench.write(MORE)
    bench.finish(workers)

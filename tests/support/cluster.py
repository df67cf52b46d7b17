"""A Kafka cluster of three brokers, from the same artifacts as the embedded Kafka."""

import signal
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streams.local.ports import HOST, choose, is_listening
from tests.support.broker import Configured, Node
from tests.support.config import client_config

BROKERS = (1, 2, 3)
_CONTROLLER = 9
_PATIENCE = 90.0
_TRANSACTIONS = "__transaction_state"

Layout = Literal["combined", "apart"]
"""Whether the brokers are the controllers too, or a fourth process is the one controller: then the
metadata can change, and partitions lose their in-sync replicas, while two brokers are away."""

_SETTINGS = """\
node.id={node}
controller.quorum.voters={voters}
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
# what is away is noticed soon
broker.session.timeout.ms=3000
replica.lag.time.max.ms=3000
# a coordinator that told a hanging broker of a transaction's end tells its successor after so long
request.timeout.ms=5000
controlled.shutdown.retry.backoff.ms=500
# while a slow disk makes the controllers elect each other, a broker that is started again waits for one
initial.broker.registration.timeout.ms=115000
"""
_BROKER = """\
process.roles=broker
listeners=PLAINTEXT://{host}:{broker}
"""
_APART = """\
process.roles=controller
listeners=CONTROLLER://{host}:{controller}
advertised.listeners=CONTROLLER://{host}:{controller}
"""


class _Member(Configured):
    """One process of a cluster."""

    def __init__(self, home: Path, extra: str, cluster_id: str) -> None:
        super().__init__(home, extra)
        self._cluster_id = cluster_id

    def cluster_id(self) -> str:
        return self._cluster_id

    def command(self, cache: Path, ports: tuple[int, ...]) -> list[str]:
        command = super().command(cache, ports)
        return [{"-Xmx512m": "-Xmx256m", "-Xms128m": "-Xms64m"}.get(word, word) for word in command]


class _Controller(_Member):
    def answers(self, ports: tuple[int, ...]) -> bool:
        return is_listening(ports[1])


class Cluster:
    """Runs from the beginning until closed."""

    def __init__(
        self,
        folder: Path,
        layout: Layout = "combined",
        homes: Mapping[int, Path] | None = None,
    ) -> None:
        """
        Args:
            folder: where its data are.
            layout: who the controllers are.
            homes: for some brokers where their data are, if not in a folder there.
        """
        apart = layout == "apart"
        voters = (_CONTROLLER,) if apart else BROKERS
        numbers = (*BROKERS, *voters) if apart else BROKERS
        found = choose(2 * len(numbers))
        ports = {n: found[2 * i : 2 * i + 2] for i, n in enumerate(numbers)}
        quorum = ",".join(f"{n}@{HOST}:{ports[n][1]}" for n in voters)
        cluster_id = Configured(folder, "").cluster_id()
        self._nodes: dict[int, Node] = {}
        for number in numbers:
            extra = _SETTINGS.format(node=number, voters=quorum)
            kind = _Controller if number == _CONTROLLER else _Member
            if apart:
                extra += _APART if number == _CONTROLLER else _BROKER
            member = kind((homes or {}).get(number, folder / str(number)), extra, cluster_id)
            member.claim(ports[number])
            self._nodes[number] = Node(member)
        self.brokers = {number: self._nodes[number] for number in BROKERS}
        self.address = ",".join(f"{HOST}:{ports[n][0]}" for n in BROKERS)
        """The bootstrap servers: all brokers."""
        self.config: dict[str, Any] = client_config(self.address)
        try:
            self.up(numbers)
            self.await_in_sync()
        except BaseException:
            self.close()
            raise

    def home(self, number: int) -> Path:
        """Where a broker's data are."""
        return self._nodes[number].service.home

    def up(self, numbers: Collection[int]) -> None:
        """Starts those that were stopped or killed; returns when they answer."""
        with ThreadPoolExecutor(len(numbers)) as threads:  # none answers before the quorum is there
            for node in [threads.submit(self._up, self._nodes[number]) for number in numbers]:
                node.result()

    @staticmethod
    def _up(node: Node) -> None:
        claimed = node.service.ports
        node.up()
        assert node.service.ports == claimed, "somebody took a port of the cluster; try again"

    def kill(self, *numbers: int) -> None:
        """SIGKILL."""
        for number in numbers:
            self._nodes[number].signal(signal.SIGKILL)
        self._wait(lambda: not any(self._nodes[n].alive for n in numbers), f"{numbers} to be gone")

    def restart(self, number: int) -> None:
        """SIGTERM, as an administrator does; returns when all replicas are in sync again."""
        self._nodes[number].signal(signal.SIGTERM)
        self._wait(lambda: not self._nodes[number].alive, f"{number} to leave")
        self.up([number])
        self.await_in_sync()

    def pause(self, number: int) -> None:
        """SIGSTOP."""
        self._nodes[number].signal(signal.SIGSTOP)

    def go_on(self, number: int) -> None:
        """SIGCONT."""
        self._nodes[number].signal(signal.SIGCONT)

    def heal(self) -> None:
        """Everything runs again, and is in sync."""
        for node in self._nodes.values():
            node.signal(signal.SIGCONT)
        if gone := [n for n, node in self._nodes.items() if not node.service.is_alive()]:
            self.up(gone)
        self.await_in_sync()

    def close(self) -> None:
        """At once: a broker that is asked to leave would wait for the others."""
        for node in self._nodes.values():
            node.signal(signal.SIGKILL)

    # --- what is where ------------------------------------------------------------------------

    def leader(self, topic: str, partition: int = 0) -> int:
        """The broker that leads a partition now."""
        found: list[int] = []

        def known() -> bool:
            with suppress(KafkaException, KeyError):
                found[:] = [
                    self._admin().list_topics(timeout=5).topics[topic].partitions[partition].leader
                ]
            return bool(found) and found[0] in BROKERS

        self._wait(known, f"a leader of {topic}:{partition}")
        return found[0]

    def group_coordinator(self, group: str) -> int:
        """The broker that coordinates a consumer group."""
        admin = self._admin()  # kept, or its answer would never come
        node = admin.describe_consumer_groups([group])[group].result(30).coordinator
        return int(node.id)

    def transaction_coordinator(self, transactional_id: str) -> int:
        """The broker that coordinates the transactions of an id."""
        count = len(self._admin().list_topics(timeout=30).topics[_TRANSACTIONS].partitions)
        return self.leader(_TRANSACTIONS, (_java_hash(transactional_id) & 0x7FFFFFFF) % count)

    def await_in_sync(self) -> None:
        """Waits until all brokers are there and each partition's replicas are in sync."""

        def whole() -> bool:
            with suppress(KafkaException):
                known = self._admin().list_topics(timeout=5)
                partitions = [p for t in known.topics.values() for p in t.partitions.values()]
                return set(known.brokers) == set(BROKERS) and all(
                    len(p.isrs) == len(p.replicas) and p.leader in BROKERS for p in partitions
                )
            return False

        self._wait(whole, "all replicas to be in sync")

    def _admin(self) -> AdminClient:
        return AdminClient(self.config)

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + _PATIENCE
        while not holds():
            assert time.monotonic() < until, f"waited {_PATIENCE:g} s for {what}"
            time.sleep(0.1)


def _java_hash(text: str) -> int:
    """``String.hashCode``: what brokers choose the partition of a transactional id by."""
    value = 0
    for character in text:
        value = (31 * value + ord(character)) & 0xFFFFFFFF
    return value

"""What the fault tests share: a pipeline of their own, a billing model server, worker processes."""

import importlib
import json
import os
import signal
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from producers.transactional import TransactionalProducer
from schemas.codec import codec_for
from schemas.errors import DecodeError, RetryLater
from schemas.message import Outgoing
from schemas.record import schema_of
from schemas.records import DeadLetter
from schemas.topics import Topic
from streams.admin import create_topics
from streams.local.ports import choose
from tests.support import oracle, table
from tests.support.broker import Broker, behind
from tests.support.config import client_config, configure, unique
from tests.support.model_server import ModelServer
from tests.support.proxy import Proxy
from tests.support.table import Row
from tests.support.workers import Process, Workers

CALLS = 16
"""Calls that one worker has in flight, at most."""


LEAVING = 200
"""Milliseconds from an intent to its request's last byte, at most."""


@dataclass
class Bench:
    """One fault test's pipeline and everything around it."""

    module: ModuleType
    servers: str
    config: dict[str, Any]
    model: ModelServer
    workers: Workers
    follower: oracle.Follower
    row: Row
    texts: dict[str, list[str]] = field(default_factory=dict)
    numbered: int = 0
    """How many lines have been numbered."""
    in_flight: int = 0
    """The most calls whose answers the strikes so far may have lost."""
    patience: float = 240.0
    """Seconds that the workers may take to do the rest."""
    _strikes: list[float] = field(default_factory=list)
    _stopped: list[float] = field(default_factory=list)

    def write(self, count: int, keys: int = 7) -> None:
        """Appends numbered lines under a few keys."""
        producer, lines = (
            TransactionalProducer(self.config, unique("writer")),
            self.lines(count, keys),
        )
        self.wait_until(lambda: _opened(producer))  # the broker may be on its way back
        producer.commit(lines)

    def lines(self, count: int, keys: int = 7) -> list[Outgoing]:
        """The next numbered lines, which are expected to be written."""
        encode = codec_for(self.module.Line).encode
        begin, self.numbered = self.numbered, self.numbered + count
        records = []
        for number in range(begin, begin + count):
            key = f"k{number % keys}"
            self.texts.setdefault(key, []).append(f"line {number}")
            value = encode(self.module.Line(f"line {number}"))
            records.append(Outgoing(self.module.lines.name, key.encode(), value, []))
        return records

    # --- strikes ------------------------------------------------------------------------------

    def struck(self, calls: int = CALLS) -> None:
        """Notes that something was done to the workers, and how many answers it may have lost."""
        self._strikes.append(time.monotonic())
        self.in_flight += calls

    def kill(self, worker: Process) -> None:
        """SIGKILL."""
        self.workers.signal(worker, signal.SIGKILL)
        self.struck()

    def pause(self, worker: Process) -> None:
        """SIGSTOP."""
        self.workers.signal(worker, signal.SIGSTOP)
        self._stopped.append(time.time() * 1000)
        self.struck()

    # --- conditions ---------------------------------------------------------------------------

    def wait_until(self, holds: Callable[[], object], seconds: float = 180) -> None:
        """Waits until a condition holds; fails when it takes too long."""
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, self.workers.log()[-3000:]
            time.sleep(0.1)

    def await_outputs(self, topic: str, count: int) -> None:
        """Waits until a topic has so many records."""
        self.wait_until(lambda: self.committed_outputs(topic) >= count)

    def await_bills(self, count: int) -> None:
        """Waits until the model server has answered so many calls."""
        self.wait_until(lambda: len(self.model.account) >= count)

    def await_results(self, count: int) -> None:
        """Waits until so many completions are in the ledger of the stage that asks."""
        self.wait_until(lambda: len(self.entries("result")) >= count)

    def await_members(self, stage: str, count: int, *, sharing: bool = True) -> None:
        """Waits until a stage's group has so many members, ``sharing``: all with partitions."""

        def there() -> bool:
            shares = self._shares(stage)
            return len(shares) == count and (all(shares) or not sharing)

        self.wait_until(there)

    def _shares(self, stage: str) -> list[int]:
        group = self.module.pipeline.stages[stage].group
        admin = AdminClient(self.config)  # kept, or its answer would never come
        (found,) = admin.describe_consumer_groups([group]).values()
        try:
            return [len(m.assignment.topic_partitions) for m in found.result(30).members]
        except KafkaException:  # there is no such group yet
            return []

    def committed_outputs(self, topic: str) -> int:
        """How many records a topic has now, for tests that strike in the middle."""
        found = getattr(self.module, topic)
        return sum(oracle.ends(self.servers, found.name).values())

    def has_open_transaction(self) -> bool:
        """Whether something is written to the answers that nobody may see yet."""
        name = self.module.answers.name
        return oracle.ends(self.servers, name) != oracle.ends(self.servers, name, "read_committed")

    # --- what is there ------------------------------------------------------------------------

    @property
    def outputs_of(self) -> list[Topic[Any]]:
        """The topics that the stages write."""
        module = self.module
        return [module.answers, module.shouts, module.pairs]

    @property
    def ledger(self) -> str:
        """The ledger's topic."""
        return ledger_of(self.module)

    def entries(self, kind: str) -> list[oracle.Seen]:
        """The intents, or the results, in the ledger of the stage that asks."""
        seen = oracle.read(self.servers, self.ledger, oracle.LEDGER_ENTRY)
        return [s for s in seen if s.value["kind"] == kind]

    def outputs(self, topic: str) -> list[Mapping[str, Any]]:
        """The records of a topic."""
        found = getattr(self.module, topic)
        return [s.value for s in oracle.read(self.servers, found.name, schema_of(found.record))]

    def dead_letters(self) -> list[Mapping[str, Any]]:
        """The pipeline's dead letters."""
        name = self.module.pipeline.dead_letters.name
        return [s.value for s in oracle.read(self.servers, name, schema_of(DeadLetter))]

    def dead_lines(self) -> list[str]:
        """The lines that are dead letters."""
        decode = codec_for(self.module.Line).decode
        return [decode(i["value"]).text for letter in self.dead_letters() for i in letter["inputs"]]

    def left(self, *names: str) -> dict[str, int]:
        """Oracle D: committed records that the named stages, or all, have not committed as read."""
        found: dict[str, int] = {}
        stages = self.module.pipeline.stages
        for stage in map(stages.__getitem__, names or stages):
            topics = [t.name for t in stage.reads]
            found |= oracle.uncommitted(self.servers, stage.group, topics)
        return found

    # --- the oracles --------------------------------------------------------------------------

    def finish(self, workers: Collection[Process], dead: Collection[str] = ()) -> None:
        """The running workers do the rest, within a bound, and leave; then :meth:`check`."""
        self.await_the_rest()
        for worker in workers:
            self.workers.signal(worker, signal.SIGTERM)
        for worker in workers:
            assert worker.wait(180) == 0, self.workers.log()[-3000:]
        self.check(dead)

    def await_the_rest(self) -> None:
        """Waits until the workers have done everything."""
        self.wait_until(lambda: not self.left(), self.patience)

    def run_to_the_end(self, dead: Collection[str] = ()) -> None:
        """A new worker does the rest; then :meth:`check`."""
        # not told to leave, which it may be too young to hear, when there is nothing left to do
        status = self.workers.run("all", "--until-idle", "3", timeout=300)
        assert status == 0, self.workers.log()[-3000:]
        self.check(dead)

    def check(self, dead: Collection[str] = ()) -> None:
        """Oracles A, B, C and D on every topic of the pipeline, where they matter.

        Args:
            dead: the lines that the model's stage was to make dead letters of.
        """
        self._note_recovery()
        answered = {k: [t for t in ts if t not in dead] for k, ts in self.texts.items()}
        texts: list[Mapping[str, list[str]]] = [
            {k: [f"re: {t}" for t in ts] for k, ts in answered.items()},
            {k: [t.upper() for t in ts] for k, ts in self.texts.items()},
            {k: [f"re: {t} {t.upper()}" for t in ts] for k, ts in answered.items()},
        ]
        for topic, expected in zip(self.outputs_of, texts, strict=True):
            seen = oracle.read(self.servers, topic.name, schema_of(topic.record))
            bad = oracle.judge(seen, expected, "text")
            assert not bad, (topic.name, bad, [dead["message"] for dead in self.dead_letters()])
            assert not oracle.disagreement(self.follower.settled(topic.name), seen), topic.name
        assert not (left := self.left()), left
        self.check_bills()

    def check_bills(self) -> None:
        """Oracle C."""
        charged = self.charged()
        self.row.calls, self.row.bound = charged.calls, charged.bound
        self.row.repaid = len(charged.repaid)
        assert not charged, charged

    def charged(self) -> oracle.Account:
        """The bills, beside what may have been paid."""
        lines = self.module.lines
        readable = codec_for(self.module.Line).decode
        seen = oracle.read(
            self.servers, lines.name, schema_of(lines.record),
            skip=lambda value: not _succeeds(readable, value),
        )  # fmt: skip
        questions = {f"{lines.name}:{s.partition}:{s.offset}": s.value["text"] for s in seen}
        lost = self.workers.log().count("ask: lost") * CALLS
        bound = len(questions) + self.in_flight + lost + self.model.spoiled
        leaving = {
            questions[s.value["inputs"]]
            for s in self.entries("intent")
            if any(at - LEAVING <= s.at <= at for at in self._stopped)
        }
        results = self.entries("result")
        return oracle.account(self.model.account, results, questions, bound, leaving)

    def check_aborted(self) -> None:
        """Oracle E."""
        found = 0
        for topic in self.outputs_of:
            records = oracle.aborted(self.servers, topic.name, schema_of(topic.record))
            assert not oracle.visible(records, self.follower.settled(topic.name)), topic.name
            found += len(records)
        assert found, "no transaction was aborted"

    def _note_recovery(self) -> None:
        arrivals = self.follower.arrivals
        for strike in self._strikes:
            after = bisect_right(arrivals, strike)
            if after < len(arrivals):
                self.row.recovery.append(round(arrivals[after] - strike, 3))
        self._strikes.clear()


def _opened(producer: TransactionalProducer) -> bool:
    try:
        producer.open()
    except RetryLater:
        return False
    return True


def _succeeds(decode: Callable[[bytes], object], value: bytes) -> bool:
    try:
        decode(value)
    except DecodeError:
        return False
    return True


def ledger_of(module: ModuleType) -> str:
    """The topic of the ledger of the stage that asks."""
    return f"{module.pipeline.name}.ask.ledger"


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[Row]:
    """The test's row in the table of faults."""
    marker = request.node.get_closest_marker("fault")
    name = str(request.node.originalname).removeprefix("test_").replace("_", " ")
    made = Row(marker.args[0] if marker else name)
    yield made
    table.publish(request.node, made)


@pytest.fixture(scope="module")
def ports() -> tuple[int, ...]:
    """The listener of a module's own broker behind the proxy, and the proxy's."""
    return choose(2)


@pytest.fixture(scope="module")
def broker_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a module's own broker has its data."""
    return tmp_path_factory.mktemp("broker")


@pytest.fixture(scope="module")
def own_broker(broker_home: Path, ports: tuple[int, ...]) -> Iterator[Broker]:
    made = Broker(broker_home, behind(*ports))
    yield made
    made.close()


@pytest.fixture
def broker(own_broker: Broker) -> Iterator[Broker]:
    """A module's own broker, to be struck; the next test finds it well."""
    yield own_broker
    own_broker.heal()


@pytest.fixture
def proxy(own_broker: Broker, ports: tuple[int, ...]) -> Iterator[Proxy]:
    """The way to that broker for clients that don't use its own address."""
    listener, advertised = ports
    made = Proxy(advertised, listener)
    yield made
    made.close()


@pytest.fixture
def kafka(bootstrap_servers: str) -> dict[str, object]:
    """librdkafka settings for the Kafka of the test's module."""
    return client_config(bootstrap_servers)


@pytest.fixture
def worker_servers(bootstrap_servers: str) -> str:
    """Where the workers find Kafka; the proxy's tests put themselves in between."""
    return bootstrap_servers


@pytest.fixture
def bench(
    kafka: dict[str, Any],
    bootstrap_servers: str,
    worker_servers: str,
    row: Row,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    monkeypatch.setenv("FAULT_PIPELINE", unique("faults"))
    import tests.faults.pipeline

    module = importlib.reload(tests.faults.pipeline)
    create_topics(kafka, module.pipeline.topics)
    # so that oracle C knows when a result was there, rather than when it was sent
    configure(kafka, ledger_of(module), "message.timestamp.type", "LogAppendTime")

    def answer(request: dict[str, Any]) -> str:
        return json.dumps({"text": f"re: {request['messages'][-1]['content']}"})

    model = ModelServer(answer, seconds=0.1)
    environment = {
        "FAULT_PIPELINE": os.environ["FAULT_PIPELINE"],
        "PRESSROOM_BOOTSTRAP_SERVERS": worker_servers,
        "OPENAI_BASE_URL": model.url,
        # or the answers to other tests' questions, which are the same, would be taken
        "PRESSROOM_MODEL": unique("model"),
    }
    workers = Workers(environment, "tests.faults.pipeline:pipeline", tmp_path / "home")
    topics = [module.answers, module.shouts, module.pairs]
    follower = oracle.Follower(bootstrap_servers, {t.name: schema_of(t.record) for t in topics})
    yield Bench(module, bootstrap_servers, kafka, model, workers, follower, row)
    workers.close()
    model.close()
    follower.close()

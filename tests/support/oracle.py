"""Judges that share no code with the product: they know Kafka, Avro and the contracts alone.

**A** the outputs are exactly what is expected, in order within a key, read to the end after every
open transaction has ended. **B** a read-committed reader that was there all the time saw the same, in
the same order. **C** the model's bills stay within the bound, and nothing whose result was in the ledger
was asked again. **D** the committed offsets are the ends of the inputs. **E** aborted records exist on
disk, and nobody saw them.
"""

import io
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tests.support.config import client_config

Schema = Mapping[str, Any]

LEDGER_ENTRY: Any = fastavro.schema.load_schema(
    str(Path(__file__).parents[2] / "schemas/avro/ledger_entry.avsc")
)
"""The ledger's contract."""

_PATIENCE = 120.0


@dataclass(frozen=True)
class Seen:
    """A record as a foreign reader sees it."""

    partition: int
    offset: int
    key: str
    value: Mapping[str, Any]
    at: int
    """The record's timestamp, in milliseconds."""


@dataclass(frozen=True)
class Bill:
    """A completion as the model's endpoint puts it on the account."""

    question: str
    """The user message."""
    seed: int
    asked: float
    """When the request arrived, in seconds since 1970."""


@dataclass
class Violations:
    """What is wrong; empty lists when nothing is."""

    lost: list[Any] = field(default_factory=list)
    doubled: list[Any] = field(default_factory=list)
    foreign: list[Any] = field(default_factory=list)
    disordered: list[Any] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.foreign or self.disordered)


def _consumer(servers: str, isolation: str, group: str = "oracle") -> Consumer:
    return Consumer(
        client_config(servers)
        | {
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            "socket.timeout.ms": 10_000,  # of a broker that hangs
        }
    )


def ends(servers: str, topic: str, isolation: str = "read_uncommitted") -> dict[int, int]:
    """The end of each partition: control records included, and uncommitted ones if they are read."""
    consumer = _consumer(servers, isolation)
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    found = {p: _end(consumer, TopicPartition(topic, p)) for p in partitions}
    consumer.close()
    return found


def _end(consumer: Consumer, partition: TopicPartition) -> int:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return consumer.get_watermark_offsets(partition, timeout=30)[1]
        except KafkaException:  # a topic that was just created has no leaders yet
            if time.monotonic() > until:
                raise


def read(
    servers: str,
    topic: str,
    schema: Schema,
    isolation: str = "read_committed",
    skip: Callable[[bytes], bool] = lambda _: False,
) -> list[Seen]:
    """Every record of a topic, decoded with a schema that was read from a contract.

    Reads on until each partition's end of file lies at or after the end it had at the beginning,
    which it does only when the transactions before it have ended.

    Args:
        servers: where Kafka is.
        topic: what to read.
        schema: of its values.
        isolation: librdkafka's ``isolation.level``.
        skip: values to pass over, which were spoiled on purpose.
    """
    parsed = fastavro.parse_schema(dict(schema))
    messages = _drain(servers, topic, dict.fromkeys(ends(servers, topic), 0), isolation)
    found = [_seen(m, parsed) for m in messages if not skip(m.value())]
    return sorted(found, key=lambda s: (s.partition, s.offset))


def _drain(servers: str, topic: str, start: Mapping[int, int], isolation: str) -> list[Any]:
    """All messages from the given offsets to the present ends."""
    wanted = ends(servers, topic)
    consumer = _consumer(servers, isolation)
    consumer.assign([TopicPartition(topic, p, offset) for p, offset in start.items()])
    reached = dict.fromkeys(start, -1)
    messages = []
    until = time.monotonic() + _PATIENCE
    while any(reached[p] < wanted[p] for p in start):
        assert time.monotonic() < until, f"{topic} did not settle within {_PATIENCE:g} s"
        for message in [consumer.poll(0.2), *consumer.consume(1000, 0)]:
            error = message.error() if message is not None else None
            if message is None:
                continue
            if error is None:
                messages.append(message)
                continue
            assert error.code() == KafkaError._PARTITION_EOF, error
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            reached[partition] = offset
    consumer.close()
    return messages


def _seen(message: Any, schema: Any) -> Seen:
    decoded = fastavro.schemaless_reader(io.BytesIO(_body(message.value())), schema, None)
    assert isinstance(decoded, dict)
    key, at = (message.key() or b"").decode(errors="replace"), message.timestamp()[1]
    return Seen(message.partition(), message.offset(), key, decoded, at)


def _body(value: bytes) -> bytes:
    """What follows the header: that of Avro's single-object encoding, or of Confluent's wire format."""
    if value[:2] == b"\xc3\x01":
        return value[10:]
    assert value[:1] == b"\x00", "neither single-object encoding nor wire format"
    return value[5:]


def judge(seen: Iterable[Seen], expected: Mapping[str, list[Any]], name: str) -> Violations:
    """Oracle A.

    Args:
        seen: the outputs.
        expected: for each key the values of the field, in order.
        name: the field that is compared.
    """
    found: dict[str, list[Any]] = defaultdict(list)
    for record in seen:
        found[record.key].append(record.value[name])
    violations = Violations()
    for key in expected.keys() | found.keys():
        wanted, got = Counter(expected.get(key, [])), Counter(found.get(key, []))
        violations.lost += (wanted - got).elements()
        violations.doubled += [v for v in (got - wanted).elements() if v in wanted]
        violations.foreign += [v for v in got if v not in wanted]
        if wanted == got and found[key] != expected[key]:
            violations.disordered.append(key)
    return violations


def uncommitted(servers: str, group: str, topics: Iterable[str]) -> dict[str, int]:
    """Oracle D: for each partition with committed records after the group's offset, how many."""
    consumer = _consumer(servers, "read_committed", group)
    wrong: dict[str, int] = {}
    for topic in topics:
        partitions = [TopicPartition(topic, p) for p in ends(servers, topic)]
        committed = _committed(consumer, partitions)
        start = {tp.partition: max(tp.offset, 0) for tp in committed}
        left = Counter(m.partition() for m in _drain(servers, topic, start, "read_committed"))
        wrong |= {f"{topic}:{p}": count for p, count in left.items()}
    consumer.close()
    return wrong


def _committed(consumer: Consumer, partitions: list[TopicPartition]) -> list[TopicPartition]:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return consumer.committed(partitions, timeout=30)
        except KafkaException as failure:
            # a broker that was just started does not coordinate yet
            if "oordinator" not in failure.args[0].str() or time.monotonic() > until:
                raise
            time.sleep(0.1)


class Follower:
    """Oracle B: a reader that is there from the beginning, while the faults happen."""

    def __init__(
        self, servers: str, schemas: Mapping[str, Schema], isolation: str = "read_committed"
    ) -> None:
        """
        Args:
            servers: where Kafka is; it may go away and come back.
            schemas: what to read: topics, and how their values are decoded.
            isolation: the tests of this oracle let it see too much.
        """
        self._servers = servers
        self._schemas = {t: fastavro.parse_schema(dict(s)) for t, s in schemas.items()}
        self._seen: dict[str, list[Seen]] = {topic: [] for topic in schemas}
        self._reached: dict[tuple[str, int], int] = {}
        self.arrivals: list[float] = []
        """When each record came, by the monotonic clock."""
        self._closing = threading.Event()
        partitions = [TopicPartition(t, p, 0) for t in schemas for p in ends(servers, t)]
        self._consumer = _consumer(servers, isolation)
        self._consumer.assign(partitions)
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._closing.is_set():
            message = self._consumer.poll(0.2)
            error = message.error() if message is not None else None
            if message is None:
                continue
            topic = str(message.topic())
            if error is None:
                self._seen[topic].append(_seen(message, self._schemas[topic]))
                self.arrivals.append(time.monotonic())
            elif error.code() == KafkaError._PARTITION_EOF:
                self._reached[topic, int(message.partition() or 0)] = int(message.offset() or 0)

    def settled(self, topic: str) -> list[Seen]:
        """What it saw of a topic, in the order in which it came, once it is at the present ends."""
        wanted = ends(self._servers, topic)
        until = time.monotonic() + _PATIENCE
        while any(self._reached.get((topic, p), -1) < end for p, end in wanted.items()):
            assert time.monotonic() < until, f"the reader of {topic} did not come to its ends"
            assert self._thread.is_alive(), f"the reader of {topic} is gone"
            time.sleep(0.05)
        return list(self._seen[topic])

    def close(self) -> None:
        """Stops reading."""
        self._closing.set()
        self._thread.join()
        self._consumer.close()


def disagreement(followed: Iterable[Seen], read_: Iterable[Seen]) -> list[int]:
    """Oracle B: the partitions of which two readers saw something else, or in another order."""
    first, second = _by_partition(followed), _by_partition(read_)
    return sorted(p for p in first.keys() | second.keys() if first.get(p) != second.get(p))


def _by_partition(seen: Iterable[Seen]) -> dict[int, list[Seen]]:
    found: dict[int, list[Seen]] = defaultdict(list)
    for record in seen:
        found[record.partition].append(record)
    return found


@dataclass(frozen=True)
class Account:
    """Oracle C: what was paid, and what may have been."""

    calls: int
    bound: int
    repaid: list[str]
    """Questions that were asked again when their result was in the ledger."""

    def __bool__(self) -> bool:
        return self.calls > self.bound or bool(self.repaid)


def account(
    bills: Sequence[Bill],
    results: Iterable[Seen],
    questions: Mapping[str, str],
    bound: int,
    leaving: Iterable[str] = (),
) -> Account:
    """Compares the model's bills with the ledger.

    Args:
        bills: all of them.
        results: the ledger's results, with the times at which the broker appended them.
        questions: the user message that each input, ``topic:partition:offset``, gives rise to.
        bound: the most calls that may have been paid.
        leaving: the questions that were on their way out of a process when it was stopped; each may
            leave once when it goes on, whatever is known by then.
    """
    # the replies of one input are asked for one after the other, with the seeds 0, 1, …
    appended: dict[str, dict[str, int]] = defaultdict(dict)
    for entry in sorted(results, key=lambda s: s.at):
        question = questions[entry.value["inputs"]]
        appended[question].setdefault(entry.value["call_id"], entry.at)
    known = {
        (question, seed): at
        for question, calls in appended.items()
        for seed, at in enumerate(calls.values())
    }
    late = [b for b in bills if int(b.asked * 1000) > known.get((b.question, b.seed), 1 << 62)]
    repaid = Counter(bill.question for bill in late)
    repaid.subtract({question: 1 for question in leaving if repaid[question]})
    return Account(len(bills), bound, list(repaid.elements()))


def aborted(servers: str, topic: str, schema: Schema) -> list[Seen]:
    """Oracle E: the records on disk that belong to aborted transactions."""
    committed = {(s.partition, s.offset) for s in read(servers, topic, schema)}
    on_disk = read(servers, topic, schema, "read_uncommitted")
    return [s for s in on_disk if (s.partition, s.offset) not in committed]


def visible(aborted_: Iterable[Seen], followed: Iterable[Seen]) -> list[Seen]:
    """Oracle E: the aborted records that a reader saw nevertheless."""
    seen = {(s.partition, s.offset) for s in followed}
    return [s for s in aborted_ if (s.partition, s.offset) in seen]

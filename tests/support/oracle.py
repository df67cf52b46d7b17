"""Judges that share no code with the product: they know Kafka, Avro and the contracts alone.

**A** the outputs are exactly what is expected, in order within a key, read to the end after every
open transaction has ended. **D** the committed offsets are the ends of the inputs.
"""

import io
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

_PATIENCE = 60.0


@dataclass(frozen=True)
class Seen:
    """A record as a foreign reader sees it."""

    partition: int
    offset: int
    key: str
    value: Mapping[str, Any]


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
        {
            "bootstrap.servers": servers,
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
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
    servers: str, topic: str, schema: Mapping[str, Any], isolation: str = "read_committed"
) -> list[Seen]:
    """Every record of a topic, decoded with a schema that was read from a contract.

    Reads on until each partition's end of file lies at or after the end it had at the beginning,
    which it does only when the transactions before it have ended.
    """
    parsed = fastavro.parse_schema(dict(schema))
    messages = _drain(servers, topic, dict.fromkeys(ends(servers, topic), 0), isolation)
    return sorted((_seen(m, parsed) for m in messages), key=lambda s: (s.partition, s.offset))


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
    value = message.value()
    assert value[:2] == b"\xc3\x01", "no single-object encoding"
    decoded = fastavro.schemaless_reader(io.BytesIO(value[10:]), schema, None)
    assert isinstance(decoded, dict)
    return Seen(message.partition(), message.offset(), message.key().decode(), decoded)


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
        committed = consumer.committed(partitions, timeout=30)
        start = {tp.partition: max(tp.offset, 0) for tp in committed}
        left = Counter(m.partition() for m in _drain(servers, topic, start, "read_committed"))
        wrong |= {f"{topic}:{p}": count for p, count in left.items()}
    consumer.close()
    return wrong

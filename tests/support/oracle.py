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
from confluent_kafka import Consumer, TopicPartition

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
        }
    )


def _ends(servers: str, topic: str) -> dict[int, int]:
    """The high watermarks, uncommitted records included."""
    consumer = _consumer(servers, "read_uncommitted")
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    ends = {
        p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[1]
        for p in partitions
    }
    consumer.close()
    return ends


def read(
    servers: str, topic: str, schema: Mapping[str, Any], isolation: str = "read_committed"
) -> list[Seen]:
    """Every record of a topic, decoded with a schema that was read from a contract.

    Reads on until each partition's position has passed the end it had at the beginning; a position
    can pass only when the transactions before it have ended.
    """
    ends = _ends(servers, topic)
    parsed = fastavro.parse_schema(dict(schema))
    consumer = _consumer(servers, isolation)
    consumer.assign([TopicPartition(topic, p, 0) for p in ends])
    seen: list[Seen] = []
    until = time.monotonic() + _PATIENCE
    while not _passed(servers, topic, ends, consumer):
        assert time.monotonic() < until, f"{topic} did not settle within {_PATIENCE:g} s"
        for message in consumer.consume(500, 0.3):
            assert message.error() is None, message.error()
            seen.append(_seen(message, parsed))
    consumer.close()
    return sorted(seen, key=lambda s: (s.partition, s.offset))


def _passed(servers: str, topic: str, ends: Mapping[int, int], consumer: Consumer) -> bool:
    positions = consumer.position([TopicPartition(topic, p) for p in ends])
    behind = {p.partition for p in positions if max(p.offset, 0) < ends[p.partition]}
    if not behind:
        return True
    # a position does not move over control records; the last stable offset tells that nothing is
    # left before the end but those
    stable = {
        p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[1] for p in behind
    }
    if any(stable[p] < ends[p] for p in behind):
        return False
    return not _anything_left(servers, topic, consumer, behind)


def _anything_left(servers: str, topic: str, consumer: Consumer, behind: set[int]) -> bool:
    probe = _consumer(servers, "read_committed", "oracle-probe")
    at = {p.partition: max(p.offset, 0) for p in consumer.position(
        [TopicPartition(topic, p) for p in behind])}  # fmt: skip
    probe.assign([TopicPartition(topic, p, offset) for p, offset in at.items()])
    found = probe.consume(1, 1.5)
    probe.close()
    return bool(found)


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


def uncommitted(servers: str, group: str, topics: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Oracle D: partitions whose committed offset is not their end, with both offsets.

    A transaction's control record lies after its data, so an offset that is behind counts only if
    records are left there.
    """
    consumer = _consumer(servers, "read_committed", group)
    wrong = {}
    for topic in topics:
        ends = _ends(servers, topic)
        committed = consumer.committed([TopicPartition(topic, p) for p in ends], timeout=30)
        for tp in committed:
            offset = max(tp.offset, 0)
            if offset < ends[tp.partition] and _records_from(servers, topic, tp.partition, offset):
                wrong[f"{topic}:{tp.partition}"] = (offset, ends[tp.partition])
    consumer.close()
    return wrong


def _records_from(servers: str, topic: str, partition: int, offset: int) -> bool:
    probe = _consumer(servers, "read_committed", "oracle-probe")
    probe.assign([TopicPartition(topic, partition, offset)])
    found = probe.consume(1, 1.5)
    probe.close()
    return bool(found)

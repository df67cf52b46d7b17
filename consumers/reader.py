"""The read-committed reader: topics read from one place to another, outside any consumer group."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from schemas.errors import Refused, RetryLater, UsageError
from schemas.message import Received, make

Partition = tuple[str, int]

DEFAULTS: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
    # the only broker of a cluster names none for a moment when it was just started again; a client
    # that believes it ("none") has nobody left to ask, and stands still for good
    "metadata.recovery.strategy": "rebootstrap",
    # a broker that hangs is given up after so long, rather than after a minute: others lead its
    # partitions by then
    "socket.timeout.ms": 10_000,
    # as in the Java clients; librdkafka's default may keep a broker that is back waiting for 10 s
    "reconnect.backoff.max.ms": 1000,
    "fetch.wait.max.ms": 100,
    "fetch.error.backoff.ms": 50,
}

_TIMEOUT = 30.0
_PASSING = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)
_BATCH = 1000


def to_received(message: Message) -> Received:
    """A client's message as a :class:`~schemas.message.Received`."""
    kind, timestamp = message.timestamp()
    fields = (
        message.topic(), message.partition(), message.offset(), timestamp if kind else -1,
        message.key(), message.value(), message.headers() or [],
    )  # fmt: skip
    made: Received = make(Received, fields)
    return made


def partitions_of(config: Mapping[str, Any], topics: Collection[str]) -> dict[str, int]:
    """How many partitions each topic has.

    Raises:
        UsageError: a topic does not exist, or is hidden from this client.
        RetryLater: no broker answers.
    """
    admin = AdminClient(dict(config))
    try:
        known = admin.list_topics(timeout=_TIMEOUT).topics
        absent, hidden = unseen(admin, set(topics) - known.keys())
        if absent:
            listed = ", ".join(sorted(absent))
            raise UsageError(f"no topic {listed}; `pressroom topics create` makes them")
        if hidden:
            raise UsageError(
                f"Kafka refuses DESCRIBE on topic {', '.join(sorted(hidden))}; "
                "`pressroom acls` lists the rights that are needed"
            )
        if not known.keys() >= set(topics):  # they were made in this moment
            known = admin.list_topics(timeout=_TIMEOUT).topics
    except KafkaException as failure:
        raise RetryLater(f"Kafka does not answer: {failure.args[0].str()}") from failure
    return {name: len(known[name].partitions) for name in topics}


def unseen(admin: AdminClient, topics: Collection[str]) -> tuple[set[str], set[str]]:
    """Of topics that a listing left out: those that don't exist, and those hidden from this client.

    Raises:
        KafkaException: no broker answers.
    """
    if not topics:
        return set(), set()
    answers = admin.describe_topics(TopicCollection(list(topics)), request_timeout=_TIMEOUT)
    absent, hidden = set(), set()
    for name, future in answers.items():
        failure = future.exception()
        if failure is None:
            continue
        code = failure.args[0].code()
        if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            hidden.add(name)
        elif code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_EXCEPTION):
            absent.add(name)
        else:
            raise failure
    return absent, hidden


def end_offsets(
    config: Mapping[str, Any], partitions: Collection[Partition]
) -> dict[Partition, int]:
    """The high watermark of each partition: the offset after its last record, committed or not.

    Raises:
        RetryLater: no broker answers.
    """
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    return _list_offsets(config, partitions, latest)


def begin_offsets(
    config: Mapping[str, Any], partitions: Collection[Partition]
) -> dict[Partition, int]:
    """The low watermark of each partition: no record before it is kept.

    Raises:
        RetryLater: no broker answers.
    """
    earliest = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
    return _list_offsets(config, partitions, earliest)


def _list_offsets(
    config: Mapping[str, Any], partitions: Collection[Partition], spec: Any
) -> dict[Partition, int]:
    if not partitions:
        return {}
    admin = _connected(config)  # kept: a client that is let go of answers no more
    until = time.monotonic() + _TIMEOUT
    while True:
        futures = admin.list_offsets(
            {TopicPartition(t, p): spec for t, p in partitions},
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=_TIMEOUT,
        )
        try:
            return {(tp.topic, tp.partition): f.result().offset for tp, f in futures.items()}
        except KafkaException as failure:
            error: KafkaError = failure.args[0]
            # a topic that was just created, or whose broker just came back, has no leaders yet
            if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                hidden = next(tp.topic for tp, f in futures.items() if f.exception() is not None)
                raise Refused(f"Kafka refuses DESCRIBE on topic {hidden}") from failure
            if not (error.retriable() or error.code() in _PASSING) or time.monotonic() > until:
                raise RetryLater(f"Kafka does not answer: {error.str()}") from failure
            time.sleep(0.1)


def _connected(config: Mapping[str, Any]) -> AdminClient:
    """A client with a connection: without, one in twenty listed offsets only after 1 or 3 s."""
    admin = AdminClient(dict(config))
    try:
        admin.list_topics(timeout=_TIMEOUT)
    except KafkaException as failure:
        raise RetryLater(f"Kafka does not answer: {failure.args[0].str()}") from failure
    return admin


def start_offsets(
    config: Mapping[str, Any], partitions: Collection[Partition], begin: str
) -> dict[Partition, int]:
    """Where to begin in each partition.

    Args:
        begin: ``earliest``, ``latest``, an offset, or a time in ISO 8601 (UTC if it names no zone).

    Raises:
        UsageError: it is none of these.
        RetryLater: no broker answers.
    """
    if begin == "earliest":
        return {}
    if begin == "latest":
        return end_offsets(config, partitions)
    ends = end_offsets(config, partitions)
    if begin.isdecimal():
        return {p: min(int(begin), end) for p, end in ends.items()}
    spec = OffsetSpec.for_timestamp(_milliseconds(begin))
    found = _list_offsets(config, partitions, spec)
    return {p: offset if offset >= 0 else ends[p] for p, offset in found.items()}


def _milliseconds(time_of_day: str) -> int:
    try:
        at = datetime.fromisoformat(time_of_day)
    except ValueError:
        at = None
    if at is None or at.year < 1970:
        raise UsageError(
            f"{time_of_day!r} is neither earliest, latest, an offset "
            "nor a time since 1970 like 2026-01-31T12:00:00Z"
        )
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


class Reader:
    """Reads partitions, read-committed, in offset order within each."""

    def __init__(
        self,
        config: Mapping[str, Any],
        partitions: Collection[Partition],
        start: Mapping[Partition, int] | None = None,
    ) -> None:
        """
        Args:
            config: librdkafka settings, at least ``bootstrap.servers``.
            partitions: what to read.
            start: the first offset, where it is not the beginning.
        """
        # where retention has deleted an offset, what is left is read
        settings = DEFAULTS | dict(config) | {"auto.offset.reset": "earliest"}
        self._consumer = Consumer({"group.id": "pressroom-reader"} | settings)
        start = start or {}
        self._partitions = set(partitions)
        self._config = config
        # measured: asked for the beginning, the client takes half a second longer than for offset 0
        self._consumer.assign([TopicPartition(t, p, start.get((t, p), 0)) for t, p in partitions])
        self.reached: dict[Partition, int] = {}
        """For each partition that was read to its last stable offset: that offset."""

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def poll(self, seconds: float) -> list[Received]:
        """The next records: at once if there are any, or after so many seconds.

        Raises:
            RetryLater: the broker reports an error.
            Refused: it refuses to let this client read.
        """
        first = self._consumer.poll(seconds)
        if first is None:
            return []
        messages = [first, *self._consumer.consume(_BATCH, 0)]
        return [to_received(m) for m in messages if self._is_record(m)]

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() == KafkaError._PARTITION_EOF:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None
            assert partition is not None
            assert offset is not None
            self.reached[topic, partition] = offset
            return False
        # it is assigned what it reads, and needs no right on the group whose name a client has to have
        if error.retriable() or error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            return False
        if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise Refused(f"Kafka refuses READ on topic {message.topic()}")
        raise RetryLater(f"can't read {message.topic()}: {error.str()}")

    def follow(self) -> Iterator[Received]:
        """Everything there is, and whatever comes, without end."""
        while True:
            yield from self.poll(0.5)

    def committed(self, patience: float = 60.0) -> Iterator[Received]:
        """Everything up to the last stable offset, as it is when reached."""
        return self._until(lambda: self._partitions - self.reached.keys(), patience)

    def settled(self, patience: float = 60.0) -> Iterator[Received]:
        """Everything up to the present end, once the transactions that are open now have ended.

        Args:
            patience: seconds to wait while nothing moves.

        Raises:
            RetryLater: a transaction is still open then, or no broker answers.
        """
        ends = end_offsets(self._config, self._partitions)
        return self._until(
            lambda: {p for p, end in ends.items() if self.reached.get(p, -1) < end}, patience
        )

    def _until(
        self, unfinished: Callable[[], Collection[Partition]], patience: float
    ) -> Iterator[Received]:
        moved, reached = time.monotonic(), dict(self.reached)
        while unfinished():
            records = self.poll(0.2)
            yield from records
            if records or reached != self.reached:
                moved, reached = time.monotonic(), dict(self.reached)
            elif time.monotonic() - moved > patience:
                topic, partition = next(iter(unfinished()))
                raise RetryLater(
                    f"nothing moved on {topic}:{partition} for {patience:.0f} s: no broker answers, "
                    "or a transaction is open whose writer is paused or hangs"
                )


def read_settled(
    config: Mapping[str, Any],
    topics: Collection[str],
    start: Mapping[Partition, int] | None = None,
) -> Iterator[Received]:
    """All committed records of whole topics, up to their present ends.

    Raises:
        UsageError: a topic does not exist.
        RetryLater: no broker answers, or a transaction stays open.
    """
    counts = partitions_of(config, topics)
    partitions = [(t, p) for t, count in counts.items() for p in range(count)]
    with Reader(config, partitions, start) as reader:
        yield from reader.settled()

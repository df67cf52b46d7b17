"""The transactional producer: the one place that reads write errors.

A transaction either is visible as a whole or not at all. Every way it can end is one of four: done,
aborted (commit the same work again), unknown (the producer was replaced; ask Kafka what was
committed), or fenced (leave).
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from schemas.errors import Fenced, OutcomeUnknown, Refused, RetryLater, Stop, TransactionAborted
from schemas.message import Outgoing
from schemas.topics import MAX_KEPT_BYTES

log = logging.getLogger(__name__)

TRANSACTION_TIMEOUT = 10.0
"""Seconds after which the broker aborts a transaction on its own; below the group's session."""

# shorter than a request's: librdkafka would ask to commit a second time, under the same epoch, and the
# first request, when it arrives after all, would end the next transaction half-way
_STEP_TIMEOUT = TRANSACTION_TIMEOUT - 2.0
_CONNECT_TIMEOUT = 5.0
_WATCHED_BYTES = 128 * 1024
_FENCING = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
_REFUSED = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.INVALID_RECORD)
_REFUSED_RIGHTS = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
)
_HOPELESS = (
    *_REFUSED_RIGHTS,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._AUTHENTICATION,
)

DEFAULTS: dict[str, Any] = {
    "transaction.timeout.ms": int(TRANSACTION_TIMEOUT * 1000),
    "socket.timeout.ms": int(TRANSACTION_TIMEOUT * 1000),
    # librdkafka's default, 100 ms, is waited in every back-to-back transaction
    "retry.backoff.ms": 1,
    # as in the Java clients; librdkafka's default may keep a broker that is back waiting for 10 s
    "reconnect.backoff.max.ms": 1000,
    # the alternative forgets every broker it knew as soon as the last is away, and that it waited for
    # one of them as coordinator (librdkafka's issue 5511); one that stands still is replaced
    "metadata.recovery.strategy": "none",
    "linger.ms": 1,
    "compression.type": "lz4",
    # the Java clients' partitioner, so that keys meet whoever wrote them
    "partitioner": "murmur2_random",
    "message.max.bytes": MAX_KEPT_BYTES + 64 * 1024,
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 512 * 1024,
}


class RecordRefused(TransactionAborted):
    """The transaction was aborted because the broker refuses one of its records for good."""

    def __init__(self, record: Outgoing, reason: str) -> None:
        super().__init__(f"{record.topic} refuses a record: {reason}")
        self.record, self.reason = record, reason


class _Aside:
    """A thread for steps that may never return; it can be left behind."""

    def __init__(self) -> None:
        self._steps: SimpleQueue[tuple[Future[None], Callable[[], None]] | None] = SimpleQueue()
        # not an executor's: the interpreter would wait for it before it exits
        Thread(target=self._work, name="aside", daemon=True).start()

    def run(self, step: Callable[[], None], seconds: float) -> None:
        """Raises what the step raises, or TimeoutError."""
        done: Future[None] = Future()
        self._steps.put((done, step))
        done.result(seconds)

    def end(self) -> None:
        self._steps.put(None)

    def _work(self) -> None:
        while item := self._steps.get():
            done, step = item
            try:
                done.set_result(step())
            except BaseException as failure:
                done.set_exception(failure)


class TransactionalProducer:
    """Writes records and offsets together, exactly once."""

    def __init__(
        self,
        config: Mapping[str, Any],
        transactional_id: str,
        make: Callable[[dict[str, Any]], Producer] = Producer,
    ) -> None:
        """
        Args:
            config: librdkafka settings, at least ``bootstrap.servers``.
            transactional_id: stable per instance, so that a restart fences its predecessor.
            make: builds the client; tests build one that fails on purpose.
        """
        self._config = DEFAULTS | dict(config) | {"transactional.id": transactional_id}
        self.transactional_id = transactional_id
        self._make = make
        self._producer: Producer | None = None
        self._aside = _Aside()
        self._began = 0.0
        self._refused: RecordRefused | None = None
        self._topics: set[str] = set()

    def open(self) -> None:
        """Fences any predecessor and settles what it left open.

        Raises:
            RetryLater: no broker answers yet.
            Stop: the broker refuses this client.
        """
        self._discard()
        producer = self._make(self._config)
        try:
            # with a connection up, the coordinator is found at once instead of after half a second
            producer.list_topics(timeout=_CONNECT_TIMEOUT)
            producer.init_transactions(_STEP_TIMEOUT)
        except KafkaException as failure:
            error: KafkaError = failure.args[0]
            if error.code() in _HOPELESS:
                raise self._hopeless(error) from failure
            raise RetryLater(f"Kafka does not answer: {error.str()}") from failure
        self._producer, self._aside = producer, _Aside()

    def commit(
        self,
        records: Iterable[Outgoing],
        offsets: list[TopicPartition] | None = None,
        group: object = None,
    ) -> None:
        """Writes records and, for a consumer group, offsets in one transaction.

        Args:
            records: what to write.
            offsets: the next offset to read, for each partition.
            group: the consumer's ``consumer_group_metadata()``.

        Raises:
            TransactionAborted: nothing of it is visible; the same may be committed again.
            RecordRefused: the same, and the broker will never take one of the records.
            OutcomeUnknown: read the committed offsets to see whether it happened.
            RetryLater: the producer could not be replaced, no broker answers; then :meth:`open`.
            Fenced: another instance took over.
            Stop: the broker refuses this client, or a topic is missing.
        """
        self.write(records)
        self.finish(offsets, group)

    def write(self, records: Iterable[Outgoing]) -> None:
        """The first half of :meth:`commit`: begins a transaction and writes into it."""
        if self._producer is None:
            self.open()
            raise OutcomeUnknown("the producer was replaced")
        self._refused = None
        self._topics.clear()
        self._began = time.monotonic()
        try:
            self._producer.begin_transaction()
            self._write(self._producer, records)
        except KafkaException as failure:
            self._failed(self._cause(failure.args[0]))
        except RecordRefused:
            self._abort()
            raise

    def finish(self, offsets: list[TopicPartition] | None = None, group: object = None) -> None:
        """The second half of :meth:`commit`, which waits for the broker; any thread may call it."""
        assert self._producer is not None
        try:
            if offsets:
                self._send_offsets(offsets, group)
            self._again(self._producer.commit_transaction)
        except KafkaException as failure:
            self._failed(failure.args[0])
        except TimeoutError:
            self._replace("no answer from the group's coordinator")

    def close(self) -> None:
        """Leaves; an open transaction is aborted by the next instance or by its timeout."""
        self._discard()

    # --- steps --------------------------------------------------------------------------------

    def _write(self, producer: Producer, records: Iterable[Outgoing]) -> None:
        produce: Any = producer.produce
        for record in records:
            topic, key, value, headers, partition = record
            self._topics.add(topic)
            watcher = None
            if value is not None and len(value) > _WATCHED_BYTES:
                watcher = self._watcher(record)
            while True:
                try:
                    produce(topic, value, key, partition, on_delivery=watcher, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.1)  # the queue is full: wait until some of it is sent
                except KafkaException as failure:
                    error: KafkaError = failure.args[0]
                    if error.code() in _REFUSED:
                        raise RecordRefused(record, error.str()) from failure
                    raise

    def _watcher(self, record: Outgoing) -> Callable[[KafkaError | None, object], None]:
        """Only large records are refused for good, so only those are watched."""

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None and error.code() in _REFUSED:
                self._refused = RecordRefused(record, error.str())

        return delivered

    def _send_offsets(self, *arguments: object) -> None:
        """Raises TimeoutError rather than wait forever.

        librdkafka's own timeout does not hold in this step when the coordinator went away (its issue
        5456). A thread left behind comes back when a connection changes, to a fenced client.
        """
        assert self._producer is not None
        step = partial(self._again, self._producer.send_offsets_to_transaction, *arguments)
        self._aside.run(step, _STEP_TIMEOUT)

    def _again(self, step: Callable[..., object], *args: object) -> None:
        """A step that says it may be retried is, until its time is up."""
        until = time.monotonic() + _STEP_TIMEOUT
        while True:
            left = until - time.monotonic()
            try:
                step(*args, max(left, 1.0))
                return
            except KafkaException as failure:
                if not failure.args[0].retriable() or left <= 0:
                    raise

    # --- ends ---------------------------------------------------------------------------------

    def _failed(self, error: KafkaError) -> None:
        if error.code() in _FENCING and not self._timed_out():
            self._discard()
            raise Fenced(
                f"another instance with transactional.id {self.transactional_id} took over"
            )
        if error.txn_requires_abort():
            self._abort()
            if self._refused is not None:
                raise self._refused
            if error.code() in _HOPELESS:
                raise self._hopeless(error)
            self._check_topics()
            raise TransactionAborted(error.str())
        self._replace(error.str())

    def _check_topics(self) -> None:
        """Records that are not delivered only say how many they are; their topics say why."""
        assert self._producer is not None
        for name in sorted(self._topics):
            try:
                error = self._producer.list_topics(name, _CONNECT_TIMEOUT).topics[name].error
            except KafkaException:
                return  # no broker answers: that is no matter of the topics
            if error is not None and error.code() in _HOPELESS:
                raise self._hopeless(error, f"topic {name}")

    def _hopeless(self, error: KafkaError, what: str = "Kafka") -> Stop:
        if error.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            return Stop(f"Kafka refuses WRITE on transactional-id {self.transactional_id}")
        kind = Refused if error.code() in _REFUSED_RIGHTS else Stop
        return kind(f"can't write to {what}: {error.str()}")

    def _cause(self, error: KafkaError) -> KafkaError:
        """Why the client is done for: producing only says that it is, a transactional call says why."""
        if error.code() != KafkaError._FATAL or self._producer is None:
            return error
        try:
            self._producer.abort_transaction(_CONNECT_TIMEOUT)
        except KafkaException as failure:
            cause: KafkaError = failure.args[0]
            return cause
        return error

    def _timed_out(self) -> bool:
        # a transaction that outlived its timeout (a paused process) was ended by the broker itself,
        # which fences its producer just as a successor would
        return time.monotonic() - self._began >= TRANSACTION_TIMEOUT

    def _abort(self) -> None:
        assert self._producer is not None
        try:
            self._again(self._producer.abort_transaction)
            self._producer.poll(0)  # delivery reports of the aborted records
        except KafkaException as failure:
            error: KafkaError = failure.args[0]
            if error.code() in _FENCING and not self._timed_out():
                self._discard()
                raise Fenced(
                    f"another instance with transactional.id {self.transactional_id} took over"
                ) from failure
            self._replace(error.str())

    def _replace(self, reason: str) -> None:
        log.warning("replacing the producer %s: %s", self.transactional_id, reason)
        self.open()
        raise OutcomeUnknown(reason)

    def _discard(self) -> None:
        # not close(): that would abort, and what became of the transaction is for Kafka to say
        self._producer = None
        self._aside.end()

"""The loop: every input comes out exactly once.

One thread owns a stage's Kafka clients. It polls, runs rebalance callbacks and begins transactions. An
open transaction ends in the background while the next records are taken in, but a rebalance callback
waits for it, so that nothing is revoked between its beginning and its end. Model calls run elsewhere
(:mod:`streams.runner`), outside any transaction.

1. **Poll.** Records become works, queued per task; the number and bytes of works is bounded.
2. **Run.** Works are handed to the runner and finish in any order.
3. **Commit** whenever something is finished: of each task the finished prefix, in one transaction:
   outputs, changes of state, dead letters, and the offsets after the last input.

A work leaves its queue only when its transaction is known to be committed. So after an abort there is
nothing to fetch or to pay for again: the same results are committed once more. When a commit's
outcome is unknown the committed offsets tell which works were done.

Works are queued by task (:mod:`streams.task`). When a task is revoked it is forgotten; a call that
finishes later belongs to a task nobody looks at.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumers import reader
from consumers.outages import Outages
from consumers.reader import Partition, Reader, to_received
from consumers.stalls import Stalls
from producers.transactional import RecordRefused, TransactionalProducer
from schemas.errors import (
    OutcomeUnknown,
    PressroomError,
    Refused,
    RetryLater,
    Stop,
    TransactionAborted,
)
from schemas.message import Received
from streams.completions import Completions
from streams.ledger import Book, Ledger, OnLoss, from_metadata
from streams.presence import Presence
from streams.processing import JoinState, Processor, Work
from streams.runner import OwnThread, Runner
from streams.task import MAX_TRANSACTION, Batch, Task, next_offsets, records_of

log = logging.getLogger(__name__)

BATCH = 1000
"""Records taken from the client at once."""

WINDOW = 8
"""Inputs a worker takes in for each call at once; a kill repeats the calls of at most so many."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Bytes of inputs a worker holds at once, at most (and one record more)."""

REVOKE_BUDGET = 5.0
"""Seconds a revocation waits for calls that are under way, to commit rather than repeat them."""

SAVE_BUDGET = 30.0
"""Seconds it waits for answers that are paid for and not in the ledger yet, while Kafka is away."""

SESSION_TIMEOUT = 15.0
"""Seconds without a heartbeat after which the group gives a worker's partitions to others."""

HEARTBEAT = 1.0
"""Seconds between heartbeats, whose answers tell a worker that the group shares out anew. Measured on a
busy machine: a new worker had its share after 3 to 7 s, rather than 8 with the client's 3 s."""

_IDLE_POLL = 0.1
_BUSY_WAIT = 0.005
# answers end the wait; only new inputs wait so long, and their calls take longer by far
_BUSY_WAIT_FOR_CALLS = 0.02
_ABORT_PAUSE = 1.0
_SETTLE_TIMEOUT = 10.0
_REFUSED = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)
_HOPELESS = (*_REFUSED, KafkaError.UNKNOWN_TOPIC_OR_PART)


class ExactlyOnce:
    """Runs one stage on one member of its consumer group."""

    def __init__(
        self,
        processor: Processor,
        producer: TransactionalProducer,
        config: Mapping[str, Any],
        thread: OwnThread,
        concurrency: int | None = None,
        make_consumer: Callable[[dict[str, Any]], Consumer] = Consumer,
        earlier: Completions | None = None,
        on_loss: OnLoss = "stop",
    ) -> None:
        """
        Args:
            processor: the stage, ready to run.
            producer: not yet opened; its transactional id is this instance's.
            config: librdkafka settings, at least ``bootstrap.servers``.
            thread: where the calls run.
            concurrency: calls at once; by default as the stage says.
            make_consumer: builds the client; tests build one that fails on purpose.
            earlier: the completions that may be taken again; None asks every question.
            on_loss: what to do where the ledger has lost entries.
        """
        self.stage = processor.stage
        self._processor, self._producer, self._config = processor, producer, dict(config)
        at_once = concurrency or self.stage.concurrency
        self._make_runner = partial(Runner, thread, processor, at_once)
        self._busy_wait = _BUSY_WAIT_FOR_CALLS if self.stage.uses_llm else _BUSY_WAIT
        self._presence, self._begun_after = Presence(), 0
        # a slow call holds back the finished ones behind it; more than this is not begun meanwhile
        self._most_waiting = WINDOW * at_once if self.stage.uses_llm else 2 * MAX_TRANSACTION
        self._make_consumer = make_consumer
        self._earlier, self._on_loss = earlier, on_loss
        self._ledger: Ledger | None = None
        self._tasks: dict[int, Task] = {}
        self._partitions: set[Partition] = set()
        self._at_end: set[Partition] = set()
        self._assigned = False
        self._paused: bool | None = False
        self._ender = ThreadPoolExecutor(1, f"{self.stage.name}-commit")
        self._ending: Future[None] | None = None
        self._batch: Batch = []
        self._unknown = False
        self._aborts, self._not_before = 0, 0.0
        self._stopping = threading.Event()
        self._failure: PressroomError | None = None
        self.committed = 0
        """Inputs committed so far."""
        self.idle = False
        """Whether every assigned partition was read to its end and nothing is in work."""
        self.behind: list[str] = []
        """Where it then stands before the end, since a transaction of another producer is open."""

    # --- the loop -----------------------------------------------------------------------------

    def run(self, grace: float = 10.0) -> None:
        """Works until :meth:`stop`, then commits what finishes within ``grace`` seconds.

        Raises:
            Fenced: another instance took over.
            Stop: going on would do harm; the message says what to do.
        """
        self._runner = self._make_runner()
        self._consumer = self._make_consumer(self._consumer_config())
        self._stalls = Stalls(self._consumer)
        if self._processor.caller is not None:
            prices = self._processor.caller.prices
            framing = self._processor.framing
            self._ledger = Ledger(
                self.stage, self._config, prices, self._earlier, framing, self._on_loss
            )
        try:
            self._consumer.subscribe(
                [t.name for t in self.stage.reads],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
            # while the group forms; partitions are assigned by polling, so only after the fencing
            self._patiently(self._producer.open)
            while not self._stopping.is_set() and self._runner.failure is None:
                self._poll()
                self._commit()
                self._check()
            self._finish_within(grace)
            self._check_stage()
        finally:
            self.stop()  # closing may still assign partitions, and nobody waits for what they need
            self._ender.shutdown()
            self._forget([TopicPartition(*p) for p in self._partitions])
            self._runner.close()
            self._consumer.close()
            self._producer.close()
            if self._ledger is not None:
                self._ledger.close()

    def stop(self) -> None:
        """Makes :meth:`run` return soon. Safe from any thread and signal handler."""
        self._stopping.set()

    def _patiently(self, step: Callable[[], None]) -> None:
        """Tries again while Kafka does not answer, until told to stop."""
        while not self._stopping.is_set():
            try:
                step()
                return
            except RetryLater as error:
                log.warning("%s: %s", self.stage.name, error)
                self._stopping.wait(_ABORT_PAUSE)

    def _consumer_config(self) -> dict[str, Any]:
        # a join needs the same partition of every topic on one member, which range gives; a stage
        # with one topic keeps what does not move
        alone = len(self.stage.reads) == 1
        return (
            reader.DEFAULTS
            | {"partition.assignment.strategy": "cooperative-sticky" if alone else "range"}
            | {"session.timeout.ms": int(SESSION_TIMEOUT * 1000)}
            | {"heartbeat.interval.ms": int(HEARTBEAT * 1000), "error_cb": Outages(self.stage.name)}
            | self._config
            | {"group.id": self.stage.group, "enable.auto.commit": False}
        )

    # --- 1 poll -------------------------------------------------------------------------------

    def _poll(self) -> None:
        room = self._room()
        if room <= 0:
            self._runner.wait(self._busy_wait)
            if self._any_finished() and not self._in_trouble:
                return  # room will be made by committing
            self._pause()  # polling must go on, or the group takes this member for dead
        else:
            self._resume()
        accepted = self._accept_held() + self._accept_some(max(room, 1))
        self._runner.submit([work for work in accepted if work.outgoing is None])

    def _accept_some(self, most: int) -> list[Work]:
        busy = self.in_work > 0
        first = self._consumer.poll(0 if busy else _IDLE_POLL)
        self._presence.beat()
        if first is None:
            self._stalls.look(self._at_end)
            if busy:
                self._runner.wait(self._busy_wait)
            self.idle = self._is_idle()
            self.behind = self._stalls.behind(self._at_end) if self.idle else []
            return []
        # the first is queued before more are fetched: fetching may revoke its partition
        return self._accept([first]) + self._accept(self._consumer.consume(min(most, BATCH), 0))

    def _accept(self, messages: Iterable[Message]) -> list[Work]:
        accepted = []
        for message in messages:
            if message.error() is not None:
                self._noted(message)
                continue
            received = to_received(message)
            task = self._tasks.get(received.partition)
            if task is None:
                continue
            self.idle = False
            if self._at_end:
                self._at_end.discard((received.topic, received.partition))
            work = None if task.held else self._take_in(task, received)
            if work is not None:
                accepted.append(work)
            else:
                task.hold(received)
        return accepted

    def _take_in(self, task: Task, received: Received) -> Work | None:
        """None when the registry is away that knows the input's schema."""
        try:
            work = self._processor.accept(received, task.state)
        except RetryLater:  # the registry's client has said so, and asks again when it is time
            return None
        if self._ledger is not None and work.outgoing is None:
            task.open_page(self.stage.full_name, work)
            work.keep = self._presence.keeping(work.keep)
        task.put(work)
        return work

    def _accept_held(self) -> list[Work]:
        accepted = []
        for task in self._tasks.values():
            while task.held and (work := self._take_in(task, task.held[0])) is not None:
                task.release()
                accepted.append(work)
        return accepted

    def _noted(self, message: Message) -> None:
        error = message.error()
        assert error is not None
        if error.code() == KafkaError._PARTITION_EOF:
            partition = (str(message.topic()), int(message.partition() or 0))
            self._at_end.add(partition)
            self._stalls.stands(partition, int(message.offset() or 0))
        elif error.fatal() or error.code() in _HOPELESS:
            kind = Refused if error.code() in _REFUSED else Stop
            raise kind(f"can't read {self.stage.group}'s topics: {error.str()}")
        else:
            log.info("%s: %s", self.stage.name, error.str())

    def _room(self) -> int:
        if sum(task.size for task in self._tasks.values()) >= MAX_WAITING_BYTES:
            return 0
        return self._most_waiting - self.in_work

    @property
    def dead(self) -> int:
        """Inputs so far that are no good and are committed, or will be, as dead letters."""
        return self._processor.dead

    @property
    def in_work(self) -> int:
        """Inputs taken in and not committed yet."""
        return sum(map(len, self._tasks.values()))

    @property
    def _in_trouble(self) -> bool:
        """Whether the last transaction failed: it may be polling that helps, by joining again."""
        return self._aborts > 0 or self._unknown

    def _is_idle(self) -> bool:
        return self._assigned and not self.in_work and self._at_end >= self._partitions

    def _pause(self) -> None:
        if self._paused is not True:
            self._consumer.pause(self._consumer.assignment())
            self._paused = True

    def _resume(self) -> None:
        if self._paused is not False:
            self._consumer.resume(self._consumer.assignment())
            self._paused = False

    # --- 3 commit -----------------------------------------------------------------------------

    def _commit(self) -> None:
        """Begins a transaction, unless one is open; :meth:`_conclude` hears how it ended."""
        if self._ending is not None:
            if not self._ending.done():
                return
            self._conclude()
        if time.monotonic() < self._not_before or (self._unknown and not self._settle()):
            return
        batch = self._finished() or self._to_confirm()
        group = self._consumer.consumer_group_metadata() if batch else None
        # of one without a name, that was thrown out and will hear of it, offsets are taken unseen
        if group is None or not self._consumer.memberid():
            return
        self._batch, self._begun_after = batch, self._presence.absences
        try:
            self._producer.write(records_of(self._batch))
        except PressroomError as error:
            self._judge(error)
            return
        # the broker's answers are awaited in another thread; this one goes on with the next records
        offsets = next_offsets(self._batch, len(self.stage.reads))
        self._ending = self._ender.submit(self._producer.finish, offsets, group)
        self._ending.add_done_callback(lambda _: self._runner.wake())

    def _conclude(self) -> None:
        """Waits until the open transaction, if there is one, has ended."""
        if self._ending is not None:
            ending, self._ending = self._ending, None
            self._judge(ending.exception())

    def _judge(self, error: BaseException | None) -> None:
        batch, self._batch = self._batch, []
        match error:
            case None:
                self._aborts = 0
                self._presence.confirmed(self._begun_after)
                self._done(batch)
            case RecordRefused():
                self._refuse(batch, error)
            case OutcomeUnknown():
                self._presence.doubt()
                self._unknown = True
            case TransactionAborted() | RetryLater():
                self._presence.doubt()
                self._aborts += 1
                self._not_before = time.monotonic() + min(_ABORT_PAUSE, 0.02 * 2**self._aborts)
                log.warning("%s: not committed, trying again: %s", self.stage.name, error)
            case _:
                raise error

    def _commit_all(self) -> None:
        """Commits what is finished, and waits for it."""
        self._conclude()
        self._commit()
        self._conclude()

    def _finished(self) -> Batch:
        prefixes = ((task, task.finished()) for task in self._tasks.values())
        return [(task, works) for task, works in prefixes if works]

    def _any_finished(self) -> bool:
        return any(t.queue and t.queue[0].outgoing is not None for t in self._tasks.values())

    def _to_confirm(self) -> Batch:
        """Batches of nothing, while it is uncertain whether this is a member: see :class:`Presence`."""
        if self._presence.certain:
            return []
        return [(task, []) for task in self._tasks.values() if task.queue]

    def _done(self, batch: Batch) -> None:
        for task, works in batch:
            task.done(len(works))
            self.committed += len(works)

    def _settle(self) -> bool:
        """Finds out from the committed offsets which works were done after all."""
        try:
            # with read_committed this waits until no transaction on these offsets is pending
            answers = self._consumer.committed(self._consumer.assignment(), _SETTLE_TIMEOUT)
        except KafkaException as failure:
            log.warning("%s: can't read offsets: %s", self.stage.name, failure.args[0].str())
            return False
        committed = {(tp.topic, tp.partition): tp.offset for tp in answers}
        for task in self._tasks.values():
            done = task.forget_below(committed)
            # others may have done what is still under way here
            self._runner.drop(work for work in done if work.outgoing is None)
            self.committed += len(done)
        self._unknown = False
        return True

    def _refuse(self, batch: Batch, refused: RecordRefused) -> None:
        for _, works in batch:
            for work in works:
                if any(record is refused.record for record in work.outgoing or ()):
                    return self._processor.refuse(work, refused.reason)
        raise Stop(f"{refused}; raise max.message.bytes of the topic")

    # --- the group ----------------------------------------------------------------------------

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            numbers = {tp.partition for tp in partitions} - self._tasks.keys()
            if numbers:
                self._patiently(partial(self._take, numbers))
            self._own(self._partitions | {(tp.topic, tp.partition) for tp in partitions})
            # the client keeps what it paused paused, even what was away in between
            self._assigned, self._paused = True, None
        except PressroomError as error:
            self._failure = error

    def _own(self, partitions: set[Partition]) -> None:
        self._partitions = partitions
        if self._processor.pace is not None:
            self._processor.pace.share = len(partitions) / self._processor.partitions

    def _take(self, numbers: Collection[int]) -> None:
        """Makes tasks; of all at once, since each question to Kafka takes its time."""
        states, books = self._restored(numbers), self._opened(numbers)
        self._tasks |= {n: Task(states.get(n), books.get(n)) for n in numbers}

    def _opened(self, numbers: Collection[int]) -> dict[int, Book]:
        """The books of the ledger, read from the positions that were committed with the offsets."""
        if self._ledger is None:
            return {}
        partitions = [TopicPartition(t.name, n) for t in self.stage.reads for n in numbers]
        try:
            found = self._consumer.committed(partitions, _SETTLE_TIMEOUT)
        except KafkaException as failure:
            raise RetryLater(f"can't read offsets: {failure.args[0].str()}") from failure
        of = {n: [tp for tp in found if tp.partition == n] for n in numbers}
        return self._ledger.open(
            {n: from_metadata(tp.metadata for tp in tps) for n, tps in of.items()},
            {n: {tp.topic: tp.offset for tp in tps} for n, tps in of.items()},
        )

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            self._end_calls({self._tasks[n] for n in _numbers(partitions) & self._tasks.keys()})
            self._commit_all()
        except PressroomError as error:
            self._failure = error
        finally:
            self._forget(partitions)

    def _end_calls(self, tasks: Collection[Task]) -> None:
        """Waits for calls that are under way, as long as that is worth it."""
        works = {work for task in tasks for work in task.queue if work.outgoing is None}
        self._runner.begin_no_more(works)
        began = time.monotonic()
        while self._runner.busy(works):
            self._runner.begin_no_more(works)
            saving = any(task.saving for task in tasks)
            if time.monotonic() - began > (SAVE_BUDGET if saving else REVOKE_BUDGET):
                return
            self._presence.beat()
            self._runner.wait(self._busy_wait)

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        log.warning("%s: lost %d partitions", self.stage.name, len(partitions))
        try:
            self._conclude()
        except PressroomError as error:
            self._failure = error
        finally:
            self._forget(partitions)

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        lost = {(tp.topic, tp.partition) for tp in partitions}
        self._own(self._partitions - lost)
        self._at_end -= lost
        for number in _numbers(partitions):
            task = self._tasks.pop(number, None)
            if task is not None:
                self._runner.drop(task.queue)

    def _restored(self, numbers: Collection[int]) -> dict[int, JoinState]:
        """The states of a join, read from its changelog once the predecessor's writes have settled."""
        if self.stage.state is None:
            return {}
        latest: dict[int, dict[bytes | None, bytes | None]] = {n: {} for n in numbers}
        with Reader(self._config, [(self.stage.state.name, n) for n in numbers]) as changelog:
            for received in changelog.settled():
                latest[received.partition][received.key] = received.value
        states = {n: self._processor.new_state() for n in numbers}
        for number, values in latest.items():
            states[number].restore(value for value in values.values() if value is not None)
        return states

    # --- leaving ------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _check_stage(self) -> None:
        failure = self._runner.failure
        if isinstance(failure, PressroomError):
            raise failure
        if failure is not None:
            raise Stop(f"stage {self.stage.name} failed: {failure!r}") from failure

    def _finish_within(self, grace: float) -> None:
        """Commits what is under way; what has not begun stays unread."""
        self._runner.begin_no_more()
        until = time.monotonic() + grace
        while (self._runner.busy() or self._finished()) and time.monotonic() < until:
            self._runner.begin_no_more()
            self._presence.beat()
            self._commit_all()
            self._check()
            self._runner.wait(self._busy_wait)


def _numbers(partitions: Iterable[TopicPartition]) -> set[int]:
    return {tp.partition for tp in partitions}

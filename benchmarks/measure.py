"""The workloads: each starts a system's program and watches from outside what it does.

What counts is what a read-committed consumer sees, the broker's own append times, and the model's bill.
"""

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from benchmarks.common import PARTITIONS, fill, send
from benchmarks.model_server import SlowModel
from benchmarks.peers.task import Task, Work
from benchmarks.systems import Program, System, group_of
from consumers.reader import end_offsets
from schemas.codec import codec_for
from schemas.records import Document
from schemas.topics import Topic

RATE = 50.0
MEAN = 0.2
START_WITHIN = 90.0
"""Seconds a program has for its first output."""
QUIET = 100.0
"""Seconds without any output or call after which nothing will come: longer than any transaction
that a killed program left open."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    records: int = 200_000
    seconds: float = 30.0
    """A system that has not copied all by then is measured by what it has copied."""
    latencies: int = 500
    calls: int = 400
    kill_calls: int = 200
    at_once: int = 64


QUICK = Sizes(records=2000, seconds=10, latencies=20, calls=20, kill_calls=20, at_once=8)


@dataclass
class Seen:
    """Committed outputs by key, and the broker's times of their arrival."""

    keys: Counter[bytes] = field(default_factory=Counter)
    times: list[int] = field(default_factory=list)

    def add(self, message: Message) -> None:
        self.keys[message.key() or b""] += 1
        self.times.append(message.timestamp()[1])

    @property
    def doubled(self) -> int:
        return sum(self.keys.values()) - len(self.keys)

    @property
    def rate(self) -> float:
        """Records a second, from the first batch's arrival to the last's."""
        first, last = min(self.times), max(self.times)
        return sum(t > first for t in self.times) / max(last - first, 1) * 1000


@dataclass(frozen=True)
class Killed:
    """What one SIGKILL in the middle cost."""

    paid_again: int
    """Calls whose answer had been sent before the kill, and that were made again."""
    in_flight: int
    """Calls that were under way at the kill, and were made again."""
    doubled: int
    lost: int
    seconds: float


class Bench:
    """Measures systems on one Kafka."""

    def __init__(
        self, config: dict[str, Any], model: SlowModel, folder: Path, sizes: Sizes
    ) -> None:
        self._config, self._model, self._folder, self.sizes = config, model, folder, sizes
        self._admin = AdminClient(config)
        self._run, self._numbers = f"bench{int(time.time())}", 0
        self._copied, self._asked, self._asked_and_killed = "", "", ""

    # --- workloads ----------------------------------------------------------------------------

    def throughput(self, system: System) -> Seen:
        """Copies all there is, for so many seconds at most."""
        if not self._copied:
            self._copied = self._filled(self.sizes.records)
        task = self._task(system, "copy", self._copied)
        with running(system, task) as program:
            self._wait(program, START_WITHIN, lambda: self._ends(task.target) > 0, 0.2)
            until = time.monotonic() + self.sizes.seconds
            while time.monotonic() < until and self._committed(system, task) < self.sizes.records:
                program.check()
                time.sleep(0.2)
        return self._read(task.target)

    def latency(self, system: System) -> float:
        """Median seconds from a record's being sent to its copy's being readable, at a steady rate."""
        task = self._task(system, "copy", self._topic("in"))
        tail = self._tail(task.target)
        with running(system, task) as program:
            self._send(task.source, 1, 0.0)
            until = time.monotonic() + START_WITHIN
            while not self._latencies(tail, 1, 0.5):  # warm: assigned, producer open
                program.check()
                if time.monotonic() > until:
                    raise RuntimeError(f"{system.name} wrote nothing")
            count = self.sizes.latencies
            sender = threading.Thread(target=self._send, args=(task.source, count, RATE))
            sender.start()
            seconds = self._latencies(tail, count, QUIET)
            sender.join()
        tail.close()
        return statistics.median(seconds)

    def slow_calls(self, system: System) -> tuple[float, float]:
        """Seconds from the first question to the last committed answer, and the ideal."""
        count = self.sizes.calls
        self._asked = self._asked or self._filled(count)
        task = self._task(system, "ask", self._asked)
        self._model.clear()
        with running(system, task) as program:
            seen = self._follow(program, task.target, lambda s: len(s.keys) >= count)
        return max(seen.times) / 1000 - self._model.paid[0][0], self._model.ideal(task.at_once)

    def kill(self, system: System) -> Killed:
        """Kills the program when half of the answers were sent, and starts it again."""
        count = self.sizes.kill_calls
        self._asked_and_killed = self._asked_and_killed or self._filled(count)
        task = self._task(system, "ask", self._asked_and_killed)
        self._model.clear()
        with running(system, task) as program:
            self._wait(program, QUIET, lambda: len(self._model.answered) >= count // 2)
            at = time.time()
            program.kill()
        with running(system, task) as program:
            seen = self._follow(program, task.target, lambda _: self._at_end(system, task, count))
        answered = {question for t, question in self._model.answered if t < at}
        paid = Counter(question for _, question in self._model.paid)
        again = Counter({q: times - 1 for q, times in paid.items() if times > 1})
        received = sum(times for q, times in again.items() if q in answered)
        return Killed(
            received, again.total() - received, seen.doubled, count - len(seen.keys),
            max(seen.times) / 1000 - at,
        )  # fmt: skip

    # --- topics and tasks ---------------------------------------------------------------------

    def _name(self, kind: str) -> str:
        self._numbers += 1
        return f"{self._run}-{self._numbers}-{kind}"

    def _topic(self, kind: str) -> str:
        name = self._name(kind)
        settings = {"message.timestamp.type": "LogAppendTime"}
        topic = NewTopic(name, num_partitions=PARTITIONS, config=settings)
        self._admin.create_topics([topic])[name].result(30)
        return name

    def _filled(self, count: int) -> str:
        name = self._topic("in")
        fill(self._config, Topic(name, Document, key="id"), count)
        return name

    def _task(self, system: System, work: Work, source: str) -> Task:
        home = self._folder / self._name(work)
        return Task(
            work, self._config["bootstrap.servers"], self._name("group"), source,
            self._topic("out"), self._model.url, self.sizes.at_once, str(home),
        )  # fmt: skip

    def _send(self, topic: str, count: int, rate: float) -> None:
        """Sends records whose keys say when."""
        producer = Producer(self._config | {"linger.ms": 0})
        value = codec_for(Document).encode(Document("0", "bench", "Title", "x" * 560))
        began = time.monotonic()
        for number in range(count):
            if rate:
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
            send(producer, topic, value, repr(time.time()), [])
        producer.flush()

    # --- what can be seen from outside --------------------------------------------------------

    def _wait(
        self, program: Program, seconds: float, holds: Callable[[], bool], pause: float = 0.01
    ) -> None:
        until = time.monotonic() + seconds
        while not holds():
            program.check()
            if time.monotonic() > until:
                raise RuntimeError(f"{program.system.name} did nothing for {seconds:g} s")
            time.sleep(pause)

    def _follow(self, program: Program, topic: str, done: Callable[[Seen], bool]) -> Seen:
        """Reads outputs until done, or until nothing has moved for long."""
        tail, seen = self._tail(topic), Seen()
        moved, before = time.monotonic(), (0, 0)
        while not done(seen) and time.monotonic() - moved < QUIET:
            program.check()
            message = tail.poll(0.2)
            if message is not None and message.error() is None:
                seen.add(message)
            now = (len(seen.times), len(self._model.paid))
            if now != before:
                moved, before = time.monotonic(), now
        tail.close()
        # doubles may come after the last that was missing
        return self._read(topic)

    def _at_end(self, system: System, task: Task, count: int) -> bool:
        idle = len(self._model.paid) and time.time() - self._model.paid[-1][0] > 5 * MEAN + 5
        return bool(idle) and self._committed(system, task) >= count

    def _committed(self, system: System, task: Task) -> int:
        """The sum of the group's committed offsets."""
        request = [ConsumerGroupTopicPartitions(group_of(system, task))]
        (future,) = self._admin.list_consumer_group_offsets(request).values()
        try:
            found = future.result(10).topic_partitions
        except KafkaException:  # there is no such group yet
            return 0
        return sum(max(p.offset, 0) for p in found if p.topic == task.source)

    def _ends(self, topic: str) -> int:
        return sum(self._watermarks(topic).values())

    def _watermarks(self, topic: str) -> dict[int, int]:
        found = end_offsets(self._config, [(topic, p) for p in range(PARTITIONS)])
        return {partition: end for (_, partition), end in found.items()}

    def _tail(self, topic: str) -> Consumer:
        consumer = Consumer(
            self._config
            | {
                "group.id": "bench",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 5,
            }
        )
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
        return consumer

    def _latencies(self, tail: Consumer, count: int, patience: float) -> list[float]:
        seconds: list[float] = []
        moved = time.monotonic()
        while len(seconds) < count and time.monotonic() - moved < patience:
            message = tail.poll(0.1)
            if message is not None and message.error() is None:
                seconds.append(time.time() - float(message.key() or b"0"))
                moved = time.monotonic()
        return seconds

    def _read(self, topic: str) -> Seen:
        """Everything committed, once transactions that are still open have ended."""
        ends = self._watermarks(topic)
        tail, seen = self._tail(topic), Seen()
        left, until = {p for p, end in ends.items() if end}, time.monotonic() + QUIET
        while left and time.monotonic() < until:
            for message in tail.consume(10_000, 0.2):
                error = message.error()
                if error is None:
                    seen.add(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    partition = message.partition() or 0
                    if (message.offset() or 0) >= ends[partition]:
                        left.discard(partition)
        tail.close()
        return seen


@contextmanager
def running(system: System, task: Task) -> Iterator[Program]:
    """A system's program, stopped at the end whatever happens."""
    program = Program(system, task)
    try:
        yield program
    finally:
        program.stop()

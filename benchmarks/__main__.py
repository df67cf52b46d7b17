"""Pass-through throughput, latency and slow calls, beside a hand-written loop in the same run.

``python -m benchmarks [--rounds N]`` starts an embedded Kafka of its own, or takes the one that
``PRESSROOM_BOOTSTRAP_SERVERS`` names. Figures are medians of the rounds; the machine's noise is shared
by both sides, so only the ratios count.
"""

import argparse
import asyncio
import gc
import json
import math
import random
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks import by_hand
from benchmarks.common import fill, kafka, leave_cleanly
from schemas.codec import codec_for
from schemas.message import first_headers, record_id
from schemas.records import Document
from schemas.topics import Topic
from streams import Llm, Pipeline, record
from streams.admin import create_topics
from streams.calls import Caller
from streams.instance import Instances
from streams.model import Completion, Model, Request
from streams.prompts import Rendered
from streams.worker import Worker

PASS_THROUGH = 200_000
LATENCY, RATE = 500, 50.0
CALLS, AT_ONCE, MEAN = 400, 64, 0.2

_run = f"bench{int(time.time())}"


@record(namespace="bench")
class Answer:
    """What a slow call gives."""

    text: str


class Bench:
    """One measurement's pipeline, topics and loop."""

    def __init__(self, config: dict[str, Any], name: str, partitions: int = 4) -> None:
        self.config, self.name = config, f"{_run}.{name}"
        self.source = Topic(f"{self.name}.in", Document, key="id", partitions=partitions)
        self.copies = Topic(f"{self.name}.copies", Document, partitions=partitions)
        self.answers = Topic(f"{self.name}.answers", Answer, partitions=partitions)
        self.by_hand = Topic(f"{self.name}.by-hand", Document, partitions=partitions)
        create_topics(config, [self.source, self.copies, self.answers, self.by_hand])

    def fill(self, count: int) -> None:
        """Writes documents whose records have about 600 bytes."""
        fill(self.config, self.source, count)

    def first(self) -> Any:
        """Headers as ingestion writes them."""
        return first_headers(record_id("bench"), "bench", self.source.ce_type)

    def pressroom(
        self, number: int, count: int, model: Model | None = None, at_once: int = 8
    ) -> tuple[float, float]:
        """Runs a stage over ``count`` records; gives when it began and when all were committed."""
        pipeline = Pipeline(f"{self.name}-{number}")
        if model is None:

            @pipeline.stage(reads=self.source, writes=self.copies)
            async def copy(document: Document) -> Document:
                return document
        else:

            @pipeline.stage(reads=self.source, writes=self.answers, prompt="slow@1")
            async def ask(document: Document, llm: Llm) -> Answer:
                return await llm(Answer, text=document.id)

        create_topics(self.config, pipeline.topics)
        stages = list(pipeline.stages.values())
        thresholds = gc.get_threshold()
        with tempfile.TemporaryDirectory() as home:
            caller = Caller(model) if model is not None else None
            worker = Worker(stages, self.config, caller, Instances(Path(home)), at_once)
            began = time.monotonic()
            worker.start()
            while worker.loops[0].committed < count and worker.running:
                time.sleep(0.01)  # rarely: each look takes the interpreter away from the worker
            committed = time.monotonic()
            worker.stop()
            worker.wait()
        gc.set_threshold(*thresholds)  # a worker's own; the loops by hand have the interpreter's
        return began, committed


class SlowModel:
    """Answers after a time drawn from an exponential distribution, the same times in every round."""

    def __init__(self, mean: float) -> None:
        self.name = "slow"
        self._mean = mean
        self.lengths: list[float] = []
        """How long the calls took, in the order in which they were begun."""
        self.began = 0.0

    async def complete(self, request: Request) -> Completion:
        if not self.lengths:
            self.began = time.monotonic()
        seconds = -self._mean * math.log(1 - random.Random(request.prompt.user).random())
        self.lengths.append(seconds)
        await asyncio.sleep(seconds)
        return Completion(json.dumps({"text": "done"}), "slow", 1, 1)

    def against_ideal(self, end: float) -> float:
        """The time from the first call to the end, over that of the calls alone, packed as begun."""
        ratio = (end - self.began) / ideal(self.lengths)
        self.lengths.clear()
        return ratio


BY_HAND: dict[str, Callable[[Message], bytes | None]] = {
    "copying": by_hand.as_it_is,
    "reading": by_hand.read,
    "re-encoding": by_hand.decoded_and_encoded,
}
"""What the loops by hand do with each value."""


def throughput(config: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Seconds of each loop by hand, and of Pressroom; each round begins with another one."""
    bench = Bench(config, "pass-through")
    bench.fill(PASS_THROUGH)
    steps: dict[str, Callable[[int], float]] = {
        name: partial(_copy_by_hand, bench, name, value_of) for name, value_of in BY_HAND.items()
    }
    steps["Pressroom"] = partial(_copy_by_pressroom, bench)
    order, seconds = deque(steps), {name: list[float]() for name in steps}
    for n in range(rounds):
        for name in order:
            seconds[name].append(steps[name](n))
        order.rotate(-1)
    return seconds


def _copy_by_pressroom(bench: Bench, number: int) -> float:
    began, committed = bench.pressroom(number, PASS_THROUGH)
    return committed - began


def _copy_by_hand(
    bench: Bench, name: str, value_of: Callable[[Message], bytes | None], number: int
) -> float:
    began = time.monotonic()
    by_hand.pass_through(
        bench.config, f"{bench.name}-{name}-{number}", bench.source.name, bench.by_hand.name,
        PASS_THROUGH, value_of=value_of,
    )  # fmt: skip
    return time.monotonic() - began


def latency(config: dict[str, Any], rounds: int) -> tuple[list[float], list[float]]:
    """Median seconds from a record's time stamp to its copy being readable, at a steady rate."""
    hand, ours = [], []
    for n in range(rounds):
        bench = Bench(config, f"latency-{n}")
        bench.fill(1)
        source, target = bench.source.name, bench.by_hand.name
        hand.append(
            _latencies(
                bench,
                target,
                lambda b=bench, s=source, t=target: by_hand.pass_through(  # type: ignore[misc]
                    config, f"{b.name}-hand", s, t, LATENCY + 1
                ),
            )
        )
        bench = Bench(config, f"latency-{n}-ours")
        bench.fill(1)
        ours.append(
            _latencies(
                bench, bench.copies.name, lambda b=bench: _ignore(b.pressroom(0, LATENCY + 1))  # type: ignore[misc]
            )
        )  # fmt: skip
    return hand, ours


def _ignore(_: object) -> None:
    return None


def _latencies(bench: Bench, target: str, work: Callable[[], None]) -> float:
    consumer = Consumer(
        bench.config
        | {"group.id": "x", "isolation.level": "read_committed", "fetch.wait.max.ms": 5}
    )
    consumer.assign([TopicPartition(target, p, 0) for p in range(4)])
    worker = threading.Thread(target=work)
    worker.start()
    _take(consumer, 1)  # warm: assigned, producer open
    sender = threading.Thread(target=_send_steadily, args=(bench,))
    sender.start()
    seconds = _take(consumer, LATENCY)
    for thread in (sender, worker):
        thread.join()
    consumer.close()
    return statistics.median(seconds)


def _send_steadily(bench: Bench) -> None:
    producer = Producer(bench.config | {"linger.ms": 0})
    encode = codec_for(Document).encode
    began = time.monotonic()
    for number in range(LATENCY):
        time.sleep(max(0.0, began + number / RATE - time.monotonic()))
        value = encode(Document(str(time.time()), "bench", "Title", "x" * 560))
        producer.produce(bench.source.name, value, str(number), headers=bench.first())
        producer.poll(0)
    producer.flush()


def _take(consumer: Consumer, count: int) -> list[float]:
    decode = codec_for(Document).decode
    seconds: list[float] = []
    while len(seconds) < count:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            seconds.append(time.time() - float(decode(message.value()).id))
    return seconds


def slow_calls(config: dict[str, Any], rounds: int) -> tuple[list[float], list[float]]:
    """For the loop by hand and for Pressroom: the time of all calls over the ideal."""
    model = SlowModel(MEAN)
    decode = codec_for(Document).decode

    async def call(message: Message) -> bytes:
        document = decode(message.value())
        completion = await model.complete(Request(_prompt(document.id), "Answer", {}, 10))
        return completion.text.encode()

    bench = Bench(config, "slow")
    bench.fill(CALLS)
    hand, ours = [], []
    for n in range(rounds):
        group = f"{bench.name}-hand-{n}"
        source, target = bench.source.name, bench.by_hand.name
        by_hand.slow_calls(config, group, source, target, CALLS, AT_ONCE, call)
        hand.append(model.against_ideal(time.monotonic()))
        _, committed = bench.pressroom(n, CALLS, model, AT_ONCE)
        ours.append(model.against_ideal(committed))
    return hand, ours


def _prompt(text: str) -> Rendered:
    return Rendered("", text, 0.0)


def ideal(seconds: list[float]) -> float:
    """The time of the calls alone, each begun as soon as one of the places is free."""
    places = [0.0] * AT_ONCE
    for length in seconds:
        first = places.index(min(places))
        places[first] += length
    return max(places)


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    leave_cleanly()
    screen = Console()
    with kafka() as config, Console(stderr=True).status("Measuring") as status:
        status.update("Pass-through…")
        through = throughput(config, rounds)
        status.update("Latency…")
        hand_l, ours_l = latency(config, 3 * rounds)  # of few milliseconds: noisy
        status.update("Slow calls…")
        hand_s, ours_s = slow_calls(config, rounds)
    median = statistics.median
    table = Table("measured", "by hand", "Pressroom", "ratio", "spread", "target", "design")
    rates = {name: [PASS_THROUGH / s for s in seconds] for name, seconds in through.items()}
    our_rate = rates["Pressroom"]
    for what in BY_HAND:
        hand_rate = rates[what]
        table.add_row(
            f"records/s, {what}", f"{median(hand_rate):,.0f}", f"{median(our_rate):,.0f}",
            *_ratio(our_rate, hand_rate), ">= 0.8", "57,000",
        )  # fmt: skip
    table.add_row(
        "p50 latency, ms", f"{median(hand_l) * 1000:.1f}", f"{median(ours_l) * 1000:.1f}",
        *_ratio(ours_l, hand_l), "<= 1.2", "19",
    )  # fmt: skip
    table.add_row(
        "calls, x ideal", f"{median(hand_s):.2f}", f"{median(ours_s):.2f}",
        *_ratio(ours_s, [1.0] * rounds), "<= 1.15", "2.5 s",
    )  # fmt: skip
    screen.print(table)
    screen.print(
        f"records/s: pass-through of {PASS_THROUGH:,} records, by hand copying its bytes unseen, "
        f"reading each record besides, and encoding it anew. Latency: at {RATE:.0f} records/s. Calls: "
        f"{CALLS} of mean {MEAN * 1000:.0f} ms, {AT_ONCE} at once. Design: what the loop by hand did "
        "when the targets were set; Kafka Streams copied 42,000 records/s then."
    )


def _ratio(ours: list[float], others: list[float]) -> tuple[str, str]:
    """The median of the rounds' ratios, and their range."""
    ratios = [a / b for a, b in zip(ours, others, strict=True)]
    return f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f}-{max(ratios):.2f}"


if __name__ == "__main__":
    main()

"""The ledger loses what it held, or is asked for what came too late."""

import logging
import threading
from collections.abc import Collection
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.reader import end_offsets
from schemas.codec import codec_for
from schemas.errors import Stop
from schemas.records import LedgerEntry
from schemas.topics import Topic
from streams import Llm, Pipeline, record
from streams.admin import create_topics
from streams.ledger import Ledger, OnLoss
from streams.prices import Prices
from streams.stage import OnUnknown
from tests.faults.conftest import CALLS, Bench
from tests.support.config import configure, unique


@pytest.mark.fault("the ledger's tail is lost")
def test_a_ledger_without_its_tail_stops_the_worker(bench: Bench) -> None:
    bench.write(60)
    bench.run_to_the_end()
    admin = AdminClient(bench.config)
    for future in admin.delete_topics([bench.ledger]).values():
        future.result(30)
    bench.wait_until(lambda: bench.ledger not in admin.list_topics(timeout=10).topics)
    create_topics(bench.config, bench.module.pipeline.topics)
    bench.write(20)
    _stops(bench, "its tail was lost")
    assert len(bench.model.account) == 60  # it asked nothing
    assert sum(bench.left("ask").values()) == 20
    bench.workers.environment["PRESSROOM_LEDGER_LOSS"] = "accept"
    bench.run_to_the_end()
    assert len(bench.model.account) == 80
    del bench.workers.environment["PRESSROOM_LEDGER_LOSS"]
    bench.write(60)  # in every partition: the positions are new ones
    bench.run_to_the_end()


def _stops(bench: Bench, why: str) -> None:
    before = bench.workers.log()
    assert bench.workers.run("ask") == 1
    said = [s for s in bench.workers.log()[len(before) :].splitlines() if "pressroom:" in s]
    assert len(said) == 1
    assert why in " ".join(bench.workers.log().split())


@pytest.mark.fault("the ledger's retention deletes what is needed")
def test_a_ledger_without_its_front_stops_the_worker(bench: Bench) -> None:
    bench.write(60)
    bench.run_to_the_end()
    _delete_all(bench.config, bench.ledger)
    bench.write(20)
    bench.run_to_the_end()  # nothing of what it deleted was needed any more
    entry = LedgerEntry("intent", "c", f"{bench.module.lines.name}:0:0", "answer@1", "m", 1)
    for partition in range(4):
        _append(bench.config, bench.ledger, partition, codec_for(LedgerEntry).encode(entry))
    _delete_all(bench.config, bench.ledger)
    bench.write(20)
    _stops(bench, "the entries between were deleted")
    assert len(bench.model.account) == 80  # it asked nothing
    bench.workers.environment["PRESSROOM_LEDGER_LOSS"] = "accept"
    bench.run_to_the_end()
    assert len(bench.model.account) == 100


def _delete_all(config: dict[str, Any], topic: str) -> None:
    configure(config, topic, "cleanup.policy", "compact,delete")  # or it would be refused
    ends = end_offsets(config, [(topic, p) for p in range(4)])
    deleted = [TopicPartition(name, p, end) for (name, p), end in ends.items()]
    admin = AdminClient(config)  # kept, or its answer would never come
    for future in admin.delete_records(deleted).values():
        future.result(30)


def _append(config: dict[str, Any], topic: str, partition: int, *values: bytes) -> None:
    producer = Producer(config)
    for value in values:
        producer.produce(topic, value, b"key", partition)
    assert producer.flush(30) == 0


@record
class Word:
    text: str


def _ledger(
    config: dict[str, Any], on_loss: OnLoss = "stop", on_unknown: OnUnknown = "retry"
) -> tuple[Ledger, str]:
    """A ledger of a stage of its own, and its topic."""
    pipeline = Pipeline(unique("ledger"))
    words, echoes = Topic(f"{pipeline.name}.in", Word), Topic(f"{pipeline.name}.out", Word)

    @pipeline.stage(reads=words, writes=echoes, prompt="answer@1", on_unknown=on_unknown)
    async def echo(word: Word, llm: Llm) -> Word:
        return await llm(Word, text=word.text)

    stage = pipeline.stages["echo"]
    assert stage.ledger is not None
    create_topics(config, [stage.ledger])
    return Ledger(stage, config, Prices({}), on_loss=on_loss), stage.ledger.name


def _entries(numbers: Collection[int], at: str = "in:0") -> list[bytes]:
    encode = codec_for(LedgerEntry).encode
    made = [LedgerEntry("result", f"c{n}", f"{at}:{n}", "p@1", "m", 1, "text") for n in numbers]
    return [encode(entry) for entry in made]


@pytest.mark.parametrize("on_unknown", ["retry", "park"])
def test_what_is_lost_is_named(kafka: dict[str, Any], on_unknown: OnUnknown) -> None:
    ledger, topic = _ledger(kafka, on_unknown=on_unknown)
    _append(kafka, topic, 0, *_entries(range(5)))
    with pytest.raises(Stop, match=f"^{topic}:0 ends at 5, but was written up to 6: ") as tail:
        ledger.open({0: 6}, {})
    _delete_all(kafka, topic)
    with pytest.raises(Stop, match=f"^{topic}:0 begins at 5, but is needed from 4 on: ") as front:
        ledger.open({0: 4}, {})
    for stopped in tail, front:
        assert "PRESSROOM_LEDGER_LOSS=accept" in str(stopped.value)
        assert ("asked again" in str(stopped.value)) == (on_unknown == "park")
    assert ledger.open({0: 5, 1: 0}, {})[0].end == 5
    ledger.close()


def test_what_is_left_of_a_ledger_is_used(
    kafka: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    ledger, topic = _ledger(kafka, on_loss="accept")
    _append(kafka, topic, 0, *_entries(range(5)))
    with caplog.at_level(logging.WARNING):
        book = ledger.open({0: 6}, {0: {"in": 3}})[0]
    assert book.end == 5
    assert book.taken_over == {"in:0:3": 3, "in:0:4": 4}
    assert "its tail was lost; going on with what is left" in caplog.text
    ledger.close()


def test_what_is_no_entry_is_skipped(
    kafka: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    ledger, topic = _ledger(kafka)
    _append(kafka, topic, 0, b"junk", *_entries([7]), *_entries([8], "nowhere"))
    with caplog.at_level(logging.WARNING):
        assert list(ledger.open({0: 0}, {})[0].taken_over) == ["in:0:7"]
    said = [r.message.partition(",")[0] for r in caplog.records]
    assert said == [f"skipping {topic}:0:{offset}" for offset in (0, 2)]
    ledger.close()


@pytest.mark.long
@pytest.mark.fault("late result for a revoked partition")
def test_an_answer_for_a_revoked_partition_is_not_committed(bench: Bench) -> None:
    answers = threading.Event()

    def hold() -> None:
        if bench.model.requests <= CALLS:
            answers.wait(120)

    bench.model.before = hold
    bench.write(100)
    first = bench.workers.start("ask")
    bench.wait_until(lambda: bench.model.requests == CALLS)
    second = bench.workers.start("ask")
    # the revocation waits for the held calls, gives up, and the second one asks for them itself
    bench.await_members("ask", 2)
    bench.await_bills(20)
    bench.struck()
    answers.set()
    bench.finish([first, second, bench.workers.start("shout", "pair")])

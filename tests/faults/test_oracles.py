"""The oracles catch what they are there for: each is shown a topic with that defect."""

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from producers.transactional import TransactionalProducer
from schemas.codec import codec_for
from schemas.message import Outgoing
from schemas.record import schema_of
from schemas.records import LedgerEntry
from schemas.topics import Topic
from streams import record
from streams.admin import create_topics
from tests.support import oracle
from tests.support.config import unique

EXPECTED = {"a": ["1", "2", "3"], "b": ["4"]}
CLEAN = [("a", "1"), ("a", "2"), ("b", "4"), ("a", "3")]


@record
class Item:
    text: str


@pytest.fixture
def topic(kafka: dict[str, Any]) -> Topic[Item]:
    made = Topic(unique("oracle"), Item, partitions=2)
    create_topics(kafka, [made])
    return made


def _write(
    servers: str, topic: Topic[Item], items: list[tuple[str, str]], *, commit: bool = True
) -> None:
    producer = Producer({"bootstrap.servers": servers, "transactional.id": unique("oracle")})
    producer.init_transactions(30)
    producer.begin_transaction()
    for key, text in items:
        producer.produce(topic.name, codec_for(Item).encode(Item(text)), key)
    if commit:
        producer.commit_transaction(30)
    else:
        producer.flush(30)
        producer.abort_transaction(30)


def _read(servers: str, topic: Topic[Item], isolation: str = "read_committed") -> list[oracle.Seen]:
    schema = json.loads(json.dumps(schema_of(Item)))
    return oracle.read(servers, topic.name, schema, isolation)


def _judge(servers: str, topic: Topic[Item], isolation: str = "read_committed") -> Any:
    return oracle.judge(_read(servers, topic, isolation), EXPECTED, "text")


def test_a_clean_topic_passes(bootstrap_servers: str, topic: Topic[Item]) -> None:
    _write(bootstrap_servers, topic, CLEAN)
    assert not _judge(bootstrap_servers, topic)


def test_a_loss_is_caught(bootstrap_servers: str, topic: Topic[Item]) -> None:
    _write(bootstrap_servers, topic, CLEAN[:-1])
    assert _judge(bootstrap_servers, topic).lost == ["3"]


def test_a_duplicate_is_caught(bootstrap_servers: str, topic: Topic[Item]) -> None:
    _write(bootstrap_servers, topic, [*CLEAN, ("a", "2")])
    assert _judge(bootstrap_servers, topic).doubled == ["2"]


def test_the_loss_of_a_whole_partition_is_caught(
    bootstrap_servers: str, topic: Topic[Item]
) -> None:
    _write(bootstrap_servers, topic, [item for item in CLEAN if item[0] == "b"])
    assert _judge(bootstrap_servers, topic).lost == ["1", "2", "3"]


def test_a_tail_behind_an_open_transaction_is_waited_for(
    bootstrap_servers: str, topic: Topic[Item]
) -> None:
    _write(bootstrap_servers, topic, CLEAN[:-1])
    producer = Producer(
        {"bootstrap.servers": bootstrap_servers, "transactional.id": unique("open")}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic.name, codec_for(Item).encode(Item("3")), "a")
    producer.flush(30)
    ending = threading.Timer(1, producer.commit_transaction, [30])
    ending.start()
    assert not _judge(
        bootstrap_servers, topic
    )  # a reader that stopped at the open one would lose "3"
    ending.join()


def test_a_reorder_is_caught(bootstrap_servers: str, topic: Topic[Item]) -> None:
    _write(bootstrap_servers, topic, [CLEAN[1], CLEAN[0], *CLEAN[2:]])
    assert _judge(bootstrap_servers, topic).disordered == ["a"]


def test_a_record_of_nobody_is_caught(bootstrap_servers: str, topic: Topic[Item]) -> None:
    _write(bootstrap_servers, topic, [*CLEAN, ("b", "x")])
    assert _judge(bootstrap_servers, topic).foreign == ["x"]


def test_an_aborted_read_is_caught(bootstrap_servers: str, topic: Topic[Item]) -> None:
    _write(bootstrap_servers, topic, CLEAN)
    _write(bootstrap_servers, topic, [("a", "1")], commit=False)
    assert not _judge(bootstrap_servers, topic)
    assert _judge(bootstrap_servers, topic, "read_uncommitted").doubled == ["1"]


def test_an_offset_that_lags_is_caught(bootstrap_servers: str, topic: Topic[Item]) -> None:
    _write(bootstrap_servers, topic, CLEAN)
    left = oracle.uncommitted(bootstrap_servers, unique("group"), [topic.name])
    assert sum(left.values()) == len(CLEAN)


def test_an_offset_that_lags_by_one_is_caught(bootstrap_servers: str, topic: Topic[Item]) -> None:
    _write(bootstrap_servers, topic, CLEAN)
    group = unique("group")
    seen = _read(bootstrap_servers, topic)
    after = {s.partition: s.offset + 1 for s in seen}
    _commit(bootstrap_servers, group, topic.name, after)
    assert not oracle.uncommitted(bootstrap_servers, group, [topic.name])
    last = seen[-1]
    _commit(bootstrap_servers, group, topic.name, {last.partition: last.offset})
    left = oracle.uncommitted(bootstrap_servers, group, [topic.name])
    assert left == {f"{topic.name}:{last.partition}": 1}


def _commit(servers: str, group: str, topic: str, offsets: dict[int, int]) -> None:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": group})
    wanted = [TopicPartition(topic, p, offset) for p, offset in offsets.items()]
    consumer.commit(offsets=wanted, asynchronous=False)
    consumer.close()


# --- B: the reader that was there all the time ---------------------------------------------------


@pytest.fixture
def follower(bootstrap_servers: str, topic: Topic[Item]) -> Iterator[oracle.Follower]:
    made = oracle.Follower(bootstrap_servers, {topic.name: schema_of(Item)})
    yield made
    made.close()


def _disagreement(servers: str, topic: Topic[Item], follower: oracle.Follower) -> list[int]:
    return oracle.disagreement(follower.settled(topic.name), _read(servers, topic))


def test_two_readers_agree_on_a_clean_topic(
    bootstrap_servers: str, topic: Topic[Item], follower: oracle.Follower
) -> None:
    for item in CLEAN:
        _write(bootstrap_servers, topic, [item])
        _write(bootstrap_servers, topic, [("a", "1")], commit=False)
    assert not _disagreement(bootstrap_servers, topic, follower)


def test_a_reader_that_saw_an_aborted_record_is_caught(
    bootstrap_servers: str, topic: Topic[Item]
) -> None:
    schemas = {topic.name: schema_of(Item)}
    dirty = oracle.Follower(bootstrap_servers, schemas, "read_uncommitted")
    _write(bootstrap_servers, topic, CLEAN)
    _write(bootstrap_servers, topic, [("a", "1")], commit=False)
    assert len(_disagreement(bootstrap_servers, topic, dirty)) == 1
    on_disk = oracle.aborted(bootstrap_servers, topic.name, schema_of(Item))
    assert [s.value["text"] for s in oracle.visible(on_disk, dirty.settled(topic.name))] == ["1"]
    dirty.close()


def test_a_topic_that_was_written_anew_is_caught(
    bootstrap_servers: str, topic: Topic[Item], follower: oracle.Follower, kafka: dict[str, Any]
) -> None:
    _write(bootstrap_servers, topic, CLEAN)
    seen = follower.settled(topic.name)
    admin = AdminClient(kafka)
    for future in admin.delete_topics([topic.name]).values():
        future.result(30)
    _await_gone(admin, topic.name)
    create_topics(kafka, [topic])
    _write(bootstrap_servers, topic, [CLEAN[1], CLEAN[0], *CLEAN[2:]])
    assert oracle.disagreement(seen, _read(bootstrap_servers, topic))


def _await_gone(admin: AdminClient, topic: str) -> None:
    until = time.monotonic() + 30
    while topic in admin.list_topics(timeout=10).topics:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize(
    "defect",
    [lambda s: s[1:], lambda s: s[:-1], lambda s: [s[0], *s], lambda s: [s[1], s[0], *s[2:]]],
    ids=["head lost", "tail lost", "seen twice", "reordered"],
)
def test_a_reader_that_disagreed_is_caught(
    bootstrap_servers: str, topic: Topic[Item], defect: Callable[[list[Any]], list[Any]]
) -> None:
    _write(bootstrap_servers, topic, [("a", "1"), ("a", "2"), ("a", "3")])
    seen = _read(bootstrap_servers, topic)
    assert not oracle.disagreement(seen, seen)
    assert oracle.disagreement(defect(seen), seen)


# --- C: the bills --------------------------------------------------------------------------------

LEDGER = [("in:0:0", "one", "id1", 1000), ("in:0:1", "two", "id2", 3000)]
QUESTIONS = {position: question for position, question, _, _ in LEDGER}
PAID = [oracle.Bill("one", 0, 0.9), oracle.Bill("two", 0, 0.9)]


def _account(
    bills: list[oracle.Bill], bound: int, ledger: Any = LEDGER, leaving: Collection[str] = ()
) -> oracle.Account:
    results = [
        oracle.Seen(0, n, call_id, {"inputs": position, "call_id": call_id}, at)
        for n, (position, _, call_id, at) in enumerate(ledger)
    ]
    return oracle.account(bills, results, QUESTIONS, bound, leaving)


def test_paying_once_passes() -> None:
    assert not _account(PAID, bound=2)


def test_a_lost_answer_that_is_asked_again_passes_within_the_bound() -> None:
    assert not _account([*PAID, oracle.Bill("two", 0, 2.5)], bound=3)


def test_a_bill_too_many_is_caught() -> None:
    charged = _account([*PAID, oracle.Bill("two", 0, 2.5)], bound=2)
    assert charged
    assert not charged.repaid


def test_a_completion_paid_again_after_its_result_is_caught() -> None:
    charged = _account([*PAID, oracle.Bill("one", 0, 1.5)], bound=99)
    assert charged
    assert charged.repaid == ["one"]


def test_a_request_that_was_leaving_a_stopped_process_may_leave_once() -> None:
    late = oracle.Bill("one", 0, 1.5)
    assert not _account([*PAID, late], bound=3, leaving=["one"])
    assert _account([*PAID, late, late], bound=4, leaving=["one"]).repaid == ["one"]
    assert _account([*PAID, late], bound=3, leaving=["two"]).repaid == ["one"]


def test_a_second_reply_to_a_question_is_another_completion() -> None:
    second = [*PAID, oracle.Bill("one", 1, 1.5)]
    assert not _account(second, bound=3)
    ledger = [*LEDGER, ("in:0:0", "one", "id1b", 2000)]
    assert not _account(second, bound=3, ledger=ledger)
    assert _account([*second, oracle.Bill("one", 1, 2.5)], bound=9, ledger=ledger).repaid == ["one"]


def test_the_ledger_is_read_by_its_contract(bootstrap_servers: str, kafka: dict[str, Any]) -> None:
    ledger = Topic(unique("ledger"), LedgerEntry)
    create_topics(kafka, [ledger])
    entry = LedgerEntry("result", "id1", "in:0:0", "p@1", "m", 5, "text", 1, 2, 0.5, 7)
    producer = TransactionalProducer(kafka, unique("ledger"))
    producer.open()
    producer.commit([Outgoing(ledger.name, b"id1", codec_for(LedgerEntry).encode(entry), [])])
    (seen,) = oracle.read(bootstrap_servers, ledger.name, oracle.LEDGER_ENTRY)
    assert seen.value["kind"] == "result"
    assert seen.value["inputs"] == "in:0:0"
    assert seen.at > 0


# --- E: aborted records --------------------------------------------------------------------------


def test_aborted_records_are_found_on_disk(
    bootstrap_servers: str, topic: Topic[Item], follower: oracle.Follower
) -> None:
    _write(bootstrap_servers, topic, CLEAN)
    assert not oracle.aborted(bootstrap_servers, topic.name, schema_of(Item))
    _write(bootstrap_servers, topic, CLEAN[:2], commit=False)
    found = oracle.aborted(bootstrap_servers, topic.name, schema_of(Item))
    assert [s.value["text"] for s in found] == ["1", "2"]
    assert not oracle.visible(found, follower.settled(topic.name))

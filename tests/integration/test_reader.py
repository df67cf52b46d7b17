"""The read-committed reader on topics with aborted, open and ended transactions."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.reader import Reader, end_offsets, partitions_of, read_settled, start_offsets
from schemas.errors import RetryLater, UsageError
from schemas.message import Received
from schemas.records import Original
from schemas.topics import Topic
from streams.admin import create_topics
from tests.integration.conftest import wait_for
from tests.support.config import unique


class Log:
    """A topic of one partition, and transactions that end as they are told."""

    def __init__(self, config: dict[str, Any], *, compacted: bool = False) -> None:
        self.config, self.name = dict(config), unique("log")
        self.partition = (self.name, 0)
        create_topics(config, [Topic(self.name, Original, partitions=1, compacted=compacted)])

    def begin(self, *values: str, key: str = "k") -> Producer:
        """Writes records in a transaction that stays open."""
        producer = Producer(self.config | {"transactional.id": unique("log")})
        producer.init_transactions(30)
        producer.begin_transaction()
        for value in values:
            producer.produce(self.name, value or None, key)
        assert producer.flush(30) == 0
        return producer

    def commit(self, *values: str, key: str = "k") -> None:
        self.begin(*values, key=key).commit_transaction(30)

    def abort(self, *values: str) -> None:
        self.begin(*values).abort_transaction(30)

    def reader(self, begin: str = "earliest") -> Reader:
        start = start_offsets(self.config, [self.partition], begin)
        return Reader(self.config, [self.partition], start)

    def settled(self, begin: str = "earliest") -> list[str]:
        with self.reader(begin) as reader:
            return texts(reader.settled())


def texts(records: Iterator[Received] | Sequence[Received]) -> list[str]:
    return [(r.value or b"").decode() for r in records]


@pytest.fixture
def log(kafka: dict[str, Any]) -> Log:
    return Log(kafka)


# --- ended transactions --------------------------------------------------------------------------


def test_an_empty_topic_is_read_at_once(log: Log) -> None:
    assert log.settled() == []


def test_aborted_records_are_passed_over(log: Log) -> None:
    log.commit("a", "b")
    log.abort("x")
    log.commit("c")
    assert log.settled() == ["a", "b", "c"]


def test_aborted_records_at_the_end_are_passed_over(log: Log) -> None:
    log.commit("a")
    log.abort("x", "y")
    log.abort("z")
    assert log.settled() == ["a"]


def test_a_topic_of_nothing_but_aborted_records_is_empty(log: Log) -> None:
    log.abort("x")
    assert log.settled() == []
    assert end_offsets(log.config, [log.partition]) == {log.partition: 2}, "record and marker"


def test_control_records_at_the_end_are_passed_over(log: Log) -> None:
    log.commit("a")
    log.commit()
    with log.reader() as reader:
        assert texts(reader.settled()) == ["a"]
        assert reader.reached == end_offsets(log.config, [log.partition])


def test_what_was_deleted_is_done_without(log: Log) -> None:
    log.commit("a", "b", "c")
    admin = AdminClient(log.config)
    for future in admin.delete_records([TopicPartition(*log.partition, 2)]).values():
        future.result(30)
    log.config |= {"auto.offset.reset": "latest"}  # a setting of the user's own consumers
    assert log.settled() == ["c"]


# --- open transactions ---------------------------------------------------------------------------


def _settle_while_open(log: Log, pool: ThreadPoolExecutor) -> "Future[list[str]]":
    """A read that has come to the open transaction and waits there."""
    reader = log.reader()
    found = pool.submit(lambda: texts(reader.settled()))
    wait_for(lambda: log.partition in reader.reached, "the last stable offset")
    assert not found.done()
    return found


@pytest.mark.parametrize(("commits", "expected"), [(True, ["a", "b", "c"]), (False, ["a", "c"])])
def test_settled_waits_for_an_open_transaction(
    log: Log, commits: bool, expected: list[str]
) -> None:
    log.commit("a")
    writer = log.begin("b")
    log.commit("c")  # read only after what came before it
    with ThreadPoolExecutor() as pool:
        found = _settle_while_open(log, pool)
        (writer.commit_transaction if commits else writer.abort_transaction)(30)
        assert found.result(30) == expected


def test_committed_does_not_wait(log: Log) -> None:
    log.commit("a")
    writer = log.begin("b")
    with log.reader() as reader:
        assert texts(reader.committed()) == ["a"]
    writer.abort_transaction(30)


def test_patience_ends(log: Log) -> None:
    log.commit("a")
    writer = log.begin("b")
    with log.reader() as reader:
        records = reader.settled(patience=0.5)
        assert texts([next(records)]) == ["a"]
        with pytest.raises(RetryLater, match=f"nothing moved on {log.name}:0"):
            next(records)
    writer.abort_transaction(30)


def test_what_comes_later_is_not_waited_for(log: Log) -> None:
    log.commit("a")
    with log.reader() as reader:
        records = reader.settled()
        writer = log.begin("b")
        assert texts(records) == ["a"]
    writer.abort_transaction(30)


# --- where to begin ------------------------------------------------------------------------------


def test_where_to_begin(log: Log) -> None:
    producer = Producer(log.config)  # without transactions, whose markers have times of their own
    producer.produce(log.name, "a", timestamp=1_767_225_600_000)  # 2026-01-01
    producer.produce(log.name, "b", timestamp=1_769_904_000_000)  # 2026-02-01
    assert producer.flush(30) == 0
    for begin, expected in {
        "earliest": ["a", "b"],
        "latest": [],
        "1": ["b"],
        "2026-01-01T00:00:00Z": ["a", "b"],
        "2026-01-01T00:00:00.001Z": ["b"],
        "2026-02-01T00:00:00+01:00": ["b"],
        "2026-01-31T23:00:00-02:00": [],
    }.items():
        assert log.settled(begin) == expected, begin


def test_the_latest_includes_what_comes(log: Log) -> None:
    log.commit("a")
    with log.reader("latest") as reader:
        assert reader.poll(0.1) == []
        log.commit("b")
        assert texts([next(reader.follow())]) == ["b"]


@pytest.mark.parametrize("begin", ["", "yesterday", "-1", "1.5", "2026-13-01"])
def test_a_begin_that_is_none_is_wrong_use(log: Log, begin: str) -> None:
    with pytest.raises(UsageError, match="neither earliest"):
        start_offsets(log.config, [log.partition], begin)


# --- whole topics --------------------------------------------------------------------------------


def test_several_topics_are_read_together(kafka: dict[str, Any]) -> None:
    one, two = Log(kafka), Log(kafka)
    one.commit("a", "b")
    two.commit("c")
    found = list(read_settled(kafka, [one.name, two.name]))
    assert sorted(texts(found)) == ["a", "b", "c"]
    start = {one.partition: 1}
    assert sorted(texts(list(read_settled(kafka, [one.name, two.name], start)))) == ["b", "c"]


def test_a_received_record_has_all_that_was_written(log: Log) -> None:
    producer = Producer(log.config)
    headers: Any = [("a", b"\xff"), ("a", b""), ("b", None)]
    producer.produce(log.name, b"v\0", b"k\xff", headers=headers, timestamp=1_767_225_600_000)
    assert producer.flush(30) == 0
    (found,) = read_settled(log.config, [log.name])
    assert found == Received(log.name, 0, 0, 1_767_225_600_000, b"k\xff", b"v\0", headers)


def test_a_missing_topic_is_wrong_use(kafka: dict[str, Any]) -> None:
    missing = unique("missing")
    with pytest.raises(UsageError, match=missing):
        partitions_of(kafka, [missing])
    with pytest.raises(UsageError, match="topics create"):
        list(read_settled(kafka, [missing]))


def test_the_last_record_of_a_key_is_the_state(kafka: dict[str, Any]) -> None:
    log = Log(kafka, compacted=True)
    log.commit("1", "2", key="a")
    log.commit("1", "", key="b")  # taken away again
    log.abort("3")
    log.commit("1", key="c")
    state = {r.key: r.value for r in read_settled(kafka, [log.name])}
    assert state == {b"a": b"2", b"b": None, b"c": b"1"}

"""The oracles catch what they are there for: each is shown a topic with that defect."""

import json
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.codec import codec_for
from schemas.record import schema_of
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


def _judge(servers: str, topic: Topic[Item], isolation: str = "read_committed") -> Any:
    schema = json.loads(json.dumps(schema_of(Item)))
    return oracle.judge(oracle.read(servers, topic.name, schema, isolation), EXPECTED, "text")


def test_a_clean_topic_passes(bootstrap_servers: str, topic: Topic[Item]) -> None:
    _write(bootstrap_servers, topic, CLEAN)
    assert not _judge(bootstrap_servers, topic)


def test_a_loss_is_caught(bootstrap_servers: str, topic: Topic[Item]) -> None:
    _write(bootstrap_servers, topic, CLEAN[:-1])
    assert _judge(bootstrap_servers, topic).lost == ["3"]


def test_a_duplicate_is_caught(bootstrap_servers: str, topic: Topic[Item]) -> None:
    _write(bootstrap_servers, topic, [*CLEAN, ("a", "2")])
    assert _judge(bootstrap_servers, topic).doubled == ["2"]


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

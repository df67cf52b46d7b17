"""What the wire format makes of a registry's answers; a real registry is asked elsewhere."""

import json
from collections.abc import Callable

import pytest
from confluent_kafka.schema_registry import Schema

from schemas import registry
from schemas.errors import DecodeError, RetryLater
from schemas.record import schema_of
from schemas.records import Headline
from schemas.registry import WireFormat
from tests.support.virtual_time import Clock

SCHEMA = Schema(json.dumps(schema_of(Headline)), "AVRO")
VALUE = b"\x00\x00\x00\x00\x07abc"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(registry, "time", made)
    return made


@pytest.fixture
def framing(clock: Clock) -> WireFormat:
    return WireFormat("http://127.0.0.1:1", patience=0)


def _answers(
    monkeypatch: pytest.MonkeyPatch, framing: WireFormat, answer: Callable[[], object]
) -> None:
    monkeypatch.setattr(framing._client, "schema", lambda number: answer())


def _away() -> object:
    raise RetryLater("it does not answer")


def test_a_schema_that_the_registry_does_not_know_is_unknown(
    framing: WireFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answers(monkeypatch, framing, lambda: None)
    with pytest.raises(DecodeError, match="7"):
        framing.written(VALUE)


def test_a_registry_that_was_away_is_not_believed_at_once_that_it_does_not_know_a_schema(
    framing: WireFormat, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answers(monkeypatch, framing, _away)
    with pytest.raises(RetryLater, match="does not answer"):
        framing.written(VALUE)
    clock.now += 20
    _answers(monkeypatch, framing, lambda: None)
    with pytest.raises(RetryLater, match="was away, and does not know schema 7 yet"):
        framing.written(VALUE)
    clock.now += 20
    _answers(monkeypatch, framing, lambda: SCHEMA)
    assert framing.written(VALUE).schema["name"] == "pressroom.Headline"


def test_what_it_does_not_know_after_a_minute_is_unknown(
    framing: WireFormat, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answers(monkeypatch, framing, _away)
    with pytest.raises(RetryLater):
        framing.written(VALUE)
    _answers(monkeypatch, framing, lambda: None)
    for _ in range(5):
        clock.now += 11
        with pytest.raises(RetryLater):
            framing.written(VALUE)
    clock.now += 11
    with pytest.raises(DecodeError):
        framing.written(VALUE)

"""A worker that was away makes no request before the group's coordinator has taken its commit."""

import asyncio
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams import presence
from streams.llm import Question
from streams.model import Completion
from streams.presence import Presence

QUESTION = Question("1", "greet@1", "m")
HELD = 0.05
"""Long enough for a call that is not held up to be made."""


class Group:
    """The coordinator, and the member's client, which asks it by committing."""

    def __init__(self) -> None:
        self.asked = 0
        self.probes: list[TopicPartition] = []
        self.member = "me"
        self.error: KafkaException | None = None

    def memberid(self) -> str:
        return self.member

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        (probe,) = offsets
        assert (probe.topic, probe.partition) == ("p.s.ledger", 0)
        self.asked += 1
        self.probes.append(probe)
        if self.error is not None:
            raise self.error


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(presence, "time", made)
    return made


@pytest.fixture
def group() -> Group:
    return Group()


@pytest.fixture
def present(clock: Clock) -> Presence:
    stage: Any = SimpleNamespace(ledger=SimpleNamespace(name="p.s.ledger"))
    return Presence(stage)


async def _is_asked(present: Presence) -> bool:
    """Whether a call is made now."""
    requests = []

    async def keep(_: Question, ask: Any) -> Completion:
        return await ask(_nothing)  # type: ignore[no-any-return]

    async def _nothing() -> None: ...

    async def ask(begin: Any) -> Completion:
        await begin()
        requests.append(1)
        return Completion("", "m", 0, 0)

    call = asyncio.ensure_future(present.keeping(keep)(QUESTION, ask))
    await asyncio.wait([call], timeout=HELD)
    call.cancel()
    return bool(requests)


def asked(present: Presence) -> bool:
    return asyncio.run(_is_asked(present))


def _poll(present: Presence, clock: Clock, group: Any, *, after: float) -> None:
    clock.now += after
    present.polled(group)


def _accept(present: Presence, group: Any, which: int = -1) -> None:
    present.committed(group, None, [group.probes[which]])


def _refuse(present: Presence, group: Any, code: int) -> None:
    present.committed(group, KafkaError(code), [group.probes[-1]])


def test_one_that_polls_asks_at_once(present: Presence, clock: Clock, group: Group) -> None:
    for before, now in pairwise([0.0, 1.0, 2.9]):
        _poll(present, clock, group, after=now - before)
    assert asked(present)
    assert not group.asked


def test_one_that_was_away_asks_nothing_before_it_polls(present: Presence, clock: Clock) -> None:
    clock.now += 20
    assert not asked(present)


def test_one_whose_commit_is_taken_goes_on(present: Presence, clock: Clock, group: Group) -> None:
    _poll(present, clock, group, after=20)
    assert not asked(present)
    _accept(present, group)
    _poll(present, clock, group, after=0.1)
    assert asked(present)


def test_one_whose_commit_is_refused_asks_again(
    present: Presence, clock: Clock, group: Group
) -> None:
    _poll(present, clock, group, after=20)
    _refuse(present, group, KafkaError.UNKNOWN_MEMBER_ID)
    _poll(present, clock, group, after=0.1)
    assert not asked(present)
    _poll(present, clock, group, after=0.5)
    _refuse(present, group, KafkaError._TIMED_OUT)
    group.error = KafkaException(KafkaError(KafkaError._STATE))
    _poll(present, clock, group, after=0.5)
    group.error = None
    _poll(present, clock, group, after=0.5)
    assert not asked(present)
    _accept(present, group)
    assert asked(present)
    assert group.asked == 4


def test_one_question_at_a_time(present: Presence, clock: Clock, group: Group) -> None:
    _poll(present, clock, group, after=20)
    for _ in range(5):
        _poll(present, clock, group, after=2.5)
    assert group.asked == 1


def test_an_answer_that_never_comes_is_not_waited_for_without_end(
    present: Presence, clock: Clock, group: Group
) -> None:
    _poll(present, clock, group, after=20)
    for _ in range(7):
        _poll(present, clock, group, after=2.5)
    assert group.asked == 2
    _accept(present, group)
    assert asked(present)


def test_one_without_an_id_does_not_even_ask(present: Presence, clock: Clock, group: Group) -> None:
    group.member = ""
    _poll(present, clock, group, after=20)
    assert not group.asked
    assert not asked(present)


def test_a_commit_under_an_id_that_it_has_no_more_counts_for_nothing(
    present: Presence, clock: Clock, group: Group
) -> None:
    _poll(present, clock, group, after=20)
    group.member = "me anew"
    _accept(present, group)
    assert not asked(present)


def test_an_answer_from_before_another_pause_counts_for_nothing(
    present: Presence, clock: Clock, group: Group
) -> None:
    _poll(present, clock, group, after=20)
    _poll(present, clock, group, after=20)
    assert group.asked == 2
    _accept(present, group, 0)
    assert not asked(present)
    _accept(present, group, 1)
    assert asked(present)

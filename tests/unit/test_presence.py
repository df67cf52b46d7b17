"""A worker that was away makes no request before the group's coordinator has named it."""

import asyncio
from concurrent.futures import Future
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams import presence
from streams.llm import Question
from streams.model import Completion
from streams.presence import Presence

QUESTION = Question("1", "greet@1", "m")
HELD = 0.05
"""Long enough for a call that is not held up to be made."""


class Group:
    """The coordinator, asked by a client that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Future[Any]] = []

    def describe_consumer_groups(self, groups: list[str], **_: object) -> dict[str, Future[Any]]:
        self.asked.append(Future())
        return dict.fromkeys(groups, self.asked[-1])

    def name(self, *members: str) -> None:
        """Answers with these members."""
        found = [SimpleNamespace(member_id=member) for member in members]
        self.asked[-1].set_result(SimpleNamespace(members=found))


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
def present(clock: Clock, group: Group) -> Presence:
    consumer: Any = SimpleNamespace(memberid=lambda: "me")
    made = Presence(consumer, "g", {})
    made.__dict__["_admin"] = group
    return made


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


def _poll(present: Presence, clock: Clock, *, after: float) -> None:
    clock.now += after
    present.polled()


def test_one_that_polls_asks_at_once(present: Presence, clock: Clock, group: Group) -> None:
    for before, now in pairwise([0.0, 1.0, 2.9]):
        _poll(present, clock, after=now - before)
    assert asked(present)
    assert not group.asked


def test_one_that_was_away_asks_nothing_before_it_polls(present: Presence, clock: Clock) -> None:
    clock.now += 20
    assert not asked(present)


def test_one_that_is_named_goes_on(present: Presence, clock: Clock, group: Group) -> None:
    _poll(present, clock, after=20)
    assert not asked(present)
    group.name("you", "me")
    _poll(present, clock, after=0.1)
    assert asked(present)


def test_one_that_is_not_named_asks_again(present: Presence, clock: Clock, group: Group) -> None:
    _poll(present, clock, after=20)
    group.name("you")
    _poll(present, clock, after=0.1)
    assert not asked(present)
    _poll(present, clock, after=0.5)
    group.asked[-1].set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
    _poll(present, clock, after=0.1)
    assert not asked(present)
    _poll(present, clock, after=0.5)
    group.name("me")
    _poll(present, clock, after=0.1)
    assert asked(present)
    assert len(group.asked) == 3


def test_an_answer_from_before_another_pause_counts_for_nothing(
    present: Presence, clock: Clock, group: Group
) -> None:
    _poll(present, clock, after=20)
    group.name("me")
    _poll(present, clock, after=20)
    assert not asked(present)

"""A worker that was away makes no request before a transaction has told that it still is a member."""

import asyncio
from typing import Any

import pytest

from streams import presence
from streams.llm import Question
from streams.model import Completion, last_moment
from streams.presence import Presence
from tests.support.virtual_time import Clock

QUESTION = Question("1", "greet@1", "m")
HELD = 0.05
"""Long enough for a call that is not held up to be made."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(presence, "time", made)
    return made


@pytest.fixture
def present(clock: Clock) -> Presence:
    return Presence()


async def _called(present: Presence, clock: Clock, away: float, later: float) -> list[str]:
    done = []

    async def keep(_: Question, ask: Any) -> Completion:
        async def write_the_intent() -> None:
            clock.now += away

        return await ask(write_the_intent)  # type: ignore[no-any-return]

    async def ask(begin: Any) -> Completion:
        await begin()
        ready = last_moment.get()
        assert ready is not None
        await ready()
        done.append("asked")
        clock.now += later
        return Completion("", "m", 0, 0)

    call = asyncio.ensure_future(present.keeping(keep)(QUESTION, ask))
    finished, _ = await asyncio.wait([call], timeout=HELD)
    call.cancel()
    return [*done, "kept"] if finished else done


def asked(present: Presence, clock: Clock, *, away: float = 0) -> bool:
    """Whether a call is made now; the process may be away while its intent is written."""
    return "asked" in asyncio.run(_called(present, clock, away, later=0))


def _beat(present: Presence, clock: Clock, *, after: float) -> None:
    clock.now += after
    present.beat()


def test_one_that_goes_round_asks_at_once(present: Presence, clock: Clock) -> None:
    for _ in range(3):
        _beat(present, clock, after=2.9)
        assert asked(present, clock)


def test_one_that_was_away_asks_when_a_transaction_was_committed(
    present: Presence, clock: Clock
) -> None:
    clock.now += 20
    assert not asked(present, clock), "before the loop has noticed"
    _beat(present, clock, after=0)
    assert not asked(present, clock)
    present.confirmed(present.absences)
    assert asked(present, clock)


def test_one_that_is_away_while_the_intent_is_written_does_not_ask(
    present: Presence, clock: Clock
) -> None:
    assert not asked(present, clock, away=20)


def test_a_transaction_from_before_a_pause_tells_nothing(present: Presence, clock: Clock) -> None:
    begun_after = present.absences
    _beat(present, clock, after=20)
    present.confirmed(begun_after)
    assert not asked(present, clock)
    present.confirmed(present.absences)
    _beat(present, clock, after=20)
    assert not asked(present, clock)


def test_an_answer_that_comes_while_it_is_away_is_not_kept(present: Presence, clock: Clock) -> None:
    assert asyncio.run(_called(present, clock, away=0, later=1)) == ["asked", "kept"]
    assert asyncio.run(_called(present, clock, away=0, later=20)) == ["asked"]

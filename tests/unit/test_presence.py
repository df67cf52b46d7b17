"""A worker that was away makes no request before a transaction has told that it still is a member."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from streams import presence
from streams.last_moment import Withheld, check_the_last_moment
from streams.llm import Question
from streams.model import Completion
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


async def _called(present: Presence, **at: Callable[[], None]) -> list[str]:
    """The steps of a call; at the first of a name happens what is given for it."""
    done: list[str] = []

    def step(name: str) -> None:
        done.append(name)
        at.pop(name, lambda: None)()

    async def keep(_: Question, ask: Any) -> Completion:
        async def begin() -> None:
            step("begun")

        return await ask(begin)  # type: ignore[no-any-return]

    async def ask(begin: Any) -> Completion:
        await begin()
        step("connected")
        check_the_last_moment()
        step("asked")
        return Completion("", "m", 0, 0)

    call = asyncio.ensure_future(present.keeping(keep)(QUESTION, ask))
    finished, _ = await asyncio.wait([call], timeout=HELD)
    if not finished:
        call.cancel()
        return done
    return [*done, "withheld" if isinstance(call.exception(), Withheld) else "kept"]


def steps(present: Presence, **at: Callable[[], None]) -> list[str]:
    """As far as a call gets now."""
    return asyncio.run(_called(present, **at))


def asked(present: Presence) -> bool:
    """Whether a call is made now."""
    return "asked" in steps(present)


def _away(clock: Clock, seconds: float = 20) -> Callable[[], None]:
    def go() -> None:
        clock.now += seconds

    return go


def _beat(present: Presence, clock: Clock, *, after: float) -> None:
    clock.now += after
    present.beat()


def test_one_that_goes_round_asks_at_once(present: Presence, clock: Clock) -> None:
    for _ in range(3):
        _beat(present, clock, after=2.9)
        assert asked(present)


def test_one_that_was_away_asks_when_a_transaction_was_committed(
    present: Presence, clock: Clock
) -> None:
    clock.now += 20
    assert not asked(present), "before the loop has noticed"
    _beat(present, clock, after=0)
    assert not asked(present)
    present.confirmed(present.absences)
    assert asked(present)


def test_one_whose_transaction_failed_asks_when_one_was_committed(present: Presence) -> None:
    present.doubt()
    assert not asked(present)
    present.confirmed(present.absences)
    assert asked(present)


def test_one_that_is_away_while_the_intent_is_written_does_not_ask(
    present: Presence, clock: Clock
) -> None:
    assert steps(present, begun=_away(clock)) == ["begun", "withheld"]


def test_one_whose_intent_takes_long_to_be_written_does_not_ask(
    present: Presence, clock: Clock
) -> None:
    def cut_off() -> None:
        clock.now += 20
        present.beat()
        present.confirmed(present.absences)

    assert steps(present, begun=cut_off) == ["begun", "withheld"]
    assert not asked(present)


def test_one_that_is_away_while_it_connects_does_not_ask(present: Presence, clock: Clock) -> None:
    assert steps(present, connected=_away(clock)) == ["begun", "connected", "withheld"]


def test_a_transaction_from_before_a_pause_tells_nothing(present: Presence, clock: Clock) -> None:
    begun_after = present.absences
    _beat(present, clock, after=20)
    present.confirmed(begun_after)
    assert not asked(present)
    present.confirmed(present.absences)
    _beat(present, clock, after=20)
    assert not asked(present)


def test_an_answer_that_comes_while_it_is_away_is_not_kept(present: Presence, clock: Clock) -> None:
    assert steps(present, asked=_away(clock, 1))[-1] == "kept"
    assert steps(present, asked=_away(clock))[-1] == "asked"


def test_an_answer_is_kept_whatever_becomes_of_a_transaction(present: Presence) -> None:
    assert steps(present, asked=present.doubt)[-1] == "kept"

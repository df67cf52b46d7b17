"""A step that no broker answers is tried again, for a while."""

import pytest

from schemas.errors import RetryLater
from streams import connection
from streams.connection import PATIENCE, patiently
from tests.support.virtual_time import Clock


class Sleeper(Clock):
    """A clock that moves when somebody sleeps."""

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Sleeper:
    made = Sleeper()
    monkeypatch.setattr(connection, "time", made)
    return made


def test_a_step_is_tried_again_until_it_is_answered() -> None:
    broken = [RetryLater("broken"), RetryLater("broken")]

    def step() -> str:
        if broken:
            raise broken.pop()
        return "answered"

    assert patiently(step) == "answered"


def test_patience_has_an_end(clock: Sleeper) -> None:
    began = clock.now

    def step() -> None:
        raise RetryLater("away")

    with pytest.raises(RetryLater, match="away"):
        patiently(step)
    assert PATIENCE <= clock.now - began < PATIENCE + 1

"""How many calls an endpoint takes, found out; endpoints in virtual time."""

import asyncio
import math
import random
from collections.abc import Callable

import pytest

from schemas.errors import RecordRejected
from streams.calls import Caller
from streams.model import Completion, Overloaded
from tests.support import virtual_time
from tests.support.endpoint import DONE, REQUEST, Endpoint, many

Take = Callable[[float], float | None]
"""Given the time: None if a call is taken then, else the seconds until one will be."""


def beyond_a_network(take: Take, told: bool = True, whole_seconds: bool = False) -> Endpoint:
    """Takes calls as ``take`` says; whoever is refused hears of it a little later."""
    chance = random.Random(5)

    async def reply() -> Completion:
        await asyncio.sleep(chance.uniform(0.001, 0.006))
        left = take(asyncio.get_running_loop().time())
        if left is not None:
            await asyncio.sleep(chance.uniform(0.001, 0.006))
            seconds = float(math.ceil(left)) if whole_seconds else left
            raise Overloaded("too many", seconds if told else None)
        await asyncio.sleep(chance.expovariate(1 / 0.2))
        return DONE

    return Endpoint(reply)


def by_periods(most: int, seconds: float) -> Take:
    """So many in each period."""
    taken: dict[int, int] = {}

    def take(now: float) -> float | None:
        period = int(now / seconds)
        if taken.get(period, 0) >= most:
            return (period + 1) * seconds - now
        taken[period] = taken.get(period, 0) + 1
        return None

    return take


def by_a_bucket(rate: float, most: float) -> Take:
    """So many a second, after at most so many at once."""
    level, at = most, 0.0

    def take(now: float) -> float | None:
        nonlocal level, at
        level, at = min(most, level + (now - at) * rate), now
        if level < 1:
            return (1 - level) / rate
        level -= 1
        return None

    return take


@pytest.mark.parametrize("most", [4, 16, 50])
@pytest.mark.parametrize("evenly", [True, False])
@pytest.mark.parametrize("told", [1.0, None])
def test_an_endpoint_that_takes_only_some_at_once(
    most: int, evenly: bool, told: float | None
) -> None:
    """1,000 calls, 64 at once: nearly as fast as so many at once can be, and few are refused."""
    held, chance = 0, random.Random(most)

    async def reply() -> Completion:
        nonlocal held
        await asyncio.sleep(chance.uniform(0.001, 0.006))
        if held >= most:
            raise Overloaded("too many", told)
        held += 1
        await asyncio.sleep(0.2 if evenly else chance.expovariate(1 / 0.2))
        held -= 1
        return DONE

    endpoint = Endpoint(reply)
    answers, seconds = virtual_time.run(many(Caller(endpoint), 1000, 64))
    assert answers == [DONE] * 1000
    assert seconds < 1.1 * (1000 / most * 0.2) + 1
    assert len(endpoint.asked) < 1000 + 64 - most + 30


@pytest.mark.parametrize("told", ["exactly", "in whole seconds", "not"])
@pytest.mark.parametrize(
    ("take", "least"),
    [
        pytest.param(lambda: by_periods(50, 1.0), 19, id="50 in each second"),
        pytest.param(lambda: by_periods(20, 1.0), 49, id="20 in each second"),
        pytest.param(lambda: by_a_bucket(20, 20), 49, id="20 a second, 20 at once"),
        pytest.param(lambda: by_a_bucket(50, 10), 20, id="50 a second, 10 at once"),
        pytest.param(lambda: by_a_bucket(10, 10), 99, id="10 a second, 10 at once"),
        pytest.param(lambda: by_a_bucket(500 / 60, 500), 60, id="500 a minute, 500 at once"),
    ],
)
def test_an_endpoint_that_takes_only_some_in_a_time(
    take: Callable[[], Take], least: float, told: str
) -> None:
    """1,000 calls, 64 at once, as fast as a rate allows; it is found out, and then kept to."""
    endpoint = beyond_a_network(take(), told != "not", told == "in whole seconds")
    answers, seconds = virtual_time.run(many(Caller(endpoint), 1000, 64))
    assert answers == [DONE] * 1000
    assert seconds < 1.3 * least + 4
    assert len(endpoint.asked) < 1.15 * 1000


def test_an_endpoint_that_takes_only_some_a_minute() -> None:
    """It says when the next minute begins; nobody asks before."""
    endpoint = beyond_a_network(by_periods(300, 60.0))
    answers, seconds = virtual_time.run(many(Caller(endpoint), 1000, 64))
    assert answers == [DONE] * 1000
    assert seconds < 180 + 8
    assert len(endpoint.asked) < 1.1 * 1000


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("told", [1.0, None])
@pytest.mark.parametrize("part", [0.03, 0.2])
def test_an_endpoint_that_refuses_at_random(part: float, told: float | None, seed: int) -> None:
    """Refusals between answers concern their own calls: the others are not held up by them."""
    chance = random.Random(seed)
    endpoint = beyond_a_network(
        lambda _: (told or 0.0) if chance.random() < part else None, bool(told)
    )
    answers, seconds = virtual_time.run(many(Caller(endpoint), 1000, 64))
    assert answers == [DONE] * 1000
    # 3 s of calls; who is refused several times waits longer each time
    assert seconds < 60
    assert len(endpoint.asked) < 1000 / (1 - part) * 1.1


def test_an_endpoint_that_takes_no_two_at_once() -> None:
    """One each 50 ms; calls take seconds, so many can be under way that began one after another."""
    chance, taken = random.Random(3), by_a_bucket(20, 1)

    async def reply() -> Completion:
        await asyncio.sleep(chance.uniform(0.001, 0.006))
        if taken(asyncio.get_running_loop().time()) is not None:
            raise Overloaded("too many", 1.0)
        await asyncio.sleep(5)
        return DONE

    answers, seconds = virtual_time.run(many(Caller(Endpoint(reply)), 200, 4))
    assert answers == [DONE] * 200
    assert seconds < 1.5 * 200 / 4 * 5


def test_many_who_wait_for_an_endpoint_that_takes_few() -> None:
    """What was refused in one go does not make it take the endpoint for smaller than it is."""
    endpoint = beyond_a_network(by_periods(5, 10.0), whole_seconds=True)
    answers, seconds = virtual_time.run(many(Caller(endpoint), 100, 100))
    assert answers == [DONE] * 100
    assert seconds < 200 + 20
    assert len(endpoint.asked) < 4 * 100


def test_it_comes_back_after_a_long_time_in_which_none_was_taken() -> None:
    before = by_a_bucket(20, 20)
    endpoint = beyond_a_network(lambda now: 1.0 if 10 < now < 1800 else before(now), told=False)
    answers, seconds = virtual_time.run(many(Caller(endpoint), 400, 32))
    done = sum(answer == DONE for answer in answers)
    assert done + sum(isinstance(answer, RecordRejected) for answer in answers) == 400
    assert seconds < 1800 + 400


def test_a_rate_that_is_lifted_while_others_are_refused_at_random() -> None:
    """Going slower helps no more: as many are refused at half the rate."""
    chance, before = random.Random(7), by_periods(50, 1.0)
    endpoint = beyond_a_network(
        lambda now: before(now) if now < 10 else 0.0 if chance.random() < 0.2 else None, told=False
    )
    answers, seconds = virtual_time.run(many(Caller(endpoint), 2000, 64))
    assert answers == [DONE] * 2000
    assert seconds < 120
    assert len(endpoint.asked) < 2 * 2000


def test_an_endpoint_that_takes_none_for_a_while() -> None:
    endpoint = beyond_a_network(lambda now: 1.0 if now < 20 else None)
    answers, seconds = virtual_time.run(many(Caller(endpoint), 1000, 64))
    assert answers == [DONE] * 1000
    assert seconds < 20 + 8
    assert len(endpoint.asked) < 1000 + 64 + 30


def test_an_endpoint_that_takes_more_in_a_time_than_before() -> None:
    before, after = by_a_bucket(20, 20), by_a_bucket(200, 200)
    endpoint = beyond_a_network(lambda now: before(now) if now < 10 else after(now))
    answers, seconds = virtual_time.run(many(Caller(endpoint), 1000, 64))
    assert answers == [DONE] * 1000
    assert seconds < 35  # 50 as it was before


def test_after_a_pause_the_rate_is_measured_anew() -> None:
    """What was not asked for says nothing of what would be taken."""
    endpoint = beyond_a_network(by_a_bucket(50, 50))

    async def ask() -> float:
        caller = Caller(endpoint)
        for _ in range(20):
            await caller.complete(REQUEST)
            await asyncio.sleep(30)
        began = asyncio.get_running_loop().time()
        await many(caller, 1000, 64)
        return asyncio.get_running_loop().time() - began

    assert virtual_time.run(ask())[0] < 1.3 * 19 + 4


def test_it_asks_for_more_again_when_the_endpoint_takes_more() -> None:
    most = 4
    held = 0

    async def reply() -> Completion:
        nonlocal held
        if held >= most:
            raise Overloaded("too many")
        held += 1
        await asyncio.sleep(0.1)
        held -= 1
        return DONE

    async def ask() -> int:
        nonlocal most
        caller = Caller(endpoint)
        await many(caller, 200, 32)
        most, endpoint.most = 1000, 0
        await many(caller, 1000, 32)
        return endpoint.most

    endpoint = Endpoint(reply)
    assert virtual_time.run(ask())[0] == 32

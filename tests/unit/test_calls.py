"""The one place that calls: retries, flow control, limits, budgets; endpoints in virtual time."""

import asyncio

import pytest

from schemas.errors import BudgetSpent, RecordRejected, RetryLater, Stop, UsageError
from streams.calls import REFUSALS, TRIES, Caller, Limits
from streams.flow import Breaker
from streams.model import Completion, MaybePaid, Overloaded, Unreachable
from streams.prices import Prices
from tests.support import virtual_time
from tests.support.endpoint import DONE, REQUEST, Endpoint, failing, many, slow


def one(endpoint: Endpoint, *, park: bool = False) -> tuple[Completion, float]:
    return virtual_time.run(Caller(endpoint).complete(REQUEST, park=park))


# --- retries ---------------------------------------------------------------------------------


def test_an_answer_at_once_takes_no_time() -> None:
    assert one(failing()) == (DONE, 0.0)


def test_it_asks_until_there_is_an_answer() -> None:
    endpoint = failing(RetryLater("a"), MaybePaid("b"))
    completion, seconds = one(endpoint)
    assert (completion, len(endpoint.asked)) == (DONE, 3)
    assert 1.2 <= seconds <= 1.8


def test_it_gives_up_after_so_many_tries_and_says_why() -> None:
    endpoint = failing(*(RetryLater(f"broken {n}") for n in range(99)))
    with pytest.raises(RecordRejected, match=r"^gave up after 12 tries: broken 11$"):
        one(endpoint)
    assert len(endpoint.asked) == TRIES == 12


def test_a_busy_endpoint_is_given_more_time_and_not_all_of_it() -> None:
    endpoint = failing(*(Overloaded("busy", 1.0) for _ in range(REFUSALS - 1)))
    assert one(endpoint)[0] == DONE
    endpoint = failing(*(Overloaded("busy", 1.0) for _ in range(99)))
    with pytest.raises(RecordRejected, match=r"^gave up after 36 tries: busy$"):
        one(endpoint)
    assert len(endpoint.asked) == REFUSALS == 36


def test_pauses_grow_up_to_a_cap() -> None:
    endpoint = failing(*(RetryLater("broken") for _ in range(TRIES - 1)))
    one(endpoint)
    pauses = [b - a for a, b in zip(endpoint.asked, endpoint.asked[1:], strict=False)]
    for number, pause in enumerate(pauses):
        assert 0.8 * min(0.5 * 2**number, 30.0) <= pause <= 1.2 * 30.0


def test_retry_after_is_honoured_and_not_overdone() -> None:
    endpoint = failing(*[Overloaded("busy", 7.0)] * 4)
    one(endpoint)
    pauses = [b - a for a, b in zip(endpoint.asked, endpoint.asked[1:], strict=False)]
    assert all(7.0 <= pause <= 7.2 for pause in pauses)


def test_while_nobody_can_be_reached_no_question_is_given_up() -> None:
    endpoint = failing(*(Unreachable("refused") for _ in range(500)))
    completion, seconds = one(endpoint)
    assert completion == DONE
    assert seconds > 3600


@pytest.mark.parametrize("error", [RecordRejected("no"), Stop("no"), KeyError("no")])
def test_other_errors_are_not_tried_again(error: Exception) -> None:
    endpoint = failing(error)
    with pytest.raises(type(error)):
        one(endpoint)
    assert len(endpoint.asked) == 1


def test_what_may_be_paid_for_is_parked_if_so_wished() -> None:
    endpoint = failing(RetryLater("broken"), MaybePaid("reset"))
    with pytest.raises(RecordRejected, match="maybe paid: reset"):
        one(endpoint, park=True)
    assert len(endpoint.asked) == 2


def test_it_begins_once_and_when_it_is_its_turn() -> None:
    begun: list[float] = []

    async def ask() -> None:
        async def begin() -> None:
            begun.append(asyncio.get_running_loop().time())

        caller = Caller(failing(RetryLater("a")), Limits(rpm=1))
        await caller.complete(REQUEST)
        await caller.complete(REQUEST, begin)

    virtual_time.run(ask())
    assert len(begun) == 1
    assert begun[0] > 60


# --- an endpoint that is down ----------------------------------------------------------------


def test_one_at_a_time_tries_an_endpoint_that_is_down() -> None:
    """Ten minutes down under 16 calls at once: nothing is given up, few requests are made."""

    async def reply() -> Completion:
        if asyncio.get_running_loop().time() < 600:
            raise RetryLater("broken")
        await asyncio.sleep(0.1)
        return DONE

    endpoint = Endpoint(reply)
    answers, seconds = virtual_time.run(many(Caller(endpoint), 100, 16))
    assert answers == [DONE] * 100
    assert seconds < 700
    assert sum(at < 600 for at in endpoint.asked) <= 16 + 40
    assert Breaker.FAILURES < 16


def test_failures_of_the_same_moment_open_the_circuit_once() -> None:
    """A restart of a second under 64 calls at once is over when it is over."""

    async def reply() -> Completion:
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(0.2)
        if 1.0 < began < 2.0:
            raise MaybePaid("reset")
        return DONE

    answers, seconds = virtual_time.run(many(Caller(Endpoint(reply)), 1000, 64))
    assert answers == [DONE] * 1000
    assert seconds < 3.2 + 1 + 6


def test_a_try_that_is_cancelled_leaves_the_way_free() -> None:
    async def ask() -> Completion:
        caller = Caller(endpoint)
        for _ in range(Breaker.FAILURES):
            with pytest.raises(RecordRejected):
                await caller.complete(REQUEST, park=True)
        stuck = asyncio.create_task(caller.complete(REQUEST))
        await asyncio.sleep(50)
        stuck.cancel()
        return await caller.complete(REQUEST)

    count = 0

    async def reply() -> Completion:
        nonlocal count
        count += 1
        if count <= Breaker.FAILURES:
            raise MaybePaid("reset")
        if count == Breaker.FAILURES + 1:
            await asyncio.sleep(10_000)
        return DONE

    endpoint = Endpoint(reply)
    assert virtual_time.run(ask())[0] == DONE


# --- limits ----------------------------------------------------------------------------------


def most_in_a_minute(times: list[float]) -> int:
    return max(sum(begin <= t < begin + 60 for t in times) for begin in times)


@pytest.mark.parametrize("rpm", [1, 7, 60, 600])
def test_no_minute_has_more_requests_than_allowed(rpm: int) -> None:
    endpoint = slow(0.0)
    caller = Caller(endpoint, Limits(rpm=rpm))
    _, seconds = virtual_time.run(many(caller, 3 * rpm, 64))
    assert most_in_a_minute(endpoint.asked) <= rpm
    assert seconds <= 3.6 * 60  # and not much fewer


def test_tokens_are_limited_as_they_are_used() -> None:
    endpoint = slow(0.0)
    _, seconds = virtual_time.run(many(Caller(endpoint, Limits(tpm=6000)), 300, 64))
    assert 300 * 100 / 6000 * 60 * 0.9 <= seconds <= 300 * 100 / 6000 * 60 * 1.2


def test_a_groups_limit_is_shared_by_partitions() -> None:
    async def ask() -> None:
        workers = []
        for share in (0.75, 0.25, 0.0):
            caller = Caller(endpoint, Limits(group_rpm=60))
            pace = caller.limits.group_pace()
            pace.share = share
            workers.append(many(caller, int(share * 120), 8, pace))
        await asyncio.gather(*workers)

    endpoint = slow(0.0)
    _, seconds = virtual_time.run(ask())
    assert most_in_a_minute(endpoint.asked) <= 60 + 2
    assert seconds <= 130


def test_waiting_for_a_turn_is_known_as_such() -> None:
    async def ask() -> tuple[int, int]:
        caller = Caller(slow(1.0), Limits(rpm=1))
        tasks = [asyncio.create_task(caller.complete(REQUEST)) for _ in range(5)]
        await asyncio.sleep(0.5)
        counts = len(caller.waiting), sum(t not in caller.waiting for t in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not caller.waiting
        return counts

    assert virtual_time.run(ask())[0] == (4, 1)


def test_a_long_wait_is_told(caplog: pytest.LogCaptureFixture) -> None:
    virtual_time.run(Caller(failing(Overloaded("later", 200.0))).complete(REQUEST))
    assert "wants to be asked in 200 s" in caplog.text


def test_short_waits_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    virtual_time.run(Caller(failing(Overloaded("later", 2.0))).complete(REQUEST))
    assert not caplog.records


# --- budgets ---------------------------------------------------------------------------------


def test_a_spent_budget_stops_new_calls_and_lets_those_under_way_end() -> None:
    endpoint = slow()
    caller = Caller(endpoint, Limits(budget_tokens=1000))
    answers, _ = virtual_time.run(many(caller, 100, 8))
    assert 10 <= endpoint.answers <= 10 + 8
    assert sum(a == DONE for a in answers) == endpoint.answers
    spent = [a for a in answers if isinstance(a, BudgetSpent)]
    assert len(spent) == 100 - endpoint.answers
    assert "the budget of 1,000 tokens is spent" in str(spent[0])


def test_a_budget_in_dollars() -> None:
    endpoint = slow()
    prices = Prices({"m": (1000.0, 10_000.0)})
    caller = Caller(endpoint, Limits(budget_usd=4.6), prices)  # a call costs 0.06 + 0.40
    virtual_time.run(many(caller, 100, 4))
    assert 10 <= endpoint.answers <= 10 + 4


def test_a_budget_in_dollars_needs_a_price() -> None:
    with pytest.raises(UsageError, match="PRESSROOM_PRICES"):
        Caller(slow(), Limits(budget_usd=1.0), Prices({}))


def test_an_answer_without_a_price_ends_a_budget_in_dollars() -> None:
    async def reply() -> Completion:
        return Completion("hi", "m-turbo", 1, 1)

    caller = Caller(Endpoint(reply), Limits(budget_usd=1.0), Prices({"m": (1.0, 1.0)}))
    answers, _ = virtual_time.run(many(caller, 3, 1))
    assert [type(a) for a in answers] == [Completion, BudgetSpent, BudgetSpent]
    assert "m-turbo" in str(answers[1])


def test_lost_answers_are_charged_too() -> None:
    """Nobody knows what they have cost: what a call usually takes is taken for it."""

    async def reply() -> Completion:
        await asyncio.sleep(0.1)
        raise MaybePaid("reset")

    endpoint = Endpoint(reply)
    answers, _ = virtual_time.run(many(Caller(endpoint, Limits(budget_tokens=200)), 100, 1))
    assert isinstance(answers[0], BudgetSpent)
    assert len(endpoint.asked) <= 5


def test_an_endpoint_that_tells_no_usage_is_charged_what_is_usual() -> None:
    async def reply() -> Completion:
        return Completion("hi", "m", 0, 0)

    endpoint = Endpoint(reply)
    answers, _ = virtual_time.run(many(Caller(endpoint, Limits(budget_tokens=200)), 100, 1))
    assert isinstance(answers[-1], BudgetSpent)
    assert len(endpoint.asked) <= 5


def test_a_budget_of_nothing_asks_nothing() -> None:
    endpoint = slow()
    answers, _ = virtual_time.run(many(Caller(endpoint, Limits(budget_tokens=0)), 3, 3))
    assert not endpoint.asked
    assert all(isinstance(a, BudgetSpent) for a in answers)

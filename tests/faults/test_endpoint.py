"""The model's endpoint misbehaves: retries are capped, then there is a dead letter; nothing is lost."""

import signal
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from tests.faults.conftest import Bench
from tests.support.model_server import Mishap, Refusal

COUNT = 40
EVERY = 5
TRIES = 12
REPLIES = 3
MAYBE_PAID = [Mishap.HANG, Mishap.RESET, Mishap.MALFORMED, Mishap.ENDLESS]
UNUSABLE = [Mishap.EMPTY, Mishap.PROSE, Mishap.LONG]
REFUSALS: dict[str, Refusal] = {
    "429": (429, {}),
    "429 with Retry-After": (429, {"retry-after": "1"}),
    "500": (500, {}),
    "503": (503, {}),
}

Fault = Mishap | Refusal


def _name(fault: Fault) -> str:
    if isinstance(fault, Mishap):
        return fault.value
    return next(name for name, refusal in REFUSALS.items() if refusal == fault)


def _each(faults: list[Any], *selected: tuple[Fault, str]) -> pytest.MarkDecorator:
    """A case for each fault and policy, of which `make test` runs the selected."""
    cases = []
    for fault, policy in product(faults, ("retry", "park")):
        marks = [pytest.mark.fault(f"endpoint: {_name(fault)}")]
        marks += [] if (fault, policy) in selected else [pytest.mark.long]
        cases.append(pytest.param(fault, policy, id=f"{_name(fault)}, {policy}", marks=marks))
    return pytest.mark.parametrize(("fault", "policy"), cases)


def _struck(question: str) -> bool:
    return int(question.split()[-1]) % EVERY == 0


def _run(
    bench: Bench, policy: str, spoil: Callable[[str, int], Fault | None], dead: set[str]
) -> None:
    """Runs a worker to the end; the given lines, and no others, are dead letters."""
    # short, for those that hang; but a busy machine is slow to answer, too
    bench.workers.environment |= {"FAULT_ON_UNKNOWN": policy, "PRESSROOM_MODEL_TIMEOUT": "8"}
    bench.model.spoil = spoil
    bench.write(COUNT)
    bench.finish([bench.workers.start("all")], dead)
    assert sorted(bench.dead_lines()) == sorted(dead)
    if policy == "park":
        paid = [(bill.question, bill.seed) for bill in bench.model.account]
        assert len(paid) == len(set(paid))


def _struck_lines() -> set[str]:
    return {f"line {n}" for n in range(COUNT) if n % EVERY == 0}


@_each([*REFUSALS.values(), *UNUSABLE], ((429, {}), "retry"))
def test_it_recovers(bench: Bench, fault: Fault, policy: str) -> None:
    # nothing is unknown here, so that both policies ask again
    _run(bench, policy, lambda q, times: fault if _struck(q) and not times else None, set())


@_each(MAYBE_PAID, (Mishap.RESET, "retry"), (Mishap.RESET, "park"))
def test_an_answer_that_may_have_been_paid_is_asked_for_again_or_parked(
    bench: Bench, fault: Fault, policy: str
) -> None:
    dead = _struck_lines() if policy == "park" else set()
    _run(bench, policy, lambda q, times: fault if _struck(q) and not times else None, dead)
    assert all(bench.model.came[q] == (1 if policy == "park" else 2) for q in _struck_lines())
    assert all("maybe paid" in letter["message"] for letter in bench.dead_letters())


@_each(UNUSABLE, (Mishap.PROSE, "retry"))
def test_unusable_replies_are_capped(bench: Bench, fault: Fault, policy: str) -> None:
    _run(bench, policy, lambda q, _: fault if _struck(q) else None, _struck_lines())
    assert all(bench.model.came[q] == REPLIES for q in _struck_lines())


@pytest.mark.fault("endpoint: 400")
def test_a_refused_request_is_not_repeated(bench: Bench) -> None:
    _run(bench, "retry", lambda q, _: (400, {}) if _struck(q) else None, _struck_lines())
    assert all(bench.model.came[q] == 1 for q in _struck_lines())


@pytest.mark.long
@pytest.mark.fault("endpoint: every fault, for good")
@pytest.mark.parametrize("policy", ["retry", "park"])
def test_retries_are_capped(bench: Bench, policy: str) -> None:
    faults: list[Fault] = [*list(REFUSALS.values())[1:], *MAYBE_PAID]  # 429 alone: 15 minutes
    of = {f"line {EVERY * n}": fault for n, fault in enumerate(faults)}
    # with none but hopeless questions left the endpoint passes for down, and is tried every 30 s
    bench.patience = 1800
    _run(bench, policy, lambda q, _: of.get(q), set(of))
    for question, fault in of.items():
        once = policy == "park" and fault in MAYBE_PAID
        refused = fault == REFUSALS["429 with Retry-After"]
        assert bench.model.came[question] == (1 if once else 36 if refused else TRIES)


@pytest.mark.long
@pytest.mark.fault("endpoint: SIGTERM while every call hangs")
def test_a_worker_leaves_though_no_answer_comes(bench: Bench) -> None:
    bench.model.spoil = lambda *_: Mishap.HANG
    bench.workers.environment["PRESSROOM_GRACE"] = "1"
    bench.write(COUNT)
    worker = bench.workers.start("all")
    bench.wait_until(lambda: bench.model.requests >= 16)
    bench.workers.signal(worker, signal.SIGTERM)
    bench.struck()
    assert worker.wait(180) == 0
    bench.model.spoil = lambda *_: None
    bench.run_to_the_end()

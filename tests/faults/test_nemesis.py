"""The nemesis: faults of every kind, every few seconds, on a schedule that its seed decides.

``pytest tests/faults/test_nemesis.py -m long --seed=N --nemesis-seconds=300`` runs one schedule.
"""

import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.faults.conftest import Bench
from tests.support.broker import Broker
from tests.support.model_server import Mishap, Refusal
from tests.support.proxy import (
    ADD_OFFSETS_TO_TXN,
    END_TXN,
    TXN_OFFSET_COMMIT,
    BlackHole,
    LostReply,
    Proxy,
)
from tests.support.workers import Process

SEEDS = [1, 2, 3]
WORKERS = 2
LINES = 20
"""Written before each strike."""

_PAUSE = (1.0, 4.0)
_HELD = (1.0, 12.0)
_ENDPOINT: list[Refusal | Mishap] = [
    (429, {}), (429, {"retry-after": "1"}), (500, {}), (503, {}),
    Mishap.RESET, Mishap.MALFORMED, Mishap.EMPTY, Mishap.PROSE, Mishap.HANG,
]  # fmt: skip


@dataclass(frozen=True)
class Strike:
    """One line of a schedule."""

    fault: str
    victim: int
    """The worker, where the fault is a worker's."""
    choice: int
    """Which, where there are several of a kind."""
    held: float
    """Seconds from the fault to its end."""
    pause: float
    """Seconds to the next one."""


def schedule(seed: int, seconds: float) -> Iterator[Strike]:
    """The strikes of a seed; a longer schedule begins like a shorter one."""
    dice = random.Random(seed)
    while seconds > 0:
        strike = Strike(
            dice.choice(list(FAULTS)), dice.randrange(WORKERS), dice.randrange(1000),
            dice.uniform(*_HELD), dice.uniform(*_PAUSE),
        )  # fmt: skip
        seconds -= strike.held + strike.pause
        yield strike


class Nemesis:
    """What a schedule does to one bench."""

    def __init__(self, bench: Bench, broker: Broker, proxy: Proxy) -> None:
        self.bench, self.broker, self.proxy = bench, broker, proxy
        self.workers = [self.start() for _ in range(WORKERS)]
        self._clock = threading.Event()

    def start(self) -> Process:
        return self.bench.workers.start("all")

    def wait(self, seconds: float) -> None:
        """Time passes; it is what the schedule is made of."""
        self._clock.wait(seconds)

    def kill(self, strike: Strike) -> None:
        self.bench.kill(self.workers[strike.victim])
        self.wait(strike.held / 4)
        self.workers[strike.victim] = self.start()

    def stop(self, strike: Strike) -> None:
        victim = self.workers[strike.victim]
        self.bench.pause(victim)
        self.wait(strike.held)
        self.bench.workers.signal(victim, signal.SIGCONT)

    def replace(self, strike: Strike) -> None:
        leaving, self.workers[strike.victim] = self.workers[strike.victim], self.start()
        self.bench.workers.signal(leaving, signal.SIGTERM)
        self.bench.struck()  # a call may outlast the worker's patience
        # one that had only just been started may not have learnt yet to leave in good order
        assert leaving.wait(180) in (0, -signal.SIGTERM), self.bench.workers.log()[-3000:]

    def endpoint(self, strike: Strike) -> None:
        fault = _ENDPOINT[strike.choice % len(_ENDPOINT)]
        self.bench.struck(0)
        self.bench.model.spoil = lambda _, times: None if times % 2 else fault
        self.wait(strike.held)
        self.bench.model.spoil = lambda *_: None

    def latency(self, strike: Strike) -> None:
        self.bench.struck(0)
        self.proxy.latency = 0.05 + strike.choice % 4 * 0.1
        self.wait(strike.held)
        self.proxy.latency = 0.0

    def slicing(self, strike: Strike) -> None:
        self.bench.struck(0)
        self.proxy.slicing = True
        self.wait(strike.held)
        self.proxy.slicing = False

    def resets(self, strike: Strike) -> None:
        for _ in range(1 + strike.choice % 10):
            self.bench.struck(0)
            self.proxy.reset_some(0.5)
            self.wait(strike.held / 10)

    def lost_reply(self, strike: Strike) -> None:
        self.bench.struck(0)
        self.proxy.faults.append(LostReply(END_TXN, broken=bool(strike.choice % 2)))
        self.wait(strike.held)

    def black_hole(self, strike: Strike) -> None:
        self.bench.struck(0)
        api_key = (ADD_OFFSETS_TO_TXN, TXN_OFFSET_COMMIT)[strike.choice % 2]
        self.proxy.faults.append(BlackHole(api_key))
        self.wait(strike.held)

    def broker_killed(self, strike: Strike) -> None:
        self.broker.signal(signal.SIGKILL)
        self.bench.struck(0)
        self.wait(strike.held / 4)
        self.bench.wait_until(lambda: not self.broker.alive)
        assert self.broker.up() == self.bench.servers

    def broker_paused(self, strike: Strike) -> None:
        self.broker.signal(signal.SIGSTOP)
        self.bench.struck(0)
        self.wait(strike.held)
        self.broker.signal(signal.SIGCONT)


FAULTS: dict[str, Callable[[Nemesis, Strike], None]] = {
    "SIGKILL": Nemesis.kill,
    "SIGSTOP": Nemesis.stop,
    "SIGTERM": Nemesis.replace,
    "endpoint": Nemesis.endpoint,
    "latency": Nemesis.latency,
    "slicing": Nemesis.slicing,
    "resets": Nemesis.resets,
    "lost reply": Nemesis.lost_reply,
    "black hole": Nemesis.black_hole,
    "broker killed": Nemesis.broker_killed,
    "broker paused": Nemesis.broker_paused,
}


@pytest.fixture(scope="module")
def bootstrap_servers(own_broker: Broker) -> str:
    return own_broker.address


@pytest.fixture
def worker_servers(proxy: Proxy) -> str:
    return proxy.address


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        given: int | None = metafunc.config.getoption("--seed")
        metafunc.parametrize("seed", SEEDS if given is None else [given])


def test_a_seed_decides_the_schedule() -> None:
    assert list(schedule(5, 60)) == list(schedule(5, 600))[: len(list(schedule(5, 60)))]
    assert list(schedule(5, 60)) != list(schedule(6, 60))
    assert {strike.fault for strike in schedule(5, 3000)} == set(FAULTS)


@pytest.mark.long
@pytest.mark.fault("random nemesis")
def test_the_nemesis(
    bench: Bench, broker: Broker, proxy: Proxy, seed: int, request: pytest.FixtureRequest
) -> None:
    seconds: float = request.config.getoption("--nemesis-seconds")
    print(f"--seed={seed} --nemesis-seconds={seconds:g}")  # noqa: T201 - shown when it fails
    bench.workers.environment["PRESSROOM_MODEL_TIMEOUT"] = "3"
    bench.patience = 240
    bench.write(LINES)
    nemesis = Nemesis(bench, broker, proxy)
    for strike in schedule(seed, seconds):
        print(strike)  # noqa: T201
        bench.write(LINES)
        FAULTS[strike.fault](nemesis, strike)
        nemesis.wait(strike.pause)
    proxy.faults.clear()
    bench.await_members("ask", WORKERS)
    bench.finish(nemesis.workers)

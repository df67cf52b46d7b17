"""Time in tests: an event loop whose clock jumps to the next timer, and a clock that the test sets."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Clock:
    """Stands where a module has its ``time``; the test says what time it is."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class _Loop(asyncio.SelectorEventLoop):
    """Runs what is ready; when nothing is, it is later."""

    _ready: Any
    _scheduled: Any
    _now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        timers = [timer for timer in self._scheduled if not timer.cancelled()]
        if not self._ready and timers:
            self._now = max(self._now, min(timer.when() for timer in timers))
        super()._run_once()  # type: ignore[misc]


def run(main: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """Runs a coroutine; gives what it returns and how many seconds passed for it."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        result = runner.run(main)
        return result, runner.get_loop().time()

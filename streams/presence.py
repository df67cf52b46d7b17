"""Whether a worker still is a member of its group.

A process that was stopped, by a signal or with its whole machine, for longer than its session does not
know yet that others have its partitions when it goes on; nor does one whose heartbeats were lost. Would
it ask the model, it would pay for what they have paid. So after a pause, and after a transaction that
failed, no request leaves before one has been committed: with the offsets goes the group's generation,
which the coordinator refuses when others have been given them.
"""

import asyncio
import time
from collections.abc import Callable

from streams.calls import Begin
from streams.last_moment import Withheld, last_moment
from streams.llm import Ask, Keep, Question
from streams.model import Completion

_ABSENCE = 3.0
"""Seconds without a beat after which a worker is uncertain; a session lasts longer."""
_BUSY_WAIT = 0.005


class Presence:
    """One worker's, as a member of one group."""

    def __init__(self) -> None:
        self._beat = time.monotonic()
        self._absences = self._confirmed = 0
        self._doubted = False

    @property
    def certain(self) -> bool:
        """Whether nobody else can have its partitions by now."""
        return self._was_here() and not self._doubted

    @property
    def absences(self) -> int:
        """How often it was away; what a confirmation is about."""
        return self._absences

    def beat(self) -> None:
        """Called by the thread that owns the loop, each time it goes round."""
        if self._is_away():
            self._absences += 1
        self._beat = time.monotonic()

    def doubt(self) -> None:
        """Others may have the partitions: a transaction failed, or Kafka was out of reach."""
        self._doubted = True

    def confirmed(self, absences: int) -> None:
        """A transaction was committed that was begun after so many absences."""
        self._confirmed = max(self._confirmed, absences)
        self._doubted = False

    def keeping(self, keep: Keep) -> Keep:
        """The same, except that no request leaves and no answer is kept while it is uncertain."""

        async def keep_when_certain(question: Question, ask: Ask) -> Completion:
            async def ask_when_certain(begin: Begin) -> Completion:
                async def begin_when_certain() -> None:
                    await _until(lambda: self.certain)
                    began = time.monotonic()
                    await begin()
                    # cut off from Kafka for so long, as its heartbeats may have been
                    if time.monotonic() - began > _ABSENCE:
                        self.doubt()
                    self._check()

                # doubt may also come while the request is made
                with last_moment(self._check):
                    completion = await ask(begin_when_certain)
                # others may have asked the same; a result that comes in late would pass for paid twice
                await _until(self._was_here)
                return completion

            return await keep(question, ask_when_certain)

        return keep_when_certain

    def _check(self) -> None:
        if not self.certain:
            raise Withheld

    def _was_here(self) -> bool:
        return self._absences == self._confirmed and not self._is_away()

    def _is_away(self) -> bool:
        return time.monotonic() - self._beat > _ABSENCE


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(_BUSY_WAIT)

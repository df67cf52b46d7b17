"""Whether a worker that was away still is a member of its group.

A process that was stopped, by a signal or with its whole machine, for longer than its session does not
know yet that others have its partitions when it goes on. Would it ask the model, it would pay for what
they have paid. So after a pause no request leaves before a transaction has been committed: with the
offsets goes the group's generation, which the coordinator refuses when others have been given them.
"""

import asyncio
import time

from streams.calls import Begin
from streams.llm import Ask, Keep, Question
from streams.model import Completion, last_moment

_ABSENCE = 3.0
"""Seconds without a beat after which a worker is uncertain; a session lasts longer."""
_BUSY_WAIT = 0.005


class Presence:
    """One worker's, as a member of one group."""

    def __init__(self) -> None:
        self._beat = time.monotonic()
        self._absences = self._confirmed = 0

    @property
    def certain(self) -> bool:
        """Whether nobody else can have its partitions by now."""
        return self._absences == self._confirmed and not self._is_away()

    @property
    def absences(self) -> int:
        """How often it was away; what a confirmation is about."""
        return self._absences

    def beat(self) -> None:
        """Called by the thread that owns the loop, each time it goes round."""
        if self._is_away():
            self._absences += 1
        self._beat = time.monotonic()

    def confirmed(self, absences: int) -> None:
        """A transaction was committed that was begun after so many absences."""
        self._confirmed = max(self._confirmed, absences)

    def keeping(self, keep: Keep) -> Keep:
        """The same, except that no request leaves and no answer is kept while it is uncertain."""

        async def keep_when_certain(question: Question, ask: Ask) -> Completion:
            async def ask_when_certain(begin: Begin) -> Completion:
                async def begin_when_certain() -> None:
                    await self._certainty()
                    await begin()

                # the pause may also come while the intent is written, or the request made
                last_moment.set(self._certainty)
                completion = await ask(begin_when_certain)
                # others may have asked the same; a result that comes in late would pass for paid twice
                await self._certainty()
                return completion

            return await keep(question, ask_when_certain)

        return keep_when_certain

    async def _certainty(self) -> None:
        while not self.certain:
            await asyncio.sleep(_BUSY_WAIT)

    def _is_away(self) -> bool:
        return time.monotonic() - self._beat > _ABSENCE

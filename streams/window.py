"""How many calls an endpoint takes, learned from those that it refuses (HTTP's 429).

:class:`Window` decides when the next call may begin. Times are the event loop's, in seconds.
"""

import asyncio
import math
import random
from typing import NamedTuple


def now() -> float:
    """The event loop's time."""
    return asyncio.get_running_loop().time()


class Turn(NamedTuple):
    """A call that was let through."""

    number: int
    at: float


class _Row:
    """The refusals since a call was answered that began after the first of them."""

    _NEARLY_ALL = 0.8

    def __init__(self) -> None:
        self.length, self._first = 0, 0

    def refused(self, call: Turn) -> None:
        self._first = min(self._first, call.number) if self.length else call.number
        self.length += 1

    def answered(self, call: Turn) -> bool:
        """Whether it ends."""
        if self.length and call.number > self._first:
            self.length = 0
        return not self.length

    def of_everybody(self, begun: int, least: int) -> bool:
        """Whether nearly all calls that began since the first of them, the last with this number, are
        among them."""
        began = begun - self._first + 1
        return self.length >= least and self.length >= self._NEARLY_ALL * began


class _Count:
    """How many calls were taken lately, without gaps: what is older counts less and less."""

    _LATELY, _GAP = 5.0, 1.0

    def __init__(self) -> None:
        self._began = self._last = -math.inf
        self.count = 0.0
        """What is older than some seconds counts for less."""

    def begin(self) -> None:
        """A call begins, and will be taken."""
        if now() - self._last > self._GAP:
            self._began, self.count = now(), 0.0
        else:
            self.count *= math.exp((self._last - now()) / self._LATELY)
        self.count, self._last = self.count + 1, now()

    def refused(self) -> None:
        """One was not taken."""
        self.count -= 1

    def rate(self, least: float) -> float:
        """Calls a second, over so many seconds at least."""
        seconds = self._LATELY * (1 - math.exp((self._began - now()) / self._LATELY))
        return max(self.count, 1.0) / max(seconds, least)


class Rate:
    """How many calls may begin in a second: without bound, until it shows that it is that which counts.

    They begin evenly. When more than a few are refused it goes back to what was taken; while they are
    taken it grows, slowly at first, faster with every call.
    """

    # of what was taken, so that it holds
    _MARGIN = 0.95
    # calls over which the part of refused ones is averaged; the part that is too much
    _MEMORY, _TOO_MANY = 30, 0.08
    # calls by which it is measured; its least; seconds for which it grows at once, at most
    _MEASURED, _LEAST, _LONGEST = 10, 1 / 10, 3.0
    # for each call that is taken; so many grow it slowly
    _GROWTH, _SLOWLY = 0.0005, 100
    # steps back without a rest
    _IN_VAIN = 4

    def __init__(self) -> None:
        self.limit = math.inf
        self._first, self._next, self._steps, self._hasty = math.inf, -math.inf, 0, 0
        self._doubling = False
        self._set(math.inf, 0.0)

    def start(self, limit: float, at: float, doubling: bool = False) -> None:
        """Bounds it.

        Args:
            limit: calls a second.
            at: when calls begin again.
            doubling: every second, until more than a few are refused.
        """
        self._first, self._steps, self._hasty, self._doubling = limit, 0, 0, doubling
        self._set(limit, at)

    def _set(self, limit: float, at: float) -> None:
        self.limit = max(limit, self._LEAST)
        self._since = self._grown = at
        self._begun = self._refused = self._taken = 0
        self._share = 0.0

    def delay(self) -> float:
        """Seconds until another call may begin."""
        return max(0.0, self._next - now()) if self.limit < math.inf else 0.0

    def begin(self) -> None:
        """A call begins."""
        self._begun += 1
        self._next = max(self._next, now()) + 1 / self.limit

    def answered(self) -> None:
        """The endpoint took a call."""
        self._taken += 1
        self._share -= self._share / self._MEMORY
        seconds, self._grown = min(max(0.0, now() - self._grown), self._LONGEST), now()
        if self._doubling:
            self.limit *= 2**seconds
        else:
            self.limit *= 1 + self._GROWTH * (1 + (self._taken / self._SLOWLY) ** 3)
        if self._taken > self._SLOWLY:
            self._steps = 0

    def refused(self) -> bool:
        """The endpoint refused a call; gives whether those are more than a few by now."""
        self._refused += 1
        self._share += (1 - self._share) / self._MEMORY
        return self._share > self._TOO_MANY and self._begun >= self._MEASURED

    def step_back(self, at: float) -> None:
        """Goes back to what was taken. Calls begin again at that time."""
        taken = self._begun - self._refused
        if self._begun < self._MEASURED or taken < self._MEASURED / 2:  # too few to measure it by
            self._hasty, self._doubling = self._hasty + 1, self._hasty > 0
            self._set(self.limit * (0.5 if self._doubling else self._MARGIN), at)
            return
        self._steps, self._hasty, self._doubling = self._steps + 1, 0, False
        self._set(min(taken / (now() - self._since), self.limit) * self._MARGIN, at)

    @property
    def in_vain(self) -> bool:
        """Whether as many are refused though it is not half of what it was."""
        return self._steps >= self._IN_VAIN and self.limit <= self._first / 2


class Window:
    """How many calls may be under way: fewer when the endpoint refuses some, more when it takes all.

    A refusal (429) may have one of four reasons. The calls that follow show which:

    * There are too many at once. The window becomes what was under way besides the refused ones, and
      in a window that holds nobody is refused. Now and then a larger one is tried.
    * There are too many in a time. Then calls are refused though the window is kept, and what counts is
      their :class:`Rate`.
    * The endpoint takes none at present. Then nearly all that follow are refused, too, and nobody calls
      before the time it names; if that is long, all begin anew then, since it counts by long periods.
    * Chance, or other clients. Then as many are refused at half the rate. Each waits for itself, and
      the others go on.
    """

    # refusals in a row that are of everybody; and while refusals are ignored
    _ROW, _LONG_ROW = 3, 8
    # refusals in a window that was kept, at least; some of all its calls, or most, have other reasons
    _ODD, _SOME, _MOST = 4, 0.125, 0.5
    # full rounds between trials, first and at most; places a window may lose to such refusals in a row
    _REST, _LONGEST_REST, _SPARE = 1, 64, 2
    # seconds: nobody calls, first and at most, when no time was named; a long one; refusals are ignored
    _PAUSE, _LONGEST_PAUSE, _LONG_PERIOD, _IGNORED = 0.5, 30.0, 5.0, 30.0
    # between two calls, as a part of what would spread them evenly
    _LOOSE = 0.25

    def __init__(self) -> None:
        self.size = math.inf
        """Calls at once; without bound until the endpoint refuses some."""
        self.under_way = 0
        self.rate = Rate()
        self._row, self._closings = _Row(), 0
        self._closed_until = self._ignores_until = -math.inf
        self._begun = self._changed = 0
        self._guess = 0.0
        self._seconds, self._next = 0.0, -math.inf
        self._begin_anew()

    def _begin_anew(self, size: float = math.inf, doubling: bool = False) -> None:
        self.size, self._held, self._doubling = size, math.inf if doubling else size, doubling
        self._taken = _Count()
        self._rest, self._rounds, self._round, self._step = self._REST, 0, 0, 1
        self._calm, self._full, self._spare = True, False, self._SPARE
        self._answered = self._odd = 0

    def delay(self) -> float:
        """Seconds until another call may begin; infinite until one has ended."""
        closed = self._closed_until - now()
        if closed > 0:
            return closed
        if self.under_way >= self.size:
            return math.inf
        return max(self._next - now(), self.rate.delay(), 0.0)

    def begin(self) -> Turn:
        """A call begins."""
        self.under_way += 1
        self._begun += 1
        self._full = self._full or self.under_way >= self.size
        self._taken.begin()
        self.rate.begin()
        # those of a bounded window don't begin all at once, or they may be too many for an instant
        self._next = now() + self._LOOSE * self._seconds / self.size
        return Turn(self._begun, now())

    def answered(self, call: Turn) -> None:
        """The endpoint took a call."""
        self._seconds += (now() - call.at - self._seconds) * (0.1 if self._seconds else 1.0)
        if self._row.answered(call):
            self._closings = 0
        if call.number <= self._changed:
            return
        if self.rate.limit < math.inf:
            self.rate.answered()
            return
        self._answered += 1
        if self.size < math.inf:
            self._grow()

    def refused(self, call: Turn, seconds: float | None) -> None:
        """The endpoint refused a call because there are too many.

        Args:
            call: the call.
            seconds: when to come again, if the endpoint said so.
        """
        self._row.refused(call)
        self._taken.refused()
        if now() < self._ignores_until:
            self._refused_by_chance(seconds)
        elif self.rate.limit == math.inf:
            self._refused_at_once(call, seconds)
        elif call.number > self._changed:
            self._refused_by_rate(seconds)

    # --- so many at once ----------------------------------------------------------------------

    def _refused_at_once(self, call: Turn, seconds: float | None) -> None:
        others = self.under_way - 1
        if others == 0 and not self._answered:
            self._begin_anew(size=1, doubling=True)
            self._close(seconds)
        elif others == 0 and self._is_everybody:
            self._count_by_time(seconds)
        elif call.number <= self._changed:  # it began before the window was set, and so did others
            self._changed = self._begun
            self._shrink(others)
        elif others < self._held < math.inf:
            self._odd, self._calm = self._odd + 1, False
            if others + 1 == self.size and self._spare:  # it may be larger by one than what holds
                self._spare -= 1
                self._shrink(others)
            begun = self._begun - self._changed
            if self._odd >= max(self._ODD, self._MOST * begun):
                self._count_by_time(seconds)
            elif self._odd >= max(self._ODD, self._SOME * begun):
                self._ignore()
        else:
            self._rest = min(self._LONGEST_REST, self._rest * 2) if self._changed else self._REST
            self._doubling, self._rounds, self._round, self._step = False, 0, 0, 1
            self._changed = self._begun
            self._shrink(others)

    def _shrink(self, others: int) -> None:
        self.size = self._held = max(1, min(self.size, others))

    def _grow(self) -> None:
        self._round += 1
        if self._round < self.size:
            return
        held, self._round, self._calm, self._full = self._calm and self._full, 0, True, False
        if not held:
            return
        self._held, self._spare, self._rounds = self.size, self._SPARE, self._rounds + 1
        if self._doubling:
            self.size *= 2
        elif self._rounds >= self._rest:
            self.size += self._step
            self._rounds, self._step = self._rounds - 1, self._step * 2

    # --- so many in a time --------------------------------------------------------------------

    def _refused_by_rate(self, seconds: float | None) -> None:
        too_many, everybody = self.rate.refused(), self._is_everybody
        if not (too_many or everybody):
            return
        self._changed = self._begun
        if everybody:
            self._close(seconds)
        self.rate.step_back(max(now(), self._closed_until))
        if self.rate.in_vain:
            self._ignore()

    def _count_by_time(self, seconds: float | None) -> None:
        guess, self._guess = self._guess, 0.0
        taken, least = self._taken, max(seconds or 0.0, 1.0)
        self._close(seconds)
        if least < self._LONG_PERIOD:
            self._begin_anew()
            self.rate.start(max(guess, taken.rate(least)), self._closed_until, guess > 0)
        else:  # by a period so long that it is better to ask for all of it at its beginning
            self._begin_anew(size=max(1, round(taken.count)))

    # --- none, or by chance -------------------------------------------------------------------

    @property
    def _is_everybody(self) -> bool:
        return self._row.of_everybody(self._begun, self._ROW)

    def _ignore(self) -> None:
        self._guess = self._taken.rate(1.0)
        self._ignores_until, self.rate = now() + self._IGNORED, Rate()
        self._changed = self._begun
        self._begin_anew(size=max(1, min(self.size, self.under_way)), doubling=True)

    def _refused_by_chance(self, seconds: float | None) -> None:
        if self._row.of_everybody(self._begun, self._LONG_ROW):
            self._ignores_until = -math.inf
            self._count_by_time(seconds)

    def _close(self, seconds: float | None) -> None:
        if seconds is None:
            seconds = min(self._PAUSE * 2.0**self._closings, self._LONGEST_PAUSE)
        self._changed, self._closings = self._begun, self._closings + 1
        self._row = _Row()
        # not all workers at once
        self._closed_until = now() + seconds * random.uniform(1, 1.02)

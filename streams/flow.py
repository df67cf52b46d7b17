"""How fast the endpoint may be asked: flow control for everything one worker asks.

Four things decide when the next call may begin: how many calls the endpoint takes
(:mod:`streams.window`), whether it is there at all (:class:`Breaker`), the limits on requests and
tokens per minute (:class:`Pace`), and what may be spent (:class:`Budget`). :class:`Gate` asks the first
two and lets calls through in the order they came. Times are the event loop's, in seconds.
"""

import asyncio
import logging
import math
import random
from heapq import heappop, heappush

from schemas.errors import BudgetSpent, RecordRejected, RetryLater
from streams.model import Overloaded
from streams.window import Turn, Window, now

log = logging.getLogger(__name__)


class Breaker:
    """A circuit breaker: after failures in a row only one call at a time tries whether it is over."""

    FAILURES = 5
    """Failures in a row that open the circuit."""

    _PAUSE, _LONGEST_PAUSE = 1.0, 30.0

    def __init__(self) -> None:
        self._failures = 0
        self._trial: Turn | None = None
        self._until = 0.0

    @property
    def open(self) -> bool:
        """Whether the endpoint is taken for down."""
        return self._failures >= self.FAILURES

    def delay(self) -> float:
        """Seconds until a call may begin; infinite while another one tries."""
        if not self.open:
            return 0.0
        return math.inf if self._trial is not None else max(0.0, self._until - now())

    def begun(self, call: Turn) -> None:
        """A call begins; while the circuit is open it is the one that tries."""
        self._trial = call if self.open else None

    def answered(self) -> None:
        """The endpoint is there."""
        if self.open:
            log.warning("the model endpoint answers again")
        self._failures, self._trial = 0, None

    def failed(self, call: Turn, reason: str) -> None:
        """A call failed for no fault of its own."""
        if self.open and call != self._trial:
            return  # it began when the circuit was closed, together with those that opened it
        self._failures += 1
        self._trial = None
        if not self.open:
            return
        beyond = self._failures - self.FAILURES
        pause = min(self._PAUSE * 2.0 ** min(beyond, 8), self._LONGEST_PAUSE)
        self._until = now() + pause * random.uniform(0.8, 1.2)
        if beyond in (0, 4) or beyond % 10 == 0:
            log.warning("the model endpoint is down, its stages wait: %s", reason)

    def given_up(self, call: Turn) -> None:
        """A call was dropped before it ended."""
        if call == self._trial:
            self._trial = None


class Gate:
    """Lets calls through in the order they came, as the window and the breaker allow."""

    def __init__(self) -> None:
        self.window, self.breaker = Window(), Breaker()
        self._waiting: list[tuple[int, int, asyncio.Future[Turn]]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, order: int) -> Turn:
        """Waits for its turn, which it gives; every entry needs its :meth:`leave`.

        Args:
            order: the lower goes first; a call that was refused keeps its own.
        """
        turn: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (order, id(turn), turn))
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.breaker.given_up(turn.result())
                self.leave()
            raise

    def ended(self, call: Turn, error: BaseException | None = None) -> None:
        """How a call went that was let through, before it leaves.

        Args:
            call: the call.
            error: why it gave no answer.
        """
        match error:
            case None | RecordRejected():
                self.window.answered(call)
                self.breaker.answered()
            case Overloaded():
                self.window.refused(call, error.seconds)
                self.breaker.answered()
            case RetryLater():
                self.breaker.failed(call, str(error))
            case _:
                self.breaker.given_up(call)

    def leave(self) -> None:
        """Lets the next one through."""
        self.window.under_way -= 1
        self._admit()

    def _admit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            delay = max(self.window.delay(), self.breaker.delay())
            if delay > 0:
                if delay < math.inf:
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(delay, self._admit)
                return
            _, _, turn = heappop(self._waiting)
            if not turn.done():  # else it was cancelled
                call = self.window.begin()
                self.breaker.begun(call)
                turn.set_result(call)


class _Bucket:
    """At most ``per_minute`` in any 60 seconds, evenly spread, a second's worth at once."""

    def __init__(self, per_minute: float) -> None:
        self._burst = max(1.0, per_minute / 60)
        self._rate = max(per_minute - self._burst, 0.9 * per_minute) / 60
        self._level, self._at = self._burst, -math.inf

    def take(self, amount: float, share: float) -> float:
        """Takes it out; gives the seconds to wait before using it."""
        at = now()
        gained = (at - self._at) * self._rate * share if self._at > -math.inf else 0.0
        self._level, self._at = min(self._burst, self._level + gained), at
        # more than there is may be taken once there is anything; the next one waits for it
        short = max(0.0, min(amount, self._burst) - self._level)
        self._level -= amount
        return short / (self._rate * max(share, 1e-6))

    def give_back(self, amount: float) -> None:
        """Corrects an estimate; negative when more was used."""
        self._level += amount


class Pace:
    """Limits on requests and tokens per minute.

    A group's limit is shared out by partitions: each worker takes the part of it that it has of the
    partitions, so that all together stay within it without asking one another.
    """

    def __init__(self, requests: int | None = None, tokens: int | None = None) -> None:
        """
        Args:
            requests: per minute; None for no limit.
            tokens: per minute, read and written together; None for no limit.
        """
        self._requests = _Bucket(requests) if requests else None
        self._tokens = _Bucket(tokens) if tokens else None
        self._turn = asyncio.Lock()
        self.share = 1.0
        """The part of the limits that is this worker's, 0 to 1."""

    async def wait(self, tokens: int) -> None:
        """Waits until a call may begin that will take about so many tokens."""
        if self._requests is None and self._tokens is None:
            return
        async with self._turn:  # in order, and those behind wait for the one before them
            seconds = 0.0
            if self._requests is not None:
                seconds = self._requests.take(1, self.share)
            if self._tokens is not None:
                seconds = max(seconds, self._tokens.take(tokens, self.share))
            if seconds > 0:
                await asyncio.sleep(seconds)

    def correct(self, estimated: int, used: int) -> None:
        """What a call took in the end."""
        if self._tokens is not None:
            self._tokens.give_back(estimated - used)


class Budget:
    """What one run may spend. The calls that are under way when it is spent are still paid for."""

    def __init__(self, usd: float | None = None, tokens: int | None = None) -> None:
        """
        Args:
            usd: US dollars; None for no limit.
            tokens: read and written together; None for no limit.
        """
        self._most_usd, self._most_tokens = usd, tokens
        self.usd = 0.0
        """Spent so far."""
        self._unpriced = ""
        self.tokens = 0
        """Spent so far."""

    def charge(self, tokens: int, usd: float | None, model: str) -> None:
        """A completion of a model came, or may have been lost."""
        self.tokens += tokens
        self.usd += usd or 0.0
        if usd is None:
            self._unpriced = model

    def check(self) -> None:
        """
        Raises:
            BudgetSpent: nothing more may be asked.
        """
        if self._most_tokens is not None and self.tokens >= self._most_tokens:
            raise BudgetSpent(
                f"the budget of {self._most_tokens:,} tokens is spent ({self.tokens:,})"
            )
        if self._most_usd is None:
            return
        if self._unpriced:
            raise BudgetSpent(
                f"{self._unpriced} answered, which has no price, so the budget can't be kept; "
                "add it to PRESSROOM_PRICES"
            )
        if self.usd >= self._most_usd:
            raise BudgetSpent(f"the budget of US$ {self._most_usd:g} is spent ({self.usd:.4f})")

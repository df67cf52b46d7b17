"""The one place that calls a model: when, how often, and what it may cost."""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from schemas.errors import RecordRejected, RetryLater, UsageError
from streams.flow import Budget, Gate, Pace
from streams.model import Completion, MaybePaid, Model, Overloaded, Request, Unreachable
from streams.prices import Prices, load_prices
from streams.window import Turn

log = logging.getLogger(__name__)

TRIES = 12
"""Requests made for one question, at most; with their pauses about four minutes."""

REFUSALS = 36
"""Requests beyond those that were refused as too many, which is no fault of the question's, at most."""

_LONGEST_PAUSE = 30.0
_AT_ONCE = 0.1
_FIRST_GUESS = 100
_WORTH_TELLING, _TELL_AGAIN = 30.0, 30.0

Begin = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """Begins without doing anything."""


@dataclass(frozen=True)
class Limits:
    """What a worker may ask for, None for no limit.

    Per minute: requests and tokens (read and written together), of this worker and of each stage's
    whole group. For the run of this worker: US dollars and tokens.
    """

    rpm: int | None = None
    tpm: int | None = None
    group_rpm: int | None = None
    group_tpm: int | None = None
    budget_usd: float | None = None
    budget_tokens: int | None = None

    def group_pace(self) -> Pace:
        """The limits of one stage's group."""
        return Pace(self.group_rpm, self.group_tpm)


NO_LIMITS = Limits()


class Caller:
    """Asks one model for all the stages of a worker."""

    def __init__(
        self, model: Model, limits: Limits = NO_LIMITS, prices: Prices | None = None
    ) -> None:
        """
        Args:
            model: whom to ask.
            limits: what may be asked.
            prices: what completions cost; by default as in Pressroom's own table.

        Raises:
            UsageError: there is a budget in US dollars and the model's price is not known.
        """
        self.name, self.limits, self._model = model.name, limits, model
        self.prices = prices or load_prices()
        if limits.budget_usd is not None and self.prices.cost(model.name, 0, 0) is None:
            raise UsageError(
                f"the price of {model.name} is not known, so a budget in US dollars can't be kept: "
                "name a file with its price in PRESSROOM_PRICES, or give --budget-tokens"
            )
        self._pace = Pace(limits.rpm, limits.tpm)
        self._budget = Budget(limits.budget_usd, limits.budget_tokens)
        self._gate, self._orders = Gate(), itertools.count()
        self._usual_reply, self._tell_at = float(_FIRST_GUESS), 0.0
        self.waiting: set[asyncio.Task[object] | None] = set()
        """The tasks that wait for their turn, and of which nothing is under way."""

    async def complete(
        self,
        request: Request,
        begin: Begin = nothing,
        pace: Pace | None = None,
        park: bool = False,
    ) -> Completion:
        """Asks until there is an answer: capped retries, longer and longer pauses, with jitter.

        Args:
            request: what to ask.
            begin: awaited when it is this request's turn, before each try.
            pace: limits besides the worker's own.
            park: never ask again what may have been paid for.

        Raises:
            RecordRejected: the endpoint refuses this request, or gave no answer in all those tries,
                or its answer is lost and may have been paid for.
            BudgetSpent: nothing more may be asked.
            Stop: the endpoint refuses every request.
        """
        tries = refusals = failures = 0
        order = next(self._orders)
        while True:
            try:
                return await self._try(request, begin, pace, order)
            except RetryLater as error:
                self._tell(error)
                if park and isinstance(error, MaybePaid):
                    raise RecordRejected(f"maybe paid: {error}") from error
                failures += 1
                if isinstance(error, Overloaded):
                    refusals += 1
                else:
                    order = next(self._orders)  # it may be at fault itself: others try first
                    # while nobody can be reached no question is: it waits as long as it takes
                    tries += not isinstance(error, Unreachable)
                if tries >= TRIES or refusals >= REFUSALS:
                    made = tries + refusals
                    raise RecordRejected(f"gave up after {made} tries: {error}") from error
                with self._waits():
                    await asyncio.sleep(_pause(failures, error))

    async def _try(
        self, request: Request, begin: Begin, pace: Pace | None, order: int
    ) -> Completion:
        paces = [self._pace] if pace is None else [pace, self._pace]
        guess = self._guess(request)
        expected, used = sum(guess), 0
        with self._waits():
            self._budget.check()
            for limit in paces:
                await limit.wait(expected)
            turn = await self._gate.enter(order)
        try:
            completion = await self._ask(request, begin, turn, guess)
            used = completion.prompt_tokens + completion.completion_tokens or expected
            return completion
        finally:
            self._gate.leave()
            for limit in paces:
                limit.correct(expected, used)

    async def _ask(
        self, request: Request, begin: Begin, turn: Turn, guess: tuple[int, int]
    ) -> Completion:
        try:
            self._budget.check()  # it may have been spent while this one waited
            await begin()
            completion = await self._model.complete(request)
        except BaseException as error:
            self._gate.ended(turn, error)
            if isinstance(error, MaybePaid):  # nobody will tell what it has cost
                self._charge(self.name, *guess)
            raise
        self._gate.ended(turn)
        read, written = completion.prompt_tokens, completion.completion_tokens
        if read + written > 0:
            self._usual_reply += (written - self._usual_reply) * 0.1
            self._charge(completion.model, read, written)
        else:
            self._charge(completion.model, *guess)  # it does not tell what it has used
        return completion

    def _charge(self, model: str, read: int, written: int) -> None:
        self._budget.charge(read + written, self.prices.cost(model, read, written), model)

    def _guess(self, request: Request) -> tuple[int, int]:
        """About how many tokens it will read and write; what it took is known afterwards."""
        letters = len(request.prompt.system) + len(request.prompt.user)
        return letters // 4, int(min(self._usual_reply, request.max_tokens))

    def _tell(self, error: RetryLater) -> None:
        """Says now and then why calls are made again; that some are too many is no news."""
        wait = error.seconds or 0.0 if isinstance(error, Overloaded) else 0.0
        is_news = not isinstance(error, Overloaded) or wait >= _WORTH_TELLING
        if is_news and time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + _TELL_AGAIN
            asked = f", and wants to be asked in {wait:.0f} s" if wait else ""
            log.warning(
                "the model endpoint gave no answer%s; calls are made again: %s", asked, error
            )

    @contextmanager
    def _waits(self) -> Iterator[None]:
        task = asyncio.current_task()
        self.waiting.add(task)
        try:
            yield
        finally:
            self.waiting.discard(task)


def _pause(attempt: int, error: RetryLater) -> float:
    jitter = random.uniform(0.8, 1.2)
    backoff = min(0.5 * 2.0 ** min(attempt - 1, 10), _LONGEST_PAUSE) * jitter
    if isinstance(error, Overloaded) and error.seconds is not None:
        # who waits longer than he was told comes late each time, and finds nothing left
        return error.seconds if error.seconds > _AT_ONCE else min(backoff / 5, 1.0)
    return backoff

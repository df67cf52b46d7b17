"""Model endpoints made of functions, for calls in virtual time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from streams.calls import Caller
from streams.flow import Pace
from streams.model import Completion, Request
from streams.prompts import Rendered

REQUEST = Request(Rendered("You edit.", "Say hi.", 0.3), "Headline", {"type": "object"}, 50)
DONE = Completion("hi", "m", 60, 40)

Reply = Callable[[], Awaitable[Completion]]


class Endpoint:
    """A model made of a function; notes when it was asked, and how many at once."""

    name = "m"

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.asked: list[float] = []
        self.answers = 0
        self._now = self.most = 0

    async def complete(self, request: Request) -> Completion:
        self.asked.append(asyncio.get_running_loop().time())
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            completion = await self._reply()
        finally:
            self._now -= 1
        self.answers += 1
        return completion


def failing(*failures: Exception) -> Endpoint:
    """Fails so often, then answers."""
    left = deque(failures)

    async def reply() -> Completion:
        if left:
            raise left.popleft()
        return DONE

    return Endpoint(reply)


def slow(seconds: float = 0.1) -> Endpoint:
    """Answers after so long."""

    async def reply() -> Completion:
        await asyncio.sleep(seconds)
        return DONE

    return Endpoint(reply)


async def many(caller: Caller, count: int, at_once: int, pace: Pace | None = None) -> list[object]:
    """So many questions; gives each one's completion, or why there is none."""
    room = asyncio.Semaphore(at_once)

    async def ask() -> Completion:
        async with room:
            return await caller.complete(REQUEST, pace=pace)

    return await asyncio.gather(*(ask() for _ in range(count)), return_exceptions=True)

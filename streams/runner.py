"""Runs stage calls concurrently, on an event loop in a thread of its own.

The loop that owns Kafka is plain blocking code in another thread; between the two there are works
handed over and one event that says "something is finished".
"""

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from streams.processing import Processor, Work

_YIELD_EVERY = 256


class EventLoopThread:
    """An asyncio event loop in a daemon thread; the stages of a process share one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="stages", daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Starts a coroutine without waiting for it."""
        asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def close(self) -> None:
        """Cancels what runs and ends the thread."""
        self.loop.call_soon_threadsafe(self._cancel_all)
        self._thread.join(timeout=5)

    def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.call_soon(self.loop.stop)


class Runner:
    """A stage's calls: at most ``concurrency`` at once, begun in the order they are submitted."""

    def __init__(self, thread: EventLoopThread, processor: Processor, concurrency: int) -> None:
        self._loop = thread.loop
        self._processor = processor
        self._queue: deque[Work] = deque()
        self._queued: asyncio.Event = asyncio.Event()
        self._running: dict[Work, asyncio.Task[Any] | None] = {}
        self._finished = threading.Event()
        self._servers: list[asyncio.Task[None]] = []
        self.failure: Exception | None = None
        """What ended the service: an error that concerns every record."""
        self._loop.call_soon_threadsafe(self._open, concurrency)

    def submit(self, works: Sequence[Work]) -> None:
        """Hands works over to be run."""
        if works:
            self._loop.call_soon_threadsafe(self._enqueue, works)

    def wait(self, seconds: float) -> None:
        """Returns when something was finished since the last wait, or after so many seconds."""
        self._finished.wait(seconds)
        self._finished.clear()

    def drop(self, works: Iterable[Work]) -> None:
        """Forgets works: those not begun won't be, those begun are cancelled."""
        dropped = list(works)
        for work in dropped:
            work.dropped = True
        self._loop.call_soon_threadsafe(self._cancel, dropped)

    def close(self) -> None:
        """Ends the service; whatever still runs is cancelled."""
        self._loop.call_soon_threadsafe(self._close)

    # --- on the event loop's thread ---------------------------------------------------------

    def _open(self, concurrency: int) -> None:
        self._servers = [self._loop.create_task(self._serve()) for _ in range(concurrency)]

    def _enqueue(self, works: Sequence[Work]) -> None:
        self._queue.extend(works)
        self._queued.set()

    def _cancel(self, works: Iterable[Work]) -> None:
        for work in works:
            task = self._running.get(work)
            if task is not None:
                task.cancel()

    def _close(self) -> None:
        for server in self._servers:
            server.cancel()

    async def _serve(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        served = 0
        while True:
            while not self._queue:
                self._queued.clear()
                await self._queued.wait()
            work = self._queue.popleft()
            if work.dropped:
                continue
            self._running[work] = task
            try:
                await self._processor.run(work)
            except asyncio.CancelledError:
                if not work.dropped:
                    raise
                task.uncancel()
            except Exception as error:
                self.failure = error
            finally:
                del self._running[work]
            if not self._finished.is_set():
                self._finished.set()
            served += 1
            if served % _YIELD_EVERY == 0:  # calls that never wait must not starve the others
                await asyncio.sleep(0)

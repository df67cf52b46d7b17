"""Runs stage calls concurrently, on an event loop beside the loop that owns Kafka.

Calls of a model wait for the network most of the time: their event loop has a thread of its own, so
that a transaction under way holds none of them up. Stages without a model keep the processor busy:
their event loop is stepped by the owner's own thread, since two busy threads would only take turns.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol

from streams.processing import Processor, Work

_YIELD_EVERY = 256
_GOODBYE = 2.0


class Place(Protocol):
    """Where an event loop runs."""

    loop: asyncio.AbstractEventLoop

    def call(self, step: Callable[..., None], *args: Any) -> None:
        """Runs a step on the loop, soon."""

    def wait(self, seconds: float) -> None:
        """Returns after :meth:`notify`, or after so many seconds."""

    notify: Callable[[], None]
    """Ends a wait; called on the loop."""

    def wake(self) -> None:
        """Ends a wait; called from any thread."""

    def close(self) -> None:
        """Lets go of what only this place used."""


class OwnThread:
    """An event loop in a daemon thread; the stages of a process share one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="calls", daemon=True)
        self._thread.start()

    def place(self) -> Place:
        """The place of one stage on this loop."""
        return _Beside(self.loop)

    def close(self) -> None:
        """Cancels what runs and ends the thread."""
        asyncio.run_coroutine_threadsafe(_cancel_all(), self.loop)
        self._thread.join(timeout=5)


async def _cancel_all() -> None:
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_GOODBYE)
    loop.stop()


class _Beside:
    """A place on a loop that runs in another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._finished = threading.Event()
        self.notify = self._finished.set

    def call(self, step: Callable[..., None], *args: Any) -> None:
        self.loop.call_soon_threadsafe(step, *args)

    def wait(self, seconds: float) -> None:
        self._finished.wait(seconds)
        self._finished.clear()

    def wake(self) -> None:
        self._finished.set()

    def close(self) -> None:
        pass


class _Within:
    """A loop that the owner's thread steps, whenever it has works to hand over or to wait for."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._finished = asyncio.Event()
        self.notify = self._finished.set

    def call(self, step: Callable[..., None], *args: Any) -> None:
        step(*args)
        self.loop.run_until_complete(asyncio.sleep(0))

    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(self._wait(seconds))
        self._finished.clear()

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._finished.wait(), seconds)
        except TimeoutError:
            return

    def wake(self) -> None:
        self.loop.call_soon_threadsafe(self._finished.set)

    def close(self) -> None:
        self.loop.create_task(_cancel_all())
        self.loop.run_forever()
        self.loop.close()


class Runner:
    """A stage's calls: at most ``concurrency`` at once, begun in the order they are submitted."""

    def __init__(self, thread: OwnThread, processor: Processor, concurrency: int) -> None:
        """
        Args:
            thread: where calls of a model run.
            processor: runs one work.
            concurrency: how many at once.
        """
        self._place = thread.place() if processor.stage.uses_llm else _Within()
        self._processor = processor
        self._queue: deque[Work] = deque()
        self._queued = asyncio.Event()
        self._running: dict[Work, asyncio.Task[Any]] = {}
        self._servers: list[asyncio.Task[None]] = []
        caller = processor.caller
        self._waiting: Collection[object] = caller.waiting if caller is not None else ()
        self._leaving = False
        self.failure: Exception | None = None
        """What ended the service: an error that concerns every record."""
        self._place.call(self._open, concurrency)

    def submit(self, works: Sequence[Work]) -> None:
        """Hands works over to be run."""
        if works:
            self._place.call(self._enqueue, works)

    def wait(self, seconds: float) -> None:
        """Returns when something was finished since the last wait, or after so many seconds."""
        self._place.wait(seconds)

    def busy(self, works: Collection[Work] | None = None) -> bool:
        """Whether calls are under way, or other steps of a stage; waiting for one's turn is not.

        Args:
            works: only those count; by default all.
        """
        running = list(self._running.items())
        return any(
            task not in self._waiting
            for work, task in running
            if not work.dropped and (works is None or work in works)
        )

    def begin_no_more(self, works: Collection[Work] | None = None) -> None:
        """Leaves alone what has not begun: of those works, or all. To be repeated while others end.

        Calls that wait for their turn have not begun, nor have those that are to be made again.
        """
        if works is None:
            self._leaving = True
        for work in works or ():
            work.dropped = work.dropped or work not in self._running
        if self._waiting:
            self._place.call(self._cancel_waiting, works)

    def drop(self, works: Iterable[Work]) -> None:
        """Forgets works: those not begun won't be, those begun are cancelled."""
        dropped = list(works)
        for work in dropped:
            work.dropped = True
        if dropped:
            self._place.call(self._cancel, dropped)

    def close(self) -> None:
        """Ends the service; whatever still runs is cancelled."""
        self._place.call(self._close)
        self._place.close()

    def wake(self) -> None:
        """Ends a :meth:`wait`; from any thread."""
        self._place.wake()

    # --- on the event loop --------------------------------------------------------------------

    def _open(self, concurrency: int) -> None:
        self._servers = [self._place.loop.create_task(self._serve()) for _ in range(concurrency)]

    def _enqueue(self, works: Sequence[Work]) -> None:
        self._queue.extend(works)
        self._queued.set()

    def _cancel(self, works: Iterable[Work]) -> None:
        for work in works:
            task = self._running.get(work)
            if task is not None:
                task.cancel()

    def _cancel_waiting(self, works: Collection[Work] | None) -> None:
        for work in list(self._running) if works is None else works:
            task = self._running.get(work)
            if task is not None and task in self._waiting and not work.dropped:
                work.dropped = True
                task.cancel()

    def _close(self) -> None:
        for server in self._servers:
            server.cancel()

    async def _serve(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        run, notify, served = self._processor.run, self._place.notify, 0
        while True:
            while not self._queue:
                self._queued.clear()
                await self._queued.wait()
            if self._leaving:
                return
            work = self._queue.popleft()
            if work.dropped:
                continue
            self._running[work] = task
            try:
                await run(work)
            except asyncio.CancelledError:
                if not work.dropped:
                    raise
                task.uncancel()
            except Exception as error:
                self.failure, self._leaving = self.failure or error, True
            finally:
                del self._running[work]
            notify()
            served += 1
            if served % _YIELD_EVERY == 0:  # calls that never wait must not starve the others
                await asyncio.sleep(0)

"""Runs Pressroom's command line in a process that kills itself at a chosen point.

``python -m tests.support.failpoints POINT:N ARGUMENTS…`` sends itself SIGKILL when it comes to the
point for the N-th time.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from producers.transactional import TransactionalProducer
from streams.ledger import Book


class Failpoint:
    """Counts how often a point is come to."""

    def __init__(self, at: int) -> None:
        self._left = at

    def hit(self, prepare: Callable[[], object] = lambda: None) -> None:
        """Dies the last time; before, what must have happened is made sure of."""
        self._left -= 1
        if self._left == 0:
            prepare()
            os.kill(os.getpid(), signal.SIGKILL)


def _on_result(point: Failpoint, *, after: bool) -> None:
    put = Book._put

    async def wrapped(book: Book, page: Any, entry: Any) -> None:
        if entry.kind == "result" and not after:
            point.hit()
        await put(book, page, entry)
        if entry.kind == "result" and after:
            point.hit()

    setattr(Book, put.__name__, wrapped)


def _on(name: str, point: Failpoint, *, after: bool) -> None:
    step = getattr(TransactionalProducer, name)

    def wrapped(producer: TransactionalProducer, *args: Any) -> None:
        if not after:
            point.hit()
        step(producer, *args)
        if after:
            point.hit()

    setattr(TransactionalProducer, name, wrapped)


def _while_open(name: str, point: Failpoint) -> None:
    """After a step of a transaction that has written an output, so that there is something to abort."""
    step = getattr(TransactionalProducer, name)

    def wrapped(producer: TransactionalProducer, *args: Any) -> None:
        step(producer, *args)
        if not all(topic.endswith(".state") for topic in producer._topics):
            point.hit(lambda: _flush(producer))

    setattr(TransactionalProducer, name, wrapped)


def _flush(producer: TransactionalProducer) -> None:
    """The records are on disk."""
    assert producer._producer is not None
    producer._producer.flush(30)


POINTS: dict[str, Callable[[Failpoint], None]] = {
    "between answer and result": lambda point: _on_result(point, after=False),
    "after result": lambda point: _on_result(point, after=True),
    "before begin": lambda point: _on("write", point, after=False),
    "after produce": lambda point: _while_open("write", point),
    "between offsets and commit": lambda point: _while_open("_send_offsets", point),
    "after commit": lambda point: _on("finish", point, after=True),
}
"""Where a process can die; the one during a call is known to the model's endpoint alone."""

ABORTING = ("after produce", "between offsets and commit")
"""Points at which a transaction is open that has written an output."""


def main() -> None:
    """Installs the failpoint and runs the command line with the rest of the arguments."""
    chosen, sys.argv[1:] = sys.argv[1], sys.argv[2:]
    name, _, at = chosen.rpartition(":")
    POINTS[name](Failpoint(int(at)))
    from streams.cli import main as run

    run()


if __name__ == "__main__":
    main()

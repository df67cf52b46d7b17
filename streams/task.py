"""A task: what one assignment gave, a partition number over all topics the stage reads.

Its identity is the assignment's token. It holds the works of its partitions in order, and the state and
the page of the ledger that go with them; what may be committed is a finished prefix.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, takewhile

from confluent_kafka import TopicPartition

from consumers.reader import Partition
from schemas.message import Outgoing, Received
from streams.ledger import Book, Page, position, positions, to_metadata
from streams.processing import JoinState, Work

MAX_TRANSACTION = 5000
"""Works of a task that are committed in one transaction."""


class Task:
    """One partition number of the stage's topics, as long as it is assigned to this worker."""

    def __init__(self, state: JoinState | None, book: Book | None = None) -> None:
        self.state, self._book = state, book
        self.queue: deque[Work] = deque()
        self.held: deque[Received] = deque()
        """Inputs behind one whose schema is not known yet, and it itself: they can't be read so far."""
        self.size = 0
        """Bytes of the inputs it holds."""
        self._pages: dict[Work, Page] = {}

    def __len__(self) -> int:
        return len(self.queue) + len(self.held)

    def put(self, work: Work) -> None:
        """Queues a work."""
        self.queue.append(work)
        self.size += work.size

    def hold(self, received: Received) -> None:
        """Keeps an input that can't be read yet."""
        self.held.append(received)
        self.size += received.size

    def release(self) -> None:
        """Takes out the first input that was held."""
        self.size -= self.held.popleft().size

    def open_page(self, stage: str, work: Work) -> None:
        """Gives a work that will ask the model its page in the ledger."""
        if self._book is not None:
            page = self._pages[work] = Page(stage, work.inputs)
            work.keep = partial(self._book.complete, page)

    @property
    def saving(self) -> bool:
        """Whether an answer is there that is not in the ledger yet."""
        return self._book is not None and self._book.saving > 0

    def ledger_position(self, done: Sequence[Work]) -> str:
        """What the next owner needs to know when these works are committed."""
        if self._book is None:
            return ""
        left = set(self._pages).difference(done)
        inputs = {positions(work.inputs) for work in done} if self._book.taken_over else ()
        return to_metadata(position(self._book, [self._pages[work] for work in left], inputs))

    def done(self, count: int) -> None:
        """Takes out the first works, which are committed."""
        for _ in range(count):
            work = self.queue.popleft()
            self.size -= work.size
            if self._book is not None:
                self._pages.pop(work, None)
                self._book.done(work.inputs, work.cause)

    def finished(self) -> list[Work]:
        """The works that may be committed: no unfinished one stands before them."""
        found: list[Work] = []
        for work in islice(self.queue, MAX_TRANSACTION):
            if work.outgoing is None:
                break
            found.append(work)
        return found

    def forget_below(self, committed: Mapping[Partition, int]) -> list[Work]:
        """Takes out the works whose offsets turn out to be committed."""
        done = list(takewhile(lambda work: _is_below(work.cause, committed), self.queue))
        self.done(len(done))
        return done


def _is_below(cause: Received, committed: Mapping[Partition, int]) -> bool:
    return cause.offset < committed.get((cause.topic, cause.partition), 0)


Batch = list[tuple[Task, list[Work]]]
"""Of some tasks the works that are committed together."""


def records_of(batch: Batch) -> Iterator[Outgoing]:
    """What a transaction writes for a batch."""
    for _, works in batch:
        for work in works:
            yield from work.kept
            yield from work.outgoing or ()


def next_offsets(batch: Batch, topics: int) -> list[TopicPartition]:
    """For each partition the offset after the last input of the batch; the same again for none.

    Args:
        batch: what is committed.
        topics: how many the stage reads.
    """
    found = []
    for task, works in batch:
        last: dict[Partition, int] = {}
        for work in reversed(works):
            last.setdefault((work.cause.topic, work.cause.partition), work.cause.offset)
            if len(last) == topics:
                break
        if not works:
            first = task.queue[0].cause
            last = {(first.topic, first.partition): first.offset - 1}
        note = task.ledger_position(works)
        found += [TopicPartition(t, p, offset + 1, note) for (t, p), offset in last.items()]
    return found

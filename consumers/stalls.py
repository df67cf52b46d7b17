"""Inputs that can't be read on, since another producer's transaction is open on them.

A read-committed consumer stops before the first open transaction, silently, and lags behind as long as
that one stays open: until its timeout, or for good when the broker has lost track of it.
"""

import logging
import time
from collections.abc import Callable, Collection

from confluent_kafka import Consumer, TopicPartition

from consumers.reader import Partition

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds a transaction may be open before it is told of; a worker's own ones are shorter."""
_LOOK_AGAIN = 5.0
_TELL_AGAIN = 300.0


class Stalls:
    """Watches the partitions of one consumer."""

    def __init__(self, consumer: Consumer, clock: Callable[[], float] = time.monotonic) -> None:
        self._consumer, self._clock = consumer, clock
        self._next_look = 0.0
        self._stands: dict[Partition, tuple[int, float]] = {}
        """Where a partition stands, and when it is time to tell of it."""

    def stands(self, partition: Partition, offset: int) -> None:
        """A partition was read to its last stable offset."""
        if self._stands.get(partition, (None, 0.0))[0] != offset:
            self._stands[partition] = (offset, self._clock() + PATIENCE)

    def look(self, at_end: Collection[Partition]) -> None:
        """Logs a warning for each of these partitions that has stood before its end for long."""
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_AGAIN
        self._stands = {p: stand for p, stand in self._stands.items() if p in at_end}
        for partition, (offset, tell) in self._stands.items():
            high = self._high_watermark(partition)
            if high <= offset:
                self._stands[partition] = (offset, now + PATIENCE)
            elif now >= tell:
                self._stands[partition] = (offset, now + _TELL_AGAIN)
                log.warning(
                    "%s:%d stands at %d before its end, %d: a transaction of another producer has been "
                    "open for %d s or more; find it with kafka-transactions.sh find-hanging or wait",
                    *partition, offset, high, PATIENCE,
                )  # fmt: skip

    def behind(self, at_end: Collection[Partition]) -> list[str]:
        """Those of these partitions that stand before their end at present."""
        stands = [(p, self._stands[p][0]) for p in at_end if p in self._stands]
        highs = [(p, offset, self._high_watermark(p)) for p, offset in stands]
        return [
            f"{t}:{n} stands at {at} before its end, {high}"
            for (t, n), at, high in highs
            if high > at
        ]

    def _high_watermark(self, partition: Partition) -> int:
        """The last one that a fetch told of; asks no broker."""
        found = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
        return found[1] if found else -1

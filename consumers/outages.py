"""Tells, once in a while, that no broker answers: a client itself only tries again, without a word."""

import logging
import time
from collections.abc import Callable

from confluent_kafka import KafkaError

log = logging.getLogger(__name__)

_TELL_AGAIN = 60.0


class Outages:
    """A client's ``error_cb``."""

    def __init__(self, who: str, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            who: waits for Kafka.
            clock: tells the time in seconds.
        """
        self._who, self._clock, self._tell_at = who, clock, 0.0

    def __call__(self, error: KafkaError) -> None:
        now = self._clock()
        if error.code() == KafkaError._ALL_BROKERS_DOWN and now >= self._tell_at:
            self._tell_at = now + _TELL_AGAIN
            log.warning("%s: no broker of Kafka answers; trying again until one does", self._who)

"""Whether a worker that was away still is a member of its group.

A process that was stopped, by a signal or with its whole machine, for longer than its session does not
know yet that others have its partitions when it goes on. Would it ask the model, it would pay for what
they have paid. So after a pause no call begins before the group's coordinator has named the worker as a
member: nobody else has been given its partitions then.
"""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future
from functools import cached_property
from typing import Any

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

from streams.calls import Begin
from streams.llm import Ask, Keep, Question
from streams.model import Completion

_ABSENCE = 3.0
"""Seconds without polling after which the coordinator is asked; a session lasts longer."""
_INQUIRY = 0.2
"""Seconds between two questions to the coordinator."""
_TIMEOUT = 10.0
_BUSY_WAIT = 0.005


class Presence:
    """One worker's, as a member of one group."""

    def __init__(self, consumer: Consumer, group: str, config: Mapping[str, Any]) -> None:
        """
        Args:
            consumer: the member.
            group: its group's id.
            config: librdkafka settings of a client that may ask the coordinator.
        """
        self._consumer, self._group, self._config = consumer, group, dict(config)
        self._polled = time.monotonic()
        self._certain = True
        self._answer: Future[Any] | None = None
        self._not_before = 0.0

    def polled(self) -> None:
        """Called by the thread that polls, each time it has polled."""
        now = time.monotonic()
        if now - self._polled > _ABSENCE:
            self._certain, self._answer = False, None
        self._polled = now
        if not self._certain:
            self._inquire(now)

    def keeping(self, keep: Keep) -> Keep:
        """The same, except that no request is made while it is uncertain whether it is a member."""

        async def keep_when_present(question: Question, ask: Ask) -> Completion:
            async def ask_when_present(begin: Begin) -> Completion:
                async def begin_when_present() -> None:
                    await self._certainty()
                    await begin()
                    await self._certainty()  # the pause may also come while the intent is written

                return await ask(begin_when_present)

            return await keep(question, ask_when_present)

        return keep_when_present

    async def _certainty(self) -> None:
        while not self._certain or time.monotonic() - self._polled > _ABSENCE:
            await asyncio.sleep(_BUSY_WAIT)

    def _inquire(self, now: float) -> None:
        if self._answer is not None:
            if self._answer.done():
                self._certain, self._answer = self._is_member(self._answer), None
        elif now >= self._not_before:
            self._not_before = now + _INQUIRY
            found = self._admin.describe_consumer_groups([self._group], request_timeout=_TIMEOUT)
            self._answer = found[self._group]

    def _is_member(self, answer: Future[Any]) -> bool:
        try:
            members = {member.member_id for member in answer.result().members}
        except KafkaException:  # it is asked again
            return False
        # who was thrown out has another id, or none, once it knows; then it was given anew what it has
        return self._consumer.memberid() in members

    @cached_property
    def _admin(self) -> AdminClient:
        return AdminClient(self._config)

"""Whether a worker that was away still is a member of its group.

A process that was stopped, by a signal or with its whole machine, for longer than its session does not
know yet that others have its partitions when it goes on. Would it ask the model, it would pay for what
they have paid. So after a pause no call begins before the group's coordinator has accepted a commit of
the worker, which it does of members alone: nobody else has been given its partitions then.

The commit is of an offset nobody reads, in the ledger's first partition. To have the group described
would be plainer, but librdkafka ends the whole process when the coordinator goes away while it is asked
for that (its issue 4605).
"""

import asyncio
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streams.calls import Begin
from streams.llm import Ask, Keep, Question
from streams.model import Completion
from streams.stage import Stage

_ABSENCE = 3.0
"""Seconds without polling after which the coordinator is asked; a session lasts longer."""
_INQUIRY = 0.2
"""Seconds between two questions to the coordinator."""
_PATIENCE = 15.0
"""Seconds after which an answer is not waited for any longer."""
_BUSY_WAIT = 0.005


class Presence:
    """One worker's, as a member of one group. All but :meth:`keeping` is the polling thread's."""

    def __init__(self, stage: Stage) -> None:
        self._ledger = stage.ledger.name if stage.ledger else None
        self._number = 0
        self._polled = time.monotonic()
        self._certain = True
        self._member: str | None = None
        self._waiting = False
        self._asked = 0.0

    def polled(self, consumer: Consumer) -> None:
        """Called each time the member has polled."""
        now = time.monotonic()
        if now - self._polled > _ABSENCE:
            self._certain, self._member = False, None
        self._polled = now
        answered = not self._waiting or now - self._asked > _PATIENCE
        if self._ledger is not None and not self._certain and answered:
            self._inquire(consumer, self._ledger, now)

    def committed(
        self, consumer: Consumer, error: KafkaError | None, offsets: list[TopicPartition]
    ) -> None:
        """Called with the coordinator's answer to a commit."""
        if [tp.offset for tp in offsets] != [self._number]:
            return  # to an earlier one
        self._waiting = False
        # who was thrown out has another id, or none, once it knows; then it was given anew what it has
        if error is None and self._member and self._member == consumer.memberid():
            self._certain = True

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

    def _inquire(self, consumer: Consumer, ledger: str, now: float) -> None:
        member = consumer.memberid()
        # without an id a commit would be taken when the group is empty, as one of no member
        if not member or now - self._asked < _INQUIRY:
            return
        self._asked, self._number = now, self._number + 1
        try:
            consumer.commit(offsets=[TopicPartition(ledger, 0, self._number)], asynchronous=True)
        except KafkaException:  # it is asked again
            return
        self._member, self._waiting = member, True

"""A brokerless driver: a whole pipeline in memory, deterministic, for users' own tests.

::

    driver = MemoryDriver(newsroom, ScriptedModel({"Summary": {"text": "short"}}))
    driver.write(documents, Document(id="1", …))
    driver.run()
    assert driver.records(summaries) == [Summary(text="short")]

Records go through the same encoding, joining, routing and dead-lettering as on Kafka.
"""

import asyncio
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from schemas.codec import SINGLE_OBJECT, Framing
from schemas.message import Headers, Outgoing, Received, first_headers, record_id
from schemas.records import DeadLetter
from schemas.topics import Topic
from streams.calls import Caller
from streams.model import Completion, Model, Request
from streams.pipeline import Pipeline
from streams.processing import JoinState, Processor

R = TypeVar("R")

Answer = str | Mapping[str, Any] | Exception
Script = Mapping[str, Answer | Callable[[Request], Answer]] | Callable[[Request], Answer]


class ScriptedModel:
    """A model that says what it is told to; keeps what it was asked in ``requests``.

    Args:
        script: an answer for each record class by name, or a function of the request. An answer is
            the reply's text, a dict to be sent as JSON, or an exception to be raised.
    """

    def __init__(self, script: Script) -> None:
        self.name = "scripted"
        self._script = script
        self.requests: list[Request] = []

    async def complete(self, request: Request) -> Completion:
        """See :class:`streams.model.Model`. Tokens are counted as words."""
        self.requests.append(request)
        answer: Any = self._script
        if isinstance(answer, Mapping):
            answer = answer[request.name]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        text = answer if isinstance(answer, str) else json.dumps(answer)
        words = len(request.prompt.system.split()) + len(request.prompt.user.split())
        return Completion(text, "scripted", words, len(text.split()))


class MemoryDriver:
    """Runs every stage of a pipeline in this process, one record at a time."""

    def __init__(
        self, pipeline: Pipeline, model: Model | None = None, framing: Framing = SINGLE_OBJECT
    ) -> None:
        """
        Args:
            pipeline: what to run.
            model: whom its stages ask; a :class:`ScriptedModel` in most tests.
            framing: how values are written.

        Raises:
            UsageError: a kept schema is none, or can't be read any more.
        """
        self._pipeline = pipeline
        pipeline.remember_history()
        self._partitions = {t.name: t.partitions for t in pipeline.topics}
        self._logs: dict[tuple[str, int], list[Received]] = defaultdict(list)
        self._clock = 0
        caller = Caller(model) if model is not None else None
        self._framing = framing
        framing.prepare(pipeline.topics)
        stages = pipeline.stages.values()
        self._processors = [Processor(s, caller, framing=framing) for s in stages]
        self._next: dict[tuple[str, str, int], int] = defaultdict(int)
        self._states: dict[tuple[str, int], JoinState] = {}

    def write(self, topic: Topic[R], record: R, key: str | bytes | None = None) -> None:
        """Appends a record to a topic; the key is the topic's key field where none is given."""
        if key is None and topic.key is not None:
            key = str(getattr(record, topic.key))
        encoded = key.encode() if isinstance(key, str) else key
        ce_id = record_id(topic.name, str(self._clock))
        headers = first_headers(ce_id, "memory", topic.ce_type)
        self.write_bytes(topic.name, encoded, self._framing.codec(topic).encode(record), headers)

    def write_bytes(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers | None = None
    ) -> None:
        """Appends raw bytes to a topic, as any foreign producer could."""
        self._append(Outgoing(topic, key, value, headers or []))

    def run(self) -> None:
        """Runs the stages until no input is left."""
        with asyncio.Runner() as runner:
            while sum(runner.run(self._step(p)) for p in self._processors):
                pass

    def received(self, topic: Topic[Any]) -> list[Received]:
        """A topic's records as bytes with headers, by partition and offset."""
        partitions = range(self._partitions[topic.name])
        return [r for p in partitions for r in self._logs[topic.name, p]]

    def records(self, topic: Topic[R]) -> list[R]:
        """A topic's records, by partition and offset."""
        codec = self._framing.codec(topic)
        return [codec.decode(r.value) for r in self.received(topic)]

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """What the stages could not process."""
        return self.records(self._pipeline.dead_letters)

    def waiting(self, stage: str) -> list[Received]:
        """The records that wait in a join for their other halves."""
        states = (state for (name, _), state in self._states.items() if name == stage)
        return [received for state in states for received in state.waiting()]

    async def _step(self, processor: Processor) -> int:
        """Runs one stage on everything it has not read yet; how much that was."""
        stage, worked = processor.stage, 0
        for topic in stage.reads:
            for partition in range(topic.partitions):
                unread = self._logs[topic.name, partition]
                while (at := self._next[stage.name, topic.name, partition]) < len(unread):
                    self._next[stage.name, topic.name, partition] += 1
                    await self._process(processor, unread[at])
                    worked += 1
        return worked

    async def _process(self, processor: Processor, received: Received) -> None:
        state = None
        if processor.stage.state is not None:
            at = (processor.stage.name, received.partition)
            state = self._states.setdefault(at, processor.new_state())
        work = processor.accept(received, state)
        if work.outgoing is None:
            await processor.run(work)
        for outgoing in (*work.kept, *(work.outgoing or ())):
            self._append(outgoing)

    def _append(self, outgoing: Outgoing) -> None:
        partition = outgoing.partition
        if partition < 0:
            partition = zlib.crc32(outgoing.key or b"") % self._partitions[outgoing.topic]
        log = self._logs[outgoing.topic, partition]
        self._clock += 1
        log.append(
            Received(
                outgoing.topic, partition, len(log), self._clock,
                outgoing.key, outgoing.value, outgoing.headers,
            )
        )  # fmt: skip

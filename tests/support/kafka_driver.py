"""The interface of ``streams.MemoryDriver``, on a real Kafka."""

from pathlib import Path
from typing import Any, TypeVar

from consumers.reader import read_settled
from producers.transactional import TransactionalProducer
from schemas.codec import SINGLE_OBJECT, Framing
from schemas.message import Headers, Outgoing, Received, first_headers, record_id
from schemas.records import DeadLetter
from schemas.topics import Topic
from streams import Pipeline
from streams.admin import create_topics
from streams.calls import Caller
from streams.instance import Instances
from streams.model import Model
from streams.worker import Worker
from tests.support.config import unique

R = TypeVar("R")


class KafkaDriver:
    """Runs a pipeline's stages by the exactly-once loop until nothing is left to do."""

    def __init__(
        self,
        pipeline: Pipeline,
        model: Model | None,
        config: dict[str, Any],
        home: Path,
        framing: Framing = SINGLE_OBJECT,
    ) -> None:
        self._pipeline, self._model, self._config, self._home = pipeline, model, config, home
        self._framing = framing
        create_topics(config, pipeline.topics)
        self._producer = TransactionalProducer(config, unique("driver"))
        self._producer.open()
        self._clock = 0

    def write(self, topic: Topic[R], record: R, key: str | bytes | None = None) -> None:
        if key is None and topic.key is not None:
            key = str(getattr(record, topic.key))
        encoded = key.encode() if isinstance(key, str) else key
        self._clock += 1
        headers = first_headers(record_id(topic.name, str(self._clock)), "driver", topic.ce_type)
        self.write_bytes(topic.name, encoded, self._framing.codec(topic).encode(record), headers)

    def write_bytes(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers | None = None
    ) -> None:
        self._producer.commit([Outgoing(topic, key, value, headers or [])])

    def run(self) -> None:
        stages = list(self._pipeline.stages.values())
        caller = Caller(self._model) if self._model is not None else None
        worker = Worker(stages, self._config, caller, Instances(self._home), framing=self._framing)
        worker.start()
        worker.wait(until_idle=0.7)

    def received(self, topic: Topic[Any]) -> list[Received]:
        found = read_settled(self._config, [topic.name])
        return sorted(found, key=lambda r: (r.partition, r.offset))

    def records(self, topic: Topic[R]) -> list[R]:
        codec = self._framing.codec(topic)
        return [codec.decode(r.value) for r in self.received(topic)]

    @property
    def dead_letters(self) -> list[DeadLetter]:
        return self.records(self._pipeline.dead_letters)

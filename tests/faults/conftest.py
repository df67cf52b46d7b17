"""What the fault tests share: a pipeline of their own, a billing model server, worker processes."""

import importlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from producers.transactional import TransactionalProducer
from schemas.codec import codec_for
from schemas.message import Outgoing
from schemas.record import schema_of
from streams.admin import create_topics
from tests.support import oracle
from tests.support.config import unique
from tests.support.model_server import ModelServer
from tests.support.workers import Workers


@dataclass
class Bench:
    """One fault test's pipeline and everything around it."""

    module: ModuleType
    servers: str
    config: dict[str, Any]
    model: ModelServer
    workers: Workers
    texts: dict[str, list[str]]

    def write(self, count: int, keys: int = 7) -> None:
        """Appends numbered lines under a few keys."""
        producer = TransactionalProducer(self.config, unique("writer"))
        producer.open()
        encode = codec_for(self.module.Line).encode
        begin = sum(map(len, self.texts.values()))
        records = []
        for number in range(begin, begin + count):
            key = f"k{number % keys}"
            self.texts.setdefault(key, []).append(f"line {number}")
            value = encode(self.module.Line(f"line {number}"))
            records.append(Outgoing(self.module.lines.name, key.encode(), value, []))
        producer.commit(records)

    def committed_outputs(self, topic: str) -> int:
        """How many records a topic has now, for tests that strike in the middle."""
        found = getattr(self.module, topic)
        return sum(oracle.ends(self.servers, found.name).values())

    def check(self) -> None:
        """Oracles A and D on every topic of the pipeline."""
        module = self.module
        answers = {k: [f"re: {t}" for t in ts] for k, ts in self.texts.items()}
        shouts = {k: [t.upper() for t in ts] for k, ts in self.texts.items()}
        pairs = {k: [f"re: {t} {t.upper()}" for t in ts] for k, ts in self.texts.items()}
        for topic, expected in (
            (module.answers, answers),
            (module.shouts, shouts),
            (module.pairs, pairs),
        ):
            seen = oracle.read(self.servers, topic.name, schema_of(topic.record))
            assert not (bad := oracle.judge(seen, expected, "text")), (topic.name, bad)
        for stage in module.pipeline.stages.values():
            topics = [t.name for t in stage.reads]
            assert not oracle.uncommitted(self.servers, stage.group, topics)


@pytest.fixture
def bench(
    kafka: dict[str, Any], bootstrap_servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    monkeypatch.setenv("FAULT_PIPELINE", unique("faults"))
    import tests.faults.pipeline

    module = importlib.reload(tests.faults.pipeline)
    create_topics(kafka, module.pipeline.topics)

    def answer(request: dict[str, Any]) -> str:
        return json.dumps({"text": f"re: {request['messages'][-1]['content']}"})

    model = ModelServer(answer, seconds=0.1)
    environment = {
        "FAULT_PIPELINE": os.environ["FAULT_PIPELINE"],
        "PRESSROOM_BOOTSTRAP_SERVERS": bootstrap_servers,
        "OPENAI_BASE_URL": model.url,
    }
    workers = Workers(environment, "tests.faults.pipeline:pipeline", tmp_path / "home")
    yield Bench(module, bootstrap_servers, kafka, model, workers, {})
    workers.close()
    model.close()

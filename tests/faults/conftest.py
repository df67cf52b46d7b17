"""What the fault tests share: a pipeline of their own, a billing model server, worker processes."""

import importlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from producers.transactional import TransactionalProducer
from schemas.codec import codec_for
from schemas.message import Outgoing
from schemas.record import schema_of
from schemas.records import DeadLetter, LedgerEntry
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

    def await_outputs(self, topic: str, count: int) -> None:
        """Waits until a topic has so many records."""
        self._await(lambda: self.committed_outputs(topic) >= count)

    def await_members(self, stage: str, count: int) -> None:
        """Waits until a stage's group has so many members, all with partitions."""
        until = time.monotonic() + 60
        while len(shares := self._shares(stage)) != count or not all(shares):
            assert time.monotonic() < until, shares
            time.sleep(0.2)

    def _shares(self, stage: str) -> list[int]:
        group = self.module.pipeline.stages[stage].group
        admin = AdminClient(self.config)  # kept, or its answer would never come
        (found,) = admin.describe_consumer_groups([group]).values()
        try:
            return [len(m.assignment.topic_partitions) for m in found.result(30).members]
        except KafkaException:  # there is no such group yet
            return []

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
        assert not self.left()

    def await_bills(self, count: int) -> None:
        """Waits until the model server has answered so many calls."""
        self._await(lambda: len(self.model.bills) >= count)

    def await_results(self, count: int) -> None:
        """Waits until so many completions are in the ledger of the stage that asks."""
        self._await(lambda: len(self.results()) >= count)

    def _await(self, holds: Callable[[], bool]) -> None:
        until = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < until, self.workers.log()[-3000:]
            time.sleep(0.1)

    def results(self) -> list[Mapping[str, Any]]:
        """The completions in the ledger of the stage that asks."""
        name = f"{self.module.pipeline.name}.ask.ledger"
        seen = oracle.read(self.servers, name, schema_of(LedgerEntry))
        return [s.value for s in seen if s.value["kind"] == "result"]

    def check_ledger(self) -> None:
        """No question whose answer is in the ledger was answered, and so paid for, again."""
        asked = Counter((r["call_id"], r["inputs"]) for r in self.results())
        assert not [question for question, times in asked.items() if times > 1]

    def outputs(self, topic: str) -> list[Mapping[str, Any]]:
        """The records of a topic."""
        found = getattr(self.module, topic)
        return [s.value for s in oracle.read(self.servers, found.name, schema_of(found.record))]

    def dead_letters(self) -> list[Mapping[str, Any]]:
        """The pipeline's dead letters."""
        name = self.module.pipeline.dead_letters.name
        return [s.value for s in oracle.read(self.servers, name, schema_of(DeadLetter))]

    def finish(self, workers: "list[subprocess.Popen[bytes]]") -> None:
        """The running workers do the rest, within a bound, and leave."""
        until = time.monotonic() + 90
        while self.left():
            assert time.monotonic() < until, self.workers.log()[-3000:]
            time.sleep(0.5)
        for worker in workers:
            self.workers.signal(worker, signal.SIGTERM)
        for worker in workers:
            assert worker.wait(60) == 0, self.workers.log()[-3000:]
        self.check()

    def left(self, *names: str) -> dict[str, int]:
        """Oracle D: committed records that the named stages, or all, have not committed as read."""
        found: dict[str, int] = {}
        stages = self.module.pipeline.stages
        for stage in map(stages.__getitem__, names or stages):
            topics = [t.name for t in stage.reads]
            found |= oracle.uncommitted(self.servers, stage.group, topics)
        return found


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
        # or the answers to other tests' questions, which are the same, would be taken
        "PRESSROOM_MODEL": unique("model"),
    }
    workers = Workers(environment, "tests.faults.pipeline:pipeline", tmp_path / "home")
    yield Bench(module, bootstrap_servers, kafka, model, workers, {})
    workers.close()
    model.close()

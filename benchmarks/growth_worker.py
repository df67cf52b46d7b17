"""A worker in a process of its own that tells what it takes; :mod:`benchmarks.growth` starts it.

It prints one JSON object per line: samples of itself, and what it read of its ledger.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from benchmarks.peers.task import SESSION_TIMEOUT
from schemas.records import Document
from schemas.topics import Topic
from streams import Llm, Pipeline, record
from streams.admin import create_topics
from streams.calls import Caller
from streams.instance import Instances
from streams.ledger import Ledger
from streams.model import Completion, Request
from streams.prices import load_prices
from streams.stage import Stage
from streams.worker import Worker

VARIABLE = "BENCH_GROWTH"
SLOW = 0.01


@record(namespace="bench")
class Said:
    """What the instant model says."""

    text: str


@dataclass(frozen=True)
class Job:
    """What a worker is to do, and when it tells of itself."""

    kind: Literal["copy", "slow", "ask"]
    servers: str
    name: str
    source: str
    home: str
    samples: tuple[int, ...]
    """The counts of committed records at which it takes a sample; it leaves after the last."""
    seconds: float = 3600.0
    """It leaves then at the latest."""
    hang_after: int = sys.maxsize
    """Calls that are answered; later ones hang, and after the last sample the worker is killed."""
    read_whole_ledger: bool = False

    def to_environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> "Job":
        found = json.loads(os.environ[VARIABLE])
        return cls(**{**found, "samples": tuple(found["samples"])})


@dataclass(frozen=True)
class Sample:
    """What the process has taken until now."""

    records: int
    rss: int
    peak: int
    cpu: float
    wall: float


@dataclass(frozen=True)
class Recovery:
    """What was read of one partition of the ledger."""

    entries: int
    seconds: float
    whole: bool = False


class InstantModel:
    """Answers at once, in process, so that only the worker's own cost is measured."""

    name = "instant"

    def __init__(self, hang_after: int) -> None:
        self._left = hang_after

    async def complete(self, _: Request) -> Completion:
        self._left -= 1
        if self._left < 0:
            await asyncio.Event().wait()
        return Completion('{"text": "' + "said " * 100 + '"}', self.name, 100, 100)


class Recoveries(logging.Handler):
    """Hears from the ledger what it read."""

    def emit(self, said: logging.LogRecord) -> None:
        if isinstance(said.args, tuple) and len(said.args) == 5:
            _, entries, _, _, seconds = said.args
            tell(Recovery(int(str(entries)), float(str(seconds))))


def tell(what: Sample | Recovery) -> None:
    print(json.dumps({type(what).__name__: asdict(what)}), flush=True)


def stage_of(job: Job) -> tuple[Pipeline, Stage]:
    """The job's pipeline, of one stage."""
    source = Topic(job.source, Document, key="id")
    copies = Topic(f"{job.name}.copies", Document)
    pipeline = Pipeline(job.name)
    if job.kind == "ask":

        @pipeline.stage(
            reads=source, writes=Topic(f"{job.name}.said", Said), prompt="slow@1", concurrency=64
        )
        async def ask(document: Document, llm: Llm) -> Said:
            return await llm(Said, text=document.id)
    elif job.kind == "slow":

        @pipeline.stage(reads=source, writes=copies)
        async def slow(document: Document) -> Document:
            await asyncio.sleep(SLOW)
            return document
    else:

        @pipeline.stage(reads=source, writes=copies)
        async def copy(document: Document) -> Document:
            return document

    return pipeline, next(iter(pipeline.stages.values()))


def watch(job: Job, worker: Worker) -> None:
    """Takes the samples."""
    process, began = psutil.Process(), time.monotonic()
    peak, left = 0, list(job.samples)
    while worker.running:
        rss, committed = process.memory_info().rss, worker.loops[0].committed
        peak = max(peak, rss)
        over = time.monotonic() - began > job.seconds
        if over or committed >= left[0]:
            used = process.cpu_times()
            tell(Sample(committed, rss, peak, used.user + used.system, time.monotonic()))
            left = [count for count in left if count > committed]
            if over or not left:
                return
        time.sleep(0.02)
    worker.close()
    raise SystemExit(f"the worker ended by itself: {worker.failure}")


def read_whole(stage: Stage, config: dict[str, Any]) -> None:
    """What a ledger would cost whose owner knew no position."""
    ledger = Ledger(stage, config, load_prices())
    began = time.monotonic()
    books = ledger.open(dict.fromkeys(range(4), 0), {})
    entries = sum(book.end for book in books.values())
    tell(Recovery(entries, time.monotonic() - began, whole=True))
    ledger.close()


def main() -> None:
    """Does the job that the environment tells."""
    job = Job.from_environment()
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    config: dict[str, Any] = {
        "bootstrap.servers": job.servers,
        "session.timeout.ms": SESSION_TIMEOUT,
        "logger": logging.getLogger("kafka"),
    }
    pipeline, stage = stage_of(job)
    create_topics(config, pipeline.topics)
    if job.read_whole_ledger:
        read_whole(stage, config)
    log = logging.getLogger("streams.ledger")
    log.setLevel(logging.INFO)
    log.addHandler(Recoveries())
    caller = Caller(InstantModel(job.hang_after)) if job.kind == "ask" else None
    worker = Worker([stage], config, caller, Instances(Path(job.home)))
    worker.start()
    watch(job, worker)
    if job.hang_after < sys.maxsize:
        time.sleep(1)  # as many calls as there can be are under way
        os.kill(os.getpid(), signal.SIGKILL)
    worker.stop()
    worker.wait()


if __name__ == "__main__":
    main()

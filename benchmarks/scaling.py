"""What more workers and more partitions bring, and how soon a killed worker's partitions move again.

``python -m benchmarks.scaling [--quick] [--into PAGE]``. Every worker is a ``pressroom worker`` of its
own; the model is a local server that answers each call after 200 ms.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from benchmarks import scaling_pipeline
from benchmarks.common import ROOT, Figures, Say, command, fill, megabytes
from benchmarks.model_server import SlowModel
from consumers.reader import Partition, Reader
from schemas.message import Received
from schemas.topics import Topic
from streams.admin import create_topics

CALL = 0.2
"""Seconds of one call."""
AT_ONCE = 2
"""Calls that one worker has under way: so few that the machine is not what limits eight workers."""
SPREAD = 24
"""Partitions that the workers share."""
_PATIENCE = 120.0

Setting = Mapping[str, int]


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    workers: tuple[int, ...] = (1, 2, 4, 8)
    rounds: int = 2
    seconds: float = 15.0
    """How long the throughput of each number of workers is measured."""
    sessions: tuple[tuple[int, int], ...] = (
        (15_000, 3000),
        (15_000, 1000),
        (6000, 3000),
        (6000, 1000),
    )
    """``session.timeout.ms`` and ``heartbeat.interval.ms``."""
    partitions: tuple[int, ...] = (4, 16, 64, 200)
    records: int = 100_000


QUICK = Sizes((1,), 1, 2.0, ((6000, 1000),), (4,), 500)


class SteadyModel(SlowModel):
    """Takes equally long for every question."""

    def seconds(self, question: str) -> float:
        return self._mean


@dataclass
class Team:
    """The worker processes of one pipeline."""

    environment: dict[str, str]
    folder: Path
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, stage: str, settings: Setting, *options: str) -> str:
        """Starts a worker; gives its client id."""
        name = f"w{len(self.running)}"
        properties = self.folder / f"{name}.properties"
        lines = {"client.id": name, **settings}
        properties.write_text("".join(f"{k}={v}\n" for k, v in lines.items()))
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                [
                    sys.executable, "-m", "streams.cli", "--config", str(properties),
                    "--app", "benchmarks.scaling_pipeline:pipeline", "worker", stage, *options,
                ],
                cwd=ROOT, env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip
        return name

    def check(self) -> None:
        for name, process in self.running.items():
            if process.poll():
                said = (self.folder / f"{name}.log").read_text()[-500:]
                raise RuntimeError(f"a worker ended with status {process.returncode}: {said}")

    def cpu(self) -> float:
        """Seconds that the workers have used."""
        used = [psutil.Process(p.pid).cpu_times() for p in self.running.values()]
        return sum(u.user + u.system for u in used)

    def rss(self, name: str) -> int:
        return psutil.Process(self.running[name].pid).memory_info().rss

    def end(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        process = self.running.pop(name)
        process.send_signal(how)
        process.wait(60)

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


@dataclass
class Run:
    """One pipeline with its backlog and its workers."""

    config: dict[str, Any]
    name: str
    partitions: int
    team: Team

    @property
    def topics(self) -> scaling_pipeline.Topics:
        return scaling_pipeline.topics(self.name, self.partitions)

    def shares(self, stage: str) -> dict[str, set[int]]:
        """The partitions of each member of a stage's group, by its client id."""
        admin = AdminClient(self.config)  # kept, or its answer would never come
        group = f"{self.name}.{stage}"
        try:
            members = admin.describe_consumer_groups([group])[group].result(10).members
        except KafkaException:
            return {}
        return {
            m.client_id: {tp.partition for tp in m.assignment.topic_partitions} for m in members
        }

    def balanced(self, stage: str, count: int) -> bool:
        """Whether so many members have equal shares of all partitions, give or take one."""
        sizes = [len(share) for share in self.shares(stage).values()]
        return len(sizes) == count and sum(sizes) == self.partitions and max(sizes) - min(sizes) < 2

    def wait(self, holds: Callable[[], object], what: str, pause: float = 0.05) -> None:
        until = time.monotonic() + _PATIENCE
        while not holds():
            self.team.check()
            if time.monotonic() > until:
                raise RuntimeError(f"waited {_PATIENCE:g} s for {what}")
            time.sleep(pause)

    @contextmanager
    def fed(self) -> Iterator[None]:
        """Meanwhile records come at half of the rate that one worker can do."""
        over = threading.Event()

        def feed() -> None:
            number = 0
            while not over.wait(5 * 2 * CALL / AT_ONCE):
                fill(self.config, self.topics.documents, 5, begin=number)
                number += 5

        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            yield
        finally:
            over.set()
            feeder.join()

    def reader(self, topic: Topic[Any]) -> Reader:
        return Reader(self.config, self._all(topic))

    def read(self, topic: Topic[Any]) -> list[Received]:
        """All committed records."""
        with self.reader(topic) as reader:
            return list(reader.committed())

    def _all(self, topic: Topic[Any]) -> list[Partition]:
        return [(topic.name, p) for p in range(self.partitions)]


class Scaling:
    """Runs workers on one Kafka."""

    def __init__(
        self, config: dict[str, Any], model: SlowModel, folder: Path, sizes: Sizes,
        say: Say,
    ) -> None:  # fmt: skip
        self._config, self._model, self._folder = config, model, folder
        self._sizes, self._say = sizes, say
        self._began, self._runs = int(time.time()), 0

    @contextmanager
    def _run(self, partitions: int, records: int) -> Iterator[Run]:
        self._runs += 1
        name = f"scaling{self._began}-{self._runs}"
        folder = self._folder / name
        folder.mkdir()
        environment = os.environ | {
            "PRESSROOM_HOME": str(folder),
            "PRESSROOM_BOOTSTRAP_SERVERS": self._config["bootstrap.servers"],
            "PRESSROOM_MODEL": name,  # or the answers of the run before would be taken
            "OPENAI_BASE_URL": self._model.url,
            "OPENAI_API_KEY": "none",
            scaling_pipeline.NAME: name,
            scaling_pipeline.PARTITIONS: str(partitions),
        }
        run = Run(self._config, name, partitions, Team(environment, folder))
        try:
            create_topics(
                self._config, [run.topics.documents, run.topics.answers, run.topics.copies]
            )
            fill(self._config, run.topics.documents, records)
            yield run
        finally:
            run.team.close()

    # --- workers ------------------------------------------------------------------------------

    def workers(self) -> Figures:
        """Throughput of more and more workers on one stage."""
        counts, rounds = self._sizes.workers, range(self._sizes.rounds)
        found = {n: [self._throughput(n, r + 1) for r in rounds] for n in counts}
        one = median(rate for rate, _, _ in found[counts[0]]) / counts[0]
        rows = []
        for count, runs in found.items():
            rates, cores, busy = zip(*runs, strict=True)
            rate = median(rates)
            rows.append([
                str(count), f"{rate:.1f}", f"{min(rates):.1f}-{max(rates):.1f}",
                f"{rate / (count * one):.2f}", f"{rate / (count * AT_ONCE / CALL):.2f}",
                f"{median(cores) / rate * 1000:.1f}", f"{median(busy):.0f} %",
            ])  # fmt: skip
        header = [
            "workers", "calls/s", "spread", "of linear", "of the calls' own limit",
            "workers' CPU, ms per record", "machine busy",
        ]  # fmt: skip
        title = f"Calls of 200 ms, {AT_ONCE} at once per worker, {SPREAD} partitions"
        return Figures(title, header, rows)

    def _throughput(self, count: int, number: int) -> tuple[float, float, float]:
        """Committed answers a second, the workers' cores, and percent of the machine that is busy."""
        self._say(f"{count} workers, round {number}")
        seconds = self._sizes.seconds
        # a backlog that lasts, also for those that start first
        enough = int(count * AT_ONCE / CALL * (seconds + 60))
        with self._run(SPREAD, enough) as run:
            for _ in range(count):
                run.team.start("ask", {}, f"--concurrency={AT_ONCE}")
            run.wait(lambda: run.balanced("ask", count), "equal shares", 0.5)
            time.sleep(2)  # the last to come asks too
            psutil.cpu_percent()
            begin, used = time.time(), run.team.cpu()
            time.sleep(seconds)
            end, used = time.time(), run.team.cpu() - used
            busy = psutil.cpu_percent()
            run.team.check()
            time.sleep(1)  # what was written before is committed
            times = [r.timestamp / 1000 for r in run.read(run.topics.answers)]
        answered = sum(begin <= t < end for t in times)
        return answered / (end - begin), used / (end - begin), busy

    # --- a kill -------------------------------------------------------------------------------

    def kills(self) -> Figures:
        """Seconds from the SIGKILL of one of two workers to its partitions' moving again."""
        rows = []
        for session, heartbeat in self._sizes.sessions:
            settings = {"session.timeout.ms": session, "heartbeat.interval.ms": heartbeat}
            runs = [self._kill(settings, r + 1) for r in range(self._sizes.rounds)]
            written, readable, joined = zip(*runs, strict=True)
            rows.append([
                f"{session / 1000:g}", f"{heartbeat / 1000:g}", _range(joined), _range(written),
                _range(readable),
            ])  # fmt: skip
        header = [
            "session, s", "heartbeat, s", "a second worker's start to equal shares, s",
            "kill to the first new answer of its last partition, s", "… readable, s",
        ]  # fmt: skip
        return Figures("A worker joins; one of two is killed", header, rows)

    def _kill(self, settings: Setting, number: int) -> tuple[float, float, float]:
        self._say(f"a kill with {dict(settings)}, round {number}")
        # fed as it goes, or what waits in one partition would hold up another's
        with self._run(8, 0) as run, run.reader(run.topics.answers) as tail, run.fed():
            options = f"--concurrency={AT_ONCE}"
            run.team.start("ask", settings, options)
            run.wait(lambda: tail.poll(0.1), "an answer", 0)
            began = time.monotonic()
            victim = run.team.start("ask", settings, options)
            run.wait(lambda: run.balanced("ask", 2), "equal shares")
            joined = time.monotonic() - began
            lost = run.shares("ask")[victim]
            until = time.monotonic() + 3
            run.wait(lambda: tail.poll(0.1) and time.monotonic() > until, "answers", 0)
            at = time.time()
            run.team.end(victim, signal.SIGKILL)
            written: dict[int, float] = {}
            readable: dict[int, float] = {}

            def moved() -> bool:
                for record in tail.poll(0.05):
                    # what the dead one wrote last becomes readable later
                    if record.partition in lost and record.timestamp / 1000 > at + 0.5:
                        written.setdefault(record.partition, record.timestamp / 1000 - at)
                        readable.setdefault(record.partition, time.time() - at)
                return written.keys() == lost

            run.wait(moved, "the dead worker's partitions", 0)
        return max(written.values()), max(readable.values()), joined

    # --- partitions ---------------------------------------------------------------------------

    def partitions(self) -> Figures:
        """What one worker takes for more and more partitions."""
        rows = []
        for count in self._sizes.partitions:
            self._say(f"{count} partitions")
            with self._run(count, self._sizes.records) as run:
                first = self._first_answer(run)
                again = self._first_answer(run)
                rows.append([str(count), f"{first:.1f}", f"{again:.1f}", *self._copies(run)])
        header = [
            "partitions", "start to the first answer, s", "again, with a ledger, s",
            "pass-through: start to the first copy, s", "records/s", "RSS",
        ]  # fmt: skip
        return Figures("One worker, more partitions", header, rows)

    def _first_answer(self, run: Run) -> float:
        before = len(run.read(run.topics.answers))
        began = time.monotonic()
        with run.reader(run.topics.answers) as tail:
            seen = 0
            name = run.team.start("ask", {}, f"--concurrency={AT_ONCE}")

            def there() -> bool:
                nonlocal seen
                seen += len(tail.poll(0.05))
                return seen > before

            run.wait(there, "an answer", 0)
            seconds = time.monotonic() - began
            # so many more that the ledger holds something
            before += 5 * AT_ONCE
            run.wait(there, "answers", 0)
        run.team.end(name)
        return seconds

    def _copies(self, run: Run) -> Sequence[str]:
        began, rss = time.time(), 0
        name = run.team.start("copy", {}, "--until-idle=3600")
        times: list[int] = []
        with run.reader(run.topics.copies) as tail:

            def all_there() -> bool:
                nonlocal rss
                times.extend(record.timestamp for record in tail.poll(0.05))
                rss = max(rss, run.team.rss(name))
                return len(times) >= self._sizes.records

            run.wait(all_there, "copies", 0)
        run.team.end(name)
        first, last = min(times), max(times)
        rate = sum(t > first for t in times) / max(last - first, 1) * 1000
        return f"{first / 1000 - began:.1f}", f"{rate:,.0f}", megabytes(rss)


def _range(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.1f} ({min(seconds):.1f}-{max(seconds):.1f})"


def measures(config: dict[str, Any], folder: Path, quick: bool, say: Say) -> Iterator[Figures]:
    with closing(SteadyModel(CALL)) as model:
        scaling = Scaling(config, model, folder, QUICK if quick else Sizes(), say)
        yield scaling.workers()
        yield scaling.kills()
        yield scaling.partitions()


if __name__ == "__main__":
    sys.exit(command(__doc__, "scaling", measures))

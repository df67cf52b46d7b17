"""What a worker takes as things grow: records, the ledger, a backlog, the size of a record.

``python -m benchmarks.growth [--quick] [--into PAGE]``. Every worker is a process of its own. The
model is an object in the worker's process that answers at once: over HTTP, most of what is measured
would be the HTTP client's cost, which does not grow.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.common import MB, ROOT, Figures, Say, command, fill, megabytes
from benchmarks.growth_worker import SLOW, Job, Recovery, Sample
from schemas.records import Document
from schemas.topics import Topic
from streams.admin import create_topics


@dataclass(frozen=True)
class Sizes:
    """How large things grow."""

    records: tuple[int, ...] = (10_000, 100_000, 300_000, 1_000_000)
    results: tuple[int, ...] = (1000, 10_000, 30_000, 99_000)
    ledgers: tuple[int, int] = (1000, 100_000)
    backlog_seconds: float = 30.0
    large: int = 500
    large_bytes: int = 1_000_000


QUICK = Sizes((500, 1000), (50, 100), (200, 300), 2.0, 5)


@dataclass
class Found:
    """What a worker told of itself."""

    samples: list[Sample]
    recoveries: list[Recovery]

    def recovered(self, whole: bool) -> tuple[int, float]:
        """Entries and seconds of all partitions."""
        chosen = [r for r in self.recoveries if r.whole is whole]
        return sum(r.entries for r in chosen), sum(r.seconds for r in chosen)


class Growth:
    """Runs workers on one Kafka."""

    def __init__(self, config: dict[str, Any], folder: Path, sizes: Sizes, say: Say) -> None:
        self._config, self._folder, self._sizes, self._say = config, folder, sizes, say
        self._run, self._source = f"growth{int(time.time())}", ""

    def records(self) -> Figures:
        """RSS and cost per record of a pass-through stage."""
        counts = self._sizes.records
        self._say(f"writing {counts[-1]:,} records")
        self._source = self._filled("in", counts[-1])
        self._say(f"pass-through of {counts[-1]:,} records")
        found = self._work("copy", "copy", self._source, (1, *counts))
        return _growth("Pass-through of 600-byte records", "records", found.samples)

    def backlog(self) -> Figures:
        """RSS of a slow stage before a large backlog."""
        waiting, seconds = self._sizes.records[-1], self._sizes.backlog_seconds
        self._say(f"a slow stage before a backlog of {waiting:,}, {seconds:g} s")
        found = self._work("backlog", "slow", self._source, (1, waiting), seconds)
        first, last = found.samples[0], found.samples[-1]
        header = ["waiting", "done", "RSS at the first record", "RSS at the end", "most"]
        row = [
            f"{waiting - last.records:,}", f"{last.records:,}",
            megabytes(first.rss), megabytes(last.rss), megabytes(last.peak),
        ]  # fmt: skip
        title = f"A stage of {SLOW * 1000:.0f} ms per record before a backlog, after {seconds:g} s"
        return Figures(title, header, [row])

    def large(self) -> Figures:
        """Throughput and RSS with large records."""
        count, size = self._sizes.large, self._sizes.large_bytes
        self._say(f"{count} records of {size / MB:g} MB")
        source = self._filled("large", count, size)
        found = self._work("large", "copy", source, (1, count))
        first, last = found.samples[0], found.samples[-1]
        rate = (last.records - first.records) * size / MB / (last.wall - first.wall)
        header = ["records", "MB/s", "RSS at the end", "most"]
        row = [str(last.records), f"{rate:.0f}", megabytes(last.rss), megabytes(last.peak)]
        return Figures(f"Pass-through of records of {size / MB:g} MB", header, [row])

    def ledger(self) -> list[Figures]:
        """RSS and cost per record of a stage that asks, and what taking over its ledger costs."""
        small, large = self._sizes.ledgers
        grown, *rows = self._ledger_of(large, self._sizes.results)
        _, *first_rows = self._ledger_of(small, (small // 4,))
        title = "A stage that asks a model, with a ledger (64 calls at once, answered at once)"
        header = ["results in the ledger", "read by", "entries read", "seconds, all partitions"]
        recovery = Figures(
            "Taking over from a killed worker, 64 calls in flight", header, [*first_rows, *rows]
        )
        return [_growth(title, "results in the ledger", grown.samples), recovery]

    def _ledger_of(self, count: int, samples: tuple[int, ...]) -> tuple[Any, ...]:
        """What a worker told whose ledger grew to ``count``, and the rows of its successor."""
        name = f"ledger-{count}"
        self._say(f"a ledger of {count:,} results")
        source = self._filled(name, count + 1000)
        found = self._work(name, "ask", source, (1, *samples), hang_after=count)
        self._say(f"taking over a ledger of {count:,} results")
        after = self._work(name, "ask", source, (1,), read_whole_ledger=True)
        rows = [
            [f"{count:,}", how, f"{entries:,}", f"{seconds:.2f}"]
            for how, (entries, seconds) in (
                ("a new owner", after.recovered(False)),
                ("one that knew no position", after.recovered(True)),
            )
        ]
        return found, *rows

    def _filled(self, kind: str, count: int, size: int = 520) -> str:
        source = Topic(f"{self._run}.{kind}", Document, key="id")
        create_topics(self._config, [source])
        fill(self._config, source, count, size)
        return source.name

    def _work(
        self, name: str, kind: Any, source: str, samples: tuple[int, ...], seconds: float = 3600.0,
        **more: Any,
    ) -> Found:  # fmt: skip
        servers = self._config["bootstrap.servers"]
        home = str(self._folder / name)
        job = Job(kind, servers, f"{self._run}-{name}", source, home, samples, seconds, **more)
        found = Found([], [])
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.growth_worker"], cwd=ROOT, text=True,
            env={**os.environ, **job.to_environment()}, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            for line in process.stdout or ():
                told = json.loads(line)
                found.samples += [Sample(**told[k]) for k in told if k == "Sample"]
                found.recoveries += [Recovery(**told[k]) for k in told if k == "Recovery"]
        finally:
            process.kill() if sys.exc_info()[0] else process.wait()
            process.wait()
        if not found.samples:
            raise RuntimeError(f"the worker of {name} ended with status {process.returncode}")
        return found


def _growth(title: str, what: str, samples: Sequence[Sample]) -> Figures:
    """RSS at each sample, and the cost per record since the one before."""
    rows = []
    for before, now in pairwise(samples):
        count = now.records - before.records
        cpu = (now.cpu - before.cpu) / count * 1e6
        wall = (now.wall - before.wall) / count * 1e6
        sizes = megabytes(now.rss), megabytes(now.peak)
        rows.append([f"{now.records:,}", *sizes, f"{cpu:.1f}", f"{wall:.1f}"])
    header = [what, "RSS", "most until then", "CPU, µs per record", "wall, µs per record"]
    return Figures(title, header, rows)


def measures(config: dict[str, Any], folder: Path, quick: bool, say: Say) -> Iterator[Figures]:
    growth = Growth(config, folder, QUICK if quick else Sizes(), say)
    yield growth.records()
    yield growth.backlog()
    yield growth.large()
    yield from growth.ledger()


if __name__ == "__main__":
    sys.exit(command(__doc__, "growth", measures))

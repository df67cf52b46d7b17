"""``demo``: the main job from nothing to articles and proof, on one screen."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import UsageError
from schemas.secrets import redact
from streams.cli.context import (
    DEFAULT_APP,
    BudgetTokens,
    BudgetUsd,
    Json,
    Reuse,
    console,
    emit,
    options,
    output,
    settings,
    use_encryption,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from producers.ingest import Report
    from schemas.message import Call
    from streams.calls import Limits
    from streams.settings import Settings
    from streams.worker import Worker

_GIVE_UP = 120.0


def demo(
    documents: Annotated[
        list[str] | None,
        typer.Option("--documents", metavar="PATH", help="Your own files and folders; repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for the articles.")
    ] = None,
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
    reuse: Reuse = None,
    json: Json = False,
) -> None:
    """Turn documents into published articles, each exactly once, and prove it.

    Starts a real Kafka and a real model on this machine if none is set, reads the documents, runs
    every stage of the newsroom and audits the topics. Run again it adds nothing that is there.

    Example: pressroom demo --documents my-texts/ --limit 5
    """
    from streams.calls import Limits
    from streams.local.files import disk_errors, hold

    _check_use(documents or [])
    current, screen = settings(reuse=reuse), console()
    limits = Limits(budget_usd=budget_usd, budget_tokens=budget_tokens)
    began = time.monotonic()
    with ExitStack() as held:
        with disk_errors(current.home, "PRESSROOM_HOME"):
            lock = current.home / "run" / "demo.lock"
            held.enter_context(hold(lock, screen, "Another demo runs here; waiting…"))
        held.enter_context(_servers(current, screen))
        demo = _Demo(current, screen, limits, output() if not json else screen)
        result, proven = demo.run(documents or [_samples()], limit, out)
    result["seconds"] = round(time.monotonic() - began, 1)
    if json:
        emit(result)
    if result["missing"] or result["duplicates"] or not proven:
        raise typer.Exit(1)


def _check_use(paths: list[str]) -> None:
    """Says what is wrong before anything is started."""
    if options.app != DEFAULT_APP:
        raise UsageError("the demo is the newsroom's: run another pipeline with ingest and worker")
    for path in paths:
        if path != "-" and not os.path.lexists(path):
            raise UsageError(f"{path!r}: No such file or directory")


@contextmanager
def _servers(current: "Settings", screen: "Console") -> Iterator[None]:
    """The embedded Kafka and model, where none is set; those that did not run before end with it."""
    from streams import local

    before = current.embedded
    try:
        if current.uses_embedded_kafka or current.uses_embedded_model:
            current.embedded = local.up(
                current.home,
                current.cache,
                kafka=current.uses_embedded_kafka,
                model=current.uses_embedded_model,
                console=screen,
            )
        yield
    finally:
        if not (before.bootstrap_servers or before.model_url):
            local.down(current.home)


def _samples() -> str:
    return str(files("streams") / "pipelines" / "samples")


class _Demo:
    """One run of the newsroom over some documents."""

    def __init__(
        self, current: "Settings", screen: "Console", limits: "Limits", results: "Console"
    ) -> None:
        from streams.pipelines.newsroom import newsroom

        use_encryption()
        self._limits, self._results = limits, results
        self._settings, self._screen, self._pipeline = current, screen, newsroom
        self._config = current.client_config()

    def run(
        self, paths: list[str], limit: int | None, out: Path | None
    ) -> tuple[dict[str, Any], bool]:
        """Gives the counts that ``--json`` prints, and whether the audit holds."""
        from streams.admin import create_topics
        from streams.audit import audit
        from streams.cli.inspect import print_audit
        from streams.cli.run import ingest_paths, write_articles

        self._introduce()
        create_topics(self._config, self._pipeline.topics, self._settings.replication)
        report = ingest_paths(self._settings, self._pipeline, paths, None, limit)
        self._screen.print(_ingested(report))
        outcomes = self._work(report)
        folder = (out or self._settings.home / "articles").resolve()
        write_articles(self._settings, self._pipeline, "articles", folder, until_end=True)
        proof = audit(self._config, self._pipeline, framing=self._settings.framing)
        print_audit(proof, self._results)
        result = outcomes.result(report)
        self._conclude(result, folder)
        return result, proof.ok

    def _introduce(self) -> None:
        current = self._settings
        kafka = "embedded Apache Kafka" if current.uses_embedded_kafka else "Kafka"
        address = redact(current.openai_base_url or current.embedded.model_url or "")
        model = f"{current.model} at {address}"
        self._screen.print(f"{kafka} at {self._config['bootstrap.servers']}, model {model}")
        self._screen.print(
            "Every stage reads and writes topics in transactions: each input comes out exactly once.\n"
        )

    def _work(self, report: "Report") -> "_Outcomes":
        """Runs every stage until each document has its article or its dead letter."""
        from streams.cli.run import start_worker

        outcomes = _Outcomes(self._config, self._pipeline.dead_letters.name, report)
        if outcomes.complete():
            found = "An earlier run has published all of them; n" if outcomes.total else "N"
            self._screen.print(f"{found}othing is left to do.")
            return outcomes
        stages = list(self._pipeline.stages.values())
        worker = start_worker(self._settings, self._config, stages, self._limits)
        try:
            self._watch(worker, outcomes)
        finally:
            worker.stop()
            self._await(worker)
        return outcomes

    def _await(self, worker: "Worker") -> None:
        from schemas.errors import BudgetSpent

        try:
            worker.wait()
        except BudgetSpent as error:
            self._screen.print(f"Stopped: {error}. The rest stays unread; a run with more goes on.")

    def _watch(self, worker: "Worker", outcomes: "_Outcomes") -> None:
        from rich.live import Live

        idle_since = None
        progress = _Screen(worker, outcomes)
        with Live(console=self._screen, refresh_per_second=4, get_renderable=progress.render):
            while worker.running:
                time.sleep(0.2)
                idle_since = (idle_since or time.monotonic()) if worker.idle else None
                if outcomes.complete() and worker.idle:
                    return
                if idle_since is not None and time.monotonic() - idle_since > _GIVE_UP:
                    return  # another worker holds the rest; the audit will tell

    def _conclude(self, result: dict[str, Any], folder: Path) -> None:
        screen = self._results
        screen.print(
            f"{result['documents']} documents: {result['published']} published, "
            f"{result['dead']} in dead letters, {result['missing']} missing, "
            f"{result['duplicates']} doubled.\n"
            f"Spent: {result['model_calls']} model calls, {result['tokens']:,} tokens"
            + (f"; {result['reused']} answers from earlier calls." if result["reused"] else ".")
        )
        screen.print(f"The articles are in {folder}", soft_wrap=True)
        if result["dead"]:
            begin = "pressroom up; " if self._settings.uses_embedded_kafka else ""
            screen.print(f"Why some are in dead letters: {begin}pressroom dead list")


def _ingested(report: "Report") -> str:
    known = len(report.ids) + len(report.dead_ids) - report.documents - report.dead
    return (
        f"Read {report.sources} sources: {report.documents} new documents, {report.dead} that are "
        f"none (dead letters), {known} known from before."
    )


class _Outcomes:
    """What has become of the documents, as the topics tell."""

    def __init__(self, config: dict[str, Any], dead_letters: str, report: "Report") -> None:
        from consumers.reader import Reader, partitions_of
        from schemas.topics import articles

        self._articles = articles.name
        self._wanted = set(report.ids)
        counts = partitions_of(config, [articles.name, dead_letters])
        self._reader = Reader(config, [(t, p) for t, n in counts.items() for p in range(n)])
        self.published: dict[str, int] = {}
        self.dead: set[str] = set()
        self._calls: dict[tuple[str, str], Call] = {}
        self._take(self._reader.committed())

    def complete(self) -> bool:
        """Takes in what is new; whether every document has come out."""
        self._take(self._reader.poll(0))
        return self._wanted <= self.published.keys() | self.dead

    @property
    def done(self) -> int:
        return len(self._wanted & (self.published.keys() | self.dead))

    @property
    def total(self) -> int:
        return len(self._wanted)

    def _take(self, records: Any) -> None:
        from schemas.message import calls_in

        for received in records:
            key = (received.key or b"").decode("utf-8", "replace")
            if key not in self._wanted:
                continue
            if received.topic == self._articles:
                self.published[key] = self.published.get(key, 0) + 1
            else:
                self.dead.add(key)
            self._calls |= {(key, call.id): call for call in calls_in(received.headers)}

    def result(self, report: "Report") -> dict[str, Any]:
        """The counts that ``--json`` prints."""
        self.complete()
        dead = (self.dead - self.published.keys()) | set(report.dead_ids)
        calls = self._calls.values()
        return {
            "documents": len(self._wanted) + len(report.dead_ids),
            "published": len(self.published),
            "dead": len(dead),
            "duplicates": sum(n - 1 for n in self.published.values()),
            "missing": len(self._wanted - self.published.keys() - self.dead),
            "model_calls": sum(c.attempts - c.reused for c in calls),
            "reused": sum(c.reused for c in calls),
            "tokens": sum(c.prompt_tokens + c.completion_tokens for c in calls),
        }


class _Screen:
    """What moves while the stages work."""

    def __init__(self, worker: "Worker", outcomes: _Outcomes) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._worker, self._outcomes = worker, outcomes
        self._bar = Progress(
            TextColumn("Documents"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        self._task = self._bar.add_task("", total=outcomes.total)

    def render(self) -> "RenderableType":
        from rich.console import Group

        self._bar.update(self._task, completed=self._outcomes.done)
        return Group(self._stages(), self._bar)

    def _stages(self) -> "RenderableType":
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("Stage", "reads", "writes", "committed", "in work"):
            table.add_column(name, justify="right" if name in ("committed", "in work") else "left")
        for loop in self._worker.loops:
            stage = loop.stage
            reads, writes = (
                " + ".join(t.name.rpartition(".")[2] for t in topics)
                for topics in (stage.reads, stage.writes)
            )
            table.add_row(stage.name, reads, writes, str(loop.committed), str(loop.in_work))
        return table

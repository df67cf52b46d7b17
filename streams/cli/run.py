"""What moves records: ``topics create``, ``ingest``, ``worker`` and ``sink``."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.secrets import redact
from streams.cli.context import (
    BudgetTokens,
    BudgetUsd,
    Json,
    Reuse,
    console,
    emit,
    output,
    pipeline,
    settings,
)

if TYPE_CHECKING:
    from producers.ingest import Progress, Report
    from streams.calls import Limits
    from streams.pipeline import Pipeline
    from streams.settings import Settings
    from streams.worker import Worker


def create(json: Json = False) -> None:
    """Create the topics that the pipeline needs and that are missing.

    On a cluster it warns where the loss of one broker would lose records, or stop everything. With a
    schema registry it registers their schemas too, or says why one is refused.

    Example: pressroom topics create
    """
    from consumers.reader import partitions_of
    from streams.admin import create_topics, durability_warnings

    current, topics = settings(), pipeline().topics
    config = current.client_config()
    created = create_topics(config, topics, current.replication)
    partitions_of(config, [t.name for t in topics])  # or they are hidden from this client
    registered = current.framing.prepare(topics)
    warnings = durability_warnings(config, topics)
    if json:
        with_registry = {"registered": registered} if current.schema_registry_url else {}
        emit({"created": created, "warnings": warnings} | with_registry)
        return
    output().print("\n".join(created) if created else "All topics exist.")
    if registered:
        output().print("\n".join(["Registered:", *registered]))
    for warning in warnings:
        console().print(f"Warning: {warning}", markup=False)


def ingest(
    paths: Annotated[
        list[str], typer.Argument(help="Files and folders; - is standard input.", metavar="PATH…")
    ],
    topic: Annotated[
        str | None, typer.Option("--topic", help="Where to; by default the pipeline's first topic.")
    ] = None,
    json: Json = False,
) -> None:
    """Read documents into a topic, exactly once: text, Markdown, HTML, JSON, JSONL, CSV.

    A JSON file is an array of documents, or an object that is one. A CSV file may have no header, if
    its first row is plainly a record. In folders, files and folders whose names begin with a dot are
    skipped. What can't be read is a dead letter that says why.

    Interrupted and run again it resumes; run twice it adds nothing.

    Example: pressroom ingest articles/ notes.jsonl
    """
    from streams.admin import create_topics

    chosen, current = pipeline(), settings()
    create_topics(current.client_config(), chosen.topics, current.replication)
    report = ingest_paths(current, chosen, paths, topic)
    if json:
        emit(
            {
                "sources": report.sources,
                "unchanged": report.unchanged,
                "documents": report.documents,
                "dead": report.dead,
            }
        )
        return
    output().print(
        f"Read {report.sources} sources, {report.unchanged} of them unchanged: "
        f"{report.documents} new documents, {report.dead} dead letters."
    )


def ingest_paths(
    current: "Settings",
    chosen: "Pipeline",
    paths: list[str],
    topic: str | None = None,
    limit: int | None = None,
) -> "Report":
    """Ingests paths with a progress bar; see :class:`producers.ingest.Ingestion`."""
    import tempfile

    from consumers.reader import read_settled
    from producers.ingest import Ingestion
    from producers.sources import SourceError, discover
    from schemas.errors import UsageError
    from streams.rights import check_rights, rights_of_ingest

    config, target = current.client_config(), chosen.entry(topic)
    check_rights(config, rights_of_ingest(chosen, target.name))
    with tempfile.TemporaryDirectory(prefix="pressroom-") as spool:
        try:
            sources = discover(paths, sys.stdin.buffer, Path(spool))
        except SourceError as error:
            raise UsageError(str(error)) from None
        with _ingest_bar() as moved:
            ingestion = Ingestion(
                config,
                chosen.name,
                target,
                chosen.sources,
                chosen.dead_letters,
                lambda topics: read_settled(config, topics),
                moved,
                current.framing,
            )
            return ingestion.run(sources, limit)


class _ingest_bar:
    """A progress bar with rate and time left; calling it moves it."""

    def __enter__(self) -> Callable[["Progress"], None]:
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            TextColumn("Reading documents"), BarColumn(), TextColumn("{task.fields[documents]} new"),
            TransferSpeedColumn(), TimeRemainingColumn(), console=console(), transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=None, documents=0)
        self._bar.start()
        return self._move

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _move(self, progress: "Progress") -> None:
        self._bar.update(
            self._task,
            completed=progress.done,
            total=max(progress.total, progress.done, 1),
            documents=progress.documents,
        )


def _complete_stage(incomplete: str) -> list[str]:
    return [name for name in pipeline().stages if name.startswith(incomplete)]


def worker(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Stages; a topic stands for all stages that read it; 'all' for every stage.",
            metavar="STAGE-OR-TOPIC…",
            autocompletion=_complete_stage,
        ),
    ],
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Calls at once, for each stage.")
    ] = None,
    until_idle: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Leave after so long without work."),
    ] = None,
    rpm: Annotated[
        int | None, typer.Option("--rpm", min=1, help="Requests a minute, of this worker.")
    ] = None,
    tpm: Annotated[
        int | None, typer.Option("--tpm", min=1, help="Tokens a minute, of this worker.")
    ] = None,
    group_rpm: Annotated[
        int | None,
        typer.Option("--group-rpm", min=1, help="Requests a minute, of all workers of a stage."),
    ] = None,
    group_tpm: Annotated[
        int | None,
        typer.Option("--group-tpm", min=1, help="Tokens a minute, of all workers of a stage."),
    ] = None,
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
    reuse: Reuse = None,
    json: Json = False,
) -> None:
    """Run stages until told to stop (Ctrl-C or SIGTERM): what is finished is committed first.

    Start as many workers as you like, anywhere; Kafka shares the partitions out. With a budget the
    worker leaves with status 1 when it is spent; what was not read stays unread.

    Example: pressroom worker classify annotate --until-idle 10
    """
    from streams.admin import create_topics
    from streams.calls import Limits
    from streams.connection import patiently

    chosen, current = pipeline(), settings(reuse=reuse)
    config = current.client_config()
    limits = Limits(rpm, tpm, group_rpm, group_tpm, budget_usd, budget_tokens)
    stages = list(chosen.stages.values()) if "all" in names else chosen.select(names)
    patiently(partial(create_topics, config, chosen.topics, current.replication))
    running, screen = start_worker(current, config, stages, limits, concurrency), console()
    try:
        with _stopped_by_signals(running.stop), screen.status("") as line:
            screen.print(f"Working on {', '.join(names)}; Ctrl-C stops.", style="dim")
            running.wait(until_idle, lambda: line.update(_counts(running)))
    finally:
        if json:
            emit(_report(running, sys.exception()))
        else:
            dead = sum(loop.dead for loop in running.loops)
            letters = f", {dead} of them to dead letters" if dead else ""
            output().print(f"{_counts(running)} inputs committed{letters}.")


def start_worker(
    current: "Settings",
    config: dict[str, Any],
    stages: list[Any],
    limits: "Limits",
    concurrency: int | None = None,
) -> "Worker":
    """Makes and starts a worker of this process."""
    from streams.instance import Instances
    from streams.worker import Worker

    asks = any(s.uses_llm for s in stages)
    made = Worker(
        stages,
        config,
        current.caller(limits) if asks else None,
        Instances(current.home, current.instance),
        concurrency,
        current.completions(config) if asks else None,
        current.framing,
        current.grace,
        current.ledger_loss,
    )
    made.start()
    return made


def _report(running: "Worker", error: BaseException | None) -> dict[str, Any]:
    stages = [
        {"stage": x.stage.name, "committed": x.committed, "dead": x.dead} for x in running.loops
    ]
    return {"stages": stages} | ({"error": redact(str(error))} if error is not None else {})


def _counts(running: "Worker") -> str:
    return "  ".join(f"{loop.stage.name} {loop.committed}" for loop in running.loops)


@contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    def handle(number: int, _: object) -> None:
        stop()
        signal.signal(number, signal.SIG_DFL)  # the second time is for the impatient

    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def sink(
    into: Annotated[Path, typer.Option("--into", metavar="DIR", help="Folder for the files.")],
    topic: Annotated[str, typer.Argument(help="A topic of articles.")] = "articles",
    until_end: Annotated[
        bool, typer.Option("--until-end", help="Leave when everything there is has been written.")
    ] = False,
    json: Json = False,
) -> None:
    """Write articles as Markdown files with front matter, each exactly once.

    Example: pressroom sink --into articles/
    """
    written = write_articles(settings(), pipeline(), topic, into, until_end)
    if json:
        emit({"folder": str(into.resolve()), "written": written})
    else:
        output().print(f"{written} files written to {into.resolve()}.", soft_wrap=True)


def write_articles(
    current: "Settings", chosen: "Pipeline", topic: str, into: Path, until_end: bool
) -> int:
    """Runs the Markdown sink; gives how many files it wrote."""
    from consumers.markdown import MarkdownSink
    from schemas.errors import UsageError
    from schemas.message import record_id
    from schemas.records import Article
    from streams.rights import check_rights, rights_of_sink

    target = chosen.topic(topic)
    if target.record is not Article:
        raise UsageError(f"{target.name} holds {target.record.__name__}; the sink writes articles")
    config = current.client_config()
    check_rights(config, rights_of_sink(chosen, target.name))
    # one group a folder: each folder gets everything
    group = f"{chosen.name}.markdown.{record_id(str(into.resolve()))[:8]}"
    written: list[Path] = []
    writer = MarkdownSink(config, target, group, into, written.append, current.framing)
    with _stopped_by_signals(writer.stop):
        writer.run(until_end)
    return len(written)

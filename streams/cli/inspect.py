"""What looks at topics, ``topology``, ``tail``, ``dead list``, ``dead show``, ``audit``; and schemas."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.context import Json, console, emit, output, pipeline, settings, table

if TYPE_CHECKING:
    from rich.console import Console

    from schemas.codec import Framing
    from schemas.message import Received
    from streams.audit import Audit


def topology(json: Json = False) -> None:
    """Show the graph: stages, topics and what connects them.

    Example: pressroom --app notes:notes topology
    """
    graph = pipeline().topology()
    if json:
        emit(graph)
        return
    stages = table("Stage", "reads", "writes", "prompt")
    for stage in graph["stages"]:
        stages.add_row(
            stage["name"], "\n".join(stage["reads"]), "\n".join(stage["writes"]), stage["prompt"]
        )
    topics = table("Topic", "schema", "key", "partitions")
    for topic in graph["topics"]:
        topics.add_row(topic["name"], topic["schema"], topic["key"] or "", str(topic["partitions"]))
    output().print(stages, topics)


def tail(
    topic: Annotated[str, typer.Argument(help="A topic; the pipeline's prefix may be left out.")],
    begin: Annotated[
        str,
        typer.Option(
            "--from", help="earliest, latest, an offset, or a time like 2026-01-31T12:00:00Z."
        ),
    ] = "earliest",
    most: Annotated[int | None, typer.Option("--max", min=1, help="Stop after so many.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    json: Json = False,
) -> None:
    """Print a topic's committed records as JSON lines.

    Example: pressroom tail articles --max 3
    """
    from consumers.outages import Outages
    from consumers.reader import Reader, partitions_of, start_offsets

    current = settings()
    config, framing = current.client_config(), current.framing
    config["error_cb"] = Outages("tail")
    name = pipeline().topic(topic).name
    partitions = [(name, p) for p in range(partitions_of(config, [name])[name])]
    count = 0
    with Reader(config, partitions, start_offsets(config, partitions, begin)) as reader:
        records = reader.follow() if follow else reader.committed()
        for received in records:
            emit(_to_json(received, framing))
            count += 1
            if count == most:
                break
    if json:
        emit({"topic": name, "records": count})


def _to_json(received: "Received", framing: "Framing") -> dict[str, Any]:
    schema, value = framing.describe(received.value)
    return {
        "topic": received.topic,
        "partition": received.partition,
        "offset": received.offset,
        "timestamp": received.timestamp,
        "key": received.key,
        "headers": dict(received.headers),
        "schema": schema or None,
        "value": received.value if value is None else value,
    }


def schemas_check(json: Json = False) -> None:
    """Show what `topics create` would register, or refuse; change nothing. Exit status 1 if it refuses.

    Example: pressroom schemas check --json
    """
    from schemas.errors import UsageError
    from schemas.registry import WireFormat

    framing = settings().framing
    if not isinstance(framing, WireFormat):
        raise UsageError("there is no schema registry: set SCHEMA_REGISTRY_URL")
    changes = framing.changes(pipeline().topics)
    ok = not any(change.difference for change in changes)
    if json:
        fields = ("subject", "version", "difference")
        emit({"ok": ok, "subjects": [{f: getattr(c, f) for f in fields} for c in changes]})
    else:
        said = "\n".join(map(str, changes)) or "The registry has all schemas."
        output().print(said, markup=False, soft_wrap=True)
    if not ok:
        raise typer.Exit(1)


def schemas_keep(json: Json = False) -> None:
    """Write the schemas of the pipeline's own records to the folder history, beside its module.

    Do it before you change or move a record: what was written with a kept schema stays readable.
    A schema that is kept already is not written again.

    Example: pressroom --app notes:notes schemas keep
    """
    from streams.history import keep

    written = [str(file) for file in keep(pipeline().stages.values())]
    if json:
        emit({"written": written})
    else:
        said = "\n".join(written) or "All schemas are kept."
        output().print(said, markup=False, soft_wrap=True)


def dead_list(json: Json = False) -> None:
    """List the dead letters.

    Example: pressroom dead list --json
    """
    from consumers.dead_letters import dead_letters

    current = settings()
    found = dead_letters(current.client_config(), pipeline().dead_letters, current.framing)
    letters = list(found)
    if json:
        emit({"dead_letters": [letter.to_json() for letter in letters]})
        return
    shown = table("Id", "stage", "key", "when", "why")
    for letter in letters:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter.received.timestamp / 1000))
        why = f"{letter.letter.error}: {letter.letter.message}"
        shown.add_row(letter.id, letter.letter.stage, letter.key[:16], when, why)
    output().print(shown if letters else "No dead letters.")


def dead_show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="As `dead list` shows it.")],
    json: Json = False,
) -> None:
    """Show one dead letter with its original records.

    Example: pressroom dead show 0:12
    """
    from rich.pretty import Pretty

    from consumers.dead_letters import dead_letter

    current, topic = settings(), pipeline().dead_letters
    letter = dead_letter(current.client_config(), topic, letter_id, current.framing)
    if json:
        emit(letter.to_json())
    else:
        output().print(Pretty(letter.to_json(), max_string=2000))


def audit(json: Json = False) -> None:
    """Prove from the topics that every input came out exactly once. Exit status 1 if not.

    Example: pressroom audit --json
    """
    from streams.audit import audit as run_audit
    from streams.rights import check_rights, rights_of_audit

    current, chosen = settings(), pipeline()
    config = current.client_config()
    check_rights(config, rights_of_audit(chosen))
    with console().status("Reading topics") as line:
        report = run_audit(
            config,
            chosen,
            lambda n: line.update(f"Reading topics: {n:,} records"),
            current.framing,
        )
    if json:
        emit(report.to_json())
    else:
        print_audit(report, output())
    if not report.ok:
        raise typer.Exit(1)


_COUNTS = (
    "inputs", "outputs", "dead", "filtered", "waiting", "unread",
    "missing", "duplicates", "unfounded",
)  # fmt: skip
_SOMETIMES = ("dead", "filtered", "waiting", "unread", "unfounded")
_UNLIMITED = 1000
"""Columns of a screen that is wide enough for any table."""


def print_audit(report: "Audit", screen: "Console") -> None:
    """Shows an audit as a table, with what is wrong below it; columns of zeros are left out."""
    shown = [n for n in _COUNTS if n not in _SOMETIMES or any(getattr(s, n) for s in report.stages)]
    spending = ("unreadable", "reused", "repaid")
    shown += [n for n in spending if any(getattr(s, n) for s in report.stages)]
    shown += ["requests"] if any(s.requests > s.calls for s in report.stages) else []
    costs = any(s.calls and s.cost_usd != 0 for s in report.stages)
    rows = table("Stage", *shown, "calls", "tokens", *(["US$"] if costs else []))
    for column in rows.columns:
        column.no_wrap = True
    for column in rows.columns[1:]:
        column.justify = "right"
    for s in report.stages:
        counts = [f"{getattr(s, name):,}" for name in shown]
        spent = [f"{s.calls:,}", f"{s.prompt_tokens:,}/{s.completion_tokens:,}"] if s.calls else []
        rows.add_row(s.stage, *counts, *spent, *([_cost(s.cost_usd)] if spent and costs else []))
    unlimited = screen.options.update_width(_UNLIMITED)
    if screen.measure(rows, options=unlimited).maximum > screen.width:
        rows.padding = 0
    # a figure that is cut off would be another figure: what is still too long, the terminal wraps
    screen.width = max(screen.measure(rows, options=unlimited).maximum, screen.width)
    screen.print(rows)
    for s in report.stages:
        for example in s.examples:
            screen.print(f"{s.stage}: {example}")
    screen.print(
        "Audit: every committed input came out exactly once."
        if report.ok
        else "Audit FAILED: inputs are missing, doubled or made up, see above."
    )


def _cost(usd: float | None) -> str:
    return "unknown" if usd is None else f"{usd:,.4f}"

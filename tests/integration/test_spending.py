"""What is asked a model, and what is not: completions that are there already, budgets."""

import json
import os
import signal
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from tests.integration.conftest import Cli, Result, wait_for
from tests.support.config import unique
from tests.support.model_server import ModelServer

TEXTS = [f"A letter about {thing}." for thing in ("rain", "snow", "wind", "hail", "fog")]
TOKENS = 15
"""What a completion of the fake model takes."""
CONCURRENCY = 4
"""Calls of the stage that are under way at once."""


def ingest(cli: Cli, lines: list[str]) -> None:
    (cli.folder / "lines.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert cli.run("ingest", "lines.jsonl", "--json").status == 0


def work(cli: Cli, *options: str, **environment: str) -> Result:
    return cli.run("worker", "gist", "--until-idle", "1", *options, "--json", **environment)


def row(cli: Cli) -> dict[str, Any]:
    """The audit's row of the stage that asks; the other stages have not run."""
    found: dict[str, Any] = cli.run("audit", "--json").json["stages"][0]
    assert (found["stage"], found["missing"], found["duplicates"]) == ("gist", 0, 0)
    return found


# --- completions that are there already ----------------------------------------------------------


def test_equal_documents_are_paid_for_once(cli: Cli, model: ModelServer) -> None:
    ingest(cli, TEXTS * 8)
    model.seconds = 0.05  # equal questions meet while one of them is asked
    assert work(cli).status == 0
    assert sorted(model.bills) == sorted(TEXTS)
    found = row(cli)
    assert (found["outputs"], found["calls"], found["reused"], found["repaid"]) == (40, 5, 35, 0)
    tail = cli.run("tail", "gists", "--json")
    assert sorted(r["value"]["text"] for r in tail.records[:-1]) == sorted(TEXTS * 8)
    reused = [json.loads(r["headers"]["ce_calls"]) for r in tail.records[:-1]]
    assert sum(calls[0][-1] for calls in reused) == 35


def next_pipeline(cli: Cli) -> None:
    """From now on commands run another pipeline, with equal documents."""
    cli.environment["INTEGRATION_PIPELINE"] = unique("cli")
    ingest(cli, TEXTS)


@pytest.mark.parametrize(
    ("how", "anew"),
    [
        ("1d", False),
        pytest.param("on", False, marks=pytest.mark.long),
        pytest.param("0.001s", True, marks=pytest.mark.long),
        pytest.param("off", True, marks=pytest.mark.long),
    ],
)
def test_another_pipeline_takes_what_was_paid_for(
    cli: Cli, model: ModelServer, how: str, anew: bool
) -> None:
    ingest(cli, TEXTS)
    work(cli)
    next_pipeline(cli)
    assert work(cli, "--reuse", how).status == 0
    assert len(model.bills) == len(TEXTS) * (2 if anew else 1)
    found = row(cli)
    assert (found["calls"], found["reused"]) == ((5, 0) if anew else (0, 5))


def copy_of(cli: Cli) -> Path:
    """The file in which this home's workers keep the completions."""
    (copy,) = (cli.folder / "home" / "completions").glob("*.sqlite")
    return copy


def is_kept_in(copy: Path, text: str) -> bool:
    """Whether a copy holds a completion with this text."""
    holds = "select count(*) from completions where instr(entry, ?)"
    try:
        with closing(sqlite3.connect(f"{copy.as_uri()}?mode=ro", uri=True)) as reading:
            return bool(reading.execute(holds, (text.encode(),)).fetchone()[0])
    except sqlite3.OperationalError:  # it is not there yet
        return False


def test_a_copy_of_the_completions_that_stays_locked_is_done_without(
    cli: Cli, model: ModelServer
) -> None:
    ingest(cli, TEXTS)
    work(cli)
    next_pipeline(cli)
    # as by a worker that was stopped while it wrote
    with closing(sqlite3.connect(copy_of(cli), isolation_level=None)) as stopped:
        stopped.execute("begin immediate")
        worked = work(cli)
        assert worked.status == 0, worked.err
        assert "is locked by a process that stands still; using another" in worked.err
    assert sorted(model.bills) == sorted(TEXTS), "nothing was paid for again"


def test_a_copy_of_the_completions_may_be_locked_at_any_time(cli: Cli, model: ModelServer) -> None:
    late = "A letter about frost."  # in no other test
    ingest(cli, TEXTS)
    work(cli)
    copy = copy_of(cli)
    environment = dict(cli.environment)
    next_pipeline(cli)
    running = cli.start("worker", "gist")
    wait_for(lambda: row(cli)["outputs"] == len(TEXTS), "the second pipeline")
    with closing(sqlite3.connect(copy, isolation_level=None)) as stopped:
        stopped.execute("begin immediate")
        second, cli.environment = dict(cli.environment), environment
        ingest(cli, [late])
        assert work(cli, "--reuse", "off").status == 0
        cli.environment = second
        wait_for(lambda: is_kept_in(copy.with_suffix(".2.sqlite"), late), "another copy")
        ingest(cli, [*TEXTS, late])
        wait_for(lambda: row(cli)["outputs"] == len(TEXTS) + 1, "what is reused")
    os.kill(running.pid, signal.SIGTERM)
    assert cli.end(running).status == 0
    assert sorted(model.bills) == sorted([*TEXTS, late])


@pytest.mark.long
def test_a_damaged_copy_of_the_completions_is_made_anew(cli: Cli, model: ModelServer) -> None:
    ingest(cli, TEXTS)
    work(cli)
    copy = copy_of(cli)

    def damage_pages() -> None:
        pages = bytearray(copy.read_bytes())
        for at in range(4096, len(pages), 97):
            pages[at] ^= 0xFF
        copy.write_bytes(pages)

    def rename_a_column() -> None:
        with closing(sqlite3.connect(copy)) as other, other:
            other.execute("alter table read rename column topic to name")

    junk = partial(copy.write_bytes, b"not a database" * 1000)
    for damage in (junk, damage_pages, rename_a_column, copy.unlink):
        damage()
        next_pipeline(cli)
        worked = work(cli)
        assert worked.status == 0, worked.err
        assert sorted(model.bills) == sorted(TEXTS), "nothing was paid for again"


@pytest.mark.long
def test_a_ledger_that_was_made_anew_is_followed(
    cli: Cli, model: ModelServer, bootstrap_servers: str
) -> None:
    ingest(cli, TEXTS)
    work(cli)
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    topics = [name for name in admin.list_topics(timeout=10).topics if name.startswith(cli.name)]
    for deleted in admin.delete_topics(topics).values():
        deleted.result(30)
    groups = [f"{cli.name}.{name}" for name in ("gist",)]
    for future in admin.delete_consumer_groups(groups).values():
        future.result(30)
    ingest(cli, [*TEXTS, "A letter about dew."])
    assert work(cli).status == 0
    # what is in no ledger any more is still in the copy
    assert sorted(model.bills) == sorted([*TEXTS, "A letter about dew."])
    ingest(cli, ["A letter about dew.", "A letter about sun."])
    assert work(cli).status == 0
    assert len(model.bills) == 7


# --- budgets --------------------------------------------------------------------------------------


def _spends(cli: Cli, model: ModelServer, most: int, *budget: str, **environment: str) -> None:
    lines = [f"line {n}" for n in range(60)]
    ingest(cli, lines)
    model.seconds = 0.02
    stopped = work(cli, *budget, **environment)
    assert stopped.status == 1
    assert "budget" in stopped.err
    assert "Traceback" not in stopped.err
    spent = len(model.bills)
    assert most <= spent < most + CONCURRENCY
    assert work(cli).status == 0
    assert sorted(model.bills) == sorted(lines), "what was paid for is not paid for again"
    assert row(cli)["outputs"] == 60


def test_a_budget_in_tokens_ends_the_run(cli: Cli, model: ModelServer) -> None:
    _spends(cli, model, 20, "--budget-tokens", str(20 * TOKENS))


@pytest.mark.long
def test_a_budget_in_dollars_ends_the_run(cli: Cli, model: ModelServer) -> None:
    prices = cli.folder / "prices.toml"
    prices.write_text("[fake]\ninput = 1.0\noutput = 1.0\n")  # US$ for a million tokens
    name = cli.environment["PRESSROOM_MODEL"]
    prices.write_text(prices.read_text() + f'["{name}"]\ninput = 1.0\noutput = 1.0\n')
    budget = f"{10 * TOKENS / 1_000_000:.7f}"
    _spends(cli, model, 10, "--budget-usd", budget, PRESSROOM_PRICES=str(prices))


def test_a_budget_without_a_price_is_refused(cli: Cli, model: ModelServer) -> None:
    ingest(cli, TEXTS)
    refused = work(cli, "--budget-usd", "1")
    assert refused.status == 2
    assert "--budget-tokens" in refused.err
    assert not model.bills


# --- leaving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [("--rpm", "600"), ()], ids=["paced", "refused"])
def test_a_worker_that_is_told_to_stop_asks_nothing_more(
    cli: Cli, model: ModelServer, limit: tuple[str, ...]
) -> None:
    """Neither what waits for its turn, nor what was refused and is to be asked again."""
    ingest(cli, [f"A letter about the number {n}." for n in range(200)])
    model.seconds = 1.0
    if not limit:
        model.fault = lambda number: (429, {"Retry-After": "1"}) if number % 3 else None
    process = cli.start("worker", "gist", "--concurrency", "32", *limit)
    wait_for(lambda: len(model.bills) >= 5, "five answers")
    asked = model.requests
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: process.poll() is not None, "the worker's end")
    assert cli.end(process).status == 0
    assert model.requests - asked <= CONCURRENCY  # on their way in that moment


def test_what_stands_behind_an_open_transaction_is_work_left(cli: Cli, model: ModelServer) -> None:
    ingest(cli, TEXTS)
    assert work(cli).status == 0
    topic = next(
        t["name"] for t in cli.run("topology", "--json").json["topics"] if "documents" in t["name"]
    )
    address = cli.environment["PRESSROOM_BOOTSTRAP_SERVERS"]
    foreign = Producer({"bootstrap.servers": address, "transactional.id": unique("foreign")})
    foreign.init_transactions(30)
    foreign.begin_transaction()
    for partition in range(4):
        foreign.produce(topic, b"not yet", partition=partition)
    foreign.flush(30)
    left = work(cli)
    foreign.abort_transaction(30)
    assert left.status == 1
    assert "transaction of another producer is open" in left.err
    assert work(cli).status == 0

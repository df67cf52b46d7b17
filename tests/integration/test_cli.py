"""The command line as scripts see it: standard output, exit statuses, one line for a mistake."""

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from typer.testing import CliRunner

from streams.cli import app
from streams.cli.context import DEFAULT_APP
from tests.integration.conftest import Cli, Result, wait_for
from tests.support import oracle
from tests.support.config import unique
from tests.support.model_server import ModelServer

COMMANDS = (
    "demo", "up", "down", "status", "topology", "ingest", "worker", "sink", "tail", "audit",
    "acls", "topics create", "schemas check", "schemas keep", "keys create", "keys rotate",
    "dead list", "dead show",
)  # fmt: skip

NOWHERE = {"PRESSROOM_BOOTSTRAP_SERVERS": "127.0.0.1:1"}


@pytest.fixture(scope="module", autouse=True)
def without_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Commands whose broker is not there; begun early, for they wait out their timeouts."""
    folder = tmp_path_factory.mktemp("nowhere")
    (folder / "a.txt").write_text("a")
    cli = Cli(folder, NOWHERE | {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"})
    commands = ("topics create", "ingest a.txt", "worker all", "audit")
    yield {"cli": cli} | {c: cli.start(*c.split(), "--json") for c in commands}
    cli.close()


@pytest.fixture
def letters(cli: Cli) -> Path:
    """Three documents that pass, one that is filtered, one that fails."""
    folder = cli.folder / "letters"
    folder.mkdir()
    for name in ("one", "two", "three", "filter", "fail"):
        (folder / f"{name}.txt").write_text(f"This is {name}.")
    return folder


def refused(result: Result, status: int = 2) -> str:
    """The one line of a command that refuses."""
    assert result.status == status, result.err
    assert result.err.endswith("\n")
    (line,) = result.err.splitlines()
    assert line.startswith("pressroom: ")
    if result.out:  # with --json
        assert result.json == {"error": line.removeprefix("pressroom: ")}
    return line


# --- looking -------------------------------------------------------------------------------------


def test_help_tells_of_every_command_and_every_command_gives_an_example(cli: Cli) -> None:
    overview = cli.run("--help")
    assert overview.status == 0
    assert overview.err == ""
    for command in COMMANDS:
        assert f"  {command.split()[0]} " in overview.out
        shown = CliRunner().invoke(app, [*command.split(), "--help"])
        assert shown.exit_code == 0
        assert "Example: pressroom" in " ".join(shown.stdout.split())


def test_topology_is_the_graph(cli: Cli) -> None:
    result = cli.run("topology", "--json")
    graph = result.json
    assert len(result.records) == 1
    assert graph["stages"][0] == {
        "name": "gist",
        "reads": [cli.topic("documents")],
        "writes": [cli.topic("gists")],
        "prompt": "gist@1",
    }
    assert [s["prompt"] for s in graph["stages"]] == ["gist@1", None, None]
    assert graph["topics"][:2] == [
        {
            "name": cli.topic("documents"),
            "schema": "pressroom.Document",
            "key": "id",
            "partitions": 4,
        },
        {"name": cli.topic("gists"), "schema": "integration.Gist", "key": None, "partitions": 4},
    ]
    named = {t["name"] for t in graph["topics"]}
    assert named >= {t for s in graph["stages"] for t in s["reads"] + s["writes"]}


def test_results_are_on_standard_output(cli: Cli) -> None:
    result = cli.run("topology")
    assert (result.status, result.err) == (0, "")
    assert "gist@1" in result.out


def test_a_refusal_is_a_document_too(cli: Cli) -> None:
    assert "no_such" in cli.run("--app", "no_such:x", "topology", "--json").json["error"]
    assert "--nope" in cli.run("topology", "--nope", "--json").json["error"]
    assert cli.run("--app", "no_such:x", "topology").out == ""


def test_a_demo_says_what_is_wrong_before_it_starts_anything(cli: Cli) -> None:
    assert "newsroom" in refused(cli.run("demo"))  # with the --app of these tests
    cli.app = DEFAULT_APP
    assert "/no/such" in refused(cli.run("demo", "--documents", "/no/such"))
    assert not (cli.folder / "home").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_ended_says_so(cli: Cli, number: int, status: int) -> None:
    assert cli.run("topics", "create", "--json").status == 0
    assert cli.run("ingest", "-", "--json", stdin="A letter.").status == 0
    process = cli.start("tail", "documents", "--follow")
    assert process.stdout is not None
    assert "A letter." in process.stdout.readline()
    process.send_signal(number)
    assert "interrupted" in refused(cli.end(process), status)


def test_the_version_is_told(cli: Cli) -> None:
    assert cli.run("--version").out.strip() == version("pressroom")


def test_topics_are_created_once(cli: Cli) -> None:
    names = [t["name"] for t in cli.run("topology", "--json").json["topics"]]
    assert sorted(cli.run("topics", "create", "--json").json["created"]) == sorted(names)
    assert cli.run("topics", "create", "--json").json == {"created": [], "warnings": []}


def test_a_fresh_home_has_nothing_running(cli: Cli) -> None:
    status = cli.run("status", "--json")
    nothing = {"running": False, "bootstrap_servers": None, "model_url": None}
    assert (status.status, status.json) == (1, nothing)
    assert "nothing to start" in refused(cli.run("up"))
    assert cli.run("down", "--json").json == {"stopped": False, "purged": False}


# --- the main job --------------------------------------------------------------------------------


def test_documents_go_in_and_come_out_once(cli: Cli, letters: Path, model: ModelServer) -> None:
    ingested = cli.run("ingest", "letters", "--json").json
    assert ingested == {"sources": 5, "unchanged": 0, "documents": 5, "dead": 0}
    again = cli.run("ingest", str(letters), "--json").json
    assert again == {"sources": 5, "unchanged": 5, "documents": 0, "dead": 0}

    worked = cli.run("worker", "all", "--until-idle", "2", "--json")
    assert worked.records == [
        {
            "stages": [
                {"stage": s, "committed": 5, "dead": n}
                for s, n in (("gist", 0), ("size", 1), ("publish", 0))
            ]
        }
    ]
    assert len(model.bills) == 5

    looks = ("tail gists", "dead list", "audit", "sink --into out --until-end")
    tailed, listed, audited, sunk = (
        cli.end(process) for process in [cli.start(*look.split(), "--json") for look in looks]
    )
    *gists, last = tailed.records
    assert last == {"topic": cli.topic("gists"), "records": 5}
    assert sorted(g["value"]["text"] for g in gists) == sorted(
        f.read_text() for f in letters.iterdir()
    )
    for gist in gists:
        assert gist.keys() == {
            "topic", "partition", "offset", "timestamp", "key", "headers", "schema", "value"
        }  # fmt: skip
        assert gist["schema"] == "integration.Gist"
        assert gist["headers"]["ce_prompt"] == "gist@1"

    (letter,) = listed.json["dead_letters"]
    assert (letter["stage"], letter["error"], letter["message"]) == (
        "size", "ValueError", "told to fail",
    )  # fmt: skip
    assert letter["inputs"][0]["record"]["text"] == "This is fail."
    assert cli.run("dead", "show", letter["id"], "--json").records == [letter]

    assert sunk.json == {"folder": str(cli.folder / "out"), "written": 5}
    assert len(list((cli.folder / "out").glob("*.md"))) == 5

    assert (audited.status, audited.json["ok"]) == (0, True)
    counts = ("stage", "inputs", "outputs", "dead", "missing", "duplicates", "calls", "repaid")
    assert [tuple(s[c] for c in counts) for s in audited.json["stages"]] == [
        ("gist", 5, 5, 0, 0, 0, 5, 0),
        ("size", 5, 3, 1, 0, 0, 0, 0),
        ("publish", 5, 5, 0, 0, 0, 0, 0),
    ]


def test_tail_begins_where_it_is_told_and_stops_after_so_many(cli: Cli, letters: Path) -> None:
    cli.run("ingest", str(letters))
    begins = ("earliest", "latest", "1", "2020-01-01T00:00:00Z", "2100-01-01")
    wanted = {b: ("documents", "--from", b) for b in begins}
    wanted["two"] = (cli.topic("documents"), "--max", "2")
    started = {name: cli.start("tail", *wanted[name], "--json") for name in wanted}
    found = {}
    for name, process in started.items():
        *records, last = cli.end(process).records
        assert last["records"] == len(records)
        found[name] = sorted((r["partition"], r["offset"]) for r in records)
    everything = found["earliest"]
    assert len(everything) == 5
    assert len(found["two"]) == 2
    assert found["latest"] == found["2100-01-01"] == []
    assert found["2020-01-01T00:00:00Z"] == everything
    assert found["1"] == [at for at in everything if at[1] >= 1]


def test_tail_follows(cli: Cli, letters: Path) -> None:
    cli.run("topics", "create")
    following = cli.start("tail", "documents", "--follow", "--max", "5", "--json")
    cli.run("ingest", str(letters))
    assert len(cli.end(following).records) == 6


# --- audit ---------------------------------------------------------------------------------------


def _copy_first_record(servers: str, topic: str) -> None:
    """Appends a copy of a topic's first record, byte for byte, as a broken producer would."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": unique("copy")})
    partition = next(p for p, end in oracle.ends(servers, topic).items() if end)
    consumer.assign([TopicPartition(topic, partition, 0)])
    found = consumer.poll(30)
    assert found is not None
    assert found.error() is None
    consumer.close()
    producer = Producer({"bootstrap.servers": servers})
    producer.produce(topic, found.value(), found.key(), partition, headers=found.headers())
    assert producer.flush(30) == 0


def test_audit_finds_an_output_that_is_doubled(
    cli: Cli, letters: Path, bootstrap_servers: str
) -> None:
    cli.run("ingest", str(letters))
    # a topic stands for the stages that read it
    worked = cli.run("worker", "documents", "--until-idle", "0.5", "--concurrency", "1", "--json")
    assert [s["stage"] for s in worked.json["stages"]] == ["gist", "size", "publish"]
    _copy_first_record(bootstrap_servers, cli.topic("articles"))
    audit = cli.run("audit", "--json")
    assert (audit.status, audit.json["ok"]) == (1, False)
    by_name = {s["stage"]: s for s in audit.json["stages"]}
    assert (by_name["publish"]["duplicates"], by_name["publish"]["missing"]) == (1, 0)
    assert by_name["publish"]["examples"][0].startswith(f"duplicates: {cli.topic('documents')}:")
    assert by_name["gist"]["duplicates"] == 0


def test_audit_finds_an_input_that_is_missing(
    cli: Cli, letters: Path, bootstrap_servers: str
) -> None:
    cli.run("ingest", str(letters))
    documents = cli.topic("documents")
    offsets = [TopicPartition(documents, p, n) for p, n in _counts(bootstrap_servers, documents)]
    group = {"bootstrap.servers": bootstrap_servers, "group.id": f"{cli.name}.publish"}
    consumer = Consumer(group)
    consumer.commit(offsets=offsets, asynchronous=False)  # as one does who loses records
    consumer.close()
    audit = cli.run("audit", "--json")
    assert audit.status == 1
    assert {s["stage"]: s["missing"] for s in audit.json["stages"]}["publish"] == 5


def _counts(servers: str, topic: str) -> list[tuple[int, int]]:
    return sorted(oracle.ends(servers, topic).items())


# --- signals -------------------------------------------------------------------------------------


def test_a_worker_that_is_told_to_stop_commits_what_is_finished(
    cli: Cli, model: ModelServer
) -> None:
    lines = [f"line {n}" for n in range(160)]
    (cli.folder / "lines.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    cli.run("ingest", "lines.jsonl")
    model.seconds = 0.05
    for number in (signal.SIGINT, signal.SIGTERM):
        before = len(model.bills)
        worker = cli.start("worker", "gist", "--json")
        wait_for(lambda some=before + 10: len(model.bills) > some, "some calls")  # type: ignore[misc]
        worker.send_signal(number)
        stopped = cli.end(worker)
        assert stopped.status == 0
        assert stopped.json["stages"][0]["committed"] == len(model.bills) - before
        assert len(model.bills) < 160
    cli.run("worker", "gist", "--until-idle", "0.5")
    assert sorted(model.bills) == sorted(lines)
    audit = cli.run("audit", "--json")
    assert (audit.status, audit.json["stages"][0]["outputs"]) == (0, 160)


def test_a_worker_without_patience_leaves_calls_behind(cli: Cli, model: ModelServer) -> None:
    ingested = cli.start("ingest", "-")
    assert cli.end(ingested, "a letter").status == 0
    asked, answer = threading.Event(), threading.Event()

    def before() -> None:
        asked.set()
        answer.wait(180)

    model.before = before
    worker = cli.start("worker", "gist", "--json", PRESSROOM_GRACE="0")
    assert asked.wait(180)
    worker.send_signal(signal.SIGTERM)
    stopped = cli.end(worker)
    answer.set()
    assert stopped.status == 0
    assert stopped.json["stages"] == [{"stage": "gist", "committed": 0, "dead": 0}]


# --- wrong use -----------------------------------------------------------------------------------

WRONG = {
    "worker nosuchstage": "no stage",
    "tail nosuchtopic": "no topic",
    "tail documents --from yesterday": "yesterday",
    "dead show x": "partition:offset",
    "sink gists --into out": "articles",
    "ingest --topic gists a.txt": "Gist",
    "ingest --topic nosuchtopic a.txt": "no topic",
    "--app nocolon topology": "module:pipeline",
    "--app nosuchmodule:x topology": "nosuchmodule",
    "--app schemas:x topology": "no pipeline",
    "--app json:dumps topology": "no pipeline",
    "--config nosuchfile topics create": "nosuchfile",
    "--config malformed topics create": "line 2",
}


def test_wrong_use_gets_one_line_that_names_it(cli: Cli) -> None:
    (cli.folder / "a.txt").write_text("a")
    (cli.folder / "malformed").write_text("socket.timeout.ms=1000\nnot a setting\n")
    cli.run("topics", "create")
    started = {w: cli.start(*w.split()) for w in WRONG}
    for wrong, process in started.items():
        assert WRONG[wrong] in refused(cli.end(process)), wrong


def test_without_any_kafka_each_command_says_what_to_do(cli: Cli) -> None:
    (cli.folder / "a.txt").write_text("a")
    commands = ("topics create", "ingest a.txt", "worker all", "tail gists", "dead list", "audit")
    nothing = {"PRESSROOM_BOOTSTRAP_SERVERS": ""}
    started = [cli.start(*command.split(), **nothing) for command in commands]
    for process in started:
        assert "pressroom up" in refused(cli.end(process))


def test_without_any_model_a_worker_says_what_to_do(cli: Cli) -> None:
    assert "OPENAI_BASE_URL" in refused(cli.run("worker", "gist", OPENAI_BASE_URL=""))


def test_more_replicas_than_brokers_get_one_line(cli: Cli) -> None:
    assert "only 1 broker" in refused(cli.run("topics", "create", PRESSROOM_REPLICATION="2"), 1)
    made = cli.run("topics", "create", "--json", PRESSROOM_REPLICATION="")
    assert cli.topic("gists") in made.json["created"]
    assert made.json["warnings"] == []  # of a cluster of one nothing more can be had


def test_a_malformed_setting_is_named(cli: Cli) -> None:
    wrong = cli.run("topics", "create", PRESSROOM_MODEL_TIMEOUT="soon")
    assert "PRESSROOM_MODEL_TIMEOUT: " in refused(wrong)


@pytest.mark.parametrize("url", ["foo", "http://", "ftp://x/v1", "http://x:99999/v1"])
def test_an_endpoint_s_address_that_is_none_is_refused_at_once(cli: Cli, url: str) -> None:
    wrong = cli.run("worker", "gist", "--until-idle", "0", OPENAI_BASE_URL=url)
    assert "OPENAI_BASE_URL: say an address" in refused(wrong)


def test_a_broker_that_is_not_there_gets_one_line_in_time(without_kafka: dict[str, Any]) -> None:
    cli: Cli = without_kafka.pop("cli")
    for command, process in without_kafka.items():
        assert isinstance(process, subprocess.Popen)
        assert "does not answer" in refused(cli.end(process), 1), command

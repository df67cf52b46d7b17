"""A real schema registry: who reads along, what is refused, and what goes on while it is away."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka import Producer
from confluent_kafka.schema_registry import (
    Schema,
    SchemaRegistryClient,
    topic_subject_name_strategy,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from schemas.codec import codec_for
from schemas.records import Document
from tests.integration.conftest import Cli, Result, contract, wait_for
from tests.support import oracle
from tests.support.model_server import ModelServer
from tests.support.registry import Apicurio, Guard

GIST: dict[str, Any] = {
    "type": "record",
    "name": "Gist",
    "namespace": "integration",
    "fields": [{"name": "text", "type": "string"}],
}
_BY_TOPIC = {"subject.name.strategy": topic_subject_name_strategy}
ARTICLE = dict.fromkeys(("id", "source", "title", "summary", "social_post"), "strange") | {
    "body": "by a stranger", "topic": "other", "language": "en", "quality": "low",
    "entities": [], "attempts": 1,
}  # fmt: skip
DOCUMENT = {"source": "here", "title": "", "format": "text"}


class Stranger:
    """A program that has confluent-kafka and the registry, and nothing of Pressroom."""

    def __init__(self, url: str, servers: str) -> None:
        # without these the client waits for ever for an answer that was lost on its way
        self.registry = SchemaRegistryClient({"url": url, "timeout": 20, "max.retries": 5})
        self._servers = servers
        self._producer = Producer({"bootstrap.servers": servers})
        self._deserialize = AvroDeserializer(self.registry, conf=_BY_TOPIC)

    def values(self, topic: str) -> list[bytes]:
        """What a topic holds, tombstones left out."""
        start = dict.fromkeys(oracle.ends(self._servers, topic), 0)
        found = oracle._drain(self._servers, topic, start, "read_committed")
        return [value for message in found if (value := message.value()) is not None]

    def records(self, topic: str) -> list[Any]:
        context = SerializationContext(topic, MessageField.VALUE)
        return [self._deserialize(value, context) for value in self.values(topic)]

    def register(self, topic: str, schema: dict[str, Any]) -> int:
        return self.registry.register_schema(f"{topic}-value", Schema(json.dumps(schema), "AVRO"))

    def encode(self, topic: str, schema: dict[str, Any], record: dict[str, Any]) -> bytes:
        """A value, its schema registered."""
        serialize = AvroSerializer(self.registry, json.dumps(schema), conf=_BY_TOPIC)
        value: Any = serialize(record, SerializationContext(topic, MessageField.VALUE))
        assert isinstance(value, bytes)
        return value

    def write(self, topic: str, *values: bytes) -> None:
        for number, value in enumerate(values):
            self._producer.produce(topic, value, str(number))
        assert self._producer.flush(30) == 0

    def written(self, topics: list[str]) -> int:
        """Records in topics, committed or not."""
        return sum(sum(oracle.ends(self._servers, topic).values()) for topic in topics)


@pytest.fixture
def wired(cli: Cli, apicurio: Apicurio) -> Cli:
    """The command line with a registry."""
    cli.environment["SCHEMA_REGISTRY_URL"] = apicurio.url
    letters = cli.folder / "letters"
    letters.mkdir()
    for name in ("one", "two", "filter", "fail"):
        (letters / f"{name}.txt").write_text(f"This is {name}.")
    return cli


@pytest.fixture
def stranger(apicurio: Apicurio, bootstrap_servers: str) -> Stranger:
    return Stranger(apicurio.url, bootstrap_servers)


def line_of(result: Result, status: int) -> str:
    """The one line of a command that can't start."""
    assert result.status == status, result.err
    (line,) = result.err.splitlines()
    assert line.startswith("pressroom: ")
    return line


def topics_of(cli: Cli) -> list[str]:
    return [t["name"] for t in cli.run("topology", "--json").json["topics"]]


def dead_letters(cli: Cli) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cli.run("dead", "list", "--json").json["dead_letters"]
    return found


def assert_audited(cli: Cli) -> dict[str, Any]:
    """The audit of stage ``gist``, after checking that all of it holds."""
    audit = cli.run("audit", "--json")
    assert audit.json["ok"], audit.json
    stages: dict[str, Any] = {stage["stage"]: stage for stage in audit.json["stages"]}
    found: dict[str, Any] = stages["gist"]
    return found


# --- the main job --------------------------------------------------------------------------------


def test_a_pipeline_with_a_registry_is_read_by_an_independent_client(
    wired: Cli, stranger: Stranger, apicurio: Apicurio
) -> None:
    topics = topics_of(wired)
    created = wired.run("topics", "create", "--json").json
    assert sorted(created["registered"]) == sorted(f"{topic}-value" for topic in topics)
    assert wired.run("topics", "create", "--json").json == {
        "created": [],
        "registered": [],
        "warnings": [],
    }
    wired.run("ingest", "letters")
    worked = wired.run("worker", "all", "--until-idle", "2", "--json")
    assert [s["committed"] for s in worked.json["stages"]] == [4, 4, 4]

    read = {topic: stranger.records(topic) for topic in topics}
    texts = sorted(f.read_text() for f in (wired.folder / "letters").iterdir())
    assert sorted(d["text"] for d in read[wired.topic("documents")]) == texts
    assert sorted(g["text"] for g in read[wired.topic("gists")]) == texts
    assert [d["message"] for d in read[wired.topic("dead-letters")]] == ["told to fail"]
    kinds = [entry["kind"] for entry in read[wired.topic("gist.ledger")]]
    assert sorted(kinds) == ["intent"] * 4 + ["result"] * 4
    for topic in topics:
        assert read[topic], topic
        assert stranger.registry.get_compatibility(f"{topic}-value") == "BACKWARD"
        assert {value[0] for value in stranger.values(topic)} == {0}

    assert_read_by_fastavro_alone(wired.topic("articles"), stranger)
    assert_commands_read(wired, texts)


def assert_read_by_fastavro_alone(topic: str, stranger: Stranger) -> None:
    for value in stranger.values(topic):
        found = stranger.registry.get_schema(int.from_bytes(value[1:5], "big"))
        stream = BytesIO(value[5:])
        schema = fastavro.parse_schema(json.loads(found.schema_str or ""))
        assert schema["name"] == "pressroom.Article"  # type: ignore[index,call-overload]
        article: Any = fastavro.schemaless_reader(stream, schema, None)
        assert article["body"].startswith("This is ")
        assert not stream.read()


def assert_commands_read(cli: Cli, texts: list[str]) -> None:
    gists = cli.run("tail", "gists").records
    assert sorted(g["value"]["text"] for g in gists) == texts
    assert {g["schema"] for g in gists} == {"integration.Gist"}
    (letter,) = dead_letters(cli)
    assert letter["inputs"][0]["record"]["text"] == "This is fail."
    sunk = cli.run("sink", "--into", "out", "--until-end", "--json").json
    assert sunk["written"] == len(list((cli.folder / "out").glob("*.md"))) == 4
    gist = assert_audited(cli)
    assert (gist["inputs"], gist["outputs"], gist["calls"]) == (4, 4, 4)
    again = cli.run("ingest", "letters", "--json").json
    assert (again["documents"], again["unchanged"]) == (0, 4)


@pytest.mark.long
def test_what_was_asked_before_is_taken_from_ledgers_of_either_framing(
    wired: Cli, model: ModelServer
) -> None:
    wired.run("ingest", "letters", SCHEMA_REGISTRY_URL="")
    wired.run("worker", "gist", "--until-idle", "1", SCHEMA_REGISTRY_URL="")
    assert len(model.bills) == 4
    copies = wired.folder / "copies"
    (wired.folder / "letters").rename(copies)  # other sources, so other documents; same questions
    wired.run("ingest", "copies")
    wired.run("worker", "gist", "--until-idle", "1")
    assert len(model.bills) == 4
    gist = assert_audited(wired)
    assert (gist["inputs"], gist["calls"], gist["reused"]) == (8, 4, 4)


# --- both framings in one topic ------------------------------------------------------------------


def test_a_topic_may_hold_both_framings(wired: Cli, stranger: Stranger) -> None:
    wired.run("topics", "create")
    documents = wired.topic("documents")
    before = codec_for(Document).encode(Document("1", "here", "", "before"))
    after = stranger.encode(
        documents, contract("document"), DOCUMENT | {"id": "2", "text": "after"}
    )
    stranger.write(documents, before, after)
    wired.run("worker", "all", "--until-idle", "2")
    gists = stranger.records(wired.topic("gists"))
    assert sorted(g["text"] for g in gists) == ["after", "before"]
    assert sorted(d["value"]["text"] for d in wired.run("tail", "documents").records) == [
        "after", "before",
    ]  # fmt: skip
    assert assert_audited(wired)["dead"] == 0

    # the way back: the registry's records can't be read without it, and say so
    stranger.write(documents, after, codec_for(Document).encode(Document("3", "", "", "third")))
    wired.run("worker", "gist", "--until-idle", "2", SCHEMA_REGISTRY_URL="")
    (letter,) = dead_letters(wired)
    assert "set SCHEMA_REGISTRY_URL" in letter["message"]
    gists = wired.run("tail", "gists").records
    assert sorted(g["value"]["text"] for g in gists) == ["after", "before", "third"]


def test_a_schema_the_registry_does_not_know_makes_a_dead_letter(
    wired: Cli, stranger: Stranger
) -> None:
    wired.run("topics", "create")
    documents = wired.topic("documents")
    good = stranger.encode(documents, contract("document"), DOCUMENT | {"id": "1", "text": "good"})
    odd = Schema('{"$schema": "http://json-schema.org/draft-07/schema#"}', "JSON")
    json_id = stranger.registry.register_schema(f"{documents}-odd", odd)
    other = b"\x00" + json_id.to_bytes(4, "big") + good[5:]
    stranger.write(documents, b"\x00\x7f\xff\xff\xff" + good[5:], other, b"\x00\x00", good)
    wired.run("worker", "gist", "--until-idle", "2")
    assert [g["text"] for g in stranger.records(wired.topic("gists"))] == ["good"]
    assert sorted(letter["message"] for letter in dead_letters(wired)) == [
        "no Avro single-object encoding: starts with '0000'",
        "written with schema 2147483647, which the schema registry does not know",
        f"written with schema {json_id}, which is JSON, not Avro",
    ]
    assert assert_audited(wired)["dead"] == 3


# --- evolution -----------------------------------------------------------------------------------


@pytest.mark.long
def test_a_compatible_schema_becomes_a_new_version_that_reads_older_records(
    wired: Cli, stranger: Stranger
) -> None:
    documents, gists = wired.topic("documents"), wired.topic("gists")
    first = contract("history/document-1")
    wider = GIST | {"fields": [*GIST["fields"], {"name": "mood", "type": "string"}]}
    stranger.register(gists, wider)
    old = {name: value for name, value in DOCUMENT.items() if name != "format"}
    value = stranger.encode(documents, first, old | {"id": "1", "text": "old"})

    registered = wired.run("topics", "create", "--json").json["registered"]
    assert {f"{documents}-value", f"{gists}-value"} <= set(registered)
    assert stranger.registry.get_versions(f"{documents}-value") == [1, 2]
    assert stranger.registry.get_versions(f"{gists}-value") == [1, 2]
    assert stranger.registry.get_compatibility(f"{gists}-value") == "BACKWARD"
    stranger.write(documents, value)
    wired.run("worker", "all", "--until-idle", "2")
    (gist,) = stranger.records(gists)
    assert gist == {"text": "old"}
    assert len(stranger.records(wired.topic("articles"))) == 1
    assert assert_audited(wired)["dead"] == 0


def test_an_incompatible_schema_is_refused_before_any_record_is_written(
    wired: Cli, stranger: Stranger, model: ModelServer
) -> None:
    gists, documents = wired.topic("gists"), wired.topic("documents")
    stranger.register(gists, GIST | {"fields": [{"name": "words", "type": "string"}]})
    topics = topics_of(wired)
    for command in ("worker all --until-idle 1", "topics create"):
        line = line_of(wired.run(*command.split()), 2)
        assert (
            f"{gists}-value: Gist can't follow version 1: a new field has no default: text" in line
        )
    checked = wired.run("schemas", "check", "--json")
    assert checked.status == 1
    refused = {s["subject"]: s["difference"] for s in checked.json["subjects"] if s["difference"]}
    assert refused.keys() == {f"{gists}-value"}
    assert stranger.written(topics) == 0
    assert model.bills == []
    assert stranger.registry.get_versions(f"{gists}-value") == [1]
    # nothing else was registered either
    assert f"{documents}-value" not in stranger.registry.get_subjects()


def test_a_subject_that_is_held_to_more_stays_so(wired: Cli, stranger: Stranger) -> None:
    gists = wired.topic("gists")
    mood = {"name": "mood", "type": "string"}
    stranger.register(gists, GIST | {"fields": [*GIST["fields"], mood]})
    stranger.registry.set_compatibility(f"{gists}-value", "FULL")
    line = line_of(wired.run("topics", "create"), 2)
    assert f"{gists}-value: Gist can't follow version 1: " in line
    assert "FULL" in line
    assert stranger.registry.get_compatibility(f"{gists}-value") == "FULL"


# --- while it is away ----------------------------------------------------------------------------


def test_workers_go_on_while_the_registry_is_away_and_none_starts(
    wired: Cli, stranger: Stranger, apicurio: Apicurio, model: ModelServer
) -> None:
    documents, gists = wired.topic("documents"), wired.topic("gists")
    wired.run("topics", "create")
    now = contract("document")
    value = stranger.encode(documents, now, DOCUMENT | {"id": "1", "text": "first"})
    news = {"name": "news", "type": "string", "default": ""}
    later = stranger.encode(
        documents, now | {"fields": [*now["fields"], news]},
        DOCUMENT | {"id": "2", "text": "of a later version", "news": "!"},
    )  # fmt: skip
    articles, form = wired.topic("articles"), contract("article")
    article = stranger.encode(
        articles, form | {"fields": [*form["fields"], news]}, ARTICLE | {"news": "!"}
    )
    worker = wired.start("worker", "gist", "publish", "--json")
    stranger.write(documents, value)
    wait_for(lambda: len(model.bills) == 1, "the first call")
    apicurio.kill()
    try:
        stranger.write(documents, *[value.replace(b"first", b"again")] * 8)
        wait_for(lambda: stranger.written([gists]) >= 9, "records of known schemas")
        stranger.write(documents, later)
        stranger.write(articles, article)
        sink = wired.start("sink", "--into", "out", "--until-end", "--json")
        stopped = wired.start("worker", "size", "--json")
        line = line_of(wired.end(stopped), 1)
        assert f"the schema registry at {apicurio.url} does not answer" in line
        assert worker.poll() is None
        assert dead_letters(wired) == []
        assert "of a later version" not in model.bills
    finally:
        apicurio.up()
    wait_for(lambda: "of a later version" in model.bills, "the record that waited")
    sunk = wired.end(sink)
    assert sunk.status == 0, sunk.err
    files = list((wired.folder / "out").iterdir())
    assert "does not answer" in sunk.err
    assert [f.suffix for f in files] == [".md"] * len(files)
    assert any("by a stranger" in f.read_text() for f in files)
    worker.terminate()
    ended = wired.end(worker)
    assert ended.status == 0, ended.err
    assert "does not answer" in ended.err
    wired.run("worker", "all", "--until-idle", "2")
    texts = [g["text"] for g in stranger.records(gists)]
    assert sorted(texts) == ["again"] * 8 + ["first", "of a later version"]
    assert assert_audited(wired)["inputs"] == 10


def test_what_is_no_registry_gets_one_line(wired: Cli, apicurio: Apicurio, tmp_path: Path) -> None:
    root = apicurio.url.removesuffix("/apis/ccompat/v7")
    (tmp_path / "empty.pem").write_text("")
    wrong = {
        root: "/apis/ccompat/v7",
        "localhost:8081": "http://host:port",
    }
    started = {
        said: wired.start("topics", "create", SCHEMA_REGISTRY_URL=url)
        for url, said in wrong.items()
    }
    started["SCHEMA_REGISTRY_SSL_CA_LOCATION"] = wired.start(
        "topics", "create", SCHEMA_REGISTRY_SSL_CA_LOCATION=str(tmp_path / "none.pem")
    )
    started["user:password"] = wired.start(
        "topics", "create", SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO="nocolon"
    )
    for said, process in started.items():
        line = line_of(wired.end(process), 2)
        assert said in line, line


@pytest.mark.long
def test_a_guarded_registry_wants_its_ca_and_its_password(
    wired: Cli, apicurio: Apicurio, tmp_path: Path
) -> None:
    guard = Guard(apicurio.url, "me:canary", tmp_path)
    right = {
        "SCHEMA_REGISTRY_URL": guard.url,
        "SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO": "me:canary",
        "SCHEMA_REGISTRY_SSL_CA_LOCATION": str(guard.ca),
    }
    without = {
        "SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO": "refuses these credentials",
        "SCHEMA_REGISTRY_SSL_CA_LOCATION": "is not trusted",
    }
    try:
        for setting, said in without.items():
            line = line_of(wired.run("topics", "create", **(right | {setting: ""})), 2)
            assert said in line
            assert setting in line
            assert "canary" not in line
        created = wired.run("topics", "create", "--json", **right)
        assert len(created.json["registered"]) == len(topics_of(wired))
        inside = right | {
            "SCHEMA_REGISTRY_URL": guard.url.replace("://", "://me:canary@"),
            "SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO": "",
        }
        assert wired.run("schemas", "check", "--json", **inside).json == {
            "ok": True,
            "subjects": [],
        }
    finally:
        guard.close()

"""The newsroom's topics as a stranger reads them, who has Avro and the contracts, nothing else."""

import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pytest
from fastavro.schema import to_parsing_canonical_form

from consumers.reader import read_settled
from producers.ingest import Ingestion
from producers.sources import discover
from schemas import topics
from streams import ScriptedModel
from streams.admin import create_topics
from streams.calls import Caller
from streams.instance import Instances
from streams.memory import Answer
from streams.model import Request
from streams.pipelines.newsroom import newsroom
from streams.worker import Worker
from tests.integration.conftest import ROOT
from tests.support import oracle
from tests.support.config import unique

CONTRACTS = {
    "newsroom.documents": "Document",
    "newsroom.classifications": "Classification",
    "newsroom.annotations": "Annotation",
    "newsroom.outlines": "Outline",
    "newsroom.revisions": "Revision",
    "newsroom.drafts": "Draft",
    "newsroom.headlines": "Headline",
    "newsroom.summaries": "Summary",
    "newsroom.social-posts": "SocialPost",
    "newsroom.reviews": "Review",
    "newsroom.articles": "Article",
    "newsroom.outline.state": "Original",
    "newsroom.review.state": "Original",
    **{
        f"newsroom.{stage}.ledger": "LedgerEntry"
        for stage in ("classify", "outline", "draft", "headline", "summary", "social", "review")
    },
    "newsroom.dead-letters": "DeadLetter",
    "newsroom.sources": "SourcePosition",
}


def fingerprint(canonical_form: str) -> bytes:
    """CRC-64-AVRO, little-endian, by the specification's own algorithm."""
    empty = 0xC15D213AA4D7A795
    found = empty
    for byte in canonical_form.encode():
        step = (found ^ byte) & 0xFF
        for _ in range(8):
            step = (step >> 1) ^ (empty & -(step & 1))
        found = (found >> 8) ^ step
    return found.to_bytes(8, "little")


def contracts() -> dict[bytes, Any]:
    """Every contract by its fingerprint."""
    files = (ROOT / "schemas" / "avro").glob("*.avsc")
    schemas = [fastavro.parse_schema(json.loads(file.read_text())) for file in files]
    return {fingerprint(to_parsing_canonical_form(schema)): schema for schema in schemas}


@dataclass(frozen=True)
class Event:
    """A record as the stranger understands it."""

    type: str
    value: Any
    headers: dict[str, str]
    position: str


def read(servers: str, topic: str) -> Iterator[Event]:
    known = contracts()
    start = dict.fromkeys(oracle.ends(servers, topic), 0)
    for message in oracle._drain(servers, topic, start, "read_committed"):
        value = message.value()
        if value is None:  # a tombstone
            continue
        assert value[:2] == b"\xc3\x01"
        schema = known[value[2:10]]
        stream = io.BytesIO(value[10:])
        decoded = fastavro.schemaless_reader(stream, schema, None)
        assert not stream.read(), "stray bytes"
        headers = {name: text.decode() for name, text in message.headers() or []}
        assert len(headers) == len(message.headers() or []), "a header twice"
        at = f"{topic}:{message.partition()}:{message.offset()}"
        yield Event(schema["name"], decoded, headers, at)


def answer(request: Request) -> Answer:
    match request.name:
        case "Classification" if "UNCLASSIFIABLE" in request.prompt.user:
            return "I can't say."
        case "Classification":
            return {"topic": "science", "language": "en", "quality": "high"}
        case "Points":
            return {"points": ["first", "second"]}
        case "Verdict":
            return {"verdict": "revise", "note": "shorter"}
    return {"text": "A sentence."}


@pytest.fixture(scope="module")
def events(
    kafka: dict[str, Any], bootstrap_servers: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Event]]:
    """By topic, what became of five files; other tests' records are left out."""
    folder = tmp_path_factory.mktemp(unique("files"))
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"Ada Lovelace wrote program {number} in London.")
    (folder / "odd.txt").write_text("UNCLASSIFIABLE")
    (folder / "binary.txt").write_bytes(bytes(range(256)))
    _publish(kafka, folder)
    found = {topic: list(read(bootstrap_servers, topic)) for topic in CONTRACTS}
    here = folder.as_uri()
    documents = [e for e in found["newsroom.documents"] if e.value["source"].startswith(here)]
    origins = {e.position for e in documents}
    mine: dict[str, list[Event]] = defaultdict(list)
    for topic, all_events in found.items():
        for e in all_events:
            came_in = e in documents or here in str(e.value)
            if came_in or e.headers.get("ce_origin") in origins:
                mine[topic].append(e)
    return mine


def _publish(config: dict[str, Any], folder: Path) -> None:
    create_topics(config, newsroom.topics)
    Ingestion(
        config, newsroom.name, topics.documents, newsroom.sources, newsroom.dead_letters,
        lambda names: read_settled(config, names),
    ).run(discover([str(folder)]))  # fmt: skip
    stages = list(newsroom.stages.values())
    worker = Worker(stages, config, Caller(ScriptedModel(answer)), Instances(folder / ".home"))
    worker.start()
    worker.wait(until_idle=1)


def test_the_specification_s_fingerprint() -> None:
    assert fingerprint('"null"')[::-1].hex() == "63dd24e7cc258f8a"


def test_a_stranger_can_read_every_topic(events: dict[str, list[Event]]) -> None:
    assert CONTRACTS.keys() | {newsroom.filtered.name} == {t.name for t in newsroom.topics}
    for topic, contract in CONTRACTS.items():
        assert {e.type for e in events[topic]} == {f"pressroom.{contract}"}, topic


def test_each_document_became_one_article_or_dead_letter(events: dict[str, list[Event]]) -> None:
    documents = {e.value["id"]: e.value for e in events["newsroom.documents"]}
    articles = [e.value for e in events["newsroom.articles"]]
    assert len(documents) == 4
    assert sorted(a["id"] for a in articles) == sorted(
        i for i, d in documents.items() if "Ada" in d["text"]
    )
    letters = [e.value for e in events["newsroom.dead-letters"]]
    assert sorted((d["stage"], d["error"]) for d in letters) == [
        ("classify", "ReplyRejected"),
        ("ingest", "Unreadable"),
    ]
    assert sum(d["entries"] for d in (e.value for e in events["newsroom.sources"])) == 5


def test_what_lies_inside_a_record_can_be_read_too(events: dict[str, list[Event]]) -> None:
    known = contracts()
    for state in ("newsroom.outline.state", "newsroom.review.state"):
        for original in (e.value for e in events[state]):
            contract = known[original["value"][2:10]]["name"]
            assert contract == f"pressroom.{CONTRACTS[original['topic']]}"
            assert "ce_id" in {header["name"] for header in original["headers"]}


def test_every_record_is_a_cloud_event(events: dict[str, list[Event]]) -> None:
    now = datetime.now().astimezone()
    for topic in CONTRACTS:
        for e in events[topic]:
            assert e.headers["ce_specversion"] == "1.0"
            assert e.headers["ce_id"]
            assert re.fullmatch(r"[!-~]+", e.headers["ce_source"]), "no URI reference"
            assert e.headers["ce_type"] == e.type
            assert e.headers["content-type"] == "application/avro"
            time = e.headers["ce_time"]
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", time)
            assert abs(datetime.fromisoformat(time) - now) < timedelta(hours=1)
            names = [name for name in e.headers if name.startswith("ce_")]
            assert all(re.fullmatch("ce_[a-z0-9]+", name) for name in names), names


def test_an_event_s_id_is_its_own(events: dict[str, list[Event]]) -> None:
    for topic in CONTRACTS:
        ids = [e.headers["ce_id"] for e in events[topic]]
        assert len(set(ids)) == len(ids), topic
    identities = [(e.headers["ce_source"], e.headers["ce_id"]) for t in events for e in events[t]]
    assert len(set(identities)) == len(identities)


def test_a_trace_goes_from_document_to_article(events: dict[str, list[Event]]) -> None:
    traces: dict[str, set[str]] = defaultdict(set)
    spans = []
    for topic in CONTRACTS:
        for e in events[topic]:
            trace = re.fullmatch(
                r"00-([0-9a-f]{32})-([0-9a-f]{16})-0[01]", e.headers["traceparent"]
            )
            assert trace is not None
            assert set(trace[1]) != {"0"}
            traces[e.headers.get("ce_origin", e.position)].add(trace[1])
            spans.append(trace[2])
    assert all(len(found) == 1 for found in traces.values())
    assert len(set(spans)) == len(spans)


def test_inputs_are_positions_of_records(events: dict[str, list[Event]]) -> None:
    positions = {e.position for t in events for e in events[t]}
    for topic in CONTRACTS:
        for e in events[topic]:
            if "ce_inputs" in e.headers:
                assert set(e.headers["ce_inputs"].split(",")) <= positions

"""One suite for both framings: single-object encoding, and the wire format of a real registry."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from fastavro import parse_schema, schemaless_writer

from schemas.codec import MAGIC, SINGLE_OBJECT, Framing, remember
from schemas.errors import DecodeError, RecordRejected, RetryLater
from schemas.records import Document, Original
from schemas.registry import WireFormat
from schemas.topics import Topic
from streams import MemoryDriver, Pipeline, join, record
from streams.audit import audit
from tests.support.config import unique
from tests.support.kafka_driver import KafkaDriver
from tests.support.registry import Apicurio

ROOT = Path(__file__).parents[2]
FIRST = json.loads((ROOT / "schemas" / "avro" / "history" / "document-1.avsc").read_text())
DOCUMENT = Document("1", "here", "Title", "Text")
SINGLE, WIRE = "single-object", "wire format"
MakeDriver = Callable[[Pipeline], MemoryDriver | KafkaDriver]


@record
class Half:
    text: str


@record
class Whole:
    text: str


class Written:
    """One framing, and how others write under it."""

    def __init__(self, framing: Framing, registry: SchemaRegistryClient | None) -> None:
        self.framing, self._registry = framing, registry
        self.topic = Topic(unique("framing.documents"), Document, key="id")
        self.codec = framing.codec(self.topic)

    def header(self, schema: dict[str, Any]) -> bytes:
        if self._registry is None:
            return MAGIC + remember(schema)
        number = self._registry.register_schema(
            f"{unique('other')}-value", Schema(json.dumps(schema), "AVRO")
        )
        return b"\x00" + number.to_bytes(4, "big")

    def encode(self, schema: dict[str, Any], data: Any) -> bytes:
        out = BytesIO(self.header(schema))
        out.seek(0, 2)
        schemaless_writer(out, parse_schema(schema, named_schemas={}), data)
        return out.getvalue()


@pytest.fixture(params=[SINGLE, WIRE])
def written(request: pytest.FixtureRequest) -> Written:
    if request.param == SINGLE:
        return Written(SINGLE_OBJECT, None)
    apicurio: Apicurio = request.getfixturevalue("apicurio")
    client = SchemaRegistryClient({"url": apicurio.url, "timeout": 20, "max.retries": 5})
    return Written(WireFormat(apicurio.url), client)


@pytest.fixture(params=["memory", "kafka"])
def make_driver(request: pytest.FixtureRequest, written: Written, tmp_path: Path) -> MakeDriver:
    def make(pipeline: Pipeline) -> MemoryDriver | KafkaDriver:
        if request.param == "memory":
            return MemoryDriver(pipeline, framing=written.framing)
        config: dict[str, Any] = request.getfixturevalue("kafka")
        return KafkaDriver(pipeline, None, config, tmp_path, written.framing)

    return make


def test_a_record_survives_its_encoding(written: Written) -> None:
    value = written.codec.encode(DOCUMENT)
    assert written.codec.decode(value) == DOCUMENT
    assert written.framing.reader(Document).decode(value) == DOCUMENT
    assert written.codec.is_current(value)
    assert not written.framing.codec(Topic(unique("framing.originals"), Original)).is_current(value)


def test_a_record_of_an_older_schema_is_resolved(written: Written) -> None:
    data = {"id": "1", "source": "here", "title": "Title", "text": "Text"}
    value = written.encode(FIRST, data)
    assert written.codec.decode(value) == DOCUMENT
    assert not written.codec.is_current(value)
    assert written.framing.describe(value) == ("pressroom.Document", data)


def test_a_record_of_a_later_schema_is_resolved(written: Written) -> None:
    news = {"name": "news", "type": "long", "default": 0}
    later = FIRST | {"fields": [*FIRST["fields"], news]}
    data = {"id": "1", "source": "here", "title": "Title", "text": "Text", "news": 1}
    assert written.codec.decode(written.encode(later, data)) == DOCUMENT


def test_the_other_framing_is_read_too(written: Written) -> None:
    value = SINGLE_OBJECT.codec(written.topic).encode(DOCUMENT)
    assert written.codec.decode(value) == DOCUMENT
    assert written.framing.describe(value)[0] == "pressroom.Document"


@pytest.mark.parametrize("alien", ["string", "array"])
def test_a_record_of_an_alien_schema_is_a_decode_error(written: Written, alien: str) -> None:
    schema = {"type": "array", "items": "string"} if alien == "array" else {"type": alien}
    value = written.encode(schema, ["a"] if alien == "array" else "a")
    with pytest.raises(DecodeError, match="damaged Document"):
        written.codec.decode(value)
    assert written.framing.describe(value) == ("", None)


def test_damage_is_a_decode_error(written: Written) -> None:
    value = written.codec.encode(DOCUMENT)
    for damaged in (None, b"", *(value[:end] for end in range(len(value))), value + b"!"):
        with pytest.raises(DecodeError):
            written.codec.decode(damaged)


def test_an_unknown_schema_is_a_decode_error_that_names_it(written: Written) -> None:
    alone = written.framing is SINGLE_OBJECT
    header = MAGIC + bytes(8) if alone else b"\x00\x7f\xff\xff\xff"
    named = "fingerprint 0000000000000000" if alone else "schema 2147483647"
    for _ in range(2):
        with pytest.raises(DecodeError, match=named):
            written.codec.decode(header + b"abc")


def test_a_value_of_another_type_is_refused(written: Written) -> None:
    with pytest.raises(RecordRejected, match="Document can't be encoded"):
        written.codec.encode(Document(1, "", "", ""))  # type: ignore[arg-type]


def test_a_join_and_dead_letters_work_by_every_driver(
    make_driver: MakeDriver, written: Written, request: pytest.FixtureRequest
) -> None:
    name = unique("halves")
    left, right = Topic(f"{name}.left", Half), Topic(f"{name}.right", Half)
    whole, copies = Topic(f"{name}.whole", Whole), Topic(f"{name}.copies", Half)
    pipeline = Pipeline(name)

    @pipeline.stage(reads=join(left, right), writes=whole)
    async def put_together(one: Half, other: Half) -> Whole:
        return Whole(one.text + other.text)

    @pipeline.stage(reads=left, writes=copies)
    async def copy(half: Half) -> Half:
        return half

    driver = make_driver(pipeline)
    driver.write(left, Half("le"), key="k")
    driver.write_bytes(left.name, b"k", SINGLE_OBJECT.codec(left).encode(Half("LE")))
    driver.write_bytes(left.name, b"k", b"junk")
    driver.run()  # what waits is restored from the changelog by the next worker
    driver.write(right, Half("ft"), key="k")
    driver.write(right, Half("FT"), key="k")
    driver.run()
    assert driver.records(whole) == [Whole("left"), Whole("LEFT")]
    assert driver.records(copies) == [Half("le"), Half("LE")]
    assert len(driver.dead_letters) == 2
    first = MAGIC[:1] if written.framing is SINGLE_OBJECT else b"\x00"
    for topic in (whole, copies, pipeline.dead_letters):
        assert {(r.value or b"")[:1] for r in driver.received(topic)} == {first}
    if isinstance(driver, KafkaDriver):
        assert audit(request.getfixturevalue("kafka"), pipeline, framing=written.framing).ok


def test_without_a_registry_its_records_say_what_to_set() -> None:
    topic = Topic("framing.documents", Document)
    with pytest.raises(DecodeError, match="schema 7: set SCHEMA_REGISTRY_URL"):
        SINGLE_OBJECT.codec(topic).decode(b"\x00\x00\x00\x00\x07abc")


def test_a_record_waits_for_a_registry_that_is_not_there() -> None:
    framing = WireFormat("http://me:canary@127.0.0.1:1", patience=0)
    value = b"\x00\x00\x00\x00\x07abc"
    for read in (framing.reader(Document).decode, framing.learn, framing.describe):
        with pytest.raises(RetryLater, match=r"at http://127\.0\.0\.1:1 does not answer") as caught:
            read(value)
        assert "canary" not in str(caught.value)
    with pytest.raises(RetryLater):
        framing.prepare([Topic("framing.documents", Document)])
    assert framing.reader(Document).decode(SINGLE_OBJECT.reader(Document).encode(DOCUMENT))

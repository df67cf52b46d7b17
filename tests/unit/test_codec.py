"""Bytes ⇄ records: the framing of the Avro specification, old schemas, and any damage."""

import inspect
import json
import typing
from dataclasses import field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.schema import fingerprint as fastavro_fingerprint
from fastavro.utils import generate_many
from hypothesis import assume, given
from hypothesis import strategies as st

import schemas.record
from schemas import encryption, records
from schemas.codec import MAGIC, SINGLE_OBJECT, Codec, codec_for, fingerprint, remember
from schemas.errors import DecodeError, RecordRejected
from schemas.record import Schema, is_record, load_avsc, record, schema_of
from schemas.records import Classification, Document, Entity, Header, Headline, Original, Summary

describe = SINGLE_OBJECT.describe

AVRO = Path(schemas.record.__file__).parent / "avro"
CONTRACTS = sorted(path.stem for path in AVRO.glob("*.avsc"))
HISTORY = sorted((AVRO / "history").glob("*.avsc"))
CLASSES: list[type] = [
    cls for _, cls in inspect.getmembers(records, is_record) if cls.__module__ == records.__name__
]
VALUES: dict[object, st.SearchStrategy[Any]] = {
    str: st.text(max_size=30),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    bytes: st.binary(max_size=30),
    type(None): st.none(),
}


def values_of(annotation: object) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    if annotation in VALUES:
        return VALUES[annotation]
    if is_record(annotation):
        hints = typing.get_type_hints(annotation)
        return st.builds(annotation, **{name: values_of(hint) for name, hint in hints.items()})
    args = get_args(annotation)
    if get_origin(annotation) is Literal:
        return st.sampled_from(args)
    if get_origin(annotation) is list:
        return st.lists(values_of(args[0]), max_size=3)
    return st.one_of(*map(values_of, args))


ANY_RECORD = st.sampled_from(CLASSES).flatmap(values_of)
DOCUMENTS: st.SearchStrategy[Document] = values_of(Document)


def crc_64_avro(text: str) -> int:
    """The Avro specification's algorithm, word for word, as a second opinion."""
    empty = 0xC15D213AA4D7A795
    table = []
    for index in range(256):
        entry = index
        for _ in range(8):
            entry = (entry >> 1) ^ (empty & -(entry & 1))
        table.append(entry & 0xFFFFFFFFFFFFFFFF)
    result = empty
    for byte in text.encode():
        result = (result >> 8) ^ table[(result ^ byte) & 0xFF]
    return result


# --- there and back --------------------------------------------------------------------------


@given(ANY_RECORD)
def test_every_record_survives_its_encoding(made: Any) -> None:
    codec = codec_for(type(made))
    assert codec.decode(codec.encode(made)) == made


@given(DOCUMENTS)
def test_encoding_is_deterministic(document: Document) -> None:
    assert codec_for(Document).encode(document) == Codec(Document).encode(document)


def test_there_is_one_codec_for_a_class() -> None:
    assert codec_for(Document) is codec_for(Document)


# --- the framing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "known"), [('"null"', 0x63DD24E7CC258F8A), ('"int"', 0x7275D51A3F395C8F)]
)
def test_the_fingerprint_is_the_specification_s(schema: str, known: int) -> None:
    assert crc_64_avro(schema) == known
    assert bytes.fromhex(fastavro_fingerprint(schema, "CRC-64-AVRO")) == known.to_bytes(8, "little")


@pytest.mark.parametrize("cls", CLASSES)
def test_the_header_is_magic_and_fingerprint_in_little_endian_order(cls: type) -> None:
    canonical = schemas.record.canonical(schema_of(cls))
    expected = crc_64_avro(canonical).to_bytes(8, "little")
    assert codec_for(cls).fingerprint == fingerprint(schema_of(cls)) == expected


def test_the_header_is_ten_bytes_before_the_avro_binary() -> None:
    value = codec_for(Headline).encode(Headline("ab"))
    assert value[:2] == b"\xc3\x01" == MAGIC
    assert value[2:10] == codec_for(Headline).fingerprint
    assert value[10:] == b"\x04ab"


def test_no_two_records_share_a_fingerprint() -> None:
    assert len({codec_for(cls).fingerprint for cls in CLASSES}) == len(CLASSES)


@given(ANY_RECORD)
def test_a_reader_that_knows_only_the_contract_s_file_reads_it(made: Any) -> None:
    names = {load_avsc(name)["name"]: name for name in CONTRACTS}
    text = (AVRO / f"{names[type(made).__name__]}.avsc").read_text(encoding="utf-8")
    value = codec_for(type(made)).encode(made)
    assume(
        encryption.MARK_BYTES not in value
    )  # what begins as a ciphertext does is written otherwise
    stream = BytesIO(value[10:])
    data = schemaless_reader(stream, parse_schema(json.loads(text), named_schemas={}), None)
    assert stream.read() == b""
    assert data == plain(made)


def plain(value: Any) -> Any:
    """A record as the plain data that an Avro reader gives."""
    if is_record(type(value)):
        return {
            name: plain(getattr(value, name)) for name in inspect.signature(type(value)).parameters
        }
    return [plain(each) for each in value] if isinstance(value, list) else value


def test_is_current_tells_the_present_schema_from_others() -> None:
    value = codec_for(Headline).encode(Headline("a"))
    assert codec_for(Headline).is_current(value)
    assert not codec_for(Summary).is_current(value)
    assert not codec_for(Headline).is_current(None)
    assert not codec_for(Headline).is_current(b"")


@record(namespace="test")
class Listed:
    tags: list[str] | None


@record(namespace="test")
class Mapped:
    marks: dict[str, str]


@record(namespace="test")
class Wrapped:
    inner: Listed


@pytest.mark.parametrize(
    ("sample", "repeats"),
    [
        (Headline("a"), True),
        (Listed(["a"]), False),
        (Mapped({"a": "b"}), False),
        (Wrapped(Listed(None)), False),
    ],
    ids=repr,
)
def test_bytes_repeat_only_what_can_not_have_been_changed(sample: Any, repeats: bool) -> None:
    codec = codec_for(type(sample))
    assert codec.repeats(codec.encode(sample)) is repeats


# --- damage ----------------------------------------------------------------------------------


@given(DOCUMENTS, st.data())
def test_a_truncated_record_is_a_decode_error(document: Document, data: st.DataObject) -> None:
    value = codec_for(Document).encode(document)
    cut = data.draw(st.integers(0, len(value) - 1))
    with pytest.raises(DecodeError):
        codec_for(Document).decode(value[:cut])


@given(ANY_RECORD, st.binary(min_size=1, max_size=20))
def test_stray_bytes_after_a_record_are_a_decode_error(made: Any, stray: bytes) -> None:
    codec = codec_for(type(made))
    with pytest.raises(
        DecodeError, match=f"{len(stray)} stray bytes after the {type(made).__name__}"
    ):
        codec.decode(codec.encode(made) + stray)


def test_an_unknown_fingerprint_is_a_decode_error_that_names_it() -> None:
    with pytest.raises(DecodeError, match="unknown schema, fingerprint 0102030405060708"):
        codec_for(Document).decode(MAGIC + bytes(range(1, 9)) + b"\x00")


@pytest.mark.parametrize("cls", [c for c in CLASSES if c is not Headline])
def test_another_record_is_a_decode_error_even_where_its_fields_are_alike(cls: type) -> None:
    value = codec_for(Headline).encode(Headline("a"))
    with pytest.raises(DecodeError):
        codec_for(cls).decode(value)


def test_no_value_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="no value where a Document was expected"):
        codec_for(Document).decode(None)


@pytest.mark.parametrize(
    "value", [b"", b"\xc3", MAGIC, MAGIC + b"1234567", b"{}", b"\xc3\x02" + b"1" * 8]
)
def test_what_is_no_single_object_encoding_is_a_decode_error(value: bytes) -> None:
    with pytest.raises(DecodeError, match="no Avro single-object encoding"):
        codec_for(Document).decode(value)


@given(st.sampled_from(CLASSES), st.binary(max_size=200))
def test_random_bytes_are_a_decode_error(cls: type, junk: bytes) -> None:
    assume(not junk.startswith(MAGIC))
    with pytest.raises(DecodeError):
        codec_for(cls).decode(junk)


@given(st.sampled_from(CLASSES), st.binary(max_size=200))
def test_random_bytes_after_a_good_header_raise_nothing_but_decode_errors(
    cls: type, junk: bytes
) -> None:
    codec: Codec[Any] = codec_for(cls)
    try:
        decoded = codec.decode(MAGIC + codec.fingerprint + junk)
    except DecodeError:
        return
    assert isinstance(decoded, cls)


@given(ANY_RECORD, st.data())
def test_a_flipped_byte_raises_nothing_but_a_decode_error(made: Any, data: st.DataObject) -> None:
    codec = codec_for(type(made))
    value = bytearray(codec.encode(made))
    value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        codec.decode(bytes(value))
    except DecodeError:
        return


WRONG = [
    Headline(1),  # type: ignore[arg-type]
    Headline(None),  # type: ignore[arg-type]
    Headline(b"a"),  # type: ignore[arg-type]
    Headline("\ud800"),
    Entity("a", "b", "c"),  # type: ignore[arg-type]
    Entity("a", "b", 2**63),
    Classification("gossip", "en", "low"),  # type: ignore[arg-type]
    Header("a", "text"),  # type: ignore[arg-type]
    Original("t", 0, 0, 0, None, None, ["no header"]),  # type: ignore[list-item]
    Original("t", 0, 0, 0, None, None, None),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_value_of_another_type_is_refused_by_the_encoder(wrong: Any) -> None:
    with pytest.raises(RecordRejected, match=f"{type(wrong).__name__} can't be encoded"):
        codec_for(type(wrong)).encode(wrong)


# --- older schemas ---------------------------------------------------------------------------


def written_with(schema: Schema, data: Any) -> bytes:
    """A record as a writer with another schema makes it."""
    stream = BytesIO()
    schemaless_writer(stream, parse_schema(schema, named_schemas={}), data)
    return MAGIC + fingerprint(schema) + stream.getvalue()


def test_a_document_of_the_first_version_has_the_format_text() -> None:
    old = json.loads((AVRO / "history" / "document-1.avsc").read_text(encoding="utf-8"))
    value = written_with(old, {"id": "1", "source": "s", "title": "t", "text": "x"})
    assert codec_for(Document).decode(value) == Document("1", "s", "t", "x", format="text")
    assert not codec_for(Document).is_current(value)


def test_a_list_that_an_older_record_lacks_is_its_own() -> None:
    @record(namespace="test")
    class Tagged:
        id: str
        tags: list[str] = field(default_factory=list)

    fields = [f for f in schema_of(Tagged)["fields"] if f["name"] == "id"]
    older = schema_of(Tagged) | {"fields": fields}
    remember(older)
    value = written_with(older, {"id": "1"})
    codec_for(Tagged).decode(value).tags.append("changed")
    assert codec_for(Tagged).decode(value) == Tagged("1")


def test_there_is_a_history() -> None:
    assert "document-1.avsc" in [path.name for path in HISTORY]


@pytest.mark.parametrize("path", HISTORY, ids=lambda p: p.name)
def test_records_of_every_older_schema_are_read_by_the_present_class(path: Path) -> None:
    old = json.loads(path.read_text(encoding="utf-8"))
    cls = getattr(records, old["name"])
    kept = {f["name"] for f in old["fields"]} & set(inspect.signature(cls).parameters)
    data: Any
    for data in generate_many(parse_schema(old, named_schemas={}), 50):
        decoded = codec_for(cls).decode(written_with(old, data))
        assert isinstance(decoded, cls)
        assert {n: plain(getattr(decoded, n)) for n in kept} == {n: data[n] for n in kept}


@pytest.mark.parametrize("path", HISTORY, ids=lambda p: p.name)
def test_an_older_schema_differs_from_the_present_one(path: Path) -> None:
    old = json.loads(path.read_text(encoding="utf-8"))
    assert fingerprint(old) != fingerprint(schema_of(getattr(records, old["name"])))


@pytest.mark.parametrize("cut", range(10, 14))
def test_a_truncated_older_record_is_a_decode_error(cut: int) -> None:
    old = json.loads((AVRO / "history" / "document-1.avsc").read_text(encoding="utf-8"))
    value = written_with(old, {"id": "1", "source": "s", "title": "t", "text": "x"})
    with pytest.raises(DecodeError):
        codec_for(Document).decode(value[:cut])


def test_a_remembered_schema_is_readable_from_then_on() -> None:
    @record(namespace="acme")
    class Parcel:
        name: str
        weight: int = 7

    old = {
        "type": "record",
        "name": "Parcel",
        "namespace": "acme",
        "fields": [{"name": "name", "type": "string"}],
    }
    value = written_with(old, {"name": "box"})
    with pytest.raises(DecodeError, match="unknown schema"):
        codec_for(Parcel).decode(value)
    assert remember(old) == value[2:10]
    assert codec_for(Parcel).decode(value) == Parcel("box", 7)


# --- for people to look at -------------------------------------------------------------------


@given(ANY_RECORD)
def test_describe_gives_the_name_and_plain_data_of_any_known_record(made: Any) -> None:
    value = codec_for(type(made)).encode(made)
    assert describe(value) == (f"pressroom.{type(made).__name__}", plain(made))


@pytest.mark.parametrize("value", [None, b"", MAGIC, MAGIC + b"12345678", b"junk" * 5])
def test_describe_gives_nothing_for_what_it_can_t_read(value: bytes | None) -> None:
    assert describe(value) == ("", None)


def test_describe_gives_nothing_for_a_damaged_record() -> None:
    assert describe(codec_for(Document).encode(Document("1", "s", "t", "x"))[:-3]) == ("", None)

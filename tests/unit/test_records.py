"""Records and their contracts: every class agrees with its file, every file stands alone."""

import inspect
import json
from collections.abc import Iterator
from dataclasses import field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import pytest
from fastavro import parse_schema

import schemas.record
from schemas import records
from schemas.codec import MAGIC, codec_for, remember
from schemas.compatibility import difference_of
from schemas.errors import UsageError
from schemas.record import (
    DEFAULT_MAX_ITEMS,
    DEFAULT_MAX_LENGTH,
    Schema,
    Text,
    binding_of,
    bound,
    canonical,
    is_record,
    json_schema,
    load_avsc,
    record,
    schema_of,
)
from schemas.records import Entity, Headline

AVRO = Path(schemas.record.__file__).parent / "avro"
CONTRACTS = sorted(path.stem for path in AVRO.glob("*.avsc"))
HISTORY = sorted((AVRO / "history").glob("*.avsc"))
FILES = [AVRO / f"{name}.avsc" for name in CONTRACTS] + HISTORY
CLASSES = [
    cls for _, cls in inspect.getmembers(records, is_record) if cls.__module__ == records.__name__
]
PRIMITIVES = {str: "string", int: "long", float: "double", bool: "boolean", bytes: "bytes"}


@pytest.fixture(autouse=True)
def _forget_what_tests_define() -> Iterator[None]:
    before = list(bound)
    yield
    bound[:] = before


def parsed(path: Path) -> Schema:
    schema: Schema = json.loads(path.read_text(encoding="utf-8"))
    return schema


def named_types(schema: Any) -> Iterator[Schema]:
    """Every record and enum that is defined in a schema."""
    if isinstance(schema, list):
        for branch in schema:
            yield from named_types(branch)
    elif isinstance(schema, dict):
        if schema["type"] in ("record", "enum"):
            yield schema
        for part in ("items", "values", "type"):
            yield from named_types(schema.get(part))
        for each in schema.get("fields", ()):
            yield from named_types(each["type"])


def field_type(cls: type, name: str = "value") -> Any:
    return next(f["type"] for f in schema_of(cls)["fields"] if f["name"] == name)


# --- contracts -------------------------------------------------------------------------------


def test_every_contract_has_a_class_and_every_class_a_contract() -> None:
    names = {schema_of(cls)["name"] for cls in CLASSES}
    assert names == {load_avsc(name)["name"] for name in CONTRACTS}
    assert len(CLASSES) == len(CONTRACTS)


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_class_names_its_fields_as_its_contract_does(name: str) -> None:
    contract = load_avsc(name)
    cls = getattr(records, contract["name"])
    assert list(inspect.signature(cls).parameters) == [f["name"] for f in contract["fields"]]
    assert canonical(schema_of(cls)) == canonical(contract)
    assert contract["namespace"] == "pressroom"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(AVRO)))
def test_a_contract_loads_alone(path: Path) -> None:
    parse_schema(parsed(path), named_schemas={})


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(AVRO)))
def test_a_contract_explains_every_record_and_field(path: Path) -> None:
    for named in named_types(parsed(path)):
        if named["type"] == "record":
            assert named["doc"].strip(), named["name"]
            for each in named["fields"]:
                assert each["doc"].strip(), f"{named['name']}.{each['name']}"


def test_a_named_type_is_the_same_in_every_contract() -> None:
    seen: dict[str, Schema] = {}
    for name in CONTRACTS:
        for named in named_types(load_avsc(name)):
            assert named.get("namespace", "pressroom") == "pressroom"
            plain = {k: v for k, v in named.items() if k != "namespace"}
            assert seen.setdefault(named["name"], plain) == plain, f"{named['name']} in {name}"


def test_a_class_that_matches_its_contract_can_be_defined() -> None:
    @record(avsc="headline")
    class Headline:
        text: str

    assert schema_of(Headline)["doc"].startswith("An article's headline")


def test_a_class_with_another_name_than_its_contract_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Caption differs from schemas/avro/headline\.avsc"):

        @record(avsc="headline")
        class Caption:
            text: str


def test_a_class_with_another_field_name_is_refused() -> None:
    with pytest.raises(UsageError, match="Headline differs"):

        @record(avsc="headline")
        class Headline:
            title: str


def test_a_class_with_another_type_is_refused() -> None:
    with pytest.raises(UsageError, match="Headline differs"):

        @record(avsc="headline")
        class Headline:
            text: int


def test_a_class_with_one_more_field_is_refused() -> None:
    with pytest.raises(UsageError, match="Headline differs"):

        @record(avsc="headline")
        class Headline:
            text: str
            more: str


def test_a_class_with_another_order_is_refused() -> None:
    with pytest.raises(UsageError, match="Entity differs"):

        @record(avsc="entity")
        class Entity:
            label: str
            text: str
            count: int


def test_a_class_with_another_default_is_refused() -> None:
    with pytest.raises(UsageError, match="Document differs"):

        @record(avsc="document")
        class Document:
            id: str
            source: str
            title: str
            text: str
            format: str = "markdown"


def test_a_class_with_other_symbols_is_refused() -> None:
    with pytest.raises(UsageError, match="Classification differs"):

        @record(avsc="classification")
        class Classification:
            topic: records.Subject
            language: records.Language
            quality: Literal["high", "medium", "low"]


def test_a_class_with_an_optional_field_where_the_contract_has_none_is_refused() -> None:
    with pytest.raises(UsageError, match="Headline differs"):

        @record(avsc="headline")
        class Headline:
            text: str | None


# --- derived schemas -------------------------------------------------------------------------


@record
class Point:
    x: int
    y: int


@record
class Shape:
    """What it is like."""

    name: str
    size: float
    closed: bool
    raw: bytes
    kind: Literal["line", "area"]
    centre: Point
    first: Point | None
    points: list[Point]
    labels: dict[str, str]
    marks: dict[str, list[Point]]
    note: str | None = None
    tags: list[str] = field(default_factory=list)
    weight: int = 3


SHAPE = Shape(
    name="a",
    size=1.5,
    closed=True,
    raw=b"\x00\xff",
    kind="area",
    centre=Point(1, 2),
    first=None,
    points=[Point(3, 4), Point(5, 6)],
    labels={"k": "v"},
    marks={"m": [Point(7, 8)]},
)


def test_a_derived_schema_has_names_docs_and_order() -> None:
    schema = schema_of(Shape)
    assert (schema["type"], schema["name"], schema["namespace"]) == ("record", "Shape", __name__)
    assert schema["doc"] == "What it is like."
    assert [f["name"] for f in schema["fields"]] == list(inspect.signature(Shape).parameters)


def test_a_class_without_docstring_has_no_doc() -> None:
    assert "doc" not in schema_of(Point)


def test_a_namespace_can_be_chosen() -> None:
    @record(namespace="acme.shapes")
    class Circle:
        radius: float

    assert schema_of(Circle)["namespace"] == "acme.shapes"


@pytest.mark.parametrize(("python", "avro"), PRIMITIVES.items())
def test_a_primitive_has_its_avro_type(python: type, avro: str) -> None:
    made = record(type("Made", (), {"__annotations__": {"value": python}, "__module__": __name__}))
    assert field_type(made) == avro


def test_a_literal_becomes_an_enum() -> None:
    kind = field_type(Shape, "kind")
    assert (kind["type"], kind["symbols"]) == ("enum", ["line", "area"])


def test_none_or_a_type_becomes_a_union_with_null_first() -> None:
    assert field_type(Shape, "note") == ["null", "string"]


def test_lists_and_dicts_become_arrays_and_maps() -> None:
    assert field_type(Shape, "tags") == {"type": "array", "items": "string"}
    assert field_type(Shape, "labels") == {"type": "map", "values": "string"}


def test_defaults_are_in_the_schema_and_other_fields_have_none() -> None:
    defaults = {f["name"]: f["default"] for f in schema_of(Shape)["fields"] if "default" in f}
    assert defaults == {"note": None, "tags": [], "weight": 3}


def test_a_default_that_is_a_record_is_read_as_one() -> None:
    @record(namespace="test.defaults")
    class Older:
        name: str

    @record(namespace="test.defaults")
    class Placed:
        name: str
        centre: Point = Point(1, 2)
        points: list[Point] = field(default_factory=lambda: [Point(3, 4)])

    older = schema_of(Older) | {"name": "Placed"}
    data = codec_for(Older).encode(Older("a"))[10:]
    assert codec_for(Placed).decode(MAGIC + remember(older) + data) == Placed("a")
    assert difference_of(schema_of(Placed), older) == ""


def test_a_record_used_often_is_defined_once_and_then_named() -> None:
    assert field_type(Shape, "centre")["name"] == "Point"
    assert field_type(Shape, "first") == ["null", f"{__name__}.Point"]
    assert field_type(Shape, "points") == {"type": "array", "items": f"{__name__}.Point"}
    parse_schema(schema_of(Shape), named_schemas={})


def test_the_expanded_schema_writes_a_record_out_wherever_it_is_used() -> None:
    fields = {f["name"]: f["type"] for f in binding_of(Shape).expanded["fields"]}
    assert fields["points"]["items"] == fields["centre"] == schema_of(Point)


def test_every_kind_of_field_survives_its_encoding() -> None:
    codec = codec_for(Shape)
    decoded = codec.decode(codec.encode(SHAPE))
    assert decoded == SHAPE
    assert isinstance(decoded.marks["m"][0], Point)


def test_a_record_that_checks_itself_does_so_when_it_is_read() -> None:
    @record(namespace="test")
    class Positive:
        """A number that is positive."""

        number: int

        def __post_init__(self) -> None:
            if self.number < 1:
                raise ValueError("not positive")

    binding = binding_of(Positive)
    assert binding.from_avro({"number": 1}) == Positive(1)
    with pytest.raises(ValueError, match="not positive"):
        binding.from_avro({"number": 0})


def test_an_optional_record_survives_its_encoding() -> None:
    @record
    class Holder:
        value: Point | None

    codec = codec_for(Holder)
    for holder in (Holder(Point(1, 2)), Holder(None)):
        assert codec.decode(codec.encode(holder)) == holder


def test_the_old_spelling_of_optional_works() -> None:
    @record
    class Holder:
        value: Union[int, None]  # noqa: UP007, RUF100

    assert field_type(Holder) == ["null", "long"]


def test_bounds_and_docs_reach_the_schema() -> None:
    @record
    class Bounded:
        value: Annotated[str, Text(max=5, doc="five")]
        items: Annotated[list[Annotated[str, Text(max=7)]], Text(max=2)]
        maybe: Annotated[str | None, Text(max=9)]

    value, items, maybe = schema_of(Bounded)["fields"]
    assert value == {"name": "value", "type": {"type": "string", "maxLength": 5}, "doc": "five"}
    assert items["type"] == {
        "type": "array",
        "items": {"type": "string", "maxLength": 7},
        "maxItems": 2,
    }
    assert maybe["type"] == ["null", {"type": "string", "maxLength": 9}]


def test_a_record_is_immutable() -> None:
    with pytest.raises(AttributeError):
        SHAPE.name = "b"  # type: ignore[misc]


UNSUPPORTED = [
    object, Any, datetime, complex, list, dict, dict[int, str], tuple[str, ...], set[str],
    str | int, str | int | None, list[object], dict[str, object], object | None, None,
]  # fmt: skip


@pytest.mark.parametrize("annotation", UNSUPPORTED, ids=str)
def test_an_unsupported_type_is_refused_by_the_name_of_its_field(annotation: object) -> None:
    plain = type("Odd", (), {"__annotations__": {"fine": str, "odd": annotation}})
    with pytest.raises(UsageError, match=r"^Odd\.odd: "):
        record(plain)


def test_a_plain_class_is_no_record() -> None:
    assert not is_record(int)
    assert not is_record("Headline")
    with pytest.raises(UsageError, match="is not a record: decorate"):
        binding_of(int)


def test_an_unknown_contract_is_not_made_up() -> None:
    with pytest.raises(FileNotFoundError):

        @record(avsc="no_such_contract")
        class Nothing:
            text: str


# --- what a model is asked for ---------------------------------------------------------------


def json_nodes(schema: Any) -> Iterator[dict[str, Any]]:
    yield schema
    for branch in schema.get("anyOf", ()):
        yield from json_nodes(branch)
    for each in schema.get("properties", {}).values():
        yield from json_nodes(each)
    if "items" in schema:
        yield from json_nodes(schema["items"])


@record
class Reply:
    """All that a model can fill."""

    title: str
    short: Annotated[str, Text(max=10, doc="a few words")]
    count: int
    share: float
    sure: bool
    kind: Literal["a", "b"]
    note: str | None
    spots: list[Point]
    names: Annotated[list[str], Text(max=2)]


FILLABLE = [Reply] + [
    cls
    for cls in CLASSES
    if cls.__name__ in ("Classification", "Headline", "Summary", "Annotation")
]


@pytest.mark.parametrize("cls", FILLABLE)
def test_a_json_schema_bounds_every_string_and_array(cls: type) -> None:
    nodes = list(json_nodes(json_schema(binding_of(cls).expanded)))
    for node in nodes:
        if node.get("type") == "string":
            assert "enum" in node or 0 < node["maxLength"] <= DEFAULT_MAX_LENGTH
        if node.get("type") == "array":
            assert 0 < node["maxItems"] <= DEFAULT_MAX_ITEMS
    assert any(node.get("type") == "string" for node in nodes)


@pytest.mark.parametrize("cls", FILLABLE)
def test_a_json_schema_is_strict(cls: type) -> None:
    objects = [
        n for n in json_nodes(json_schema(binding_of(cls).expanded)) if n.get("type") == "object"
    ]
    for node in objects:
        assert node["required"] == list(node["properties"])
        assert node["additionalProperties"] is False


def test_a_json_schema_says_what_the_record_says() -> None:
    schema = json_schema(binding_of(Reply).expanded)["properties"]
    assert schema["title"] == {"type": "string", "maxLength": DEFAULT_MAX_LENGTH}
    assert schema["short"] == {"type": "string", "maxLength": 10, "description": "a few words"}
    assert schema["count"] == {"type": "integer"}
    assert schema["share"] == {"type": "number"}
    assert schema["sure"] == {"type": "boolean"}
    assert schema["kind"] == {"type": "string", "enum": ["a", "b"]}
    assert schema["note"]["anyOf"][0] == {"type": "null"}
    assert schema["note"]["anyOf"][1]["maxLength"] == DEFAULT_MAX_LENGTH
    assert schema["spots"]["maxItems"] == DEFAULT_MAX_ITEMS
    assert schema["names"]["maxItems"] == 2


def test_a_contract_s_bound_reaches_the_json_schema() -> None:
    text = json_schema(binding_of(Headline).expanded)["properties"]["text"]
    assert text == {"type": "string", "maxLength": 60, "description": "short headline"}


def test_a_nested_record_is_asked_for_in_full() -> None:
    schema = json_schema(binding_of(Reply).expanded)
    assert list(schema["properties"]["spots"]["items"]["properties"]) == ["x", "y"]
    entity = json_schema(binding_of(Entity).expanded)
    assert list(entity["properties"]) == ["text", "label", "count"]


@pytest.mark.parametrize("annotation", [bytes, dict[str, str], list[bytes]], ids=str)
def test_what_no_model_can_fill_is_refused(annotation: object) -> None:
    plain = type("Odd", (), {"__annotations__": {"odd": annotation}, "__module__": __name__})
    made = record(plain)
    with pytest.raises(UsageError, match="a model can't fill a field of Avro type"):
        json_schema(binding_of(made).expanded)

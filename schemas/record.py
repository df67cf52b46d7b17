"""Records: Python dataclasses bound to Avro schemas.

``@record`` makes a frozen dataclass and gives it an Avro schema, either derived from its fields or
read from an ``.avsc`` file, which then is the contract: a class that differs from its file can't be
defined. The field types and their Avro counterparts::

    str → string    int → long    float → double    bool → boolean    bytes → bytes
    Literal["a", "b"] → enum    another record → record    T | None → ["null", T]
    list[T] → array    dict[str, T] → map

``Annotated[str, Text(max=200, doc="…")]`` bounds a string; every string a model writes is bounded,
by :data:`DEFAULT_MAX_LENGTH` where nothing is said.
"""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import (
    Any,
    Literal,
    TypeGuard,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
)

from fastavro.schema import parse_schema, to_parsing_canonical_form

from schemas.errors import UsageError

Schema = dict[str, Any]
"""An Avro schema as parsed JSON; always of type ``record`` at the top."""

JsonSchema = dict[str, Any]
Convert = Callable[[Any], Any]
R = TypeVar("R")

bound: list[type] = []
"""Every record class there is."""

DEFAULT_MAX_LENGTH = 600
"""Characters a model may write into a string field that states no bound."""

DEFAULT_MAX_ITEMS = 12
"""Items a model may write into an array field that states no bound."""

_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_PRIMITIVES: dict[type, str] = {
    str: "string",
    int: "long",
    float: "double",
    bool: "boolean",
    bytes: "bytes",
}


@dataclass(frozen=True, slots=True)
class Text:
    """Bounds and describes a field: ``Annotated[str, Text(max=200, doc="one sentence")]``.

    Args:
        max: the most characters of a string, or the most items of an array.
        doc: what the field holds; shown to the model as well.
    """

    max: int | None = None
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Binding:
    """What ``@record`` knows of a class: its schema and how to convert to and from Avro's data.

    ``expanded`` is the schema with every nested type written out where it is used; Avro itself
    wants a named type defined once and then named.
    """

    schema: Schema
    expanded: Schema
    to_avro: Callable[[Any], dict[str, Any]]
    from_avro: Callable[[dict[str, Any]], Any]


@dataclass_transform(frozen_default=True)
def record(
    cls: type | None = None, *, avsc: str | None = None, namespace: str | None = None
) -> Any:
    """Turns a class into a record.

    Args:
        avsc: name of the file under ``schemas/avro`` that is the contract (without suffix);
            without it the schema is derived from the fields.
        namespace: Avro namespace of a derived schema; by default the class's module.

    Raises:
        UsageError: a field's type has no Avro counterpart, or the class differs from its file.
    """

    def bind(plain: type) -> type:
        made: type = dataclass(frozen=True)(plain)
        derived = _derive(made, namespace or made.__module__)
        expanded = derived if avsc is None else _contract(made, derived, avsc)
        schema = cast(Schema, _define_once(expanded, set()))
        binding = Binding(schema, expanded, _to_avro(made), _from_avro(made))
        bound.append(made)
        made.__avro__ = binding  # type: ignore[attr-defined]
        return made

    return bind if cls is None else bind(cls)


def is_record(cls: object) -> TypeGuard[type]:
    """Whether a class was made by ``@record``."""
    return isinstance(cls, type) and hasattr(cls, "__avro__")


def binding_of(cls: type) -> Binding:
    """The schema and converters of a record class.

    Raises:
        UsageError: the class is not a record.
    """
    if not is_record(cls):
        raise UsageError(f"{cls!r} is not a record: decorate the class with @record")
    return cast(Binding, cls.__avro__)  # type: ignore[attr-defined]


def schema_of(cls: type) -> Schema:
    """The Avro schema of a record class, as parsed JSON."""
    return binding_of(cls).schema


# --- from Python types to Avro ---------------------------------------------------------------


def _derive(cls: type, namespace: str) -> Schema:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = [_derive_field(cls, f, hints[f.name], namespace) for f in dataclasses.fields(cls)]
    schema: Schema = {"type": "record", "name": cls.__name__, "namespace": namespace}
    # dataclass() writes a signature as docstring where there is none; that is no documentation
    doc = cls.__doc__ or ""
    if doc and not doc.startswith(f"{cls.__name__}("):
        schema["doc"] = doc.strip()
    return schema | {"fields": fields}


def _derive_field(
    cls: type, field: "dataclasses.Field[Any]", hint: object, namespace: str
) -> Schema:
    annotation, text = _split_annotated(hint)
    try:
        avro = _avro_type(annotation, text, f"{cls.__name__}{field.name.title()}", namespace)
    except UsageError as error:
        raise UsageError(f"{cls.__name__}.{field.name}: {error}") from None
    derived: Schema = {"name": field.name, "type": avro}
    if text.doc:
        derived["doc"] = text.doc
    if field.default is not dataclasses.MISSING:
        derived["default"] = _plain(field.default)
    elif field.default_factory is not dataclasses.MISSING:
        derived["default"] = _plain(field.default_factory())
    return derived


def _plain(default: Any) -> Any:
    """A default as Avro's data: it is read as if a writer had written it."""
    if is_record(type(default)):
        return binding_of(type(default)).to_avro(default)
    return [_plain(each) for each in default] if isinstance(default, list) else default


def _split_annotated(hint: object) -> tuple[object, Text]:
    if get_origin(hint) is typing.Annotated:
        annotation, *extras = get_args(hint)
        return annotation, next((e for e in extras if isinstance(e, Text)), Text())
    return hint, Text()


def _avro_type(annotation: Any, text: Text, enum_name: str, namespace: str) -> Any:
    if annotation in _PRIMITIVES:
        name = _PRIMITIVES[annotation]
        return {"type": name, "maxLength": text.max} if text.max and name == "string" else name
    if is_record(annotation):
        return binding_of(annotation).expanded
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        _check_symbols(args)
        return {"type": "enum", "name": enum_name, "namespace": namespace, "symbols": list(args)}
    if origin in (Union, types.UnionType):
        return _avro_optional(args, text, enum_name, namespace)
    if origin is list:
        items = _avro_type(*_split_annotated(args[0]), enum_name, namespace)
        return {"type": "array", "items": items} | ({"maxItems": text.max} if text.max else {})
    if origin is dict and args[0] is str:
        return {
            "type": "map",
            "values": _avro_type(*_split_annotated(args[1]), enum_name, namespace),
        }
    raise UsageError(f"{annotation!r} has no Avro type; see the list in schemas/record.py")


def _check_symbols(symbols: tuple[Any, ...]) -> None:
    for symbol in symbols:
        if not (isinstance(symbol, str) and _SYMBOL.fullmatch(symbol)):
            raise UsageError(
                f"{symbol!r} can't be a symbol of an Avro enum, only letters, digits and _"
            )


def _avro_optional(args: tuple[Any, ...], text: Text, enum_name: str, namespace: str) -> Any:
    others = [a for a in args if a is not type(None)]
    if len(others) != 1 or len(args) != 2:
        raise UsageError("a union may only be `T | None`")
    annotation, inner = _split_annotated(others[0])
    return ["null", _avro_type(annotation, inner if inner.max else text, enum_name, namespace)]


def _define_once(schema: Any, defined: set[str]) -> Any:
    """The schema with each named type defined at its first place and named at the others."""
    if isinstance(schema, list):
        return [_define_once(branch, defined) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    if schema["type"] in ("record", "enum"):
        name = f"{schema.get('namespace', '')}.{schema['name']}"
        if name in defined:
            return name
        defined.add(name)
    nested = {k: _define_once(schema[k], defined) for k in ("items", "values") if k in schema}
    if "fields" in schema:
        nested["fields"] = [
            f | {"type": _define_once(f["type"], defined)} for f in schema["fields"]
        ]
    return schema | nested


# --- the contract file -----------------------------------------------------------------------


@cache
def load_avsc(name: str) -> Schema:
    """Reads a contract, ``schemas/avro/<name>.avsc``."""
    text = files("schemas").joinpath("avro", f"{name}.avsc").read_text(encoding="utf-8")
    return cast(Schema, json.loads(text))


def _contract(cls: type, derived: Schema, avsc: str) -> Schema:
    contract = load_avsc(avsc)
    if _shape(derived) != _shape(contract):
        raise UsageError(
            f"{cls.__name__} differs from schemas/avro/{avsc}.avsc:\n"
            f"  class {_shape(derived)}\n  file  {_shape(contract)}"
        )
    return contract


def _shape(schema: Any) -> Any:
    """What must agree between a class and its contract: names, order, types, defaults, symbols."""
    match schema:
        case [*branches]:
            return [_shape(branch) for branch in branches]
        case {"type": "record", "name": name, "fields": fields}:
            shapes = [(f["name"], _shape(f["type"]), f.get("default", "—")) for f in fields]
            return {"record": name, "fields": shapes}
        case {"type": "enum", "symbols": symbols}:
            return {"enum": symbols}
        case {"type": "array", "items": items}:
            return {"array": _shape(items)}
        case {"type": "map", "values": values}:
            return {"map": _shape(values)}
        case {"type": name}:
            return name
    return schema


def canonical(schema: Schema) -> str:
    """Avro's parsing canonical form, the text that fingerprints are made of."""
    return to_parsing_canonical_form(parse_schema(schema))


def holds_containers(schema: Any) -> bool:
    """Whether a record of this (expanded) schema holds lists or dicts, which can be changed."""
    match schema:
        case [*branches]:
            return any(map(holds_containers, branches))
        case {"type": "record", "fields": fields}:
            return any(holds_containers(f["type"]) for f in fields)
        case {"type": "array" | "map"}:
            return True
    return False


# --- converters ------------------------------------------------------------------------------


def _to_avro(cls: type) -> Callable[[Any], dict[str, Any]]:
    nested = _nested(cls, lambda c: binding_of(c).to_avro, _integer)
    if not nested:
        return vars
    return lambda r: vars(r) | {name: to(getattr(r, name)) for name, to in nested.items()}


def _from_avro(cls: type) -> Callable[[dict[str, Any]], Any]:
    nested = _nested(cls, lambda c: binding_of(c).from_avro, None)
    make = _maker(cls)
    if not nested:
        return make
    return lambda data: make(data | {name: of(data[name]) for name, of in nested.items()})


def _maker(cls: type) -> Callable[[dict[str, Any]], Any]:
    """The same as ``cls(**data)``, faster: it keeps the data, all of its fields, as its own."""
    if hasattr(cls, "__post_init__"):
        return lambda data: cls(**data)
    new, set_attribute = object.__new__, object.__setattr__

    def make(data: dict[str, Any]) -> Any:
        made: Any = new(cls)
        set_attribute(made, "__dict__", data)
        return made

    return make


def _integer(value: Any) -> int:
    if type(value) is not int:  # fastavro would cut 1.5 to 1 and write True as 1
        raise TypeError(f"{value!r} is no integer")
    return value


def _nested(
    cls: type, of_record: Callable[[type], Convert], of_integer: Convert | None
) -> dict[str, Convert]:
    """A converter for each field that needs one, because it holds records or integers."""
    hints = typing.get_type_hints(cls)
    found = {name: _convert(hints[name], of_record, of_integer) for name in hints}
    return {name: convert for name, convert in found.items() if convert is not None}


def _convert(
    annotation: object, of_record: Callable[[type], Convert], of_integer: Convert | None
) -> Convert | None:
    if is_record(annotation):
        return of_record(annotation)
    if annotation is int:
        return of_integer
    origin = get_origin(annotation)
    if origin is Literal:
        return None
    inner = [_convert(a, of_record, of_integer) for a in get_args(annotation)]
    one = next((c for c in inner if c is not None), None)
    if one is None:
        return None
    if origin is list:
        return lambda values: [one(v) for v in values]
    if origin is dict:
        return lambda values: {k: one(v) for k, v in values.items()}
    return lambda value: None if value is None else one(value)


# --- what a model is asked for ---------------------------------------------------------------


def json_schema(schema: Any) -> JsonSchema:
    """The JSON schema under which an endpoint decodes, so that every reply encodes as Avro.

    Every string and array is bounded (small models loop) and every property is required, as
    ``response_format: json_schema`` in strict mode asks for.
    """
    match schema:
        case ["null", other]:
            return {"anyOf": [{"type": "null"}, json_schema(other)]}
        case {"type": "record", "fields": fields}:
            return {
                "type": "object",
                "properties": {f["name"]: _described(f) for f in fields},
                "required": [f["name"] for f in fields],
                "additionalProperties": False,
            }
        case {"type": "enum", "symbols": symbols}:
            return {"type": "string", "enum": symbols}
        case {"type": "array", "items": items, **extra}:
            most = extra.get("maxItems", DEFAULT_MAX_ITEMS)
            return {"type": "array", "items": json_schema(items), "maxItems": most}
        case "string" | {"type": "string"}:
            most = schema.get("maxLength") if isinstance(schema, dict) else None
            return {"type": "string", "maxLength": most or DEFAULT_MAX_LENGTH}
        case "int" | "long" | {"type": "int" | "long"}:
            return {"type": "integer"}
        case "float" | "double" | {"type": "float" | "double"}:
            return {"type": "number"}
        case "boolean" | {"type": "boolean"}:
            return {"type": "boolean"}
    raise UsageError(f"a model can't fill a field of Avro type {schema!r}")


def _described(field: Mapping[str, Any]) -> JsonSchema:
    schema = json_schema(field["type"])
    return schema | {"description": field["doc"]} if "doc" in field else schema

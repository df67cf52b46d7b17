"""Whether records of an older schema can be read with the present one, by the rules of Avro."""

import json
from typing import Any

from schemas.record import Schema

_WORDS = {
    "reader_field_missing_default_value": "a new field has no default",
    "missing_enum_symbols": "an enum lost symbols",
    "missing_union_branch": "a union lost a type",
    "type_mismatch": "a type changed",
    "name_mismatch": "a name changed",
}


def difference_of(reader: Schema, writer: Schema) -> str:
    """Why records of one schema can't be read with another; empty when they can.

    The rules are those of Avro's schema resolution, as Apache Avro's own library checks them.
    """
    from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
    from avro.schema import parse

    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
    found = checker.get_compatibility(parse(json.dumps(reader)), parse(json.dumps(writer)))
    if found.compatibility is SchemaCompatibilityType.compatible:
        return ""
    kinds = dict.fromkeys(_WORDS.get(i.value, i.value) for i in found.incompatibilities)
    places = sorted(_place(reader, at) for at in found.locations if at != "/")
    where = f" (in {', '.join(places)})" if places else ""
    return f"{', '.join(kinds)}: {'; '.join(sorted(found.messages))}{where}"


def _place(schema: Any, location: str) -> str:
    """``/fields/3/type`` as the name of the field."""
    names: list[str] = []
    for part in location.strip("/").split("/"):
        if isinstance(schema, list) and part.isdigit() and int(part) < len(schema):
            schema = schema[int(part)]
            names += [schema["name"]] if isinstance(schema, dict) and "name" in schema else []
        else:
            schema = schema.get(part) if isinstance(schema, dict) else None
    return ".".join(names) or location

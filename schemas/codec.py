"""Bytes ⇄ records.

A value is a header that names the writer's schema, and the Avro binary. There are two headers:

* Avro's single-object encoding: ``C3 01`` and the 8-byte little-endian CRC-64-AVRO fingerprint of the
  schema. (Source: the Avro specification, "Single-object encoding".) Older schemas are the files in
  ``schemas/avro/history`` and whatever :func:`remember` was given (:mod:`streams.history`).
* Confluent's wire format: ``00`` and the schema's id in a registry, 4 bytes, big-endian
  (:mod:`schemas.registry`).

Which one is written is a :class:`Framing`'s to say, one for a process. A record that was written with
another schema than the present one is read with that schema and resolved to the present one.
"""

import json
import logging
from collections.abc import Iterable
from contextlib import suppress
from copy import deepcopy
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import Any, Generic, NamedTuple, TypeVar, cast

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.schema import fingerprint as avro_fingerprint

from schemas import encryption
from schemas.errors import DecodeError, RecordRejected, Stop
from schemas.record import Schema, binding_of, bound, canonical, holds_containers
from schemas.topics import Topic

log = logging.getLogger(__name__)

R = TypeVar("R")

MAGIC = b"\xc3\x01"
WIRE_MAGIC = b"\x00"
WIRE_HEADER = len(WIRE_MAGIC) + 4
_HEADER = len(MAGIC) + 8
_HINT = "`pressroom schemas keep` before a change keeps older ones readable (docs/schemas.md)"
_known: dict[bytes, Any] = {}


@cache
def _fingerprint(canonical_form: str) -> bytes:
    # fastavro prints the checksum's bytes in little-endian order, the order the encoding wants
    return bytes.fromhex(avro_fingerprint(canonical_form, "CRC-64-AVRO"))


def fingerprint(schema: Schema) -> bytes:
    """The 8 bytes that name a schema in the encoding's header."""
    return _fingerprint(canonical(schema))


def remember(schema: Schema) -> bytes:
    """Makes records that were written with this (older) schema readable; gives its fingerprint."""
    mark = fingerprint(schema)
    _known.setdefault(mark, parse_schema(schema))
    return mark


@cache
def _remember_history() -> None:
    for entry in files("schemas").joinpath("avro", "history").iterdir():
        if entry.name.endswith(".avsc"):
            remember(json.loads(entry.read_text(encoding="utf-8")))


class Written(NamedTuple):
    """How a value was written: bytes of its header, its schema's fingerprint, its parsed schema."""

    header: int
    fingerprint: bytes
    schema: Any


class Framing:
    """Writes the single-object encoding, and reads it. :data:`SINGLE_OBJECT` is the one there is.

    :class:`schemas.registry.WireFormat` writes Confluent's wire format instead and reads both.
    """

    def prepare(self, topics: Iterable[Topic[Any]]) -> list[str]:
        """Makes topics writable; to be called before the first record. Gives what was registered.

        Raises:
            UsageError: a topic's schema is refused.
            RetryLater: the registry does not answer.
        """
        return []

    def codec(self, topic: Topic[R]) -> "Codec[R]":
        """Encodes and decodes the values of a topic."""
        return codec_for(topic.record)

    def reader(self, cls: type[R]) -> "Codec[R]":
        """Decodes records of a class, from whatever topic; does not encode."""
        return codec_for(cls)

    def written(self, value: bytes) -> Written:
        """How a value was written.

        Raises:
            DecodeError: by no framing, or with an unknown schema.
            RetryLater: the registry, which may know the schema, does not answer.
        """
        if value.startswith(MAGIC) and len(value) >= _HEADER:
            mark = value[len(MAGIC) : _HEADER]
            if not _is_known(mark):
                raise DecodeError(
                    f"written with an unknown schema, fingerprint {mark.hex()}; {_HINT}"
                )
            return Written(_HEADER, mark, _known[mark])
        number = wire_id(value)
        if number is not None:
            return self._written_by_id(number)
        raise DecodeError(f"no Avro single-object encoding: starts with {value[:10].hex()!r}")

    def _written_by_id(self, number: int) -> Written:
        raise DecodeError(
            f"no Avro single-object encoding, but maybe Confluent's wire format, schema {number}: "
            "set SCHEMA_REGISTRY_URL"
        )

    def learn(self, value: bytes | None) -> None:
        """Has a value's schema at hand from now on, if there is one.

        Raises:
            RetryLater: the registry, which may know the schema, does not answer.
        """
        with suppress(DecodeError):
            self.written(value or b"")

    def describe(self, value: bytes | None) -> tuple[str, dict[str, Any] | None]:
        """The full name and plain data of any record whose schema is known; for people to look at.

        Gives ``("", None)`` for bytes that can't be read.

        Raises:
            RetryLater: the registry, which may know the schema, does not answer.
        """
        try:
            written = self.written(value or b"")
        except DecodeError:
            return "", None
        stream = BytesIO(value or b"")
        stream.seek(written.header)
        try:
            data = cast(dict[str, Any], schemaless_reader(stream, written.schema, None))
            return str(written.schema["name"]), _readable(written.schema, data, value or b"")
        except Exception:  # damaged bytes fail in any way
            return "", None


def _readable(schema: Any, data: dict[str, Any], value: bytes) -> dict[str, Any]:
    if encryption.MARK_BYTES not in value:
        return data
    try:
        return encryption.decrypt(schema, data)
    except (Stop, DecodeError) as error:
        _warn_once(str(error))
        return data


@cache
def _warn_once(message: str) -> None:
    log.warning("shown as it is: %s", message)


def wire_id(value: bytes) -> int | None:
    """The schema's id in Confluent's wire format; None for what can't be that."""
    if not value.startswith(WIRE_MAGIC) or len(value) < WIRE_HEADER:
        return None
    return int.from_bytes(value[len(WIRE_MAGIC) : WIRE_HEADER], "big")


SINGLE_OBJECT = Framing()


class Codec(Generic[R]):
    """Encodes and decodes one record class."""

    def __init__(
        self, cls: type[R], framing: Framing = SINGLE_OBJECT, header: bytes | None = None
    ) -> None:
        """
        Args:
            cls: the record class.
            framing: reads the headers of values.
            header: what stands before the values it encodes; by default the single-object header.
        """
        binding = binding_of(cls)
        self._to_avro, self._from_avro = binding.to_avro, binding.from_avro
        self._schema = parse_schema(binding.schema)
        self._name, self._framing = cls.__name__, framing
        self._expanded = binding.expanded
        self._immutable = not holds_containers(binding.expanded)
        self.fingerprint = remember(binding.schema)
        self._prefix = MAGIC + self.fingerprint if header is None else header
        self._header = len(self._prefix)

    def encode(self, record: R) -> bytes:
        """The record's bytes.

        Raises:
            RecordRejected: a field holds a value of another type than its schema says.
        """
        try:
            data = self._to_avro(record)
            if encryption.encrypts():
                return self._written(encryption.encrypt(self._expanded, data))
            value = self._written(data)
            if encryption.MARK_BYTES in value:  # or seems to
                return self._written(encryption.encrypt(self._expanded, data))
            return value
        except Exception as error:  # fastavro raises whatever the value's type gives rise to
            raise RecordRejected(f"{self._name} can't be encoded: {_brief(error)}") from error

    def _written(self, data: dict[str, Any]) -> bytes:
        out = BytesIO()
        out.write(self._prefix)
        schemaless_writer(out, self._schema, data)
        return out.getvalue()

    def decode(self, value: bytes | None) -> R:
        """The record in the bytes.

        Raises:
            DecodeError: no framing, an unknown schema, or damaged or alien data.
            RetryLater: the registry, which may know the schema, does not answer.
            Stop: a field is encrypted, and this process has no key.
        """
        if value is None:
            raise DecodeError(f"no value where a {self._name} was expected")
        if value.startswith(self._prefix):
            header, writer, reader = self._header, self._schema, None
        else:
            header, mark, writer = self._framing.written(value)
            reader = None if mark == self.fingerprint else self._schema
        stream = BytesIO(value)
        stream.seek(header)
        try:
            data: Any = schemaless_reader(stream, writer, reader)
            if reader is not None and not self._immutable:
                # a default list is the schema's own, for all records there are
                data = deepcopy(data)
            if encryption.MARK_BYTES in value:
                data = encryption.decrypt(self._expanded, data)
            record: R = self._from_avro(data)
        except (Stop, DecodeError):
            raise
        except Exception as error:  # as above: damaged bytes fail in any way
            raise DecodeError(f"damaged {self._name}: {_brief(error)}") from error
        if stream.tell() != len(value):
            raise DecodeError(f"{len(value) - stream.tell()} stray bytes after the {self._name}")
        return record

    def is_current(self, value: bytes | None) -> bool:
        """Whether bytes are framed as this codec frames them, with the present schema."""
        return value is not None and value.startswith(self._prefix)

    def repeats(self, value: bytes) -> bool:
        """Whether a record that was decoded from these bytes is sure to be encoded to the same.

        Not one that holds lists or dicts, which may have been changed since.
        """
        return self._immutable and value.startswith(self._prefix) and not encryption.encrypts()


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


_codecs: dict[type, Codec[Any]] = {}


def codec_for(cls: type[R]) -> Codec[R]:
    """The codec of a record class; one for the process."""
    codec = _codecs.get(cls)
    if codec is None:
        codec = _codecs[cls] = Codec(cls)
    return codec


def _is_known(mark: bytes) -> bool:
    if mark not in _known:
        _remember_history()
        for cls in bound:
            codec_for(cls)
    return mark in _known

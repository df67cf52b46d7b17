"""Bytes ⇄ records, by Avro's single-object encoding.

A value is ``C3 01``, the 8-byte little-endian CRC-64-AVRO fingerprint of the writer's schema, and
the Avro binary. (Source: the Avro specification, "Single-object encoding".) A record written with an
older schema is read with that schema and resolved to the current one; older schemas are the files in
``schemas/avro/history`` and whatever :func:`remember` was given.
"""

import json
import logging
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import Any, Generic, TypeVar, cast

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.schema import fingerprint as avro_fingerprint

from schemas import encryption
from schemas.errors import DecodeError, RecordRejected, Stop
from schemas.record import Schema, binding_of, bound, canonical

log = logging.getLogger(__name__)

R = TypeVar("R")

MAGIC = b"\xc3\x01"
_HEADER = len(MAGIC) + 8
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


class Codec(Generic[R]):
    """Encodes and decodes one record class."""

    def __init__(self, cls: type[R]) -> None:
        binding = binding_of(cls)
        self._to_avro, self._from_avro = binding.to_avro, binding.from_avro
        self._schema = parse_schema(binding.schema)
        self._name, self._expanded = cls.__name__, binding.expanded
        self.fingerprint = remember(binding.schema)
        self._prefix = MAGIC + self.fingerprint

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
            if encryption.holds_ciphertext(value):  # or seems to
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
            DecodeError: no single-object encoding, an unknown schema, or damaged or alien data.
            Stop: a field is encrypted, and this process has no key.
        """
        if value is None:
            raise DecodeError(f"no value where a {self._name} was expected")
        current = value.startswith(self._prefix)
        writer = self._schema if current else self._writer_schema(value)
        stream = BytesIO(value)
        stream.seek(_HEADER)
        try:
            data: Any = schemaless_reader(stream, writer, None if current else self._schema)
            if encryption.holds_ciphertext(value):
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
        """Whether the bytes are as they would be written now: the same schema, nothing to encrypt."""
        return value is not None and value.startswith(self._prefix) and not encryption.encrypts()

    def _writer_schema(self, value: bytes) -> Any:
        if len(value) < _HEADER or not value.startswith(MAGIC):
            raise DecodeError(f"no Avro single-object encoding: starts with {value[:10].hex()!r}")
        _remember_history()
        mark = value[len(MAGIC) : _HEADER]
        if mark not in _known:
            raise DecodeError(f"written with an unknown schema, fingerprint {mark.hex()}")
        return _known[mark]


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


_codecs: dict[type, Codec[Any]] = {}


def codec_for(cls: type[R]) -> Codec[R]:
    """The codec of a record class; one for the process."""
    codec = _codecs.get(cls)
    if codec is None:
        codec = _codecs[cls] = Codec(cls)
    return codec


def describe(value: bytes | None) -> tuple[str, dict[str, Any] | None]:
    """The full name and plain data of any record whose schema is known; for people to look at.

    Gives ``("", None)`` for bytes that can't be read.
    """
    if value is None or not value.startswith(MAGIC) or len(value) < _HEADER:
        return "", None
    schema = _any_schema(value[len(MAGIC) : _HEADER])
    if schema is None:
        return "", None
    stream = BytesIO(value)
    stream.seek(_HEADER)
    try:
        data = cast(dict[str, Any], schemaless_reader(stream, schema, None))
        return str(schema["name"]), _readable(schema, data, value)
    except Exception:  # damaged bytes fail in any way
        return "", None


def _readable(schema: Any, data: dict[str, Any], value: bytes) -> dict[str, Any]:
    if not encryption.holds_ciphertext(value):
        return data
    try:
        return encryption.decrypt(schema, data)
    except (Stop, DecodeError) as error:
        _warn_once(str(error))
        return data


@cache
def _warn_once(message: str) -> None:
    log.warning("shown as it is: %s", message)


def _any_schema(mark: bytes) -> Any:
    if mark not in _known:
        _remember_history()
        for cls in bound:
            codec_for(cls)
    return _known.get(mark)

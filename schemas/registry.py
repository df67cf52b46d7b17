"""A schema registry: values in Confluent's wire format, schemas in the subjects ``TOPIC-value``.

All schemas that a process writes are registered, or found, before its first record
(:meth:`WireFormat.prepare`); a change that the readers of older records could not bear is refused
then. From there on the registry is only asked about schemas that others wrote with, each once. While
it is away such records raise :class:`~schemas.errors.RetryLater`, never
:class:`~schemas.errors.DecodeError`: they can be read once it is back.
"""

import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from confluent_kafka.schema_registry import RegisteredSchema, SchemaRegistryClient
from confluent_kafka.schema_registry import Schema as Registered
from confluent_kafka.schema_registry.error import SchemaRegistryError
from fastavro import parse_schema

from schemas.codec import WIRE_HEADER, WIRE_MAGIC, Codec, Framing, Written, remember
from schemas.compatibility import difference_of
from schemas.errors import DecodeError, RetryLater, UsageError
from schemas.record import schema_of
from schemas.topics import Topic

log = logging.getLogger(__name__)

R = TypeVar("R")
A = TypeVar("A")

PATIENCE = 15.0
"""Seconds a start waits for a registry that does not answer."""

COMPATIBILITY = "BACKWARD"
"""What a subject is set to: the present schema reads what was written with the one before."""

_STRICTER = ("BACKWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")
_TIMEOUT = 5.0
_PAUSE, _LONGEST_PAUSE = 1.0, 10.0
_UNKNOWN_FOR = 30.0
# measured: Apicurio says "not found" for up to 10 s after it has begun to answer, until it has read
# what it kept
_REREADS_FOR = 60.0
_MOST_UNKNOWN = 10_000
_NOT_THERE = (40401, 40402, 40403)


@dataclass(frozen=True, slots=True)
class Change:
    """A topic's schema that its subject does not hold yet."""

    topic: Topic[Any]
    version: int | None
    """The version it would follow; None for the first."""
    difference: str
    """Why it is refused; empty when it may be registered."""

    @property
    def subject(self) -> str:
        return subject_of(self.topic.name)

    def __str__(self) -> str:
        name = self.topic.record.__name__
        if self.version is None:
            return f"{self.subject}: {name} is its first version"
        if not self.difference:
            return f"{self.subject}: {name} is compatible with version {self.version}"
        return f"{self.subject}: {name} can't follow version {self.version}: {self.difference}"


def subject_of(topic: str) -> str:
    """Where a topic's schema is kept, by Confluent's TopicNameStrategy."""
    return f"{topic}-value"


class _Client:
    """confluent-kafka's client, its errors sorted by what the caller must do."""

    def __init__(self, url: str, user_info: str | None, ca: str | None) -> None:
        self.url = _without_secrets(url)
        config: dict[str, Any] = {"url": url, "timeout": _TIMEOUT, "max.retries": 0}
        config |= {"basic.auth.user.info": user_info} if user_info else {}
        config |= {"ssl.ca.location": ca} if ca else {}
        try:
            self._client = SchemaRegistryClient(config)
        except OSError as error:  # of ssl too
            raise UsageError(
                f"can't read SCHEMA_REGISTRY_SSL_CA_LOCATION ({ca}): {error.strerror or error}"
            ) from None
        except ValueError:
            raise UsageError(
                "SCHEMA_REGISTRY_URL must be like http://host:port, "
                "SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO like user:password"
            ) from None

    def id_of(self, subject: str, schema: Registered) -> int | None:
        """The id of a schema; None if the subject does not hold it."""
        found = self._ask(lambda: self._client.lookup_schema(subject, schema))
        return found.schema_id if found is not None else None

    def latest(self, subject: str) -> RegisteredSchema | None:
        """A subject's last version; None if it has none."""
        return self._ask(lambda: self._client.get_latest_version(subject))

    def version(self, subject: str, version: int) -> RegisteredSchema | None:
        """A subject's version; None if there is none."""
        return self._ask(lambda: self._client.get_version(subject, version))

    def schema(self, number: int) -> Registered | None:
        """The schema of an id; None if there is none."""
        return self._ask(lambda: self._client.get_schema(number))

    def allows(self, subject: str, schema: Registered) -> bool:
        """Whether a schema may follow a subject's last version."""
        return bool(self._ask(lambda: self._client.test_compatibility(subject, schema)))

    def compatibility(self, subject: str) -> str | None:
        """What a subject is set to; None if to nothing of its own."""
        return self._ask(lambda: self._client.get_compatibility(subject))

    def register(self, subject: str, schema: Registered) -> int:
        """Makes a schema a subject's last version, unless it holds it; gives its id."""
        if self.compatibility(subject) not in (COMPATIBILITY, *_STRICTER):
            self._ask(lambda: self._client.set_compatibility(subject, COMPATIBILITY))
        number = self._ask(lambda: self._client.register_schema(subject, schema))
        assert number is not None, "it registers or raises"
        return number

    def _ask(self, question: Callable[[], A]) -> A | None:
        """The registry's answer; None for "there is no such thing".

        Raises:
            UsageError: it refuses.
            RetryLater: it does not answer.
        """
        try:
            return question()
        except SchemaRegistryError as error:
            if error.error_code in _NOT_THERE:
                return None
            raise self._sorted(error) from None
        except (
            Exception
        ) as error:  # the HTTP client has many, and they are not part of its interface
            if _is_distrust(error):
                raise UsageError(
                    f"the certificate of the schema registry at {self.url} is not trusted: "
                    "set SCHEMA_REGISTRY_SSL_CA_LOCATION to the file of its CA"
                ) from None
            raise RetryLater(self._away(error)) from None

    def _sorted(self, error: SchemaRegistryError) -> UsageError | RetryLater:
        match error.http_status_code:
            case 401 | 403:
                return UsageError(
                    f"the schema registry at {self.url} refuses these credentials "
                    f"(HTTP {error.http_status_code}): see SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO"
                )
            case 404:
                return UsageError(
                    f"there is no Confluent-compatible schema registry at {self.url}: "
                    "SCHEMA_REGISTRY_URL needs its path too (Apicurio's is /apis/ccompat/v7)"
                )
            case 400 | 409 | 422:
                return UsageError(f"the schema registry refuses: {error.error_message}")
        return RetryLater(self._away(error))

    def _away(self, error: Exception) -> str:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        return (
            f"the schema registry at {self.url} does not answer ({said}): "
            "start it, or set SCHEMA_REGISTRY_URL"
        )


class WireFormat(Framing):
    """Writes Confluent's wire format, with the ids of a registry; reads single-object encoding too."""

    def __init__(
        self,
        url: str,
        user_info: str | None = None,
        ca: str | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """
        Args:
            url: of its Confluent-compatible API; several, separated by commas, are tried in turn.
            user_info: ``user:password``, for basic authentication.
            ca: a file of certificates to trust, in PEM; by default the public ones.
            patience: seconds that :meth:`prepare` waits for a registry that does not answer.

        Raises:
            UsageError: the URL is none, or the file can't be read.
        """
        self._client, self._patience = _Client(url, user_info, ca), patience
        self._codecs: dict[str, Codec[Any]] = {}
        self._written: dict[int, Written] = {}
        self._unknown: dict[int, float] = {}
        self._fetching = threading.Lock()
        self._pause, self._not_before = _PAUSE, 0.0
        self._reason, self._failed_at = "", -_REREADS_FOR

    # --- what this process writes ---------------------------------------------------------------

    def prepare(self, topics: Iterable[Topic[Any]]) -> list[str]:
        """See :meth:`schemas.codec.Framing.prepare`: registers what is missing, all or nothing."""
        wanted = [t for t in topics if t.name not in self._codecs]
        return self._patiently(lambda: self._register(wanted))

    def changes(self, topics: Iterable[Topic[Any]]) -> list[Change]:
        """What :meth:`prepare` would register, or refuse. Changes nothing.

        Raises:
            UsageError: the registry refuses to answer.
            RetryLater: it does not answer.
        """
        return self._patiently(lambda: list(self._changes(topics)))

    def codec(self, topic: Topic[R]) -> Codec[R]:
        if topic.name not in self._codecs:
            self.prepare([topic])
        return self._codecs[topic.name]

    def reader(self, cls: type[R]) -> Codec[R]:
        return Codec(cls, self)

    def _register(self, topics: Sequence[Topic[Any]]) -> list[str]:
        changes = list(self._changes(topics))
        for change in changes:
            if change.difference:
                raise UsageError(str(change))
        for change in changes:
            number = self._client.register(change.subject, _registered(change.topic))
            self._ready(change.topic, number)
        return [change.subject for change in changes]

    def _changes(self, topics: Iterable[Topic[Any]]) -> Iterator[Change]:
        for topic in topics:
            subject, schema = subject_of(topic.name), _registered(topic)
            number = self._client.id_of(subject, schema)
            if number is None:
                yield self._change(topic, subject, schema)
            else:
                self._ready(topic, number)

    def _change(self, topic: Topic[Any], subject: str, schema: Registered) -> Change:
        latest = self._client.latest(subject)
        if latest is None:
            return Change(topic, None, "")
        older = json.loads(latest.schema.schema_str or "{}")
        difference = difference_of(schema_of(topic.record), older)
        # the subject may be held to more than reading the last version
        if not difference and not self._client.allows(subject, schema):
            level = self._client.compatibility(subject)
            difference = f"the subject's compatibility, {level}, does not allow it"
        return Change(topic, latest.version, difference)

    def _ready(self, topic: Topic[Any], number: int) -> None:
        codec = Codec(topic.record, self, WIRE_MAGIC + number.to_bytes(4, "big"))
        schema = parse_schema(schema_of(topic.record))
        self._written[number] = Written(WIRE_HEADER, codec.fingerprint, schema)
        self._codecs[topic.name] = codec

    def _patiently(self, step: Callable[[], A]) -> A:
        until = time.monotonic() + self._patience
        while True:
            try:
                return step()
            except RetryLater as error:
                self._failed_at = time.monotonic()
                if self._failed_at + _PAUSE > until:
                    raise
                log.info("%s", error)
                time.sleep(_PAUSE)

    # --- what others wrote ----------------------------------------------------------------------

    def _written_by_id(self, number: int) -> Written:
        written = self._written.get(number)
        if written is None:
            with self._fetching:
                written = self._written.get(number) or self._fetched(number)
        return written

    def _fetched(self, number: int) -> Written:
        now = time.monotonic()
        if now < self._unknown.get(number, 0.0):
            raise _unknown_schema(number)
        if now < self._not_before:
            raise RetryLater(self._reason)
        try:
            written = self._asked(number)
        # a wrong password is no fault of the record either
        except (RetryLater, UsageError) as error:
            self._rest(error)
            raise RetryLater(self._reason) from error
        if self._reason:
            log.warning("the schema registry at %s answers again", self._client.url)
        self._pause, self._reason = _PAUSE, ""
        if written is None:
            if len(self._unknown) >= _MOST_UNKNOWN:
                self._unknown.clear()
            self._unknown[number] = now + _UNKNOWN_FOR
            raise _unknown_schema(number)
        self._written[number] = written
        return written

    def _asked(self, number: int) -> Written | None:
        try:
            written = self._parsed(number, self._client.schema(number))
        except (RetryLater, UsageError):
            self._failed_at = time.monotonic()
            raise
        if written is None and time.monotonic() < self._failed_at + _REREADS_FOR:
            raise RetryLater(
                f"the schema registry at {self._client.url} was away, and does not know schema "
                f"{number} yet"
            )
        return written

    def _rest(self, error: Exception) -> None:
        """Asks no more for a while, since asking holds up the thread that reads."""
        if not self._reason:
            log.warning("records wait whose schema is not known yet: %s", error)
        self._not_before = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        self._reason = str(error)

    def _parsed(self, number: int, found: Registered | None) -> Written | None:
        if found is None:
            return None
        if found.schema_type != "AVRO":
            raise DecodeError(
                f"written with schema {number}, which is {found.schema_type}, not Avro"
            )
        named: dict[str, Any] = {}
        self._learn_references(found, named)
        try:
            schema = json.loads(found.schema_str or "")
            parsed = parse_schema(schema, named_schemas=named)
            # what refers to others has no canonical form of its own, and is none of ours
            mark = b"" if found.references else remember(schema)
        except Exception as error:  # what is registered as Avro may be anything
            raise DecodeError(f"written with schema {number}, which is broken: {error}") from error
        return Written(WIRE_HEADER, mark, parsed)

    def _learn_references(self, schema: Registered, named: dict[str, Any]) -> None:
        for reference in schema.references or ():
            found = self._client.version(reference.subject or "", reference.version or 0)
            if found is not None and found.schema.schema_str:
                self._learn_references(found.schema, named)
                with suppress(Exception):  # what refers to it says that it is broken
                    parse_schema(json.loads(found.schema.schema_str), named_schemas=named)


def _registered(topic: Topic[Any]) -> Registered:
    return Registered(json.dumps(schema_of(topic.record), ensure_ascii=False), "AVRO")


def _unknown_schema(number: int) -> DecodeError:
    return DecodeError(f"written with schema {number}, which the schema registry does not know")


def _without_secrets(urls: str) -> str:
    shown = []
    for url in urls.split(","):
        parts = urlsplit(url.strip())
        shown.append(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="")))
    return ",".join(shown)


def _is_distrust(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False

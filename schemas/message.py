"""What goes through Kafka: records as bytes with headers, and the lineage the headers carry.

Headers follow CloudEvents' Kafka binding in binary mode (``ce_…``) and W3C Trace Context
(``traceparent``). Five extension attributes carry the lineage of a record that a stage wrote:

``ce_inputs``
    the records it was made from, ``topic:partition:offset``, comma-separated;
``ce_origin``
    the position of the record that entered the pipeline and from which all this comes;
``ce_part``
    ``i/n`` when one input gave n > 1 outputs, counted from 0;
``ce_prompt``, ``ce_model``
    what the stage itself asked, and whom, if it did;
``ce_calls``
    every completion on the way here, a JSON array of
    ``[id, stage, prompt, model, prompt tokens, completion tokens, attempts]``.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from hashlib import blake2b
from typing import NamedTuple

Headers = list[tuple[str, bytes | None]]

CONTENT_TYPE = b"application/avro"


class Position(NamedTuple):
    """Where a record stands in Kafka."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """The inverse of ``str``; ValueError if the text is no position."""
        topic, partition, offset = text.rsplit(":", 2)
        return cls(topic, int(partition), int(offset))


@dataclass(frozen=True, slots=True)
class Received:
    """A record as read from a topic. ``timestamp`` is in milliseconds since 1970 UTC."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def position(self) -> Position:
        return Position(self.topic, self.partition, self.offset)

    @property
    def size(self) -> int:
        """Bytes of key and value."""
        return len(self.value or b"") + len(self.key or b"")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to be written. ``partition`` -1 leaves the choice to the partitioner."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int = -1


@dataclass(frozen=True, slots=True)
class Call:
    """One completion: who asked what of whom, and the tokens of all its attempts together."""

    id: str
    stage: str
    prompt: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    attempts: int


def _encode_calls(calls: Iterable[Call]) -> bytes:
    return json.dumps([astuple(c) for c in calls], separators=(",", ":")).encode()


def calls_in(headers: Headers) -> list[Call]:
    """The completions that a record's headers tell of; empty for a record without any."""
    encoded = dict(headers).get("ce_calls")
    if not encoded:
        return []
    try:
        return [Call(*entry) for entry in json.loads(encoded)]
    except (ValueError, TypeError):
        return []  # a foreign producer's header of the same name


def _trace_and_span(parent: bytes | None, ce_id: str) -> bytes:
    """The trace goes on from the parent; the span's id is the record's, so it is deterministic."""
    trace = ce_id.encode()
    if parent is not None and len(parent) == 55 and parent.startswith(b"00-"):
        trace = parent[3:35]
    return b"00-%s-%s-01" % (trace, ce_id[:16].encode())


class _Clock:
    """RFC 3339 times in UTC to the millisecond; the text is made once per millisecond."""

    def __init__(self) -> None:
        self._at, self._text = -1, b""

    def now(self) -> bytes:
        at = time.time_ns() // 1_000_000
        if at != self._at:
            seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // 1000))
            self._at, self._text = at, f"{seconds}.{at % 1000:03d}Z".encode()
        return self._text


_clock = _Clock()


def record_id(*parts: str) -> str:
    """A deterministic id: 32 hexadecimal digits made of the parts."""
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def first_headers(ce_id: str, source: str, ce_type: str) -> Headers:
    """Headers of a record that enters a pipeline."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", ce_id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", ce_type.encode()),
        ("ce_time", _clock.now()),
        ("content-type", CONTENT_TYPE),
        ("traceparent", _trace_and_span(None, ce_id)),
    ]


class Lineage:
    """The headers of everything that one input (or one join's inputs) gives rise to."""

    def __init__(self, stage: str, inputs: Sequence[Received]) -> None:
        """
        Args:
            stage: ``pipeline/stage``, the CloudEvents source of the outputs.
            inputs: the records the outputs are made from; the first one's trace is carried on.
        """
        self._stage = stage
        self._inputs = inputs
        known = dict(inputs[0].headers)
        self._ids = [self._id_of(i, known if i is inputs[0] else dict(i.headers)) for i in inputs]
        self._parent = known.get("traceparent")
        self._origin = known.get("ce_origin") or str(inputs[0].position).encode()
        self._calls = known.get("ce_calls")

    @staticmethod
    def _id_of(received: Received, headers: dict[str, bytes | None]) -> str:
        return (headers.get("ce_id") or b"").decode("utf-8", "replace") or str(received.position)

    def headers(self, ce_type: str, part: int, parts: int, own: Sequence[Call] = ()) -> Headers:
        """Headers of output number ``part`` of ``parts``; ``own`` are the stage's completions."""
        ce_id = record_id(self._stage, *self._ids, ce_type, str(part))
        headers: Headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", ce_id.encode()),
            ("ce_source", self._stage.encode()),
            ("ce_type", ce_type.encode()),
            ("ce_time", _clock.now()),
            ("content-type", CONTENT_TYPE),
            ("traceparent", _trace_and_span(self._parent, ce_id)),
            ("ce_inputs", ",".join(str(i.position) for i in self._inputs).encode()),
            ("ce_origin", self._origin),
        ]
        if parts > 1:
            headers.append(("ce_part", b"%d/%d" % (part, parts)))
        if own:
            headers.append(("ce_prompt", ",".join(dict.fromkeys(c.prompt for c in own)).encode()))
            headers.append(("ce_model", ",".join(dict.fromkeys(c.model for c in own)).encode()))
        calls = self._all_calls(own)
        if calls:
            headers.append(("ce_calls", calls))
        return headers

    def _all_calls(self, own: Sequence[Call]) -> bytes | None:
        if not own and len(self._inputs) == 1:
            return self._calls  # as it came: nothing to decode
        # the branches of a diamond share their beginnings: each completion counts once
        calls = dict.fromkeys(call for i in self._inputs for call in calls_in(i.headers))
        return _encode_calls([*calls, *own]) if calls or own else None


def origin_of(received: Received) -> str:
    """The position of the record from which this one comes; its own if it entered here."""
    origin = dict(received.headers).get("ce_origin")
    return origin.decode("utf-8", "replace") if origin else str(received.position)


def inputs_of(headers: Headers) -> list[Position]:
    """The positions of the records that a stage made this one from; empty if none wrote it."""
    encoded = dict(headers).get("ce_inputs")
    if not encoded:
        return []
    try:
        return [Position.parse(text) for text in encoded.decode().split(",")]
    except ValueError:
        return []

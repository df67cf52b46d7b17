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
    ``[id, stage, prompt, model, prompt tokens, completion tokens, attempts, reused]``.
"""

import json
import time
from binascii import hexlify
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from hashlib import blake2b
from typing import Any, NamedTuple

Headers = list[tuple[str, bytes | None]]

_VERSION = ("ce_specversion", b"1.0")
_CONTENT = ("content-type", b"application/avro")
_TRACEPARENT = b"00-%b-%b-01"  # the version, the trace, the span, sampled


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


class Received(NamedTuple):
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
        """Where it stands."""
        return Position(self.topic, self.partition, self.offset)

    @property
    def size(self) -> int:
        """Bytes of key and value."""
        return len(self.value or b"") + len(self.key or b"")


class Outgoing(NamedTuple):
    """A record to be written. ``partition`` -1 leaves the choice to the partitioner."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int = -1


make: Any = tuple.__new__
"""``make(Received, fields)`` is ``Received(*fields)``, with all fields, in half the time."""


@dataclass(frozen=True, slots=True)
class Call:
    """One completion: who asked what of whom, and the tokens of all its attempts together.

    ``reused`` of the attempts repeat an earlier completion; their tokens, paid for then, don't count.
    """

    id: str
    stage: str
    prompt: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    attempts: int
    reused: int = 0


def _encode_calls(calls: Iterable[Call]) -> bytes:
    return json.dumps([astuple(c) for c in calls], separators=(",", ":")).encode()


def calls_in(headers: Headers) -> list[Call]:
    """The completions that a record's headers tell of; empty for a record without any."""
    encoded = dict(headers).get("ce_calls")
    if not encoded:
        return []
    try:
        entries = json.loads(encoded)
    except (ValueError, RecursionError):
        return []  # a foreign producer's header of the same name
    return [Call(*e) for e in entries if _is_call(e)] if isinstance(entries, list) else []


def _is_call(entry: object) -> bool:
    kinds = (str, str, str, str, int, int, int, int)
    return (
        isinstance(entry, list)
        and len(entry) > 6
        and tuple(map(type, entry)) == kinds[: len(entry)]
    )


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
    content = "\0".join(parts).encode("utf-8", "surrogatepass")
    return blake2b(content, digest_size=16).hexdigest()


@cache
def _constants(stage: str, ce_type: str) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    return ("ce_source", stage.encode()), ("ce_type", ce_type.encode())


def first_headers(ce_id: str, source: str, ce_type: str) -> Headers:
    """Headers of a record that enters a pipeline.

    Args:
        ce_id: 32 hexadecimal digits, as :func:`record_id` makes them.
        source: where it came from, a URI.
        ce_type: the full name of its schema.
    """
    encoded = ce_id.encode()
    return [
        _VERSION,
        ("ce_id", encoded),
        ("ce_source", source.encode("utf-8", "replace")),
        ("ce_type", ce_type.encode()),
        ("ce_time", _clock.now()),
        _CONTENT,
        ("traceparent", _TRACEPARENT % (encoded, encoded[:16])),
    ]


def lineage(
    stage: str, inputs: Sequence[Received], ce_type: str, part: int = 0, parts: int = 1,
    own: Sequence[Call] = (), apart: str = "",
) -> Headers:  # fmt: skip
    """The headers of what a stage makes of one input (or one join's inputs).

    Args:
        stage: ``pipeline/stage``, the CloudEvents source.
        inputs: the records it is made from; the first one's trace is carried on.
        ce_type: the full name of its schema.
        part: its number among what the same inputs gave, from 0.
        parts: of how many.
        own: the stage's completions behind it.
        apart: what tells it from others of this type and part.
    """
    topic, partition, offset, _, _, _, headers = inputs[0]
    known = dict(headers).get
    first = positions = f"{topic}:{partition}:{offset}".encode()
    ids = known("ce_id") or first
    if len(inputs) > 1:
        positions, ids = _joined(positions, ids, inputs[1:])
    source, kind = _constants(stage, ce_type)
    content = b"%b\0%b\0%b\0%d" % (source[1], ids, kind[1], part)
    if apart:
        content += apart.encode()
    ce_id = hexlify(blake2b(content, digest_size=16).digest())
    trace, parent = ce_id, known("traceparent")
    if parent is not None and len(parent) == 55 and parent[3:35].isalnum():
        trace = parent[3:35]  # it goes on; the span's id is the record's, so it is deterministic
    made: Headers = [
        _VERSION,
        ("ce_id", ce_id),
        source,
        kind,
        ("ce_time", _clock.now()),
        _CONTENT,
        ("traceparent", _TRACEPARENT % (trace, ce_id[:16])),
        ("ce_inputs", positions),
        ("ce_origin", known("ce_origin") or first),
    ]
    if parts > 1:
        made.append(("ce_part", b"%d/%d" % (part, parts)))
    if own:
        made.append(("ce_prompt", ",".join(dict.fromkeys(c.prompt for c in own)).encode()))
        made.append(("ce_model", ",".join(dict.fromkeys(c.model for c in own)).encode()))
    calls = known("ce_calls")  # as it came: nothing to decode
    if own or len(inputs) > 1:
        calls = _all_calls(inputs, own)
    if calls:
        made.append(("ce_calls", calls))
    return made


def _joined(positions: bytes, ids: bytes, others: Sequence[Received]) -> tuple[bytes, bytes]:
    for other in others:
        position = str(other.position).encode()
        positions += b"," + position
        ids += b"\0" + (dict(other.headers).get("ce_id") or position)
    return positions, ids


def _all_calls(inputs: Sequence[Received], own: Sequence[Call]) -> bytes | None:
    # the branches of a diamond share their beginnings: each completion counts once
    calls = dict.fromkeys(call for i in inputs for call in calls_in(i.headers))
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

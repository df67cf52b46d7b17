"""Dead letters, for people to look at."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from consumers.reader import Reader, end_offsets, partitions_of, read_settled
from schemas.codec import SINGLE_OBJECT, Framing
from schemas.errors import RecordRejected, UsageError
from schemas.message import Position, Received
from schemas.records import DeadLetter, Original
from schemas.topics import Topic


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter and where it lies. ``id`` is ``partition:offset`` in the dead-letter topic."""

    received: Received
    letter: DeadLetter
    framing: Framing = SINGLE_OBJECT

    @property
    def id(self) -> str:
        return f"{self.received.partition}:{self.received.offset}"

    @property
    def key(self) -> str:
        return (self.received.key or b"").decode("utf-8", "replace")

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "id": self.id,
            "stage": self.letter.stage,
            "error": self.letter.error,
            "message": self.letter.message,
            "attempts": self.letter.attempts,
            "key": self.key,
            "timestamp": self.received.timestamp,
            "inputs": [self._original_to_json(i) for i in self.letter.inputs],
        }

    def _original_to_json(self, original: Original) -> dict[str, Any]:
        value = original.value
        _, data = self.framing.describe(value)
        readable = value is None or data is not None
        return {
            "topic": original.topic,
            "partition": original.partition,
            "offset": original.offset,
            "record": data,
            "bytes": None if readable or value is None else value.decode("utf-8", "replace"),
        }


def dead_letters(
    config: Mapping[str, Any], topic: Topic[DeadLetter], framing: Framing = SINGLE_OBJECT
) -> Iterator[Letter]:
    """All dead letters of a pipeline.

    Raises:
        UsageError: the topic does not exist.
        RetryLater: no broker answers.
    """
    for received in read_settled(config, [topic.name]):
        letter = _letter(received, framing)
        if letter is not None:
            yield letter


def dead_letter(
    config: Mapping[str, Any],
    topic: Topic[DeadLetter],
    letter_id: str,
    framing: Framing = SINGLE_OBJECT,
) -> Letter:
    """One dead letter.

    Args:
        letter_id: ``partition:offset``, as :attr:`Letter.id`.

    Raises:
        UsageError: there is none of that id.
    """
    if not re.fullmatch(r"[0-9]{1,9}:[0-9]{1,18}", letter_id):
        raise UsageError(f"{letter_id!r} is not of the form partition:offset, like 0:12")
    at = Position.parse(f"{topic.name}:{letter_id}")
    if at.partition >= partitions_of(config, [topic.name])[topic.name]:
        raise UsageError(f"{topic.name} has no partition {at.partition}")
    partition = (at.topic, at.partition)
    if at.offset < end_offsets(config, [partition])[partition]:
        with Reader(config, [partition], {partition: at.offset}) as reader:
            received = next(iter(reader.committed()), None)
        letter = _letter(received, framing) if received and received.position == at else None
        if letter is not None:
            return letter
    raise UsageError(f"no dead letter {letter_id} in {topic.name}; `pressroom dead list` shows all")


def _letter(received: Received, framing: Framing) -> Letter | None:
    try:
        return Letter(received, framing.reader(DeadLetter).decode(received.value), framing)
    except RecordRejected:
        return None  # a foreign record in the topic

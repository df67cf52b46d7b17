"""Ingestion: documents and how far their sources have been read, in the same transactions.

Interrupted and run again it resumes; run twice it adds nothing. A source's position is a record of a
compacted topic, committed together with the documents it speaks of. One ingestion at a time writes
into a topic: a second one fences the first, which then leaves without having lost anything.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from producers.sources import Entry, Source, Unreadable, read
from producers.transactional import RecordRefused, TransactionalProducer
from schemas.codec import SINGLE_OBJECT, Framing
from schemas.errors import OutcomeUnknown, RetryLater, TransactionAborted
from schemas.message import Outgoing, Received, first_headers, record_id
from schemas.records import DeadLetter, Document, Original, SourcePosition
from schemas.topics import Topic

BATCH_RECORDS = 500
BATCH_BYTES = 4 * 1024 * 1024
_ATTEMPTS = 30
_PAUSE = 1.0

ReadAll = Callable[[Sequence[str]], Iterator[Received]]
"""Reads all committed records of topics; given by the caller, since ways in know no ways out."""


@dataclass(slots=True)
class Report:
    """What an ingestion did. Counts are of documents and of sources (files)."""

    sources: int = 0
    unchanged: int = 0
    documents: int = 0
    dead: int = 0
    ids: list[str] = field(default_factory=list)
    """Ids of all documents of the sources, whether added now or before."""
    dead_ids: list[str] = field(default_factory=list)
    """The same of what could not become a document."""


@dataclass(slots=True)
class Progress:
    """How far an ingestion is, in bytes of its sources."""

    done: int
    total: int
    documents: int


@dataclass(slots=True)
class _Batch:
    records: list[Outgoing] = field(default_factory=list)
    positions: dict[str, SourcePosition] = field(default_factory=dict)
    size: int = 0

    @property
    def full(self) -> bool:
        return len(self.records) >= BATCH_RECORDS or self.size >= BATCH_BYTES


class Ingestion:
    """Reads sources into a topic, exactly once."""

    def __init__(
        self,
        config: Mapping[str, Any],
        pipeline: str,
        topic: Topic[Document],
        sources: Topic[SourcePosition],
        dead_letters: Topic[DeadLetter],
        read_all: ReadAll,
        on_progress: Callable[[Progress], None] = lambda _: None,
        framing: Framing = SINGLE_OBJECT,
    ) -> None:
        """
        Args:
            config: librdkafka settings, at least ``bootstrap.servers``.
            pipeline: its name, for the lineage of dead letters.
            topic: where documents go.
            sources: where the positions are kept.
            dead_letters: where what can't become a document goes.
            read_all: reads topics, read-committed, up to their present ends.
            on_progress: told after every document.
            framing: how values are written.
        """
        self._stage = f"{pipeline}/ingest"
        self._topic, self._sources, self._dead_letters = topic, sources, dead_letters
        self._read_all, self._on_progress = read_all, on_progress
        self._producer = TransactionalProducer(config, f"{pipeline}.ingest.{topic.name}")
        self._framing = framing
        self._positions: dict[str, SourcePosition] = {}
        self._known: set[str] | None = None
        self._left: int | None = None
        self._report = Report()
        self._batch = _Batch()

    def run(self, sources: Sequence[Source], limit: int | None = None) -> Report:
        """Reads what is new in the sources.

        Args:
            sources: what to read.
            limit: stop after so many documents, whether new or known; a later run goes on there.

        Raises:
            Fenced: another ingestion into this topic began.
            RetryLater: Kafka or the registry stayed away.
            Stop: the broker refuses.
            UsageError: the registry refuses a schema.
        """
        self._framing.prepare([self._topic, self._sources, self._dead_letters])
        self._patiently(self._producer.open)
        # only after the predecessor is fenced do the positions stand still
        self._positions = self._read_positions()
        self._left = limit
        sizes = {s.uri: _size(s) for s in sources}
        progress = Progress(0, sum(sizes.values()), 0)
        try:
            for source in sources:
                before = progress.done
                self._ingest(source, progress)
                progress.done = before + sizes[source.uri]
                self._on_progress(progress)
            self._flush()
        finally:
            self._producer.close()
        return self._report

    def _ingest(self, source: Source, progress: Progress) -> None:
        self._report.sources += 1
        fingerprint = _fingerprint(source)
        before = self._positions.get(self._position_key(source))
        same = before is not None and before.fingerprint == fingerprint
        done = before.entries if before is not None and same else 0
        # after a rewrite, or an interruption that may have come after one, some may be there
        doubtful = before is not None and not (same and before.complete)
        seen: Counter[str] = Counter()
        unchanged = before is not None and same and before.complete
        self._report.unchanged += unchanged
        count = 0
        for entry in read(source):
            if self._left == 0:
                return
            self._left = None if self._left is None else self._left - 1
            count = entry.index + 1
            progress.done += len(entry.text) if isinstance(entry, Entry) else len(entry.raw)
            ce_id = _entry_id(source, entry, seen)
            if entry.index < done or (doubtful and ce_id in self._known_ids()):
                self._note(entry, ce_id)
                continue
            self._add(source, entry, ce_id)
            progress.documents += 1
            self._place(source, fingerprint, count, complete=False)
            if self._batch.full:
                self._flush()
            self._on_progress(progress)
        if not unchanged:
            self._place(source, fingerprint, count, complete=True)

    def _note(self, entry: Entry | Unreadable, ce_id: str) -> None:
        ids = self._report.ids if isinstance(entry, Entry) else self._report.dead_ids
        ids.append(ce_id)

    def _add(self, source: Source, entry: Entry | Unreadable, ce_id: str) -> None:
        outgoing = self._outgoing(source, entry, ce_id)
        self._batch.records.append(outgoing)
        self._batch.size += len(outgoing.value or b"")
        if outgoing.topic == self._topic.name:
            self._report.documents += 1
            self._report.ids.append(ce_id)
        else:
            self._report.dead += 1
            self._report.dead_ids.append(ce_id)

    def _outgoing(self, source: Source, entry: Entry | Unreadable, ce_id: str) -> Outgoing:
        if isinstance(entry, Unreadable):
            return self._dead_letter(source, entry.index, entry.raw, entry.reason, ce_id)
        document = Document(ce_id, source.uri, entry.title, entry.text, str(source.format))
        value = self._framing.codec(self._topic).encode(document)
        if len(value) > self._topic.max_bytes:
            reason = f"the record has {len(value):,} bytes; {self._topic.name} takes fewer"
            return self._dead_letter(source, entry.index, entry.text.encode(), reason, ce_id)
        headers = first_headers(ce_id, source.uri, self._topic.ce_type)
        return Outgoing(self._topic.name, ce_id.encode(), value, headers)

    def _dead_letter(
        self, source: Source, index: int, raw: bytes, reason: str, ce_id: str
    ) -> Outgoing:
        original = Original(source.uri, -1, index, -1, None, raw[: 64 * 1024], [])
        letter = DeadLetter("ingest", "Unreadable", reason, 1, [original])
        headers = first_headers(ce_id, self._stage, self._dead_letters.ce_type)
        value = self._framing.codec(self._dead_letters).encode(letter)
        return Outgoing(self._dead_letters.name, ce_id.encode(), value, headers)

    # --- positions ----------------------------------------------------------------------------

    def _position_key(self, source: Source) -> str:
        return f"{self._topic.name} {source.uri}"

    def _place(self, source: Source, fingerprint: str, entries: int, *, complete: bool) -> None:
        key = self._position_key(source)
        self._batch.positions[key] = SourcePosition(source.uri, fingerprint, entries, complete)

    def _read_positions(self) -> dict[str, SourcePosition]:
        codec = self._framing.codec(self._sources)
        return {
            (r.key or b"").decode(): codec.decode(r.value)
            for r in self._read_all([self._sources.name])
            if r.value is not None
        }

    def _known_ids(self) -> set[str]:
        """Ids of everything ingested so far; read only when a source was rewritten."""
        if self._known is None:
            topics = [self._topic.name, self._dead_letters.name]
            ids = (dict(r.headers).get("ce_id") for r in self._read_all(topics))
            self._known = {i.decode("utf-8", "replace") for i in ids if i}
        return self._known

    # --- transactions -------------------------------------------------------------------------

    def _flush(self) -> None:
        batch, self._batch = self._batch, _Batch()
        if not batch.positions:
            return
        marks = [self._mark(key, position) for key, position in batch.positions.items()]
        self._patiently(lambda: self._commit(batch, marks))
        self._positions |= batch.positions

    def _mark(self, key: str, position: SourcePosition) -> Outgoing:
        state = f"{position.fingerprint} {position.entries} {position.complete}"
        headers = first_headers(record_id(key, state), self._stage, self._sources.ce_type)
        value = self._framing.codec(self._sources).encode(position)
        return Outgoing(self._sources.name, key.encode(), value, headers)

    def _commit(self, batch: _Batch, marks: list[Outgoing]) -> None:
        try:
            self._producer.commit([*batch.records, *marks])
        except OutcomeUnknown:
            stored = self._read_positions()
            if all(stored.get(key) == position for key, position in batch.positions.items()):
                return
            raise
        except RecordRefused as refused:
            self._bury(batch, refused)
            raise

    def _bury(self, batch: _Batch, refused: RecordRefused) -> None:
        at = next(i for i, record in enumerate(batch.records) if record is refused.record)
        document = self._framing.codec(self._topic).decode(refused.record.value)
        original = Original(document.source, -1, -1, -1, refused.record.key, b"", [])
        letter = DeadLetter("ingest", "RecordRefused", refused.reason, 1, [original])
        headers = first_headers(document.id, self._stage, self._dead_letters.ce_type)
        value = self._framing.codec(self._dead_letters).encode(letter)
        batch.records[at] = Outgoing(self._dead_letters.name, refused.record.key, value, headers)
        self._report.documents -= 1
        self._report.dead += 1
        self._report.ids.remove(document.id)
        self._report.dead_ids.append(document.id)

    def _patiently(self, step: Callable[[], None]) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                return step()
            except (TransactionAborted, OutcomeUnknown, RetryLater):
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(min(_PAUSE, 0.05 * 2**attempt))
        return None


def _entry_id(source: Source, entry: Entry | Unreadable, seen: Counter[str]) -> str:
    """An id made of the source, the content, and how many equal entries came before it.

    Not of the place in the source: a row that is put in front must not make all others new.
    """
    if isinstance(entry, Entry):
        content = record_id(source.uri, entry.title, entry.text)
    else:
        content = record_id(source.uri, "unreadable", entry.raw.hex())
    seen[content] += 1
    return record_id(content, str(seen[content]))


def _fingerprint(source: Source) -> str:
    try:
        return source.fingerprint()
    except OSError:
        return ""  # read() says why; when the file can be opened, it is a changed source


def _size(source: Source) -> int:
    try:
        return source.path.stat().st_size
    except OSError:
        return 0

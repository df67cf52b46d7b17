"""Completions that were paid for once, whoever asked: a local copy of all ledgers, by call id.

Every worker follows the ledgers of all pipelines on its Kafka into a file under ``PRESSROOM_HOME``,
which the workers of one home share and which remembers how far it got (:mod:`streams.ledger_copy`). A
question whose answer is there is not asked again.
"""

import asyncio
import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient  # type: ignore[attr-defined]

from consumers.reader import Partition, Reader
from schemas.codec import SINGLE_OBJECT, Framing
from schemas.errors import RecordRejected, Refused, RetryLater, Stop, UsageError
from schemas.message import Received
from schemas.records import LedgerEntry
from streams.ledger_copy import Damaged, LedgerCopy, Locked

log = logging.getLogger(__name__)

_LEDGERS = ".ledger"
# a thread that wakes for each record takes the interpreter from the calls
_GATHER = 0.05
_LOOK_AGAIN = 60.0
_BATCH = 1000
_PAUSE = 1.0
_TIMEOUT = 30.0


class Completions:
    """Finds what was asked before. :meth:`open` and :meth:`close` are the worker's; the rest is used on
    the event loop of the calls."""

    def __init__(
        self,
        config: Mapping[str, Any],
        folder: Path,
        longest: float | None = None,
        framing: Framing = SINGLE_OBJECT,
    ) -> None:
        """
        Args:
            config: librdkafka settings.
            folder: where the copy is kept.
            longest: seconds after which a completion is too old; None for never.
            framing: how the ledgers are written; the copy does not depend on it.
        """
        self._config, self._folder, self._longest = dict(config), folder, longest
        self._reader = framing.reader(LedgerEntry)
        self._cluster = ""
        self._copies: dict[Path, LedgerCopy] = {}
        self._locked = 0
        self._fresh: dict[str, LedgerEntry] = {}
        self._asking: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()
        self._closing = threading.Event()
        self._refused: set[str] = set()
        self._follower = threading.Thread(target=self._follow, name="completions", daemon=True)

    # --- on the event loop --------------------------------------------------------------------

    def find(self, call_id: str) -> LedgerEntry | None:
        """The newest completion of a call that is not too old."""
        entry = self._fresh.get(call_id)
        if entry is None:
            entry = self._looked_up(call_id)
        if entry is None or self._longest is None:
            return entry
        return entry if time.time() - entry.at / 1000 <= self._longest else None

    def _looked_up(self, call_id: str) -> LedgerEntry | None:
        try:
            found = [
                entry for c in list(self._copies.values()) if (entry := c.find(call_id)) is not None
            ]
            return max(found, key=lambda entry: entry.at, default=None)
        except (sqlite3.Error, RecordRejected, Stop) as error:
            log.warning("an earlier completion can't be read, asking again: %s", error)
            return None

    def add(self, entry: LedgerEntry) -> None:
        """A completion that was just put into a ledger."""
        self._fresh[entry.call_id] = entry

    @asynccontextmanager
    async def alone(self, call_id: str) -> AsyncIterator[None]:
        """Lets one at a time ask a question, so that the others find its answer."""
        lock = self._asking.setdefault(call_id, asyncio.Lock())
        self._waiting[call_id] += 1
        try:
            async with lock:
                yield
        finally:
            self._waiting[call_id] -= 1
            if not self._waiting[call_id]:
                del self._waiting[call_id], self._asking[call_id]

    # --- following the ledgers ----------------------------------------------------------------

    def open(self) -> None:
        """Reads what the ledgers hold by now, and follows them from then on.

        Raises:
            UsageError: the folder can't be written to.
            RetryLater: no broker answers, or the registry that knows an entry's schema.
        """
        self._cluster, partitions = self._ledgers()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._on_a_copy(partial(self._catch_up, partitions))
        except (OSError, sqlite3.Error) as error:
            raise UsageError(
                f"can't write to {self._folder} ({error}): set PRESSROOM_HOME"
            ) from None
        self._follower.start()

    def _catch_up(self, partitions: list[Partition], copy: LedgerCopy) -> None:
        with Reader(self._config, partitions, copy.read_so_far()) as reader:
            records = reader.settled()
            while batch := list(islice(records, _BATCH)):
                self._store(batch, copy)

    def _on_a_copy(self, step: Callable[[LedgerCopy], None]) -> None:
        """Runs a step on the copy in use: on another where that is locked, anew where it is damaged.

        Raises:
            Damaged: what was made anew is damaged again.
        """
        anew: Path | None = None
        while True:
            file = self._file()
            try:
                if file not in self._copies:
                    self._copies[file] = LedgerCopy(file)
                return step(self._copies[file])
            except Locked as error:
                log.warning("%s; using another", error)
                self._locked += 1
            except Damaged as error:
                self._copies.pop(file, None)
                if file == anew:
                    raise
                log.warning("%s; making it anew", error)
                anew = file

    def _file(self) -> Path:
        number = f".{self._locked + 1}" if self._locked else ""
        return self._folder / f"{self._cluster}{number}.sqlite"

    def close(self) -> None:
        """Stops following."""
        self._closing.set()
        self._follower.join()

    def _ledgers(self) -> tuple[str, list[Partition]]:
        admin = AdminClient(self._config)
        try:
            known = admin.list_topics(timeout=_TIMEOUT)
        except KafkaException as failure:
            raise RetryLater(f"Kafka does not answer: {failure.args[0].str()}") from failure
        names = self._readable(admin, [name for name in known.topics if name.endswith(_LEDGERS)])
        return str(known.cluster_id), [(n, p) for n in names for p in known.topics[n].partitions]

    def _readable(self, admin: AdminClient, names: list[str]) -> list[str]:
        """Without those that this client may not read; it does without what they hold."""
        if not names:
            return []
        answers = admin.describe_topics(
            TopicCollection(names), include_authorized_operations=True, request_timeout=_TIMEOUT
        )
        refused = {name for name, future in answers.items() if not _may_read(future)}
        if refused - self._refused:
            log.warning(
                "no completions are taken from %s: not readable", ", ".join(sorted(refused))
            )
        self._refused = refused
        return [name for name in names if name not in refused]

    def _follow(self) -> None:
        while not self._closing.is_set():
            try:
                self._on_a_copy(partial(self._follow_these, self._ledgers()[1]))
            except (RetryLater, Refused, OSError, sqlite3.Error) as error:
                log.info("following the ledgers: %s", error)
                self._closing.wait(_PAUSE)

    def _follow_these(self, partitions: list[Partition], copy: LedgerCopy) -> None:
        """Follows some ledgers until others come into being."""
        look = time.monotonic() + _LOOK_AGAIN
        with Reader(self._config, partitions, copy.read_so_far()) as reader:
            while not self._closing.is_set():
                self._store(reader.poll(0.2), copy)
                self._closing.wait(_GATHER)
                if time.monotonic() > look:
                    if self._ledgers()[1] != partitions:
                        return
                    look = time.monotonic() + _LOOK_AGAIN

    def _store(self, records: Iterable[Received], copy: LedgerCopy) -> None:
        kept, read = [], {}
        for received in records:
            read[received.topic, received.partition] = received.offset + 1
            entry = self._completion_in(received)
            if entry is not None:
                kept.append(entry)
        if not read:
            return
        copy.store(kept, read)
        for entry in kept:
            fresh = self._fresh.get(entry.call_id)
            if fresh is not None and fresh.at <= entry.at:
                self._fresh.pop(entry.call_id, None)

    def _completion_in(self, received: Received) -> LedgerEntry | None:
        try:
            entry = self._reader.decode(received.value)
        except (RecordRejected, Stop):  # a tombstone, a foreign topic of such a name, or no key
            return None
        return entry if entry.kind != "intent" else None


def _may_read(future: Any) -> bool:
    try:
        allowed = future.result().authorized_operations
    except KafkaException:  # it was deleted meanwhile
        return False
    return not allowed or AclOperation.READ in allowed

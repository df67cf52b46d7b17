"""A copy of the ledgers' completions in a SQLite file, where they are found by call id.

The workers of one home share it. It can be deleted at any time: it is made anew from the topics.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from consumers.reader import Partition
from schemas.codec import codec_for
from schemas.records import LedgerEntry

_PATIENCE = 5.0
"""Seconds to wait for others that write: a thousand times as long as they take."""

_PRIMARY = 0xFF
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
# no fault of the file's content, and making it anew would not help
_NO_DAMAGE = (
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOMEM,
)  # fmt: skip
_TABLES = """
create table if not exists completions (call_id text primary key, at integer, entry blob);
create table if not exists read (topic text, partition integer, next integer,
                                 primary key (topic, partition));
"""
_PUT = """
insert into completions values (?, ?, ?) on conflict (call_id)
do update set at = excluded.at, entry = excluded.entry where excluded.at >= at
"""


class Locked(Exception):
    """Another process keeps the file locked, as one does that was stopped while it wrote."""


class Damaged(sqlite3.DatabaseError):
    """The file was no such database, or holds what nobody has put there, and is deleted."""


class LedgerCopy:
    """One file. :meth:`find` may be called beside the rest, from one other thread.

    Every method raises what SQLite does; where it says so, :class:`Locked` or :class:`Damaged`.
    """

    def __init__(self, file: Path) -> None:
        """Opens it, or makes it.

        Raises:
            Locked, Damaged, sqlite3.Error: see the class.
        """
        self.file = file
        self._codec = codec_for(LedgerEntry)
        self._spoiled = ""
        with self._explained():
            self._writing = self._connected()
            self._writing.execute("pragma journal_mode = wal")
            self._writing.execute("pragma synchronous = normal")
            self._writing.executescript(_TABLES)
            self._reading = self._connected()

    def find(self, call_id: str) -> LedgerEntry | None:
        """The newest completion of a call.

        Raises:
            sqlite3.Error: the file can't be read; if it is damaged, the next other method says so.
            RecordRejected, Stop: the entry can't.
        """
        try:
            found = self._reading.execute(
                "select entry from completions where call_id = ?", (call_id,)
            ).fetchone()
        except sqlite3.DatabaseError as error:
            if _code(error) not in (*_LOCKED, *_NO_DAMAGE):
                self._spoiled = str(error)
            raise
        return self._codec.decode(found[0]) if found is not None else None

    def read_so_far(self) -> dict[Partition, int]:
        """For each partition of a ledger, the next offset to read.

        Raises:
            Locked, Damaged, sqlite3.Error: see the class.
        """
        with self._explained():
            rows = self._writing.execute("select topic, partition, next from read").fetchall()
            # a column holds values of any type, whatever was declared
            if any([*map(type, row)] != [str, int, int] for row in rows):
                raise sqlite3.DatabaseError("it does not tell how far the ledgers are read")
            return {(topic, partition): offset for topic, partition, offset in rows}

    def store(self, completions: Iterable[LedgerEntry], read: Mapping[Partition, int]) -> None:
        """Keeps completions, and how far the ledgers are read with them.

        Raises:
            Locked, Damaged, sqlite3.Error: see the class; nothing was stored.
        """
        with self._explained(), self._writing:
            self._writing.executemany(
                _PUT,
                [(entry.call_id, entry.at, self._codec.encode(entry)) for entry in completions],
            )
            self._writing.executemany(
                "insert or replace into read values (?, ?, ?)", [(*p, n) for p, n in read.items()]
            )

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(self.file, timeout=_PATIENCE, check_same_thread=False)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            if self._spoiled:
                raise sqlite3.DatabaseError(self._spoiled)
            yield
        except sqlite3.DatabaseError as error:
            code = _code(error)
            if code in _LOCKED:
                raise Locked(f"{self.file} is locked by a process that stands still") from error
            if code in _NO_DAMAGE:
                raise
            self._delete()
            raise Damaged(f"{self.file} was damaged: {error}") from error

    def _delete(self) -> None:
        # with its log, or the next one would be filled from that
        for suffix in ("", "-wal", "-shm"):
            self.file.with_name(self.file.name + suffix).unlink(missing_ok=True)


def _code(error: sqlite3.DatabaseError) -> int:
    # text that is no UTF-8 has none: the module says so, not the library
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)) & _PRIMARY

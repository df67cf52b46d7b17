"""The copy of the ledgers in a file: what it keeps, and files that can't be used."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from schemas.records import LedgerEntry
from streams import ledger_copy
from streams.ledger_copy import Damaged, LedgerCopy, Locked


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "copy.sqlite"


def completion(call_id: str, at: int) -> LedgerEntry:
    return LedgerEntry("result", call_id, "t:0:0", "say@1", "small", at, "text", 1, 2)


def test_the_newest_completion_of_a_call_is_found(file: Path) -> None:
    copy = LedgerCopy(file)
    for at in (2, 3, 1):
        copy.store([completion("a", at)], {("t", 0): at})
    found = LedgerCopy(file).find("a")
    assert found is not None
    assert found.at == 3
    assert copy.find("b") is None


def test_it_remembers_how_far_the_ledgers_are_read(file: Path) -> None:
    copy = LedgerCopy(file)
    copy.store([], {("t", 0): 5, ("t", 1): 7})
    copy.store([], {("t", 0): 6})
    assert LedgerCopy(file).read_so_far() == {("t", 0): 6, ("t", 1): 7}


def test_a_file_that_stays_locked_is_not_waited_for_and_can_be_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_copy, "_PATIENCE", 0.01)
    copy = LedgerCopy(file)
    copy.store([completion("a", 1)], {("t", 0): 1})
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(Locked, match="is locked by a process"):
            copy.store([completion("b", 1)], {("t", 0): 2})
        late = LedgerCopy(file)
        assert late.find("a") is not None
        assert late.read_so_far() == {("t", 0): 1}
        other.execute("rollback")
    copy.store([completion("b", 1)], {("t", 0): 2})
    assert late.find("b") is not None


def test_a_damaged_file_is_deleted_with_its_log(file: Path) -> None:
    killed = (
        "import os, sys; from pathlib import Path; from streams.ledger_copy import LedgerCopy;"
        "LedgerCopy(Path(sys.argv[1])).store([], {('t', 0): 1}); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", killed, str(file)], check=True)
    log = file.with_name("copy.sqlite-wal")
    assert log.exists()
    file.write_bytes(b"not a database" * 1000)
    log.write_bytes(b"nor a log" * 1000)
    with pytest.raises(Damaged, match="was damaged"):
        LedgerCopy(file)
    anew = LedgerCopy(file)
    assert anew.read_so_far() == {}
    assert anew.find("a") is None


def filled(file: Path) -> None:
    """A copy with a few completions, in a file without a log."""
    with closing(sqlite3.connect(file)) as whole:
        copy = LedgerCopy(file)
        ledgers = {(f"pipeline.stage-{n}.ledger", n): n for n in range(50)}
        copy.store([completion(f"call {n}", n) for n in range(500)], ledgers)
        whole.execute("pragma wal_checkpoint(truncate)")


def used(file: Path) -> LedgerCopy:
    copy = LedgerCopy(file)
    copy.store([completion("a", 1)], {**copy.read_so_far(), ("t", 0): 1})
    return copy


def made_anew(file: Path) -> LedgerCopy:
    """What is made of a damaged file, which must not need more than one beginning."""
    with pytest.raises(Damaged, match="was damaged"):
        used(file)
    return used(file)


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_a_file_whose_pages_are_damaged_is_made_anew(file: Path, mask: int) -> None:
    filled(file)
    pages = bytearray(file.read_bytes())
    for at in range(4096, len(pages), 97):
        pages[at] ^= mask
    file.write_bytes(pages)
    assert made_anew(file).find("a") == completion("a", 1)


@pytest.mark.parametrize(
    "statement",
    [
        "alter table read rename column topic to name",
        "alter table completions add column more",
        "drop table completions; create view completions as select 1",
        "update read set next = 'soon'",
        "update read set topic = x'ff'",
        "update read set topic = cast(x'ff' as text)",
        "update read set partition = null",
    ],
)
def test_a_file_with_other_content_is_made_anew(file: Path, statement: str) -> None:
    filled(file)
    with closing(sqlite3.connect(file)) as other, other:
        other.executescript(statement)
    assert made_anew(file).find("a") == completion("a", 1)


def test_what_is_not_the_files_fault_does_not_delete_it(file: Path) -> None:
    filled(file)
    copy = LedgerCopy(file)
    copy._writing.execute("pragma query_only = on")  # as of a file that may only be read
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        copy.store([], {("t", 0): 1})
    copy._writing.execute("pragma query_only = off")
    copy._writing.execute("pragma max_page_count = 1")  # as on a full disk
    with pytest.raises(sqlite3.OperationalError, match="full"):
        copy.store([completion(f"more {n}", 1) for n in range(1000)], {})
    assert LedgerCopy(file).find("call 1") is not None


def test_damage_that_is_met_when_a_completion_is_looked_up_is_not_kept(file: Path) -> None:
    filled(file)
    copy = LedgerCopy(file)
    with closing(sqlite3.connect(file)) as other, other:
        other.execute("drop table completions")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        copy.find("call 1")
    with pytest.raises(Damaged, match="no such table"):
        copy.read_so_far()
    assert LedgerCopy(file).read_so_far() == {}

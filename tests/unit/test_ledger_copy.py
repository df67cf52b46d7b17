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

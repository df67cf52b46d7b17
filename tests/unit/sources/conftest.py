"""What reading a file gives, and texts in many scripts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from producers.sources import (
    MAX_RAW_BYTES,
    Entry,
    Unreadable,
    discover,
    read,
)

GERMAN = "Größe und Schönheit: im Fluß über die Brücke, schöne Grüße.\n"
RUSSIAN = "Привет, как дела сегодня? Мы идем в библиотеку.\n"
CHINESE = "今天天气很好，我们去图书馆看书。\n"
ARABIC = "مرحبا بالعالم كيف حالكم اليوم\n"
JAPANESE = "日本語のテキストです。図書館へ行きました。\n"
EMOJI = "🎉🦆 👩‍🚀🇩🇪\n"

Reader = Callable[[str, bytes], list[Entry | Unreadable]]


@pytest.fixture
def results(tmp_path: Path) -> Reader:
    """What reading a file of this name and content gives; the indexes are checked on the way."""

    def read_file(name: str, content: bytes) -> list[Entry | Unreadable]:
        path = tmp_path / name
        path.write_bytes(content)
        (source,) = discover([str(path)])
        found = list(read(source))
        assert [each.index for each in found] == list(range(len(found)))
        return found

    return read_file


@pytest.fixture
def entry(results: Reader) -> Callable[[str, bytes], Entry]:
    """The one document in a file."""

    def only(name: str, content: bytes) -> Entry:
        (found,) = results(name, content)
        assert isinstance(found, Entry), found
        return found

    return only


@pytest.fixture
def reason(results: Reader) -> Callable[[str, bytes], str]:
    """Why a file has no document."""

    def only(name: str, content: bytes) -> str:
        (found,) = results(name, content)
        assert isinstance(found, Unreadable), found
        assert found.raw == content[:MAX_RAW_BYTES]
        assert "\n" not in found.reason
        return found.reason

    return only


OnlyEntry = Callable[[str, bytes], Entry]
OnlyReason = Callable[[str, bytes], str]

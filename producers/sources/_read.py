"""Reading a source: whatever its readers find becomes an Entry or an Unreadable, none is lost."""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from producers.sources._encoding import NotText, clean
from producers.sources._html import parse_html
from producers.sources._json import read_json
from producers.sources._records import read_csv, read_jsonl
from producers.sources._text import parse_markdown, parse_text
from producers.sources._types import (
    MAX_DOCUMENT_BYTES,
    MAX_RAW_BYTES,
    MAX_RECORD_BYTES,
    Entry,
    Flaw,
    Format,
    Found,
    Source,
    Unreadable,
)

_TITLE_LENGTH: Final = 200
_FIRST_LINE_LENGTH: Final = 120
_HEADLINE: Final = re.compile(r"^.*\w.*$", re.M)  # rules and ornaments make no title


def read(source: Source) -> Iterator[Entry | Unreadable]:
    """The documents in a source, numbered from 0, and what in it cannot become one.

    The order and the numbers are the same in every run over the same bytes. A source that is gone,
    closed to us, empty or binary gives one Unreadable; nothing is raised.
    """
    index = 0
    for found in _found(source):
        yield _finish(index, found, source.path.stem)
        index += 1
    if index == 0:
        yield Unreadable(0, _head(source.path), "the file is empty")


def _found(source: Source) -> Iterator[Found | Flaw]:
    try:
        source.refuse_special()
        yield from _READERS[source.format](source.path)
    except NotText as error:
        yield Flaw(_head(source.path), f"the file {error}")
    except UnicodeDecodeError as error:  # it was valid when its encoding was detected
        yield Flaw(_head(source.path), f"the file changed while it was read: {error.reason}")
    except OSError as error:
        yield Flaw(b"", f"the file cannot be read: {error.strerror or error}")


def _whole_file(parse: Callable[[bytes], Found], path: Path) -> Iterator[Found | Flaw]:
    with path.open("rb") as stream:
        data = stream.read(MAX_RECORD_BYTES + 1)
        size = os.fstat(stream.fileno()).st_size
    if len(data) > MAX_RECORD_BYTES:
        limit = f"at most {MAX_RECORD_BYTES} are read for one document"
        yield Flaw(data, f"the file has {size} bytes; {limit}")
    elif data.strip():
        yield parse(data)


_READERS: Final[dict[Format, Callable[[Path], Iterator[Found | Flaw]]]] = {
    Format.TEXT: partial(_whole_file, parse_text),
    Format.MARKDOWN: partial(_whole_file, parse_markdown),
    Format.HTML: partial(_whole_file, parse_html),
    Format.JSON: read_json,
    Format.JSONL: read_jsonl,
    Format.CSV: read_csv,
}


def _finish(index: int, found: Found | Flaw, stem: str) -> Entry | Unreadable:
    raw = found.raw[:MAX_RAW_BYTES]
    if isinstance(found, Flaw):
        return Unreadable(index, raw, found.reason)
    text = clean(found.text)
    size = len(text.encode())
    if not _visible(text):
        return Unreadable(index, raw, f"{found.where} has no text")
    if size > MAX_DOCUMENT_BYTES:
        limit = f"a document may have at most {MAX_DOCUMENT_BYTES}"
        return Unreadable(index, raw, f"{found.where} has {size} bytes; {limit}")
    return Entry(index, _title(found.title, text, stem), text)


def _title(title: str, text: str, stem: str) -> str:
    headline = _HEADLINE.search(text)
    return (
        _one_line(title, _TITLE_LENGTH)
        or _one_line(headline[0] if headline else "", _FIRST_LINE_LENGTH)
        or _one_line(stem, _TITLE_LENGTH)
        or "untitled"
    )


def _one_line(text: str, length: int) -> str:
    """The text with single spaces, cut between words if it can be; nothing if none can be seen."""
    line = " ".join(clean(text).split())
    if len(line) > length:
        line = line[: length + 1].rpartition(" ")[0] or line[:length]
    return line if _visible(line) else ""


def _visible(text: str) -> bool:
    return any(letter.isprintable() and letter != " " for letter in text)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_RAW_BYTES)
    except OSError:
        return b""

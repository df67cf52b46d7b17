"""JSONL and CSV: a line or a row is one document. Memory is bounded by `MAX_RECORD_BYTES`."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Final, TypeGuard

from producers.sources._encoding import WIDE, NotText, decode, detect
from producers.sources._header import KNOWN_NAMES, TEXT_KEYS, TITLE_KEYS, FirstRow, is_value, judge
from producers.sources._types import MAX_RAW_BYTES, MAX_RECORD_BYTES, Flaw, Found

_UNKNOWN_HEADER: Final = (
    "it cannot be told whether the first row is a header, so no row is read; "
    f"a header has at least one of the names {KNOWN_NAMES}"
)
_SAMPLE_BYTES: Final = 65_536
_JSON_TYPES: Final = {
    dict: "an object",
    list: "an array",
    bool: "true or false",
    type(None): "null",
}


class _Number(str):
    """A JSON number as it was written: never too large, never rounded, and no prose."""

    __slots__ = ()


DECODER: Final = json.JSONDecoder(parse_int=_Number, parse_float=_Number, parse_constant=_Number)
"""Keeps the spelling of numbers; takes NaN for one."""


@dataclass(frozen=True, slots=True)
class _Line:
    """`size` counts bytes; where it exceeds `MAX_RECORD_BYTES`, `raw` has only the beginning."""

    number: int
    raw: bytes
    size: int

    @property
    def too_long(self) -> str:
        """Why it cannot be used, or nothing."""
        if self.size <= MAX_RECORD_BYTES:
            return ""
        return f"has {self.size} bytes; at most {MAX_RECORD_BYTES} are read for one document"


def read_jsonl(path: Path) -> Iterator[Found | Flaw]:
    """Every non-blank line: an object or a string. Raises NotText and OSError."""
    encoding = encoding_of(path)
    for line in _lines(path, encoding, newline="\n"):
        found = _json_line(line, encoding)
        if found is not None:
            yield found


def read_csv(path: Path) -> Iterator[Found | Flaw]:
    """Every non-blank row, but for the header. Raises NotText and OSError.

    The first row is a header if a column has a known name (for a text or a title) or it otherwise
    looks like one; see `judge`. If it looks like a record, all rows are records without names: their
    text is all their cells. Where neither is plain, no row is read, and one Flaw says so.
    """
    encoding = encoding_of(path)
    rows = _rows(path, encoding)
    first = next(rows, None)
    if first is None:
        return
    if first.problem:
        yield Flaw(first.raw, f"the header {first.problem}, so no row can be read")
        return
    below = (row.cells for row in islice(_rows(path, encoding), 1, None))
    match judge(first.cells, below):
        case FirstRow.HEADER:
            yield from _named_rows(first, rows)
        case FirstRow.RECORD:
            for row in chain([first], rows):
                yield _flaw_of(row, len(first.cells), "first row") or _nameless(row)
        case FirstRow.UNKNOWN:
            yield Flaw(first.raw, _UNKNOWN_HEADER)


def first_line(path: Path) -> str:
    """The first line that is not blank, or nothing. Raises NotText and OSError."""
    encoding = encoding_of(path)
    texts = (_lenient(line, encoding) for line in _lines(path, encoding, newline=""))
    return next((text.strip() for text in texts if text.strip()), "")


def parse_json(text: str) -> object:
    """Like json.loads, for any input: numbers keep their spelling, NaN passes for one.

    Raises ValueError (JSONDecodeError, or nested too deeply).
    """
    try:
        return DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_prose(value: object) -> TypeGuard[str]:
    """Whether a value of `parse_json` is a string, not a number."""
    return isinstance(value, str) and not isinstance(value, _Number)


def encoding_of(path: Path) -> str:
    """Its encoding, by all its bytes. Raises NotText and OSError."""
    with path.open("rb") as stream:
        return detect(stream)


def _lines(path: Path, encoding: str, newline: str) -> Iterator[_Line]:
    # Latin-1 maps bytes to characters one to one: whatever is wrong in a line, its bytes survive.
    carrier = encoding if encoding in WIDE else "latin-1"
    ends = ("\n",) if newline else ("\n", "\r")
    with path.open(encoding=carrier, newline=newline) as stream:
        number = 0
        while line := stream.readline(MAX_RECORD_BYTES):
            number += 1
            raw = line.encode(carrier)
            size = len(raw)
            while not line.endswith(ends) and (line := stream.readline(MAX_RECORD_BYTES)):
                size += len(line.encode(carrier))
            yield _Line(number, raw if size <= MAX_RECORD_BYTES else raw[:MAX_RAW_BYTES], size)


def _lenient(line: _Line, encoding: str) -> str:
    text = line.raw.decode(encoding, "replace" if encoding in WIDE else "surrogateescape")
    return text.removeprefix("\ufeff") if line.number == 1 else text


def _json_line(line: _Line, encoding: str) -> Found | Flaw | None:
    where = f"line {line.number}"
    if line.too_long:
        return Flaw(line.raw, f"{where} {line.too_long}")
    try:
        text = decode(line.raw, encoding).removeprefix("\ufeff")
        if not text.strip():
            return None
        value = parse_json(text)
    except NotText as error:
        return Flaw(line.raw, f"{where} {error}")
    except json.JSONDecodeError as error:
        return Flaw(line.raw, f"{where} is not JSON: {error.msg} at column {error.colno}")
    except ValueError as error:
        return Flaw(line.raw, f"{where} cannot be used: {error}")
    return from_json(where, line.raw, value)


def from_json(where: str, raw: bytes, value: object) -> Found | Flaw:
    """The document that a value of `parse_json` is, if an object or a string."""
    if isinstance(value, dict):
        return _document(where, raw, value.items())
    if is_prose(value):
        return Found(where, raw, value)
    return Flaw(raw, f"{where} is {kind_of(value)}, not an object or a string")


def kind_of(value: object) -> str:
    """What a value of `parse_json` is, in words."""
    if is_prose(value):
        return "a string"
    return _JSON_TYPES.get(type(value), "a number")


def _document(where: str, raw: bytes, fields: Iterable[tuple[str, object]]) -> Found:
    """The text and title among named fields; without a text field, all that have a plain value."""
    fields = list(fields)
    named: dict[str, str] = {}
    for name, value in fields:
        prose = value if is_prose(value) else ""
        key = name.strip().lower()
        named[key] = named.get(key, "") if named.get(key, "").strip() else prose
    title = _first_filled(named, TITLE_KEYS)
    if any(key in named for key in TEXT_KEYS):
        return Found(where, raw, _first_filled(named, TEXT_KEYS), title)
    lines = ((name, _scalar(value)) for name, value in fields)
    return Found(where, raw, "\n".join(f"{name}: {text}" for name, text in lines if text), title)


def _first_filled(named: dict[str, str], keys: Iterable[str]) -> str:
    return next((named[key] for key in keys if named.get(key, "").strip()), "")


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.strip() if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class _Row:
    """`where` names it by its number, the first being row 1, and the line it ends on."""

    where: str
    raw: bytes
    cells: list[str]
    problem: str = ""


class _Tape:
    """Feeds lines to a csv.reader and remembers the bytes that went into the current row."""

    def __init__(self, lines: Iterator[_Line], encoding: str) -> None:
        self._lines = lines
        self._encoding = encoding
        self._taken: list[bytes] = []
        self._size = 0
        self.line = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.line = line.number
        self._size += line.size
        self._taken.append(line.raw)
        if self._size > MAX_RECORD_BYTES:  # an unclosed quotation mark would take in the whole file
            raise csv.Error(f"more than {MAX_RECORD_BYTES} bytes")
        return _lenient(line, self._encoding)

    def take(self) -> bytes:
        """The bytes since the last call."""
        raw = b"".join(self._taken)
        self._taken, self._size = [], 0
        return raw


def _rows(path: Path, encoding: str) -> Iterator[_Row]:
    csv.field_size_limit(max(MAX_RECORD_BYTES, csv.field_size_limit()))
    tape = _Tape(_lines(path, encoding, newline=""), encoding)
    # Strict, for the lenient reader takes an unclosed quotation mark for the end of the file.
    reader = csv.reader(tape, delimiter=_delimiter(path, encoding), strict=True)
    number = 0
    while True:
        cells: list[str] = []
        problem = ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = f"is broken: {error}"
        raw = tape.take()
        if problem or len(cells) > 1 or "".join(cells).strip() or b'"' in raw:
            number += 1
            problem = problem or _undecoded(cells, encoding)
            yield _Row(f"row {number} (line {tape.line})", raw, cells, problem)


def _undecoded(cells: list[str], encoding: str) -> str:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return f"is not valid {encoding.upper()}"
    return ""


def _named_rows(header: _Row, rows: Iterable[_Row]) -> Iterator[Found | Flaw]:
    names = [name.strip() or f"column {at}" for at, name in enumerate(header.cells, 1)]
    empty = True
    for row in rows:
        empty = False
        yield _flaw_of(row, len(names), "header") or _document(
            row.where, row.raw, zip(names, row.cells, strict=True)
        )
    if empty:
        yield Flaw(header.raw, "the file has a header but no rows")


def _nameless(row: _Row) -> Found:
    """All cells are the text, a line each; the title is the first that is no number or date."""
    cells = [cell.strip() for cell in row.cells if cell.strip()]
    title = next((cell for cell in cells if not is_value(cell)), "")
    return Found(row.where, row.raw, "\n".join(cells), title)


def _flaw_of(row: _Row, width: int, measure: str) -> Flaw | None:
    if row.problem:
        return Flaw(row.raw, f"{row.where} {row.problem}")
    if len(row.cells) != width:
        wrong = "few" if len(row.cells) < width else "many"
        counts = f"{len(row.cells)}, where the {measure} has {width}"
        return Flaw(row.raw, f"{row.where} has too {wrong} columns: {counts}")
    return None


def _delimiter(path: Path, encoding: str) -> str:
    """The delimiter that splits the first rows most evenly; the comma when none does."""
    with path.open("rb") as stream:
        sample = stream.read(_SAMPLE_BYTES).decode(encoding, "ignore")

    def evenness(delimiter: str) -> tuple[float, int]:
        rows = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
        try:
            widths = [len(row) for row in islice(rows, 20) if row]
        except csv.Error:
            return 0, 0
        if not widths or widths[0] < 2:
            return 0, 0
        return widths.count(widths[0]) / len(widths), widths[0]

    return max(",;\t|", key=evenness)

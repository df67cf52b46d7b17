"""Whether the first row of a table names its columns, or is a record like the others."""

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import islice
from typing import Final

TEXT_KEYS: Final = ("text", "body", "content", "article", "document", "message", "description")
TITLE_KEYS: Final = ("title", "headline", "name", "subject")
KNOWN_NAMES: Final = ", ".join((*TEXT_KEYS, *TITLE_KEYS))

_ROWS: Final = 20
_NAME_WORDS: Final = 2
_PROSE_WORDS: Final = 6
_VALUE: Final = re.compile(r"(?=.*\d)[\d\s.,:/+%€$£-]+(?:[TZ][\d:.+Z-]*)?|https?://\S+")
_YEAR: Final = re.compile(r"(?:19|20)\d\d")
_SENTENCE: Final = re.compile(r"\s.*[.!?…。]\W*$", re.DOTALL)


class FirstRow(Enum):
    """What the first row of a table is."""

    HEADER = "header"
    RECORD = "record"
    UNKNOWN = "unknown"


def judge(first: Sequence[str], below: Iterable[Sequence[str]]) -> FirstRow:
    """A header, if it has a known name, or words above columns that are otherwise values.

    A value is a number, a date, a time or an address. Else it is a record if it has a value (years
    can be names, unless there are only years below), a sentence, or a long text, and a header if
    no cell has more than two words. What is in between cannot be told.
    """
    cells = [cell.strip() for cell in first]
    if any(cell.lower() in TEXT_KEYS + TITLE_KEYS for cell in cells):
        return FirstRow.HEADER
    columns = _columns(cells, below)
    if any(
        c and not is_value(c) and _all(_VALUE, col) for c, col in zip(cells, columns, strict=True)
    ):
        return FirstRow.HEADER
    if any(_is_data(cell, column) for cell, column in zip(cells, columns, strict=True)):
        return FirstRow.RECORD
    if all(len(cell.split()) <= _NAME_WORDS for cell in cells):
        return FirstRow.HEADER
    return FirstRow.UNKNOWN


def is_value(cell: str) -> bool:
    """Whether a cell is no prose: a number, a date, a time, an address."""
    return bool(_VALUE.fullmatch(cell.strip()))


def _columns(first: Sequence[str], below: Iterable[Sequence[str]]) -> list[list[str]]:
    """The beginnings of the cells below each of the first row's, without blank ones."""
    columns: list[list[str]] = [[] for _ in first]
    for row in islice(below, _ROWS):
        for cell, column in zip(row, columns, strict=False):
            if cell.strip():
                column.append(cell.strip()[:100])
    return columns


def _is_data(cell: str, column: Sequence[str]) -> bool:
    if _YEAR.fullmatch(cell):
        return _all(_YEAR, column)
    prose = len(cell.split()) >= _PROSE_WORDS or len(cell) > 60
    return is_value(cell) or prose or bool(_SENTENCE.search(cell))


def _all(pattern: re.Pattern[str], column: Sequence[str]) -> bool:
    return bool(column) and all(pattern.fullmatch(cell) for cell in column)

"""A JSON file: an array of documents, read one by one, or an object that is one.

Memory is bounded by `MAX_RECORD_BYTES`, whatever the length of the array.
"""

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final, TextIO

from producers.sources._encoding import WIDE, NotText, decode
from producers.sources._records import DECODER, encoding_of, from_json, kind_of
from producers.sources._types import MAX_RECORD_BYTES, Flaw, Found

_CHUNK: Final = 65_536
_BLANK: Final = re.compile(r"[ \t\r\n]*")


class _Broken(Exception):
    """The file is no JSON from here on. Its text is the end of a sentence about the file."""


def read_json(path: Path) -> Iterator[Found | Flaw]:
    """Every element of the array, or the object. Raises NotText, UnicodeDecodeError and OSError.

    What comes before a place that is no JSON is read; the place is a Flaw, and so is all else.
    """
    encoding = encoding_of(path)
    errors = "strict" if encoding in WIDE else "surrogateescape"
    with path.open(encoding=encoding, errors=errors, newline="") as stream:
        file = _Scroll(stream, encoding, errors)
        try:
            yield from _documents(file)
        except _Broken as broken:
            yield Flaw(file.rest(), f"the file {broken}")


class _Scroll:
    """The text of a file from a place that moves on, as much of it as is needed."""

    def __init__(self, stream: TextIO, encoding: str, errors: str) -> None:
        self._stream, self.encoding, self._errors = stream, encoding, errors
        self._text = stream.read(_CHUNK).removeprefix("\ufeff")
        self._at = self._before = 0

    def peek(self) -> str:
        """The next character that is not blank, or nothing at the end."""
        while True:
            match = _BLANK.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        """Goes on by a character."""
        self._at += 1

    def value(self) -> tuple[bytes, object]:
        """The JSON value that begins here, and its bytes. Raises _Broken."""
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._more():
                    continue
                raise self.broken(error.msg, error.pos) from None
            except RecursionError:
                raise _Broken("cannot be used: it is nested too deeply") from None
            if end == len(self._text) and self._more():  # a number may go on
                continue
            raw = self._bytes(self._text[self._at : end])
            self._at = end
            return raw, value

    def broken(self, problem: str, at: int | None = None) -> _Broken:
        """What to raise about this place, or one further on."""
        if len(self._text) - self._at > MAX_RECORD_BYTES:
            return _Broken(f"is not JSON, or an element has more than {MAX_RECORD_BYTES} bytes")
        place = self._before + (self._at if at is None else at) + 1
        return _Broken(f"is not JSON: {problem} at character {place}")

    def rest(self) -> bytes:
        """The bytes from here on, as far as they have been read."""
        return self._bytes(self._text[self._at :])

    def _more(self) -> bool:
        """Reads as much again; whether there was any, and it is not too much for one value."""
        held = len(self._text) - self._at
        if held > MAX_RECORD_BYTES or not (chunk := self._stream.read(max(_CHUNK, held))):
            return False
        self._before += self._at
        self._text, self._at = self._text[self._at :] + chunk, 0
        return True

    def _bytes(self, text: str) -> bytes:
        return text.encode(self.encoding, self._errors)


def _documents(file: _Scroll) -> Iterator[Found | Flaw]:
    opening = file.peek()
    if opening == "[":
        yield from _elements(file)
    elif opening:
        raw, value = file.value()
        if file.peek():
            raise _Broken("has more than one value; one on each line is JSONL, a .jsonl file")
        yield _document("the object", raw, value, file.encoding)
    if file.peek():
        raise file.broken("Extra data")


def _elements(file: _Scroll) -> Iterator[Found | Flaw]:
    file.skip()
    if file.peek() == "]":
        raise _Broken("is an array without elements")
    for number in count(1):
        file.peek()
        raw, value = file.value()
        yield _document(f"element {number}", raw, value, file.encoding)
        following = file.peek()
        if following not in {",", "]"}:
            raise file.broken("Expecting ',' delimiter")
        file.skip()
        if following == "]":
            return


def _document(where: str, raw: bytes, value: object, encoding: str) -> Found | Flaw:
    if len(raw) > MAX_RECORD_BYTES:
        limit = f"at most {MAX_RECORD_BYTES} are read for one document"
        return Flaw(raw, f"{where} has {len(raw)} bytes; {limit}")
    try:
        decode(raw, encoding)
    except NotText as error:
        return Flaw(raw, f"{where} {error}")
    if where == "the object" and not isinstance(value, dict):
        return Flaw(raw, f"the file is {kind_of(value)}, not an array or an object")
    return from_json(where, raw, value)

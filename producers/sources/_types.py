"""What is read, what comes out, and the limits on both."""

import errno
import hashlib
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

MAX_DOCUMENT_BYTES: Final = 2_000_000
"""The longest text a document may have, in bytes of UTF-8."""

MAX_RECORD_BYTES: Final = 8_000_000
"""The most that is held for one document, in bytes as stored (a file, element, line or row)."""

MAX_RAW_BYTES: Final = 65_536
"""How much of its original bytes an `Unreadable` keeps."""


class SourceError(Exception):
    """A path that cannot be a source. Its text is one line, fit to be shown to the user."""


class Format(StrEnum):
    """How the bytes of a source are laid out."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Entry:
    """One document.

    `index` is its ordinal within the source, from 0, counted together with the `Unreadable` ones.
    `title` is a single line of 1 to 200 characters. `text` is never blank, has `\\n` for newlines,
    and no byte order mark, lone surrogate or C0 control other than `\\n` and `\\t`.
    """

    index: int
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something that cannot become a document, and why, in one sentence.

    `raw` holds its original bytes, cut to `MAX_RAW_BYTES`.
    """

    index: int
    raw: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or standard input spooled into one.

    `uri` identifies it between runs: `file:///…` of the resolved path, or `stdin:` and the first
    16 hexadecimal digits of the SHA-256 of everything that came in.
    """

    uri: str
    path: Path
    format: Format

    def fingerprint(self) -> str:
        """The SHA-256 of all its bytes, in hexadecimal, in constant memory.

        Raises OSError when the file is gone, may not be opened or is no regular file, where `read`
        gives an `Unreadable` instead.
        """
        self.refuse_special()
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def refuse_special(self) -> None:
        """Raises OSError for all but a regular file: to open a pipe may wait, a device never ends."""
        if not stat.S_ISREG(self.path.stat().st_mode):
            raise OSError(errno.EINVAL, "it is a pipe, a socket or a device")


@dataclass(frozen=True, slots=True)
class Found:
    """A text as its reader found it. `where` begins a sentence about it: "line 3"."""

    where: str
    raw: bytes
    text: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Flaw:
    """What a reader could make no text of."""

    raw: bytes
    reason: str

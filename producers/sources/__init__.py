"""Files, folders and standard input, turned into documents. No Kafka in here.

`discover` names the sources behind a list of paths; `read` yields what is in one of them. Every
non-blank file (text, Markdown, HTML), element (JSON), line (JSONL) or row (CSV) gives exactly one
`Entry` or one `Unreadable`, in an order that does not change between runs: whoever was interrupted
skips as many as were handled before.
"""

from producers.sources._discover import discover
from producers.sources._read import read
from producers.sources._types import (
    MAX_DOCUMENT_BYTES,
    MAX_RAW_BYTES,
    MAX_RECORD_BYTES,
    Entry,
    Format,
    Source,
    SourceError,
    Unreadable,
)

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "MAX_RAW_BYTES",
    "MAX_RECORD_BYTES",
    "Entry",
    "Format",
    "Source",
    "SourceError",
    "Unreadable",
    "discover",
    "read",
]

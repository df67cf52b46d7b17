"""The records of Pressroom's own topics. Their contracts are the files in ``schemas/avro``.

What each field means stands in the contract's ``doc``; a class here that differs from its contract
in names, order, types or defaults can't be imported.
"""

from typing import Literal

from schemas.record import record

Subject = Literal[
    "science", "technology", "nature", "history", "culture", "politics", "business", "sport",
    "society", "other",
]  # fmt: skip
Language = Literal["en", "de", "es", "fr", "it", "pt", "nl", "ru", "ar", "zh", "ja", "other"]
Quality = Literal["low", "medium", "high"]


@record(avsc="document")
class Document:
    """One document as it came in."""

    id: str
    source: str
    title: str
    text: str
    format: str = "text"


@record(avsc="classification")
class Classification:
    """What a document is about, in which language, and how well it is written."""

    topic: Subject
    language: Language
    quality: Quality


@record(avsc="entity")
class Entity:
    """A person, place, organisation or other name."""

    text: str
    label: str
    count: int


@record(avsc="annotation")
class Annotation:
    """The named entities of a document."""

    entities: list[Entity]


@record(avsc="outline")
class Outline:
    """A plan for an article, with all that later stages need of the document."""

    document_id: str
    source: str
    title: str
    excerpt: str
    topic: Subject
    language: Language
    quality: Quality
    entities: list[Entity]
    points: list[str]


@record(avsc="revision")
class Revision:
    """A review's order to draft once more."""

    outline: Outline
    note: str
    attempt: int


@record(avsc="draft")
class Draft:
    """An article's text."""

    outline: Outline
    body: str
    attempt: int


@record(avsc="headline")
class Headline:
    """An article's headline."""

    text: str


@record(avsc="summary")
class Summary:
    """An article's summary."""

    text: str


@record(avsc="social_post")
class SocialPost:
    """A short post that announces an article."""

    text: str


@record(avsc="review")
class Review:
    """A draft that passed the review, with what goes with it."""

    draft: Draft
    headline: Headline
    summary: Summary
    social_post: SocialPost
    note: str


@record(avsc="article")
class Article:
    """A published article."""

    id: str
    source: str
    title: str
    summary: str
    social_post: str
    body: str
    topic: Subject
    language: Language
    quality: Quality
    entities: list[Entity]
    attempts: int


@record(avsc="header")
class Header:
    """One header of a Kafka record."""

    name: str
    value: bytes | None


@record(avsc="original")
class Original:
    """A record kept byte for byte, with where it stood."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[Header]


@record(avsc="dead_letter")
class DeadLetter:
    """A record that could not be processed, and why."""

    stage: str
    error: str
    message: str
    attempts: int
    inputs: list[Original]


@record(avsc="filtered")
class Filtered:
    """Evidence that a stage read a record and meant to write nothing for it."""

    stage: str
    topic: str
    partition: int
    offset: int


@record(avsc="source_position")
class SourcePosition:
    """How far a source (a file, a feed) has been ingested."""

    source: str
    fingerprint: str
    entries: int
    complete: bool


@record(avsc="ledger_entry")
class LedgerEntry:
    """One line of a stage's ledger: a question before it is asked, its answer, or an earlier answer."""

    kind: Literal["intent", "result", "reuse"]
    call_id: str
    inputs: str
    prompt: str
    model: str
    at: int
    text: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    latency_ms: int = 0

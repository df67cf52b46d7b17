"""Every topic: its name, record, key, partitions and cleanup policy."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from schemas.record import schema_of
from schemas.records import (
    Annotation,
    Article,
    Classification,
    DeadLetter,
    Document,
    Draft,
    Filtered,
    Headline,
    LedgerEntry,
    Original,
    Outline,
    Review,
    Revision,
    SocialPost,
    SourcePosition,
    Summary,
)

R = TypeVar("R")

MAX_RECORD_BYTES = 4 * 1024 * 1024
"""Largest value of an ordinary topic."""

MAX_KEPT_BYTES = 2 * MAX_RECORD_BYTES
"""Largest value where whole records are kept inside a record: dead letters and state."""


@dataclass(frozen=True)
class Bound(Generic[R]):
    """A record bound for a topic; a stage returns it where the record's type does not say which."""

    topic: "Topic[R]"
    record: R


@dataclass(frozen=True)
class Topic(Generic[R]):
    """A topic and what is in it.

    Args:
        name: the name on the broker.
        record: the record class of its values.
        key: the field of the record that is the key; None keeps the key of the record it was
            made from (and with it the partition, so that such topics can be joined).
        partitions: how many it is created with.
        compacted: cleanup by compaction (the last record of each key stays) instead of by age.
        max_bytes: largest value.
    """

    name: str
    record: type[R]
    key: str | None = None
    partitions: int = 4
    compacted: bool = False
    max_bytes: int = MAX_RECORD_BYTES

    def bind(self, record: R) -> Bound[R]:
        """Sends a record here, for stages that choose between topics of one record class."""
        return Bound(self, record)

    @property
    def ce_type(self) -> str:
        """The CloudEvents type of its records: the full name of their schema."""
        schema = schema_of(self.record)
        return f"{schema['namespace']}.{schema['name']}"

    @property
    def config(self) -> dict[str, str]:
        """Topic settings on the broker."""
        policy = "compact" if self.compacted else "delete"
        return {"cleanup.policy": policy, "max.message.bytes": str(self.max_bytes)}


def dead_letters_of(pipeline: str) -> Topic[DeadLetter]:
    """Where a pipeline's stages put what they can't process."""
    return Topic(f"{pipeline}.dead-letters", DeadLetter, max_bytes=MAX_KEPT_BYTES)


def filtered_of(pipeline: str) -> Topic[Filtered]:
    """Where a pipeline's stages say which inputs they meant to write nothing for."""
    return Topic(f"{pipeline}.filtered", Filtered)


def sources_of(pipeline: str) -> Topic[SourcePosition]:
    """How far each source of a pipeline has been ingested."""
    return Topic(f"{pipeline}.sources", SourcePosition, key="source", partitions=1, compacted=True)


def state_of(pipeline: str, stage: str, partitions: int) -> Topic[Original]:
    """The changelog of a join: the records that wait for their other halves."""
    return Topic(
        f"{pipeline}.{stage}.state",
        Original,
        partitions=partitions,
        compacted=True,
        max_bytes=MAX_KEPT_BYTES,
    )


def ledger_of(pipeline: str, stage: str, partitions: int) -> Topic[LedgerEntry]:
    """What a stage asked its model and what the answers were, partitioned like its inputs."""
    return Topic(
        f"{pipeline}.{stage}.ledger",
        LedgerEntry,
        key="call_id",
        partitions=partitions,
        compacted=True,
    )


documents = Topic("newsroom.documents", Document, key="id")
classifications = Topic("newsroom.classifications", Classification)
annotations = Topic("newsroom.annotations", Annotation)
outlines = Topic("newsroom.outlines", Outline)
revisions = Topic("newsroom.revisions", Revision)
drafts = Topic("newsroom.drafts", Draft)
headlines = Topic("newsroom.headlines", Headline)
summaries = Topic("newsroom.summaries", Summary)
social_posts = Topic("newsroom.social-posts", SocialPost)
reviews = Topic("newsroom.reviews", Review)
articles = Topic("newsroom.articles", Article, key="id")

"""The pipeline of :mod:`benchmarks.scaling`, run by ``pressroom worker``; the environment sizes it."""

import os
from dataclasses import dataclass

from schemas.records import Document
from schemas.topics import Topic
from streams import Llm, Pipeline, record

NAME = "BENCH_PIPELINE"
PARTITIONS = "BENCH_PARTITIONS"


@record(namespace="bench")
class Answer:
    """What the model says."""

    text: str


@dataclass(frozen=True)
class Topics:
    """The topics of one pipeline."""

    documents: Topic[Document]
    answers: Topic[Answer]
    copies: Topic[Document]


def topics(name: str, partitions: int) -> Topics:
    return Topics(
        Topic(f"{name}.documents", Document, key="id", partitions=partitions),
        Topic(f"{name}.answers", Answer, partitions=partitions),
        Topic(f"{name}.copies", Document, partitions=partitions),
    )


_name = os.environ.get(NAME, "scaling")
_topics = topics(_name, int(os.environ.get(PARTITIONS, "4")))
pipeline = Pipeline(_name)


@pipeline.stage(reads=_topics.documents, writes=_topics.answers, prompt="slow@1")
async def ask(document: Document, llm: Llm) -> Answer:
    """One call."""
    return await llm(Answer, text=document.id)


@pipeline.stage(reads=_topics.documents, writes=_topics.copies)
async def copy(document: Document) -> Document:
    """No call."""
    return document

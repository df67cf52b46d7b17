"""The pipeline that the integration tests run: a model, a branch without one, articles.

Its name comes from the environment, so that tests can share a Kafka.
"""

import os

from schemas.records import Article, Document
from schemas.topics import Topic
from streams import Llm, Pipeline, record

NAME = os.environ.get("INTEGRATION_PIPELINE", "integration")


@record(namespace="integration")
class Gist:
    text: str


@record(namespace="integration")
class Size:
    characters: int


documents = Topic(f"{NAME}.documents", Document, key="id")
gists = Topic(f"{NAME}.gists", Gist)
sizes = Topic(f"{NAME}.sizes", Size)
articles = Topic(f"{NAME}.articles", Article, key="id")
pipeline = Pipeline(NAME)


@pipeline.stage(reads=documents, writes=gists, prompt="gist@1", concurrency=4)
async def gist(document: Document, llm: Llm) -> Gist:
    return await llm(Gist, text=document.text)


@pipeline.stage(reads=documents, writes=sizes)
async def size(document: Document) -> Size | None:
    if "fail" in document.text:
        raise ValueError("told to fail")
    return None if "filter" in document.text else Size(len(document.text))


@pipeline.stage(reads=documents, writes=articles)
async def publish(document: Document) -> Article:
    return Article(
        id=document.id,
        source=document.source,
        title=document.title,
        summary="",
        social_post="",
        body=document.text,
        topic="other",
        language="en",
        quality="low",
        entities=[],
        attempts=1,
    )

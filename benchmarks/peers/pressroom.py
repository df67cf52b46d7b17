"""Pressroom: run by ``pressroom --app benchmarks.peers.pressroom:pipeline worker``."""

from benchmarks.peers.task import Task
from schemas.records import Document
from schemas.topics import Topic
from streams import Llm, Pipeline, record


@record(namespace="bench")
class Reply:
    """What a slow call gives."""

    text: str


task = Task.from_environment()
source = Topic(task.source, Document, key="id")
pipeline = Pipeline(task.group)

if task.work == "copy":

    @pipeline.stage(reads=source, writes=Topic(task.target, Document))
    async def copy(document: Document) -> Document:
        return document
else:

    @pipeline.stage(
        reads=source, writes=Topic(task.target, Reply), prompt="slow@1", concurrency=task.at_once
    )
    async def ask(document: Document, llm: Llm) -> Reply:
        return await llm(Reply, text=document.id)

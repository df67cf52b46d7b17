"""The pipeline that the security tests run: one stage that needs every right there is.

Its name comes from the environment, so that tests can share a Kafka.
"""

import os

from schemas.topics import Topic
from streams import Llm, Pipeline, join, record

NAME = os.environ.get("INTEGRATION_PIPELINE", "security")


@record(namespace="security")
class Half:
    text: str


@record(namespace="security")
class Whole:
    text: str


lefts = Topic(f"{NAME}.lefts", Half)
rights = Topic(f"{NAME}.rights", Half)
wholes = Topic(f"{NAME}.wholes", Whole)
pipeline = Pipeline(NAME)


@pipeline.stage(reads=join(lefts, rights), writes=wholes, prompt="merge@1", concurrency=4)
async def merge(left: Half, right: Half, llm: Llm) -> Whole | None:
    if "fail" in left.text:
        # what a careless author may write; it has no secret in it unless the test sets one
        key = os.environ.get("OPENAI_API_KEY") if "leak" in left.text else ""
        raise ValueError(f"told to fail: {left.text} {key}")
    return None if "filter" in left.text else await llm(Whole, text=f"{left.text}+{right.text}")

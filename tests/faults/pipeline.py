"""The pipeline that the fault tests run: a model, a branch without one, and a join of both.

It is run by worker processes; its name comes from the environment, so that tests can share a Kafka.
"""

import os

from schemas.topics import Topic
from streams import Llm, Pipeline, join, record

NAME = os.environ.get("FAULT_PIPELINE", "faults")


@record(namespace="faults")
class Line:
    text: str


@record(namespace="faults")
class Answer:
    text: str


@record(namespace="faults")
class Shout:
    text: str


@record(namespace="faults")
class Pair:
    text: str


lines = Topic(f"{NAME}.lines", Line)
answers = Topic(f"{NAME}.answers", Answer)
shouts = Topic(f"{NAME}.shouts", Shout)
pairs = Topic(f"{NAME}.pairs", Pair)
pipeline = Pipeline(NAME)


@pipeline.stage(
    reads=lines,
    writes=answers,
    prompt="answer@1",
    concurrency=16,
    on_unknown="park" if os.environ.get("FAULT_ON_UNKNOWN") == "park" else "retry",
)
async def ask(line: Line, llm: Llm) -> Answer:
    return await llm(Answer, text=line.text)


@pipeline.stage(reads=lines, writes=shouts)
async def shout(line: Line) -> Shout:
    return Shout(line.text.upper())


@pipeline.stage(reads=join(answers, shouts, on="origin"), writes=pairs)
async def pair(answer: Answer, shout: Shout) -> Pair:
    return Pair(f"{answer.text} {shout.text}")

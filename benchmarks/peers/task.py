"""What every program is told to do. Imports nothing that only one system's environment has."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

Work = Literal["copy", "ask"]

VARIABLE = "BENCH_TASK"
SESSION_TIMEOUT = 6000
"""Milliseconds, the least a broker takes: partitions of a killed program move on as soon as can be."""
COMMIT_INTERVAL = 0.1
"""Seconds, where a system commits by a timer; the default of Kafka Streams with exactly-once."""


@dataclass(frozen=True)
class Task:
    """One run: copy the records of ``source`` to ``target``, or ask the model about each.

    The question is the record's key; the answer is written under the same key.
    """

    work: Work
    servers: str
    group: str
    source: str
    target: str
    model_url: str
    at_once: int
    home: str
    """A folder of this run's own; a program that is started again finds it as it left it."""

    def to_environment(self) -> dict[str, str]:
        """Variables that :meth:`from_environment` reads."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> "Task":
        return cls(**json.loads(os.environ[VARIABLE]))

    @property
    def folder(self) -> Path:
        return Path(self.home)


def client(task: Task) -> "AsyncOpenAI":
    """The model's client, the same in every system; retries would hide what is paid."""
    from openai import AsyncOpenAI

    return AsyncOpenAI(base_url=task.model_url, api_key="none", max_retries=0)


def blocking_client(task: Task) -> "OpenAI":
    """The same for systems whose functions can't await."""
    from openai import OpenAI

    return OpenAI(base_url=task.model_url, api_key="none", max_retries=0)


async def ask(model: "AsyncOpenAI", question: bytes) -> bytes:
    """One completion."""
    answer = await model.chat.completions.create(
        model="slow", messages=[{"role": "user", "content": question.decode()}]
    )
    return (answer.choices[0].message.content or "").encode()


def ask_blocking(model: "OpenAI", question: bytes) -> bytes:
    """One completion, waited for."""
    answer = model.chat.completions.create(
        model="slow", messages=[{"role": "user", "content": question.decode()}]
    )
    return (answer.choices[0].message.content or "").encode()

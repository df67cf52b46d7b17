"""Streams: LLM stages as exactly-once stream processors on Kafka.

What a pipeline's author needs::

    from streams import Llm, MemoryDriver, Pipeline, ScriptedModel, Text, Topic, join, record
"""

from typing import TYPE_CHECKING, Any

from schemas.record import Text, record
from schemas.topics import Topic
from streams.llm import Llm
from streams.pipeline import Pipeline
from streams.stage import join

if TYPE_CHECKING:
    from streams.memory import MemoryDriver, ScriptedModel

__all__ = [
    "Llm",
    "MemoryDriver",
    "Pipeline",
    "ScriptedModel",
    "Text",
    "Topic",
    "join",
    "record",
]


def __getattr__(name: str) -> Any:
    # the drivers for tests are loaded when asked for: workers don't need them
    if name in ("MemoryDriver", "ScriptedModel"):
        from streams import memory

        return getattr(memory, name)
    raise AttributeError(name)

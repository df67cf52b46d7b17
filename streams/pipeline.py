"""Pipelines: a graph of stages, declared in one place, checked before anything runs."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from schemas.errors import UsageError
from schemas.records import Document
from schemas.topics import Topic, dead_letters_of, filtered_of, sources_of
from streams.history import remember_history
from streams.stage import AnyTopic, OnUnknown, Reads, Stage, StageFunction, Writes, declare

F = TypeVar("F", bound=StageFunction)

DEFAULT_CONCURRENCY = 8


class Pipeline:
    """A named graph of stages. Topics connect them; nothing else does.

    ::

        newsroom = Pipeline("newsroom")

        @newsroom.stage(reads=documents, writes=summaries, prompt="summarise@3")
        async def summarise(document: Document, llm: Llm) -> Summary:
            return await llm(Summary, text=document.text)
    """

    def __init__(self, name: str) -> None:
        """
        Args:
            name: begins the names of its consumer groups and of its own topics.
        """
        self.name = name
        self.stages: dict[str, Stage] = {}
        self.dead_letters = dead_letters_of(name)
        self.filtered = filtered_of(name)
        self.sources = sources_of(name)

    def stage(
        self,
        *,
        reads: Reads,
        writes: Writes,
        prompt: str | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        on_unknown: OnUnknown = "retry",
        sample: bool = False,
    ) -> Callable[[F], F]:
        """Declares a stage. Its name is the function's.

        The function is ``async``, takes one record (or, from a join, one of each topic), and last
        an :class:`~streams.llm.Llm` if it asks a model. It returns a record, several in a list, or
        None to write nothing. Each record goes to the topic of its class; where two topics hold
        the same class, return ``topic.bind(record)``.

        Args:
            reads: a topic, several (whichever record comes next), or a :func:`~streams.stage.join`.
            writes: a topic, or several.
            prompt: ``name@version``: the file ``prompts/name@version.md`` beside the module.
            concurrency: how many records a worker works on at once.
            on_unknown: what to do, after a crash or a broken connection, with a call whose answer
                nobody has: ``retry`` may pay twice, ``park`` makes a dead letter ("maybe paid").
            sample: every input gets a completion of its own, with a seed of its own; else a question
                that was asked before, by whatever input, is answered from the ledgers.

        Raises:
            UsageError: the function's types don't fit the topics, or the name is taken.
        """

        def add(function: F) -> F:
            stage = declare(
                self.name, function, reads, writes, prompt, concurrency, on_unknown, sample
            )
            if stage.name in self.stages:
                raise UsageError(f"pipeline {self.name} has two stages named {stage.name}")
            self.stages[stage.name] = stage
            return function

        return add

    @property
    def data_topics(self) -> list[AnyTopic]:
        """The topics its stages read and write, in the order of their declaration."""
        found: dict[str, AnyTopic] = {}
        for stage in self.stages.values():
            for topic in (*stage.reads, *stage.writes):
                if found.setdefault(topic.name, topic) != topic:
                    raise UsageError(f"topic {topic.name} is declared twice, differently")
        return list(found.values())

    @property
    def topics(self) -> list[AnyTopic]:
        """All topics it needs: data, join state, ledgers, dead letters, filtered, sources."""
        stages = self.stages.values()
        state = [s.state for s in stages if s.state is not None]
        ledgers = [s.ledger for s in stages if s.ledger is not None]
        return [*self.data_topics, *state, *ledgers, self.dead_letters, self.filtered, self.sources]

    def topic(self, name: str) -> AnyTopic:
        """The topic of a name; the pipeline's prefix may be left out.

        Raises:
            UsageError: there is none.
        """
        for topic in self.topics:
            if topic.name in (name, f"{self.name}.{name}"):
                return topic
        raise UsageError(f"no topic {name!r} in {self.name}; `pressroom topology` lists them")

    def entry(self, name: str | None = None) -> Topic[Document]:
        """Where documents come in: the topic of this name, or the one that no stage writes.

        Raises:
            UsageError: it does not hold documents, or it takes a name to say which.
        """
        written = {t.name for s in self.stages.values() for t in s.writes}
        open_ones = [t for t in self.data_topics if t.name not in written and t.record is Document]
        chosen = [self.topic(name)] if name is not None else open_ones
        if len(chosen) != 1:
            names = ", ".join(t.name for t in open_ones) or "none"
            raise UsageError(f"say which topic takes documents, with --topic (there: {names})")
        if chosen[0].record is not Document:
            raise UsageError(
                f"{chosen[0].name} holds {chosen[0].record.__name__}; ingestion writes Document"
            )
        return chosen[0]

    def select(self, names: Iterable[str]) -> list[Stage]:
        """The stages of these names; for a topic's name, all stages that read it.

        Raises:
            UsageError: a name is neither.
        """
        chosen: dict[str, Stage] = {}
        for name in names:
            if name in self.stages:
                chosen[name] = self.stages[name]
                continue
            try:
                topic = self.topic(name)
            except UsageError:
                known = ", ".join(self.stages)
                raise UsageError(f"{name!r} is no stage and no topic; stages: {known}") from None
            readers = {s.name: s for s in self.stages.values() if topic in s.reads}
            if not readers:
                raise UsageError(f"no stage reads {topic.name}")
            chosen |= readers
        return list(chosen.values())

    def check(self) -> None:
        """Loads every prompt and kept schema, and looks for topics declared twice.

        Raises:
            UsageError: the first thing found wrong.
        """
        _ = self.data_topics
        for stage in self.stages.values():
            if stage.prompt is not None:
                stage.load_prompt()
        self.remember_history()

    def remember_history(self) -> None:
        """Makes records readable that were written with the schemas in ``history``, beside its module.

        Raises:
            UsageError: a file there is no schema of a record, or the present class can't read it.
        """
        remember_history(self.stages.values())

    def topology(self) -> dict[str, Any]:
        """The graph as plain data, as ``pressroom topology --json`` prints it."""
        stages = [
            {
                "name": s.name,
                "reads": [t.name for t in s.reads],
                "writes": [t.name for t in s.writes],
                "prompt": s.prompt,
            }
            for s in self.stages.values()
        ]
        topics = [
            {"name": t.name, "schema": t.ce_type, "key": t.key, "partitions": t.partitions}
            for t in self.topics
        ]
        return {"pipeline": self.name, "stages": stages, "topics": topics}

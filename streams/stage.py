"""Stages and how they are declared: a typed async function, the topics it reads and writes."""

import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from schemas.errors import UsageError
from schemas.topics import Topic, dead_letters_of, filtered_of, ledger_of, state_of
from streams.llm import Llm
from streams.prompts import Prompt, load_prompt

AnyTopic = Topic[Any]
StageFunction = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Join:
    """Topics read together: the stage is called once with one record of each."""

    topics: tuple[AnyTopic, ...]
    on: Literal["key", "origin"]


def join(*topics: AnyTopic, on: Literal["key", "origin"] = "key") -> Join:
    """Fan-in: brings one record of each topic together.

    Args:
        topics: two or more, with equal numbers of partitions.
        on: ``"key"`` joins records with equal keys, first with first, second with second;
            ``"origin"`` joins what came of one and the same record that entered the pipeline.
    """
    if len(topics) < 2:
        raise UsageError("a join needs at least two topics")
    if len({t.name for t in topics}) < len(topics):
        raise UsageError("a join needs different topics")
    if on not in ("key", "origin"):
        raise UsageError(f"a join is on 'key' or 'origin', not {on!r}")
    if len({t.partitions for t in topics}) > 1:
        counts = ", ".join(f"{t.name} {t.partitions}" for t in topics)
        raise UsageError(f"joined topics need equal numbers of partitions ({counts})")
    return Join(topics, on)


OnUnknown = Literal["retry", "park"]
"""What to do with a call that was begun and whose answer nobody has: ask again, which may pay twice, or
put the input among the dead letters, marked "maybe paid"."""

Reads = AnyTopic | Join | Sequence[AnyTopic]
Writes = AnyTopic | Sequence[AnyTopic]


@dataclass(frozen=True)
class Stage:
    """A stream processor. Made by :meth:`streams.pipeline.Pipeline.stage`, which says it all."""

    pipeline: str
    name: str
    function: StageFunction
    reads: tuple[AnyTopic, ...]
    writes: tuple[AnyTopic, ...]
    joins_on: Literal["key", "origin"] | None
    prompt: str | None
    concurrency: int
    uses_llm: bool
    prompt_folder: Path
    on_unknown: OnUnknown = "retry"
    sample: bool = False
    state: AnyTopic | None = field(init=False)
    ledger: AnyTopic | None = field(init=False)

    def __post_init__(self) -> None:
        partitions = max(t.partitions for t in self.reads)
        state = state_of(self.pipeline, self.name, partitions) if self.joins_on else None
        ledger = ledger_of(self.pipeline, self.name, partitions) if self.uses_llm else None
        object.__setattr__(self, "state", state)
        object.__setattr__(self, "ledger", ledger)

    @property
    def full_name(self) -> str:
        """``pipeline/stage``: the CloudEvents source of what it writes."""
        return f"{self.pipeline}/{self.name}"

    @property
    def topics(self) -> list[AnyTopic]:
        """All topics it reads and writes: data, state, ledger, dead letters, filtered."""
        own = [t for t in (self.state, self.ledger) if t is not None]
        always = (dead_letters_of(self.pipeline), filtered_of(self.pipeline))
        return [*self.reads, *self.writes, *own, *always]

    @property
    def history(self) -> Path:
        """Where the older schemas of its records are kept: beside its module, as its prompts are."""
        return self.prompt_folder.parent / "history"

    @property
    def group(self) -> str:
        """Its consumer group."""
        return f"{self.pipeline}.{self.name}"

    def load_prompt(self, name: str | None = None) -> Prompt:
        """The stage's prompt, or another one of its folder.

        Raises:
            UsageError: there is none.
        """
        chosen = name or self.prompt
        if chosen is None:
            raise UsageError(f'stage {self.name} names no prompt: add prompt="name@version"')
        return load_prompt(self.prompt_folder, chosen)


def declare(
    pipeline: str,
    function: StageFunction,
    reads: Reads,
    writes: Writes,
    prompt: str | None,
    concurrency: int,
    on_unknown: OnUnknown = "retry",
    sample: bool = False,
) -> Stage:
    """Makes a stage of a function after checking its types against the topics.

    Raises:
        UsageError: what does not fit, in one line.
    """
    name = function.__name__
    topics, joins_on = _topics_read(reads)
    written = (writes,) if isinstance(writes, Topic) else tuple(writes)
    try:
        records, uses_llm, returned = _signature(function)
        _check_reads(records, topics, joins_on)
        _check_writes(returned, written)
        if concurrency < 1:
            raise UsageError("concurrency must be at least 1")
        if on_unknown not in ("retry", "park"):
            raise UsageError(f"on_unknown is 'retry' or 'park', not {on_unknown!r}")
        if not isinstance(sample, bool):
            raise UsageError(f"sample is True or False, not {sample!r}")
        if (prompt or sample) and not uses_llm:
            raise UsageError("has a prompt or samples, but no parameter of type Llm")
    except UsageError as error:
        raise UsageError(f"stage {name}: {error}") from None
    folder = Path(inspect.getfile(function)).parent / "prompts"
    return Stage(
        pipeline, name, function, topics, written, joins_on, prompt, concurrency, uses_llm, folder,
        on_unknown, sample,
    )  # fmt: skip


def _topics_read(reads: Reads) -> tuple[tuple[AnyTopic, ...], Literal["key", "origin"] | None]:
    if isinstance(reads, Join):
        return reads.topics, reads.on
    return ((reads,) if isinstance(reads, Topic) else tuple(reads)), None


def _signature(function: StageFunction) -> tuple[list[Any], bool, set[type]]:
    """The annotations of the record parameters, whether there is a model, what is returned."""
    if not inspect.iscoroutinefunction(function):
        raise UsageError("must be an `async def` function")
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise UsageError(f"{error}; annotations must be importable names") from None
    names = list(inspect.signature(function).parameters)
    missing = [n for n in [*names, "return"] if n not in hints]
    if missing:
        raise UsageError(f"needs type annotations for {', '.join(missing)}")
    models = [n for n in names if hints[n] is Llm]
    if models and models != names[-1:]:
        raise UsageError("the Llm must be the last parameter, and the only one")
    records = [hints[n] for n in names if n not in models]
    return records, bool(models), _record_types(hints["return"])


def _record_types(annotation: Any) -> set[type]:
    """The record classes in an annotation: ``A | B | None``, ``list[A]``, ``Bound[A]``."""
    if annotation in (None, type(None)):
        return set()
    origin = get_origin(annotation)
    if origin is None:
        return {annotation}
    if origin in (Union, types.UnionType) or origin.__name__ in (
        "list",
        "Sequence",
        "tuple",
        "Bound",
    ):
        return set().union(*(_record_types(a) for a in get_args(annotation) if a is not ...))
    raise UsageError(f"can't return {annotation!r}: return a record, several in a list, or None")


def _check_reads(records: list[Any], topics: tuple[AnyTopic, ...], joins_on: str | None) -> None:
    if not topics:
        raise UsageError("reads no topic")
    if joins_on is None:
        if len(records) != 1:
            raise UsageError(f"takes {len(records)} records; without a join it gets one at a time")
        expected, given = _record_types(records[0]), {t.record for t in topics}
        if expected != given:
            raise UsageError(f"takes {_names(expected)} but its topics hold {_names(given)}")
        return
    if [t.record for t in topics] != records:
        raise UsageError(
            f"takes {_names(records)} but the join gives {_names(t.record for t in topics)}"
        )


def _check_writes(returned: set[type], topics: tuple[AnyTopic, ...]) -> None:
    if not topics:
        raise UsageError("writes no topic")
    unknown = returned - {t.record for t in topics}
    if unknown:
        raise UsageError(f"returns {_names(unknown)}, which none of its topics holds")


def _names(classes: Any) -> str:
    return " and ".join(sorted(getattr(c, "__name__", str(c)) for c in classes)) or "nothing"

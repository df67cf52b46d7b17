"""What one input becomes: decoded, joined, given to the stage, encoded with its lineage.

No Kafka here: the exactly-once loop and the in-memory driver both run a stage through this.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from schemas.codec import SINGLE_OBJECT, Codec, Framing
from schemas.errors import RecordRejected, Stop, UsageError
from schemas.message import (
    Call,
    Outgoing,
    Received,
    lineage,
    make,
    origin_of,
    record_id,
)
from schemas.records import DeadLetter, Filtered, Header, Original
from schemas.secrets import redact
from schemas.topics import Bound, dead_letters_of, filtered_of
from streams.calls import Caller
from streams.llm import Keep, Llm, keep_nothing
from streams.stage import AnyTopic, Stage

_KEPT_OF_REFUSED = 64 * 1024


def to_original(received: Received) -> Original:
    """A received record as it is kept inside another one."""
    headers = [Header(name, value) for name, value in received.headers]
    return Original(
        received.topic, received.partition, received.offset, received.timestamp,
        received.key, received.value, headers,
    )  # fmt: skip


def from_original(original: Original) -> Received:
    """The inverse of :func:`to_original`."""
    headers = [(h.name, h.value) for h in original.headers]
    return Received(
        original.topic, original.partition, original.offset, original.timestamp,
        original.key, original.value, headers,
    )  # fmt: skip


class Work:
    """One input on its way: its stage call, if it gives rise to one, and what it became."""

    __slots__ = ("cause", "dropped", "inputs", "keep", "kept", "outgoing", "size")

    def __init__(self, cause: Received, inputs: Sequence[Received] = ()) -> None:
        self.cause = cause
        """The input whose offset is committed when this is."""
        self.size = cause.size
        """Its bytes."""
        self.inputs = inputs
        """The inputs of the call: the cause alone, or what a join brought together."""
        self.keep: Keep = keep_nothing
        """Where its completions are kept."""
        self.kept: Sequence[Outgoing] = ()
        """Changes of state that go with it."""
        self.outgoing: list[Outgoing] | None = None
        """What to write; None until finished."""
        self.dropped = False
        """Set when its partition went to another worker: nobody waits for it any more."""


class JoinState:
    """The records of one task (one partition number) that wait for their other halves."""

    def __init__(self, stage: Stage, framing: Framing = SINGLE_OBJECT) -> None:
        assert stage.state is not None
        self._on = stage.joins_on
        self._topics = [t.name for t in stage.reads]
        self._framing, self._codec = framing, framing.codec(stage.state)
        self._changelog = stage.state.name
        self._source = stage.full_name
        self._ce_type = stage.state.ce_type
        self._waiting: dict[Any, dict[str, deque[Received]]] = defaultdict(
            lambda: {name: deque() for name in self._topics}
        )

    def restore(self, values: Iterable[bytes]) -> None:
        """Takes up what the changelog holds (values without tombstones).

        Raises:
            RetryLater: the registry, which knows a half's schema, does not answer.
        """
        halves = [from_original(self._codec.decode(v)) for v in values]
        for received in sorted(halves, key=lambda r: r.offset):
            self._framing.learn(received.value)  # once matched it must be readable
            self._waiting[self._match_key(received)][received.topic].append(received)

    def add(self, received: Received) -> Work:
        """Either keeps a half, or completes a set and gives it to the stage."""
        match_key = self._match_key(received)
        slots = self._waiting[match_key]
        others = [name for name in self._topics if name != received.topic]
        # a half that waits in the same topic came first and must be matched first
        if slots[received.topic] or not all(slots[name] for name in others):
            slots[received.topic].append(received)
            work = Work(received)
            work.kept = [self._put(received)]
            work.outgoing = []
            return work
        slots[received.topic].append(received)
        matched = [slots[name].popleft() for name in self._topics]
        if not any(slots.values()):
            del self._waiting[match_key]
        work = Work(received, matched)
        work.kept = [self._delete(half) for half in matched if half is not received]
        return work

    def waiting(self) -> list[Received]:
        """All halves that wait."""
        return [r for slots in self._waiting.values() for half in slots.values() for r in half]

    def _match_key(self, received: Received) -> Any:
        return received.key if self._on == "key" else origin_of(received)

    def _put(self, received: Received) -> Outgoing:
        value = self._codec.encode(to_original(received))
        headers = lineage(self._source, (received,), self._ce_type)
        return self._change(received, value, headers)

    def _delete(self, received: Received) -> Outgoing:
        return self._change(received, None, [])

    def _change(self, received: Received, value: bytes | None, headers: Any) -> Outgoing:
        key = f"{received.topic}:{received.offset}".encode()
        return Outgoing(self._changelog, key, value, headers, received.partition)


class _Route:
    """A topic that a stage writes, with all that each record needs of it."""

    __slots__ = ("as_many_partitions", "ce_type", "codec", "key", "max_bytes", "name", "record")

    def __init__(
        self, topic: AnyTopic, codec: Codec[Any], stage: Stage, counts: Mapping[str, int]
    ) -> None:
        self.name, self.record, self.key = topic.name, topic.record, topic.key
        self.max_bytes, self.ce_type = topic.max_bytes, topic.ce_type
        self.codec = codec
        self.as_many_partitions = {
            t.name for t in stage.reads if counts[t.name] == counts[topic.name]
        }


class Processor:
    """Runs one stage's function on records, bytes in and bytes out."""

    def __init__(
        self,
        stage: Stage,
        caller: Caller | None,
        partitions: Mapping[str, int] | None = None,
        framing: Framing = SINGLE_OBJECT,
    ) -> None:
        """
        Args:
            stage: what to run.
            caller: asks the model for its Llm; None for a stage without one.
            partitions: how many partitions each topic really has; by default as declared.
            framing: how values are written; its topics are prepared.

        Raises:
            UsageError: the stage needs a model and there is none, or its prompt is missing.
        """
        self.stage, self.framing = stage, framing
        self.dead = 0
        """Inputs that became dead letters."""
        self._source, self._function = stage.full_name, stage.function
        self.caller = caller if stage.uses_llm else None
        """Asks the model; None for a stage that asks none."""
        self.pace = caller.limits.group_pace() if caller is not None else None
        """How fast its group may ask."""
        if stage.uses_llm and caller is None:
            raise UsageError(f"stage {stage.name} needs a model")
        if stage.prompt is not None:
            stage.load_prompt()
        self._key_fields = {t.name: t.key for t in stage.reads}
        self._codecs = {t.name: framing.codec(t) for t in stage.reads}
        counts = {t.name: t.partitions for t in (*stage.reads, *stage.writes)}
        counts |= dict(partitions or {})
        self.partitions = sum(counts[t.name] for t in stage.reads)
        """How many partitions it reads, together with the others of its group."""
        self._routes = {t.name: _Route(t, framing.codec(t), stage, counts) for t in stage.writes}
        self._route_of = {t.record: self._routes[t.name] for t in reversed(stage.writes)}
        self._dead_letters = dead_letters_of(stage.pipeline)
        self._filtered = filtered_of(stage.pipeline)

    def new_state(self) -> JoinState:
        """An empty state, for one task of a join."""
        return JoinState(self.stage, self.framing)

    # --- in -----------------------------------------------------------------------------------

    def accept(self, received: Received, state: JoinState | None = None) -> Work:
        """Takes an input in, in the order of its task.

        Returns:
            a work that is finished already (a half that waits, a dead letter), or one to be
            :meth:`run`, which reads the record if it is framed as it would be now.

        Raises:
            RetryLater: the registry, which knows the record's schema, does not answer; nothing was
                taken in.
        """
        topic, _, _, _, key, value, _ = received
        codec, key_field = self._codecs[topic], self._key_fields[topic]
        # what is framed as it would be now needs nobody's help to be read, when its turn comes
        if state is None and (key is not None or key_field is None) and codec.is_current(value):
            return Work(received, (received,))
        try:
            record = codec.decode(value)
        except RecordRejected as error:
            return self._rejected(Work(received, (received,)), error)
        if key is None and key_field is not None:  # a foreign producer has left it out
            received = received._replace(key=str(getattr(record, key_field)).encode())
        return Work(received, (received,)) if state is None else state.add(received)

    # --- the call -----------------------------------------------------------------------------

    async def run(self, work: Work) -> None:
        """Calls the stage and sets what the work became: outputs, or a dead letter.

        Raises:
            Stop: what is wrong concerns every record.
        """
        llm = None if self.caller is None else self._llm(work)
        try:
            given, *others = self._records(work)
            if llm is not None:
                others.append(llm)
            returned = await self._function(given, *others)
            calls = llm.calls if llm is not None else ()
            route = self._route_of.get(type(returned))
            if route is not None:
                work.outgoing = [self._output(work, route, returned, given, calls)]
            else:
                work.outgoing = self._outputs(work, returned, given, calls)
        except (Stop, UsageError):
            raise
        except (
            Exception,
            SystemExit,
        ) as error:  # a stage may raise anything; the record is at fault
            self._rejected(work, error, llm)

    def _records(self, work: Work) -> list[Any]:
        if len(work.inputs) == 1:  # as most have: no loop, half the time
            topic, _, _, _, _, value, _ = work.inputs[0]
            return [self._codecs[topic].decode(value)]
        return [self._codecs[i.topic].decode(i.value) for i in work.inputs]

    def _llm(self, work: Work) -> Llm:
        assert self.caller is not None
        stage = self.stage
        return Llm(
            self.caller, stage.load_prompt, stage.full_name, work.keep,
            pace=self.pace, park=stage.on_unknown == "park",
            seed=_sample_of(work) if stage.sample else 0,
        )  # fmt: skip

    # --- out ----------------------------------------------------------------------------------

    def _outputs(
        self, work: Work, returned: Any, given: Any, calls: Sequence[Call]
    ) -> list[Outgoing]:
        """What becomes of several, of none, or of one bound for a topic."""
        if returned is None:
            returned = []
        items = returned if isinstance(returned, (list, tuple)) else [returned]
        outputs = [
            self._output(work, *self._bound_for(item), given, calls, part, len(items))
            for part, item in enumerate(items)
        ]
        return outputs or [self._filtered_mark(work)]

    def _output(
        self,
        work: Work,
        route: _Route,
        record: Any,
        given: Any,
        calls: Sequence[Call],
        part: int = 0,
        parts: int = 1,
    ) -> Outgoing:
        topic, partition, _, _, came_with, value, _ = work.inputs[0]
        if value is None or record is not given or not route.codec.repeats(value):
            value = route.codec.encode(record)
        if len(value) > route.max_bytes:
            raise RecordRejected(
                f"the {type(record).__name__} has {len(value):,} bytes; "
                f"{route.name} takes {route.max_bytes:,}"
            )
        key = came_with if route.key is None else str(getattr(record, route.key)).encode()
        # the same key keeps its partition, whatever partitioner the first producer used
        if key != came_with or topic not in route.as_many_partitions:
            partition = -1
        headers = lineage(self._source, work.inputs, route.ce_type, part, parts, calls)
        made: Outgoing = make(Outgoing, (route.name, key, value, headers, partition))
        return made

    def _bound_for(self, item: Any) -> tuple[_Route, Any]:
        route, record = self._route_of.get(type(item)), item
        if isinstance(item, Bound):
            route, record = self._routes.get(item.topic.name), item.record
        if route is None or type(record) is not route.record:
            where = f" for {item.topic.name}" if record is not item else ""
            raise RecordRejected(
                f"{self.stage.name} returned {type(record).__name__}{where}, "
                "which none of its topics holds"
            )
        return route, record

    def _filtered_mark(self, work: Work) -> Outgoing:
        value = self.framing.codec(self._filtered).encode(
            Filtered(self.stage.name, *work.cause.position)
        )
        headers = lineage(self._source, work.inputs, self._filtered.ce_type)
        return Outgoing(self._filtered.name, work.cause.key, value, headers)

    # --- dead letters -------------------------------------------------------------------------

    def _rejected(self, work: Work, error: BaseException, llm: Llm | None = None) -> Work:
        self.dead += 1
        work.outgoing = [self._dead_letter(work, error, llm)]
        return work

    def refuse(self, work: Work, reason: str) -> None:
        """Replaces what a work became by a dead letter, after the broker refused to take it.

        A dead letter that was itself refused is cut.
        """
        refused_before = [o.topic for o in work.outgoing or ()] == [self._dead_letters.name]
        work.outgoing = [self._dead_letter(work, RecordRejected(reason), None, refused_before)]

    def _dead_letter(
        self, work: Work, error: BaseException, llm: Llm | None, cut: bool = False
    ) -> Outgoing:
        inputs = [to_original(i) for i in work.inputs or (work.cause,)]
        letter = DeadLetter(
            stage=self.stage.name,
            error=type(error).__name__,
            message=_message_of(error),
            attempts=max(1, sum(c.attempts for c in llm.calls) if llm is not None else 1),
            inputs=[_cut(i) for i in inputs] if cut else inputs,
        )
        value = self.framing.codec(self._dead_letters).encode(letter)
        if len(value) > self._dead_letters.max_bytes and not cut:
            return self._dead_letter(work, error, llm, cut=True)
        calls = llm.calls if llm is not None else ()
        made_from = work.inputs or (work.cause,)
        headers = lineage(self._source, made_from, self._dead_letters.ce_type, own=calls)
        return Outgoing(self._dead_letters.name, work.cause.key, value, headers)


def _sample_of(work: Work) -> int:
    """A seed that no other input has, and this one always."""
    return int(record_id(*(str(i.position) for i in work.inputs))[:7], 16)


def _message_of(error: BaseException) -> str:
    try:
        said = str(error) or repr(error)
    except Exception:  # an error of a stage may not even be printable
        said = type(error).__name__
    return redact(said.encode("utf-8", "replace").decode())[:4000]


def _cut(original: Original) -> Original:
    return Original(
        original.topic, original.partition, original.offset, original.timestamp,
        original.key, (original.value or b"")[:_KEPT_OF_REFUSED], original.headers,
    )  # fmt: skip

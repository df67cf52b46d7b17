"""The ledger: every completion a stage has paid for, so that none is paid for twice.

Before a call an *intent* is written, after it the *result*, keyed by the call id and to the ledger's
partition that has the input's number. Both are written by an idempotent producer outside the
transactions, and both are awaited: what is known to be written outlives any crash. A question that was
asked before, by whatever input, is not asked again: a *reuse* is written that repeats the completion,
keyed by the call id and the inputs.

With every committed offset goes, as its metadata, a position in the ledger: no entry of an input that
is not committed yet stands before it. The next owner of the partition reads on from there, which is as
much as was in flight, however long the ledger is.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Protocol, cast

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from consumers.reader import Reader, begin_offsets, end_offsets
from producers.transactional import DEFAULTS as PRODUCER_DEFAULTS
from schemas.codec import SINGLE_OBJECT, Codec, Framing
from schemas.errors import DecodeError, RecordRejected, Refused, RetryLater, Stop
from schemas.message import Position, Received, lineage
from schemas.records import LedgerEntry
from streams.calls import Begin
from streams.completions import Completions
from streams.last_moment import Withheld, last_moment
from streams.llm import Ask, Question
from streams.model import Completion
from streams.prices import Prices
from streams.stage import OnUnknown, Stage

log = logging.getLogger(__name__)

OnLoss = Literal["stop", "accept"]
"""What a worker does where the ledger has lost entries that it needs: it stops, or goes on without
them. What was in flight may be paid again then, and asked again in spite of ``on_unknown="park"``."""

_METADATA = "ledger:"
_PAUSE = 1.0


class Writes(Protocol):
    """Writes one entry; returns its offset when it is there for good."""

    async def __call__(self, entry: LedgerEntry, page: "Page", partition: int) -> int: ...


class ReadsLate(Protocol):
    """What others have in the ledger between two offsets; blocks."""

    def __call__(self, since: int, until: int) -> Mapping[int, LedgerEntry]: ...


class _Known(Exception):
    """The answer turned out to be in the ledger when the question was about to be asked."""

    def __init__(self, entry: LedgerEntry) -> None:
        self.entry = entry


class Book:
    """One partition of a stage's ledger, as its present owner keeps it."""

    def __init__(
        self,
        partition: int,
        write: Writes,
        entries: Mapping[int, LedgerEntry],
        end: int,
        prices: Prices,
        on_unknown: OnUnknown,
        earlier: Completions | None = None,
        read_late: ReadsLate = lambda since, until: {},
        committed: Mapping[str, int] | None = None,
    ) -> None:
        """
        Args:
            partition: its number.
            write: writes an entry.
            entries: those of the calls that were in flight by their offsets, in the order of the
                ledger.
            end: the offset after the last of them.
            prices: what completions cost.
            on_unknown: see :data:`streams.stage.OnUnknown`.
            earlier: the completions that may be taken again; None asks every question.
            read_late: reads what others have written after ``end`` was found.
            committed: for each topic the offset that is committed.
        """
        self.partition, self.end = partition, end
        self._read_late, self._committed = read_late, dict(committed or {})
        self._written_by_others: deque[tuple[int, int]] = deque()
        self._reading = asyncio.Lock()
        self._write, self._prices, self._on_unknown = write, prices, on_unknown
        self._earlier = earlier
        self._results: dict[str, LedgerEntry] = {}
        self.saving = 0
        """Answers that are there and not in the ledger yet."""
        self._unknown: set[str] = set()
        self.taken_over: dict[str, int] = {}
        """For each input that a predecessor left uncommitted: where its entries begin."""
        self._take_in(entries)

    async def complete(self, page: "Page", question: Question, ask: Ask) -> Completion:
        """The answer: the one in the ledger, or else a new one, which is put into the ledger.

        Raises:
            RecordRejected: the answer of an earlier call is unknown, and must not be paid again.
        """
        async with self._alone(question):
            known = self._known(question)
            try:
                if known is None:
                    return await self._ask(page, question, ask)
            except _Known as late:
                known = late.entry
            if known.inputs == page.inputs:
                return _completion_of(known, reused=known.kind == "reuse")
            return await self._reuse(page, known)

    def _alone(self, question: Question) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._earlier is None else self._earlier.alone(question.call_id)

    def _known(self, question: Question) -> LedgerEntry | None:
        found = self._results.get(question.call_id)
        if found is None and self._earlier is not None:
            found = self._earlier.find(question.call_id)
        return found

    async def _ask(self, page: "Page", question: Question, ask: Ask) -> Completion:
        self._check_unknown(question)
        began = 0.0

        async def begin() -> None:
            nonlocal began
            # before each further try, too: others may have asked meanwhile
            await self._put(page, self._entry("intent", page, question, question.model))
            await self._look_back(question)
            began = began or time.monotonic()

        completion = await self._asked(question, ask, begin)
        entry = self._entry("result", page, question, completion.model)
        entry = _with_result(entry, completion, self._prices, time.monotonic() - began)
        self.saving += 1
        try:
            await self._put(page, entry)
        finally:
            self.saving -= 1
        if self._earlier is not None:
            self._earlier.add(entry)
        return completion

    async def _asked(self, question: Question, ask: Ask, begin: Begin) -> Completion:
        def check() -> None:
            if self._known(question) is not None:
                raise Withheld

        with last_moment(check):
            while True:
                try:
                    return await ask(begin)
                except Withheld:  # begun anew, it sees what others have written by now
                    continue

    def _check_unknown(self, question: Question) -> None:
        if question.call_id in self._unknown and self._on_unknown == "park":
            raise RecordRejected(
                f"maybe paid: call {question.call_id} was begun and its answer is not known"
            )

    async def _look_back(self, question: Question) -> None:
        """Takes in what others have written before the question's intent, which is written.

        A predecessor's last entries may come after the book was opened: they were on their way when it
        lost the partition, or too few replicas were in sync for anybody to read them.
        """
        if self._written_by_others:
            async with self._reading:  # the others wait for what is read
                while self._written_by_others:
                    self._take_in(await self._late(*self._written_by_others[0]))
                    self._written_by_others.popleft()
        found = self._known(question)
        if found is not None:
            raise _Known(found)
        self._check_unknown(question)

    async def _late(self, since: int, until: int) -> Mapping[int, LedgerEntry]:
        while True:
            try:
                return await asyncio.to_thread(self._read_late, since, until)
            except RetryLater as error:
                log.warning("%s", error)
                await asyncio.sleep(_PAUSE)

    def _take_in(self, entries: Mapping[int, LedgerEntry]) -> None:
        for offset, entry in entries.items():
            if entry.kind == "intent":
                self._unknown.add(entry.call_id)
            else:
                self._results[entry.call_id] = entry
            # kept first and then looked at: the loop's thread may commit the input meanwhile
            self.taken_over.setdefault(entry.inputs, offset)
            if not _is_open(entry.inputs, self._committed):
                self.taken_over.pop(entry.inputs, None)

    def done(self, inputs: Sequence[Received], cause: Received) -> None:
        """Hears that an input is committed, with those that waited for it."""
        self._committed[cause.topic] = cause.offset + 1
        if self.taken_over:
            self.taken_over.pop(positions(inputs), None)

    async def _reuse(self, page: "Page", earlier: LedgerEntry) -> Completion:
        await self._put(page, replace(earlier, kind="reuse", inputs=page.inputs))
        return _completion_of(earlier, reused=True)

    async def _put(self, page: "Page", entry: LedgerEntry) -> None:
        page.begin(self.end)
        offset = await self._write(entry, page, self.partition)
        if offset > self.end:  # of one writer's entries each follows on the last
            self._written_by_others.append((self.end, offset))
        self.end = max(self.end, offset + 1)

    def _entry(self, kind: Any, page: "Page", question: Question, model: str) -> LedgerEntry:
        now = time.time_ns() // 1_000_000
        return LedgerEntry(kind, question.call_id, page.inputs, question.prompt, model, now)


def _completion_of(entry: LedgerEntry, *, reused: bool) -> Completion:
    read, written = (0, 0) if reused else (entry.prompt_tokens, entry.completion_tokens)
    return Completion(entry.text or "", entry.model, read, written, reused)


def _with_result(
    entry: LedgerEntry, completion: Completion, prices: Prices, seconds: float
) -> LedgerEntry:
    read, written = completion.prompt_tokens, completion.completion_tokens
    return LedgerEntry(
        entry.kind, entry.call_id, entry.inputs, entry.prompt, entry.model, entry.at,
        completion.text, read, written, prices.cost(completion.model, read, written),
        int(seconds * 1000),
    )  # fmt: skip


class Page:
    """What one input's calls have written: where in the ledger they begin."""

    __slots__ = ("begins", "inputs", "lineage")

    def __init__(self, stage: str, inputs: Sequence[Received]) -> None:
        self.lineage = partial(lineage, stage, inputs)
        self.inputs = positions(inputs)
        self.begins: int | None = None
        """No entry of this input stands before; None while there is none."""

    def begin(self, end: int) -> None:
        if self.begins is None:
            self.begins = end


def positions(inputs: Iterable[Received]) -> str:
    """The inputs of a call, as an entry names them."""
    return ",".join(str(i.position) for i in inputs)


def position(book: Book, pages: Iterable[Page], done: Container[str] = ()) -> int:
    """Where the next owner must begin to read.

    Args:
        book: of the partition.
        pages: those of the inputs that will not be committed yet.
        done: the inputs that will be.
    """
    end = book.end  # read first: a page that begins meanwhile begins at or after it
    begun = [p.begins for p in pages if p.begins is not None]
    # a copy: the calls' thread may add to it
    taken_over = [at for inputs, at in list(book.taken_over.items()) if inputs not in done]
    return min([*begun, *taken_over], default=end)


def to_metadata(at: int) -> str:
    """A ledger's position as the metadata of a committed offset."""
    return f"{_METADATA}{at}"


def from_metadata(found: Iterable[str | None]) -> int:
    """The position that rode with the offsets of a task; the last written one counts."""
    texts = (text.removeprefix(_METADATA) for text in found if text and text.startswith(_METADATA))
    return max((int(text) for text in texts if text.isdigit()), default=0)


def entry_in(received: Received, codec: Codec[LedgerEntry]) -> LedgerEntry | None:
    """The entry in a record of a ledger's topic; None, with a warning, for what is none.

    Raises:
        RetryLater: the registry, which may know its schema, does not answer.
        Stop: a field is encrypted, and this process has no key.
    """
    try:
        entry = codec.decode(received.value)
        _positions_in(entry.inputs)
    except (DecodeError, ValueError) as error:
        log.warning("skipping %s, which is no entry of a ledger: %s", received.position, error)
        return None
    return entry


class Ledger:
    """A stage's ledger: opens its books and writes into them."""

    def __init__(
        self,
        stage: Stage,
        config: Mapping[str, Any],
        prices: Prices,
        earlier: Completions | None = None,
        framing: Framing = SINGLE_OBJECT,
        on_loss: OnLoss = "stop",
    ) -> None:
        """
        Args:
            stage: one that asks a model.
            config: librdkafka settings.
            prices: what completions cost.
            earlier: the completions that may be taken again; None asks every question.
            framing: how entries are written.
            on_loss: see :data:`OnLoss`.
        """
        assert stage.ledger is not None
        self._on_loss = on_loss
        self._stage, self._topic, self._config = stage, stage.ledger, dict(config)
        self._prices, self._earlier = prices, earlier
        self._codec = framing.codec(self._topic)
        settings = PRODUCER_DEFAULTS | self._config
        del settings["transaction.timeout.ms"]
        # an entry waits for a broker that is away as long as it takes; its call waits with it
        settings |= {"enable.idempotence": True, "message.timeout.ms": 0}
        # it is never replaced, and needs no coordinator: it must find brokers it has forgotten
        settings |= {"metadata.recovery.strategy": "rebootstrap"}
        self._producer = Producer(settings)
        self._closing = threading.Event()
        self._reports = threading.Thread(target=self._serve_reports, name="ledger", daemon=True)
        self._reports.start()

    def open(
        self, since: Mapping[int, int], committed: Mapping[int, Mapping[str, int]]
    ) -> dict[int, Book]:
        """The books of some partitions, with what was in flight.

        Args:
            since: for each partition where to begin to read.
            committed: for each partition, and each topic, the offset that is committed.

        Raises:
            RetryLater: no broker answers, or the registry that knows an entry's schema.
            Stop: the ledger has lost entries after the position that was committed.
        """
        began = time.monotonic()
        name, spans = self._topic.name, self._spans(since)

        def is_needed(n: int, entry: LedgerEntry) -> bool:
            # of a ledger without its tail the rest is read, too long to be kept as a whole
            return spans[n][0] >= since[n] or _is_open(entry.inputs, committed.get(n, {}))

        read = {n: (at, end) for n, (at, end) in spans.items() if at < end}
        entries = self._entries(read, is_needed)
        log.info(
            "%s: read %d entries of %d partitions of %s in %.2f s",
            self._stage.name, sum(map(len, entries.values())), len(since), name,
            time.monotonic() - began,
        )  # fmt: skip
        return {
            n: Book(
                n, self._write, entries.get(n, {}), spans[n][1],
                self._prices, self._stage.on_unknown, self._earlier,
                partial(self._late, n), committed.get(n, {}),
            )
            for n in since
        }  # fmt: skip

    def _spans(self, since: Mapping[int, int]) -> dict[int, tuple[int, int]]:
        """For each partition what to read: from its position to its end."""
        partitions = [(self._topic.name, n) for n in since]
        begins = begin_offsets(self._config, partitions)
        ends = end_offsets(self._config, partitions)
        spans = {}
        for (name, n), end in ends.items():
            begin, at = begins[name, n], since[n]
            if not begin <= at <= end:
                self._lost(_loss(f"{name}:{n}", begin, at, end))
                at = begin  # what was written in place of a lost tail may stand anywhere
            spans[n] = at, end
        return spans

    def _lost(self, what: str) -> None:
        again = "paid for again"
        if self._stage.on_unknown == "park":
            again += ', or asked again in spite of on_unknown="park"'
        if self._on_loss == "stop":
            raise Stop(
                f"{what}; restore it, or set PRESSROOM_LEDGER_LOSS=accept to go on with what is left: "
                f"what was in flight may be {again}, nothing else"
            )
        log.warning("%s; going on with what is left: what was in flight may be %s", what, again)

    def _late(self, partition: int, since: int, until: int) -> Mapping[int, LedgerEntry]:
        return self._entries({partition: (since, until)})[partition]

    def _entries(
        self,
        spans: Mapping[int, tuple[int, int]],
        is_needed: Callable[[int, LedgerEntry], bool] = lambda n, entry: True,
    ) -> dict[int, dict[int, LedgerEntry]]:
        """For each partition what stands between two offsets and is needed."""
        if not spans:
            return {}
        name = self._topic.name
        start = {(name, n): since for n, (since, _) in spans.items()}
        entries: dict[int, dict[int, LedgerEntry]] = {n: {} for n in spans}
        with Reader(self._config, list(start), start) as reader:
            for r in reader.settled():
                if r.value is None or r.offset >= spans[r.partition][1]:
                    continue
                entry = entry_in(r, self._codec)
                if entry is not None and is_needed(r.partition, entry):
                    entries[r.partition][r.offset] = entry
        return entries

    def close(self) -> None:
        """Waits a moment for what is being written."""
        self._closing.set()
        self._reports.join()
        self._producer.flush(5)

    def _serve_reports(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(0.1)

    async def _write(self, entry: LedgerEntry, page: Page, partition: int) -> int:
        loop = asyncio.get_running_loop()
        written: asyncio.Future[int] = loop.create_future()

        def reported(error: KafkaError | None, message: Message) -> None:
            loop.call_soon_threadsafe(_settle, written, error, message.offset() or 0)

        apart = f"{entry.kind} {entry.call_id}"
        headers = page.lineage(self._topic.ce_type, apart=apart)
        try:
            self._producer.produce(
                self._topic.name, self._codec.encode(entry), _key_of(entry), partition,
                on_delivery=reported, headers=cast(Any, headers),
            )  # fmt: skip
        except KafkaException as failure:
            raise _sorted(failure.args[0]) from failure
        return await written


def _loss(where: str, begin: int, at: int, end: int) -> str:
    if at > end:
        return f"{where} ends at {end}, but was written up to {at}: its tail was lost"
    return (
        f"{where} begins at {begin}, but is needed from {at} on: the entries between were deleted"
    )


def _is_open(inputs: str, committed: Mapping[str, int]) -> bool:
    """Whether one of an entry's inputs is not committed yet."""
    return any(i.offset >= max(committed.get(i.topic, 0), 0) for i in _positions_in(inputs))


def _positions_in(inputs: str) -> list[Position]:
    return [Position.parse(text) for text in inputs.split(",")]


def _key_of(entry: LedgerEntry) -> str:
    # compaction must not let a reuse replace the result that it repeats, nor another input's reuse
    return f"{entry.call_id} {entry.inputs}" if entry.kind == "reuse" else entry.call_id


def _settle(written: "asyncio.Future[int]", error: KafkaError | None, offset: int) -> None:
    if written.done():  # its call was dropped
        return
    if error is None:
        written.set_result(offset)
    else:
        written.set_exception(_sorted(error))


def _sorted(error: KafkaError) -> Exception:
    if error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE):
        return RecordRejected(f"a completion is too large for the ledger: {error.str()}")
    kind = Refused if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED else Stop
    return kind(f"can't write the ledger: {error.str()}")

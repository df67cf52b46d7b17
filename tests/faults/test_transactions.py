"""Transactions that go wrong: a real producer, made to fail at a chosen step."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from producers.transactional import TransactionalProducer
from schemas.codec import codec_for
from schemas.errors import Fenced, PressroomError, Stop
from schemas.message import Outgoing
from schemas.record import schema_of
from schemas.records import DeadLetter
from schemas.topics import Topic
from streams import Llm, Pipeline, ScriptedModel, record
from streams.admin import create_topics
from streams.calls import Caller
from streams.exactly_once import ExactlyOnce
from streams.model import Completion, Request
from streams.processing import Processor
from streams.runner import OwnThread
from tests.support import oracle
from tests.support.config import configure, unique
from tests.support.table import Row

COUNT = 40
PARTITIONS = 4


@record(namespace="transactions")
class Item:
    text: str


def _nothing() -> None:
    pass


class Faulty:
    """A producer that fails when a step is called for the n-th time, and else does as it is told."""

    def __init__(
        self,
        config: dict[str, Any],
        step: str,
        at: int,
        error: KafkaError,
        before: Callable[[], object],
        *,
        after: bool,
    ) -> None:
        self._producer = Producer(config)
        self._step, self._left, self._error, self._after = step, at, error, after
        self._before = before

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._producer, name)
        return self._failing(method) if name == self._step else method

    def _failing(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self._left -= 1
            if self._left:
                return method(*args)
            self._before()
            if self._after:
                method(*args)
            raise KafkaException(self._error)

        return call


class Closing:
    """A consumer that is given a partition while it closes, and can't read offsets any more."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._consumer = Consumer(config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def subscribe(self, topics: list[str], on_assign: Callable[..., None], **others: Any) -> None:
        self._topic, self._on_assign = topics[0], on_assign
        self._consumer.subscribe(topics, on_assign=on_assign, **others)

    def close(self) -> None:
        self._consumer.close()
        self._on_assign(self._consumer, [TopicPartition(self._topic, 0)])

    def committed(self, *_: object) -> Any:
        raise KafkaException(KafkaError(KafkaError._DESTROY))


class Elsewhere(Producer):
    """A producer whose first transaction ends all inputs, as if others had, and does not hear of it."""

    def __init__(self, config: dict[str, Any], all_taken_in: Callable[[], bool]) -> None:
        super().__init__(config)
        self._all_taken_in, self._first = all_taken_in, True

    def send_offsets_to_transaction(self, positions: list[TopicPartition], *others: Any) -> None:
        if self._first:
            until = time.monotonic() + 30
            while not self._all_taken_in() and time.monotonic() < until:
                time.sleep(0.01)
            topic = positions[0].topic
            positions = [TopicPartition(topic, p, COUNT) for p in range(PARTITIONS)]
        super().send_offsets_to_transaction(positions, *others)

    def commit_transaction(self, *timeout: float) -> None:
        super().commit_transaction(*timeout)
        if self._first:
            self._first = False
            raise KafkaException(_timeout())


class OneAnswer(ScriptedModel):
    """A model that answers once; the other calls never end by themselves."""

    cancelled = 0

    async def complete(self, request: Request) -> Completion:
        answer = await super().complete(request)
        if len(self.requests) > 1:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1
        return answer


class SlowModel(ScriptedModel):
    """A model that is still asked when the first answers are to be committed."""

    async def complete(self, request: Request) -> Completion:
        answer = await super().complete(request)
        await asyncio.sleep(0.05)
        return answer


class Case:
    """A stage with a model, its loop, and what should come out."""

    def __init__(self, config: dict[str, Any], servers: str) -> None:
        name = unique("transactions")
        self.config, self.servers = config, servers
        self.items = Topic(f"{name}.items", Item)
        self.results = Topic(f"{name}.results", Item)
        self.pipeline = Pipeline(name)

        @self.pipeline.stage(reads=self.items, writes=self.results, prompt="answer@1")
        async def answer(item: Item, llm: Llm) -> Item:
            return await llm(Item, text=item.text)

        create_topics(config, self.pipeline.topics)
        self.model = ScriptedModel(self._echo)
        self.thread = OwnThread()
        self._write()

    @staticmethod
    def _echo(request: Request) -> dict[str, str]:
        return {"text": request.prompt.user}

    def _write(self) -> None:
        producer = TransactionalProducer(self.config, unique("writer"))
        producer.open()
        encode = codec_for(Item).encode
        producer.commit(
            Outgoing(self.items.name, f"k{n % 3}".encode(), encode(Item(str(n))), [])
            for n in range(COUNT)
        )

    def run(
        self,
        make: Callable[[dict[str, Any]], Any] = Producer,
        make_consumer: Callable[[dict[str, Any]], Any] = Consumer,
        concurrency: int = 4,
        until: Callable[[], bool] = lambda: True,
    ) -> None:
        """Runs the loop until it is idle, and until something holds; raises what stopped it."""
        (stage,) = self.pipeline.stages.values()
        producer = TransactionalProducer(self.config, unique("loop"), make)
        processor = Processor(stage, Caller(self.model))
        loop = self.loop = ExactlyOnce(
            processor, producer, self.config, self.thread, concurrency, make_consumer
        )
        failure: list[PressroomError] = []

        def work() -> None:
            try:
                loop.run()
            except PressroomError as error:
                failure.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        tick = threading.Event()
        for _ in range(600):
            tick.wait(0.1)
            if ended := (loop.idle and until()) or not thread.is_alive():
                break
        loop.stop()
        thread.join()
        assert ended, "it did nothing for a minute"
        if failure:
            raise failure[0]

    def check(self) -> None:
        expected = {f"k{k}": [str(n) for n in range(COUNT) if n % 3 == k] for k in range(3)}
        seen = oracle.read(self.servers, self.results.name, schema_of(Item))
        assert not (bad := oracle.judge(seen, expected, "text")), bad
        (stage,) = self.pipeline.stages.values()
        assert not oracle.uncommitted(self.servers, stage.group, [self.items.name])


@pytest.fixture
def case(kafka: dict[str, Any], bootstrap_servers: str, row: Row) -> Iterator[Case]:
    made = Case(kafka, bootstrap_servers)
    yield made
    made.thread.close()
    row.calls, row.bound = len(made.model.requests), COUNT


def _abortable() -> KafkaError:
    return KafkaError(KafkaError._STATE, "to order", txn_requires_abort=True)


def _timeout() -> KafkaError:
    return KafkaError(KafkaError._TIMED_OUT, "to order")


def _once(
    step: str,
    at: int,
    error: KafkaError,
    *,
    before: Callable[[], object] = _nothing,
    after: bool = False,
) -> Callable[..., Any]:
    """Builds a producer that fails once; its successors don't."""
    made: list[Faulty] = []

    def make(config: dict[str, Any]) -> Any:
        if made:
            return Producer(config)
        made.append(Faulty(config, step, at, error, before, after=after))
        return made[0]

    return make


@pytest.mark.parametrize("step", ["send_offsets_to_transaction", "commit_transaction"])
@pytest.mark.parametrize("at", [1, 2])
def test_an_abort_keeps_the_finished_work_and_goes_on_from_the_committed_offsets(
    case: Case, step: str, at: int
) -> None:
    case.run(_once(step, at, _abortable()))
    case.check()
    assert len(case.model.requests) == COUNT  # nothing was asked again


def test_while_nothing_can_be_committed_nothing_is_asked(case: Case) -> None:
    # others may have the partitions, which the coordinator alone knows
    case.model = SlowModel(case._echo)
    asked: list[int] = []

    class Failing(Producer):
        def commit_transaction(self, *timeout: float) -> None:
            if len(asked) < 4:
                asked.append(len(case.model.requests))
                raise KafkaException(_abortable())
            super().commit_transaction(*timeout)

    case.run(Failing)
    case.check()
    assert asked[1] == asked[2] == asked[3] < COUNT
    assert len(case.model.requests) == COUNT


@pytest.mark.parametrize("after", [False, True], ids=["not committed", "committed, reply lost"])
def test_an_unknown_outcome_is_found_out(case: Case, after: bool) -> None:
    case.run(_once("commit_transaction", 2, _timeout(), after=after))
    case.check()
    assert len(case.model.requests) == COUNT


def test_calls_whose_inputs_turn_out_to_be_committed_are_dropped(case: Case) -> None:
    model = case.model = OneAnswer(case._echo)
    made: list[Producer] = []

    def make(config: dict[str, Any]) -> Producer:
        all_in = lambda: case.loop.in_work == COUNT  # noqa: E731
        made.append(Producer(config) if made else Elsewhere(config, all_in))
        return made[-1]

    case.run(make, concurrency=8, until=lambda: model.cancelled == 8)
    assert len(model.requests) == 9, "of those that waited none was begun"


def test_an_abort_that_times_out_is_found_out(case: Case) -> None:
    def make(config: dict[str, Any]) -> Any:
        if made:
            return Producer(config)
        inner = Faulty(config, "commit_transaction", 1, _abortable(), _nothing, after=False)
        outer = Faulty.__new__(Faulty)
        outer._producer = inner  # type: ignore[assignment]
        outer._step, outer._left = "abort_transaction", 1
        outer._error, outer._after, outer._before = _timeout(), False, _nothing
        made.append(outer)
        return outer

    made: list[Faulty] = []
    case.run(make)
    case.check()
    assert len(case.model.requests) == COUNT


def test_a_step_that_never_returns_is_given_up(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producers.transactional._STEP_TIMEOUT", 1.0)
    never = threading.Event()
    case.run(_once("send_offsets_to_transaction", 2, _timeout(), before=never.wait))
    case.check()
    assert len(case.model.requests) == COUNT
    never.set()


def test_a_fatal_error_replaces_the_producer(case: Case) -> None:
    fatal = KafkaError(KafkaError._FATAL, "to order", fatal=True)
    case.run(_once("send_offsets_to_transaction", 1, fatal))
    case.check()


def test_a_fenced_producer_leaves_and_its_successor_finishes(case: Case) -> None:
    fenced = KafkaError(KafkaError._FENCED, "to order", fatal=True)
    with pytest.raises(Fenced, match="took over"):
        case.run(_once("commit_transaction", 1, fenced))
    case.run()
    case.check()


def test_a_worker_that_is_refused_leaves_though_its_group_gives_it_partitions(case: Case) -> None:
    refused = KafkaError(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "to order", fatal=True)
    with pytest.raises(Stop, match="Kafka refuses WRITE on transactional-id"):
        case.run(_once("init_transactions", 1, refused), Closing)
    case.run()
    case.check()


def test_a_producer_that_is_fenced_while_it_writes_leaves(case: Case) -> None:
    # the client hears of it between two records, and then only says that it is done for
    name = unique("same")
    first, second = (TransactionalProducer(case.config, name) for _ in range(2))
    first.open()

    def records() -> Iterator[Outgoing]:
        value = codec_for(Item).encode(Item("zombie"))
        for number in range(200):
            if number == 1:
                second.open()
            yield Outgoing(case.items.name, b"k", value, [])
            time.sleep(0.05)

    with pytest.raises(Fenced, match="took over"):
        first.write(records())
    second.commit([])


def test_a_record_the_broker_refuses_becomes_a_dead_letter(
    case: Case, kafka: dict[str, Any], bootstrap_servers: str
) -> None:
    configure(kafka, case.results.name, "max.message.bytes", "150000")
    producer = TransactionalProducer(kafka, unique("writer"))
    producer.open()
    large = codec_for(Item).encode(Item(random.Random(1).randbytes(200_000).hex()))
    producer.commit([Outgoing(case.items.name, b"k9", large, [])])
    passing = Pipeline(case.pipeline.name)

    @passing.stage(reads=case.items, writes=case.results)
    async def answer(item: Item) -> Item:
        return item

    case.pipeline = passing
    case.run()
    letters = oracle.read(bootstrap_servers, passing.dead_letters.name, schema_of(DeadLetter))
    (letter,) = letters
    assert letter.key == "k9"
    assert letter.value["inputs"][0]["value"] == large
    case.check()


def test_a_consumer_that_the_group_has_thrown_out_commits_nothing(case: Case) -> None:
    # the coordinator would take offsets of one without a name unseen, whoever has its partitions now
    said: list[str] = []

    class ThrownOut(Consumer):
        def memberid(self) -> str:
            said.append("no name" if len(said) < 3 else "a name")
            return "" if said[-1] == "no name" else super().memberid()

    class Noted(Producer):
        def begin_transaction(self) -> None:
            said.append("a transaction")
            super().begin_transaction()

    case.run(Noted, ThrownOut)
    case.check()
    assert said[:5] == ["no name"] * 3 + ["a name", "a transaction"]

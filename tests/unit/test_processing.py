"""What one input becomes: outputs, marks and dead letters."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Codec, Framing, Written, codec_for
from schemas.errors import RecordRejected, RetryLater, Stop, UsageError
from schemas.message import Headers, Received, calls_in, inputs_of
from schemas.record import record
from schemas.records import DeadLetter, Filtered, Header, Original
from schemas.topics import Bound, Topic
from streams import Llm, MemoryDriver, Pipeline, ScriptedModel
from streams.processing import Processor, from_original, to_original
from tests.support.shop import (
    Label,
    Order,
    Parcel,
    by_key,
    diamond,
    header,
    key_of_partition,
    label,
    labels,
    more_labels,
    orders,
    parcels,
    run,
    shop,
)

# --- outputs ---------------------------------------------------------------------------------


def test_one_input_gives_one_output_with_its_lineage() -> None:
    driver = run(shop(label), Order("1", "a"))
    (source,), (made,) = driver.received(orders), driver.received(labels)
    assert driver.records(labels) == [Label("a")]
    assert inputs_of(made.headers) == [source.position]
    assert header(made, "ce_source") == b"shop/label"
    assert header(made, "ce_type") == b"tests.support.shop.Label"
    assert header(made, "ce_part") is None
    assert driver.dead_letters == []


def test_fan_out_writes_every_part_in_order_and_numbers_them() -> None:
    async def words(order: Order) -> list[Label]:
        return [Label(word) for word in order.text.split()]

    driver = run(shop(words), Order("1", "a b c"))
    assert driver.records(labels) == [Label("a"), Label("b"), Label("c")]
    made = driver.received(labels)
    assert [header(r, "ce_part") for r in made] == [b"0/3", b"1/3", b"2/3"]
    assert len({header(r, "ce_id") for r in made}) == 3


def test_a_fan_out_of_one_is_an_ordinary_output() -> None:
    async def words(order: Order) -> list[Label]:
        return [Label(word) for word in order.text.split()]

    (made,) = run(shop(words), Order("1", "a")).received(labels)
    assert header(made, "ce_part") is None


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_a_filtered_input_leaves_a_mark(nothing: Any) -> None:
    async def drop(order: Order) -> Label | None:
        return nothing  # type: ignore[no-any-return]

    pipeline = shop(drop)
    driver = run(pipeline, Order("1"))
    (source,), (mark,) = driver.received(orders), driver.received(pipeline.filtered)
    assert driver.records(labels) == []
    assert driver.records(pipeline.filtered) == [Filtered("drop", *source.position)]
    assert inputs_of(mark.headers) == [source.position]
    assert header(mark, "ce_source") == b"shop/drop"


def test_records_go_to_the_topic_of_their_class() -> None:
    async def either(order: Order) -> Label | Parcel:
        return Label(order.text) if order.text else Parcel(order.id, "p")

    driver = run(shop(either, writes=[labels, parcels]), Order("1", "a"), Order("2"))
    assert driver.records(labels) == [Label("a")]
    assert driver.records(parcels) == [Parcel("2", "p")]


def test_bound_records_go_where_they_are_bound() -> None:
    async def both(order: Order) -> list[Label | Bound[Label]]:
        return [Label("first"), more_labels.bind(Label("second")), labels.bind(Label("third"))]

    driver = run(shop(both, writes=[labels, more_labels]), Order("1"))
    assert driver.records(labels) == [Label("first"), Label("third")]
    assert driver.records(more_labels) == [Label("second")]


def test_a_record_bound_for_a_topic_the_stage_does_not_write_is_a_dead_letter() -> None:
    async def stray(order: Order) -> Bound[Label]:
        return more_labels.bind(Label("a"))

    (letter,) = run(shop(stray), Order("1")).dead_letters
    assert "for shop.more-labels, which none of its topics holds" in letter.message


def test_a_record_of_a_class_the_stage_does_not_write_is_a_dead_letter() -> None:
    async def stray(order: Order) -> Label:
        return "text"  # type: ignore[return-value]

    (letter,) = run(shop(stray), Order("1")).dead_letters
    assert letter.message == "stray returned str, which none of its topics holds"


def test_one_wrong_part_makes_a_dead_letter_of_all() -> None:
    async def words(order: Order) -> list[Label]:
        return [Label("fine"), Label(3)]  # type: ignore[arg-type]

    driver = run(shop(words), Order("1"))
    assert driver.records(labels) == []
    assert [d.error for d in driver.dead_letters] == ["RecordRejected"]


# --- keys and partitions ---------------------------------------------------------------------


def test_a_topic_without_a_key_field_keeps_key_and_partition() -> None:
    pipeline = shop(label)
    processor = Processor(pipeline.stages["label"], None)
    for partition in range(4):  # wherever a foreign partitioner put it
        value = codec_for(Order).encode(Order("1", "a"))
        work = processor.accept(Received(orders.name, partition, 0, 0, b"k", value, []))
        asyncio.run(processor.run(work))
        assert [(o.key, o.partition) for o in work.outgoing or ()] == [(b"k", partition)]


def test_a_stage_that_calls_exit_makes_a_dead_letter() -> None:
    async def leave(order: Order) -> Label:
        raise SystemExit(3)

    (letter,) = run(shop(leave), Order("1")).dead_letters
    assert letter.error == "SystemExit"


def test_a_key_field_is_the_key_and_leaves_the_partition_open() -> None:
    async def pack(order: Order) -> Parcel:
        return Parcel("other", order.text)

    pipeline = shop(pack, writes=parcels)
    processor = Processor(pipeline.stages["pack"], None)
    value = codec_for(Order).encode(Order("1", "a"))
    work = processor.accept(Received(orders.name, 2, 0, 0, b"1", value, []))
    asyncio.run(processor.run(work))
    assert [(o.key, o.partition) for o in work.outgoing or ()] == [(b"other", -1)]


def test_a_key_field_that_equals_the_key_keeps_the_partition() -> None:
    async def pack(order: Order) -> Parcel:
        return Parcel(order.id, order.text)

    pipeline = shop(pack, writes=parcels)
    processor = Processor(pipeline.stages["pack"], None)
    value = codec_for(Order).encode(Order("1", "a"))
    work = processor.accept(Received(orders.name, 2, 0, 0, b"1", value, []))
    asyncio.run(processor.run(work))
    assert [(o.key, o.partition) for o in work.outgoing or ()] == [(b"1", 2)]


def test_unequal_numbers_of_partitions_leave_the_partition_open() -> None:
    pipeline = shop(label)
    processor = Processor(pipeline.stages["label"], None, {orders.name: 8})
    value = codec_for(Order).encode(Order("1", "a"))
    work = processor.accept(Received(orders.name, 7, 0, 0, b"1", value, []))
    asyncio.run(processor.run(work))
    assert [(o.key, o.partition) for o in work.outgoing or ()] == [(b"1", -1)]


# --- passing through -------------------------------------------------------------------------

orders_again = Topic("shop.orders-again", Order, key="id")


def test_a_record_that_is_passed_on_keeps_its_very_bytes() -> None:
    async def forward(order: Order) -> Order:
        return order

    pipeline = shop(forward, writes=orders_again)
    processor = Processor(pipeline.stages["forward"], None)
    value = codec_for(Order).encode(Order("1", "a"))
    work = processor.accept(Received(orders.name, 0, 0, 0, b"1", value, []))
    asyncio.run(processor.run(work))
    assert work.outgoing is not None
    assert work.outgoing[0].value is value
    assert inputs_of(work.outgoing[0].headers) == [("shop.orders", 0, 0)]


def test_a_list_of_a_record_that_is_passed_on_may_have_been_changed() -> None:
    @record(namespace="shop")
    class Basket:
        id: str
        things: list[str]

    baskets = Topic("shop.baskets", Basket, key="id")
    baskets_again = Topic("shop.baskets-again", Basket, key="id")
    pipeline = Pipeline("shop")

    @pipeline.stage(reads=baskets, writes=baskets_again)
    async def add(basket: Basket) -> Basket:
        basket.things.append("bag")
        return basket

    driver = MemoryDriver(pipeline)
    driver.write(baskets, Basket("1", ["soap"]))
    driver.run()
    assert driver.records(baskets_again) == [Basket("1", ["soap", "bag"])]


def test_a_record_that_is_passed_on_damaged_is_a_dead_letter() -> None:
    """Though the stage looks at nothing of it."""

    async def forward(order: Order) -> Order:
        return order

    pipeline = shop(forward, writes=orders_again)
    driver = MemoryDriver(pipeline)
    value = codec_for(Order).encode(Order("1", "abc"))
    for damaged in (value[:-1], value + b"x", value[:-1] + b"\xff"):
        driver.write_bytes(orders.name, b"1", damaged)
    driver.run()
    assert [letter.error for letter in driver.dead_letters] == ["DecodeError"] * 3
    assert driver.records(orders_again) == []


def test_a_changed_record_of_the_same_class_is_written() -> None:
    async def shorten(order: Order) -> Order:
        return replace(order, text=order.text[:1])

    driver = run(shop(shorten, writes=orders_again), Order("1", "abc"))
    assert driver.records(orders_again) == [Order("1", "a")]


def test_an_equal_record_has_equal_bytes() -> None:
    async def rebuild(order: Order) -> Order:
        return Order(order.id, order.text)

    driver = run(shop(rebuild, writes=orders_again), Order("1", "a"))
    assert [r.value for r in driver.received(orders_again)] == [
        r.value for r in driver.received(orders)
    ]


class _Away(Framing):
    """One whose registry does not answer."""

    def codec(self, topic: Topic[Any]) -> Codec[Any]:
        return Codec(topic.record, self)

    def written(self, value: bytes) -> Written:
        raise RetryLater("the registry is away")


def test_a_record_that_only_the_registry_can_tell_is_not_taken_in() -> None:
    """Nor is it a dead letter: it can be read once the registry is back."""
    processor = Processor(shop(label).stages["label"], None, framing=_Away())
    value = codec_for(Order).encode(Order("1", "a"))
    foreign = Received(orders.name, 0, 1, 0, b"1", b"\x00\x00\x00\x00\x07" + value, [])
    processor.accept(foreign._replace(offset=0, value=value))
    with pytest.raises(RetryLater):
        processor.accept(foreign)
    assert processor.dead == 0


# --- dead letters ----------------------------------------------------------------------------

JUNK: Headers = [("a", b"\x00\xff"), ("a", None), ("ce_id", b"\xff"), ("ce_calls", b"{")]


@pytest.mark.parametrize("value", [None, b"", b"junk", b"\xc3\x01" + b"x" * 20])
def test_undecodable_bytes_are_a_dead_letter_with_bytes_and_headers(value: bytes | None) -> None:
    pipeline = shop(label)
    driver = MemoryDriver(pipeline)
    driver.write_bytes(orders.name, b"\xffkey", value, JUNK)
    driver.run()
    (source,), (letter,) = driver.received(orders), driver.dead_letters
    assert (letter.stage, letter.error, letter.attempts) == ("label", "DecodeError", 1)
    assert letter.inputs == [
        Original(
            *source.position, source.timestamp, b"\xffkey", value, [Header(n, v) for n, v in JUNK]
        )
    ]
    (dead,) = driver.received(pipeline.dead_letters)
    assert dead.key == b"\xffkey"
    assert inputs_of(dead.headers) == [source.position]
    assert header(dead, "ce_source") == b"shop/label"
    assert driver.records(labels) == []


class OwnError(Exception):
    pass


ERRORS = [
    ValueError("no"), KeyError("x"), RecursionError("deep"), MemoryError(), OSError(5, "io"),
    AssertionError(), TimeoutError(), StopIteration(), StopAsyncIteration(), UnicodeError("u"),
    ExceptionGroup("g", [ValueError("a")]), OwnError("mine"), RecordRejected("bad"),
    RetryLater("later"), ZeroDivisionError("0"), EOFError(), ValueError("\x00 ünd 🦆"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_an_exception_of_any_kind_is_a_dead_letter_and_the_next_record_goes_on(
    error: Exception,
) -> None:
    async def fail(order: Order) -> Label:
        if order.text == "bad":
            raise error
        return Label(order.text)

    first, second = key_of_partition(0), key_of_partition(0, 1)
    driver = run(shop(fail), Order(first, "bad"), Order(second, "good"))
    (letter,) = driver.dead_letters
    source = driver.received(orders)[0]
    if not isinstance(error, StopIteration):  # asyncio makes a RuntimeError of it
        assert letter.error == type(error).__name__
        assert letter.message == (str(error) or repr(error))
    assert letter.message
    assert [from_original(i) for i in letter.inputs] == [source]
    assert driver.records(labels) == [Label("good")]


@pytest.mark.parametrize("error", [Stop("leave"), UsageError("wrong")])
def test_what_concerns_every_record_is_raised(error: Exception) -> None:
    async def fail(order: Order) -> Label:
        raise error

    with pytest.raises(type(error), match=str(error)):
        run(shop(fail), Order("1"))


def test_an_output_that_can_t_be_encoded_is_a_dead_letter() -> None:
    async def wrong(order: Order) -> Label:
        return Label(None)  # type: ignore[arg-type]

    (letter,) = run(shop(wrong), Order("1")).dead_letters
    assert letter.message.startswith("Label can't be encoded: ")


def test_an_oversized_output_is_a_dead_letter_that_names_the_sizes() -> None:
    tight = Topic("shop.tight", Label, max_bytes=1000)

    async def grow(order: Order) -> Label:
        return Label("x" * int(order.text))

    # magic and fingerprint take ten bytes, the length two
    driver = run(shop(grow, writes=tight), Order("1", "988"), Order("2", "989"))
    assert [len(r.value or b"") for r in driver.received(tight)] == [1000]
    (letter,) = driver.dead_letters
    assert letter.message == "the Label has 1,001 bytes; shop.tight takes 1,000"
    assert [i.key for i in letter.inputs] == [b"2"]


def test_a_dead_letter_that_would_be_too_large_keeps_the_beginning() -> None:
    pipeline = shop(label)
    huge = b"j" * (pipeline.dead_letters.max_bytes + 1)
    driver = MemoryDriver(pipeline)
    driver.write_bytes(orders.name, b"k", huge, [("h", b"v")])
    driver.run()
    ((letter,), (dead,)) = driver.dead_letters, driver.received(pipeline.dead_letters)
    assert letter.inputs[0].value == b"j" * 64 * 1024
    assert letter.inputs[0].headers == [Header("h", b"v")]
    assert len(dead.value or b"") < pipeline.dead_letters.max_bytes


def test_a_work_the_broker_refuses_becomes_a_dead_letter_and_is_cut_when_refused_again() -> None:
    pipeline = shop(label)
    processor = Processor(pipeline.stages["label"], None)
    value = codec_for(Order).encode(Order("1", "x" * 100_000))
    work = processor.accept(Received(orders.name, 0, 0, 0, b"1", value, []))
    asyncio.run(processor.run(work))

    def letter() -> DeadLetter:
        assert work.outgoing is not None
        (outgoing,) = work.outgoing
        assert outgoing.topic == "shop.dead-letters"
        return codec_for(DeadLetter).decode(outgoing.value)

    processor.refuse(work, "too large")
    assert (letter().error, letter().message) == ("RecordRejected", "too large")
    assert letter().inputs[0].value == value
    processor.refuse(work, "too large")
    assert letter().inputs[0].value == value[: 64 * 1024]


async def ask(order: Order, llm: Llm) -> Label:
    return await llm(Label, prompt="ask@1", text=order.text)


def asking(folder: Path, function: Any = ask) -> Pipeline:
    """A pipeline of one stage ``ask`` that asks a model, with its prompt in this folder."""
    text = "{% block system %}s{% endblock %}{% block user %}{{ text }}{% endblock %}"
    (folder / "ask@1.md").write_text(text, encoding="utf-8")
    pipeline = shop(function)
    pipeline.stages["ask"] = replace(pipeline.stages["ask"], prompt_folder=folder)
    return pipeline


def test_an_output_names_the_completions_it_took(tmp_path: Path) -> None:
    driver = MemoryDriver(asking(tmp_path), ScriptedModel({"Label": {"text": "a"}}))
    driver.write(orders, Order("1", "two words"))
    driver.run()
    (made,) = driver.received(labels)
    (call,) = calls_in(made.headers)
    assert (call.stage, call.prompt, call.model, call.attempts) == (
        "shop/ask",
        "ask@1",
        "scripted",
        1,
    )
    assert header(made, "ce_prompt") == b"ask@1"


def test_every_part_of_a_fan_out_names_the_completions_it_took(tmp_path: Path) -> None:
    async def ask(order: Order, llm: Llm) -> list[Label]:
        made = await llm(Label, prompt="ask@1", text=order.text)
        return [made, made]

    driver = MemoryDriver(asking(tmp_path, ask), ScriptedModel({"Label": {"text": "a"}}))
    driver.write(orders, Order("1"))
    driver.run()
    first, second = (calls_in(r.headers) for r in driver.received(labels))
    assert first == second
    assert [call.prompt for call in first] == ["ask@1"]


def test_a_dead_letter_counts_what_the_model_was_asked(tmp_path: Path) -> None:
    pipeline = asking(tmp_path)
    driver = MemoryDriver(pipeline, ScriptedModel({"Label": "two words"}))
    driver.write(orders, Order("1", "a"))
    driver.run()
    (letter,), (dead,) = driver.dead_letters, driver.received(pipeline.dead_letters)
    assert (letter.error, letter.attempts) == ("ReplyRejected", 3)
    assert [(c.attempts, c.completion_tokens) for c in calls_in(dead.headers)] == [(3, 6)]


def test_the_id_of_a_completion_depends_on_nothing_but_what_is_asked(tmp_path: Path) -> None:
    def ids() -> list[str]:
        driver = MemoryDriver(asking(tmp_path), ScriptedModel({"Label": {"text": "a"}}))
        for number in range(5):
            driver.write(orders, Order(str(number), "ab"[number % 2]))
        driver.run()
        return [c.id for r in driver.received(labels) for c in calls_in(r.headers)]

    assert ids() == ids()
    assert len(set(ids())) == 2


def test_a_stage_without_a_prompt_that_asks_is_wrong_use() -> None:
    async def ask(order: Order, llm: Llm) -> Label:
        return await llm(Label, text=order.text)

    driver = MemoryDriver(shop(ask), ScriptedModel({"Label": "nonsense"}))
    driver.write(orders, Order("1"))
    with pytest.raises(UsageError, match="stage ask names no prompt"):
        driver.run()


def test_a_stage_with_a_model_needs_one() -> None:
    async def ask(order: Order, llm: Llm) -> Label:
        return await llm(Label, text=order.text)

    with pytest.raises(UsageError, match=r"^stage ask needs a model$"):
        MemoryDriver(shop(ask))


@given(
    st.builds(
        Received,
        st.text(max_size=5), st.integers(0, 9), st.integers(0, 2**62), st.integers(-1, 2**62),
        st.none() | st.binary(max_size=9), st.none() | st.binary(max_size=9),
        st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3),
    )
)  # fmt: skip
def test_a_record_kept_in_another_one_comes_back_as_it_was(received: Received) -> None:
    encoded = codec_for(Original).encode(to_original(received))
    assert from_original(codec_for(Original).decode(encoded)) == received


# --- determinism -----------------------------------------------------------------------------


def untimed(received: Received) -> Received:
    headers = [(n, v) for n, v in received.headers if n != "ce_time"]
    return Received(*received.position, 0, received.key, received.value, headers)


@pytest.mark.parametrize("pipeline", [diamond, by_key, lambda: shop(label)])
def test_the_same_inputs_give_the_same_records(pipeline: Callable[[], Pipeline]) -> None:
    def once() -> list[Received]:
        driver = run(pipeline(), *(Order(str(n), "t") for n in range(5)))
        return [untimed(r) for topic in pipeline().data_topics for r in driver.received(topic)]

    assert once() == once()

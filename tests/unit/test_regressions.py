"""Inputs that once broke something, each by the piece that it broke."""

import zlib
from typing import Annotated, Any, Literal

import pytest
import yaml

from consumers.markdown import file_name, to_markdown
from schemas.codec import codec_for
from schemas.errors import RecordRejected, ReplyRejected, UsageError
from schemas.message import Call, Headers, Received, calls_in, lineage
from schemas.record import Text, binding_of, bound, json_schema, record, schema_of
from schemas.records import Article, Entity
from schemas.topics import Bound, Topic
from streams import MemoryDriver, Pipeline, join
from streams.audit import _Evidence, _look_at
from streams.llm import parse_reply
from streams.prompts import Prompt, excerpt


@record
class Order:
    id: str


@record
class Label:
    text: str


@record
class Share:
    value: float


orders = Topic("shop.orders", Order, key="id")
labels = Topic("shop.labels", Label)
pairs = Topic("shop.pairs", Label)


def received(headers: Headers) -> Received:
    return Received("shop.orders", 0, 0, 0, b"k", codec_for(Order).encode(Order("k")), headers)


def article(**changes: Any) -> Article:
    fields: dict[str, Any] = {
        "id": "1", "source": "s", "title": "t", "summary": "s", "social_post": "p", "body": "b",
        "topic": "other", "language": "en", "quality": "low", "entities": [], "attempts": 1,
    }  # fmt: skip
    return Article(**fields | changes)


# --- 1. schemas/message.py: foreign ce_calls --------------------------------------------------

OWN = Call("i", "s", "p", "m", 1, 1, 1)


def test_deeply_nested_completions_do_not_crash() -> None:
    assert calls_in([("ce_calls", b"[" * 100_000)]) == []


def test_completions_of_other_types_do_not_crash_the_stage() -> None:
    foreign = received([("ce_calls", b'[[[],"b","c","d",1,2,3]]')])
    headers = lineage("shop/s", [foreign], "t", own=[OWN])
    assert calls_in(headers) == [OWN]


def test_completions_of_other_types_do_not_crash_the_sink() -> None:
    assert to_markdown(article(), calls_in([("ce_calls", b'[["a","b","c","d","e","f","g"]]')]))


# --- 2. streams/processing.py: errors whose message can't be encoded ---------------------------


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


@pytest.mark.parametrize("error", [ValueError("\ud800"), Mute()], ids=["surrogate", "mute"])
def test_an_error_whose_message_can_t_be_encoded_is_a_dead_letter(error: Exception) -> None:
    pipeline = Pipeline("shop")

    @pipeline.stage(reads=orders, writes=labels)
    async def fail(order: Order) -> Label:
        raise error

    driver = MemoryDriver(pipeline)
    driver.write(orders, Order("k"))
    driver.run()
    assert len(driver.dead_letters) == 1


# --- 3. streams/audit.py: halves that wait at one offset of two partitions ---------------------


def test_halves_that_wait_in_two_partitions_are_both_seen() -> None:
    pipeline = Pipeline("shop")

    @pipeline.stage(reads=join(orders, labels), writes=pairs)
    async def pair(order: Order, label: Label) -> Label:
        return label

    driver = MemoryDriver(pipeline)
    for partition in range(2):
        keys = (f"k{n}" for n in range(99))
        driver.write(
            orders, Order(next(k for k in keys if zlib.crc32(k.encode()) % 4 == partition))
        )
    driver.run()
    upto = {("shop.orders", p): 1 for p in range(4)}
    evidence = {"pair": _Evidence(pipeline.stages["pair"], upto, upto)}
    _look_at([r for t in pipeline.topics for r in driver.received(t)], pipeline, evidence)
    report = evidence["pair"].conclude(upto)
    assert (report.inputs, report.waiting, report.missing) == (2, 2, 0)


# --- 4. streams/prompts.py -------------------------------------------------------------------


@pytest.mark.parametrize(("text", "most"), [("a" * 10, 5), ("ab", 1), ("é" * 500, 900)])
def test_an_excerpt_never_exceeds_its_bytes(text: str, most: int) -> None:
    assert len(excerpt(text, most).encode()) <= most


def test_marks_inside_a_list_are_broken_up() -> None:
    source = "{% block system %}s{% endblock %}{% block user %}{{ points }}{% endblock %}"
    assert "<|im_end|>" not in Prompt("x@1", source).render({"points": ["<|im_end|>"]}).user


def test_a_temperature_that_is_no_number_is_wrong_use() -> None:
    blocks = "{% block system %}{% endblock %}{% block user %}{% endblock %}"
    with pytest.raises(UsageError):
        Prompt("x@1", "{% set temperature = 'hot' %}" + blocks).render({})


# --- 5. consumers/markdown.py ----------------------------------------------------------------


@pytest.mark.parametrize("title", ["a\x7fb", "a\x85b", "a\x9bb", "a\ufffeb"])
def test_a_title_with_what_yaml_can_t_hold_is_escaped(title: str) -> None:
    front = to_markdown(article(title=title), []).split("---\n")[1]
    assert yaml.safe_load(front)["title"] == title


@pytest.mark.parametrize(("one", "other"), [("a/b", "a_b"), ("x" * 64 + "1", "x" * 64 + "2")])
def test_two_ids_never_share_a_file(one: str, other: str) -> None:
    assert file_name(article(id=one)) != file_name(article(id=other))


# --- 6. schemas/record.py, schemas/codec.py ----------------------------------------------------


@pytest.mark.parametrize("symbols", [("a b",), (1, 2), ("",)], ids=str)
def test_a_literal_that_is_no_enum_is_refused_by_the_name_of_its_field(symbols: Any) -> None:
    before = list(bound)
    try:
        with pytest.raises(UsageError, match=r"^Odd\.odd: "):
            record(type("Odd", (), {"__annotations__": {"odd": Literal[symbols]}}))
    finally:
        bound[:] = before


def test_a_bounded_text_may_be_optional() -> None:
    @record
    class Note:
        text: Annotated[str, Text(max=5)] | None

    assert schema_of(Note)["fields"][0]["type"] == ["null", {"type": "string", "maxLength": 5}]


@pytest.mark.parametrize("count", [1.5, True])
def test_a_number_of_another_type_is_refused_by_the_encoder(count: Any) -> None:
    with pytest.raises(RecordRejected):
        codec_for(Entity).encode(Entity("a", "b", count))


# --- 7. streams/llm.py -----------------------------------------------------------------------


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_a_number_that_overflows_is_rejected_like_infinity(number: str) -> None:
    with pytest.raises(ReplyRejected):
        parse_reply(Share, json_schema(binding_of(Share).expanded), f'{{"value": {number}}}')


# --- 8. streams/stage.py, streams/processing.py --------------------------------------------------


def test_a_join_of_a_topic_with_itself_is_wrong_use() -> None:
    with pytest.raises(UsageError):
        join(orders, orders)


def test_what_a_keyless_record_gives_has_the_key_of_its_field() -> None:
    pipeline = Pipeline("shop")

    @pipeline.stage(reads=orders, writes=labels)
    async def label(order: Order) -> Label:
        return Label(order.id)

    driver = MemoryDriver(pipeline)
    driver.write_bytes(orders.name, None, codec_for(Order).encode(Order("k")))
    driver.run()
    assert [r.key for r in driver.received(labels)] == [b"k"]


def test_a_record_bound_for_a_topic_of_another_record_is_a_dead_letter() -> None:
    pipeline = Pipeline("shop")
    other = Topic("shop.again", Order)

    @pipeline.stage(reads=labels, writes=[other, pairs])
    async def wrong(label: Label) -> Bound[Order]:
        return other.bind(label)  # type: ignore[arg-type]

    driver = MemoryDriver(pipeline)
    driver.write(labels, Label("a"), "k")
    driver.run()
    assert [d.error for d in driver.dead_letters] == ["RecordRejected"]

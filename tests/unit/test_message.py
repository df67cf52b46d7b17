"""Headers: who wrote a record, from what, and with which completions."""

import json
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.message import (
    Call,
    Headers,
    Outgoing,
    Position,
    Received,
    calls_in,
    first_headers,
    inputs_of,
    lineage,
    origin_of,
    record_id,
)

A = Call("a.0", "news/classify", "classify@1", "small", 10, 2, 1)
B = Call("b.0", "news/outline", "outline@1", "small", 20, 4, 1)
C = Call("c.0", "news/draft", "draft@2", "large", 40, 8, 2)


def received(
    headers: Headers | None = None, topic: str = "news.in", partition: int = 1, offset: int = 7
) -> Received:
    return Received(topic, partition, offset, 0, b"k", b"v", [] if headers is None else headers)


def entered(ce_id: str = "1", topic: str = "news.in", offset: int = 7) -> Received:
    """A record that came in with headers of its own."""
    return received(
        first_headers(record_id(ce_id), "file:///x", "pressroom.Document"), topic, 1, offset
    )


def write(
    inputs: Sequence[Received],
    part: int = 0,
    parts: int = 1,
    own: Sequence[Call] = (),
    stage: str = "news/s",
) -> Headers:
    return lineage(stage, inputs, "pressroom.Summary", part, parts, own)


def passed(inputs: Sequence[Received], own: Call, offset: int, stage: str = "news/s") -> Received:
    """What a stage made of its inputs, as the next stage reads it."""
    return received(write(inputs, own=[own], stage=stage), "news.mid", 1, offset)


def value(headers: Headers, name: str) -> str:
    found = dict(headers)[name]
    assert found is not None
    return found.decode()


# --- identity --------------------------------------------------------------------------------


def test_the_same_inputs_give_the_same_id() -> None:
    assert value(write([entered()]), "ce_id") == value(write([entered()]), "ce_id")


def test_id_source_and_type_are_cloud_events() -> None:
    headers = write([entered()])
    assert value(headers, "ce_specversion") == "1.0"
    assert re.fullmatch("[0-9a-f]{32}", value(headers, "ce_id"))
    assert value(headers, "ce_source") == "news/s"
    assert value(headers, "ce_type") == "pressroom.Summary"
    assert value(headers, "content-type") == "application/avro"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value(headers, "ce_time"))


def test_every_header_has_a_name_of_its_own() -> None:
    names = [name for name, _ in write([entered()], 0, 2, [A])]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "other",
    [
        write([entered()], part=1, parts=2),
        write([entered("2")]),
        write([entered(), entered("2")]),
        write([entered()], stage="news/t"),
        lineage("news/s", [entered()], "pressroom.Draft"),
        lineage("news/s", [entered()], "pressroom.Summary", apart="result 1"),
    ],
)
def test_part_input_stage_and_type_change_the_id(other: Headers) -> None:
    assert value(other, "ce_id") != value(write([entered()]), "ce_id")


def test_an_input_without_id_is_told_apart_by_its_position() -> None:
    ids = {value(write([received(offset=o, partition=p)]), "ce_id") for o in (1, 2) for p in (0, 1)}
    assert len(ids) == 4


def test_a_record_id_keeps_its_parts_apart() -> None:
    assert record_id("a", "bc") != record_id("ab", "c")
    assert record_id("a", "b") == record_id("a", "b")
    assert re.fullmatch("[0-9a-f]{32}", record_id("\ud800"))


# --- the trace -------------------------------------------------------------------------------


def test_the_trace_goes_on_and_every_record_is_a_span() -> None:
    first = entered()
    second = passed([first], A, 1)
    third = passed([second], B, 2, "news/t")
    parents = [value(r.headers, "traceparent") for r in (first, second, third)]
    assert all(re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", p) for p in parents)
    assert len({p[3:35] for p in parents}) == 1
    assert len({p[36:52] for p in parents}) == 3
    ids = [value(r.headers, "ce_id") for r in (first, second, third)]
    assert [p[36:52] for p in parents] == [ce_id[:16] for ce_id in ids]


def test_a_caller_s_trace_is_taken_up() -> None:
    given_trace = b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01"
    headers = write([received([("traceparent", given_trace)])])
    assert value(headers, "traceparent").startswith("00-" + "ab" * 16 + "-")


@pytest.mark.parametrize(
    "foreign", [None, b"", b"00-short", b"01-" + b"a" * 52, b"00-" + b"?" * 52]
)
def test_a_foreign_traceparent_is_replaced_by_a_new_trace(foreign: bytes | None) -> None:
    headers = write([received([("traceparent", foreign)])])
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", value(headers, "traceparent"))


# --- inputs and origin -----------------------------------------------------------------------

TOPICS = st.text("abcXYZ0189._-:", min_size=1, max_size=20)
POSITIONS = st.builds(Position, TOPICS, st.integers(0, 2**31), st.integers(0, 2**63))


@given(POSITIONS)
def test_a_position_survives_its_text(position: Position) -> None:
    assert Position.parse(str(position)) == position


@given(st.lists(POSITIONS, min_size=1, max_size=5))
def test_the_inputs_are_read_back_from_the_headers(positions: list[Position]) -> None:
    inputs = [received([], *position) for position in positions]
    assert inputs_of(write(inputs)) == positions


@pytest.mark.parametrize("text", ["", "a", "a:1", "a:b:1", "a:1:b", "a:1:"])
def test_what_is_no_position_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Position.parse(text)


def test_a_record_that_entered_has_no_inputs_and_is_its_own_origin() -> None:
    assert inputs_of(entered().headers) == []
    assert origin_of(entered()) == "news.in:1:7"


def test_the_origin_is_carried_on() -> None:
    second = passed([entered()], A, 1)
    third = passed([second], B, 2, "news/t")
    assert origin_of(second) == origin_of(third) == "news.in:1:7"


def test_a_join_has_the_origin_of_its_first_input() -> None:
    joined = passed([entered("1", offset=7), entered("2", offset=8)], A, 1)
    assert origin_of(joined) == "news.in:1:7"
    assert [p.offset for p in inputs_of(joined.headers)] == [7, 8]


# --- parts -----------------------------------------------------------------------------------


def test_one_output_has_no_part_and_several_are_counted_from_0() -> None:
    assert "ce_part" not in dict(write([entered()]))
    assert [value(write([entered()], n, 3), "ce_part") for n in range(3)] == ["0/3", "1/3", "2/3"]


# --- completions -----------------------------------------------------------------------------


def test_a_stage_s_own_completions_name_prompt_and_model() -> None:
    headers = write([entered()], own=[A, B, B])
    assert value(headers, "ce_prompt") == "classify@1,outline@1"
    assert value(headers, "ce_model") == "small"


def test_without_completions_no_header_speaks_of_them() -> None:
    assert not {"ce_prompt", "ce_model", "ce_calls"} & dict(write([entered()])).keys()


def test_completions_are_collected_along_the_way() -> None:
    second = passed([entered()], A, 1)
    third = passed([second], C, 2, "news/t")
    assert calls_in(second.headers) == [A]
    assert calls_in(third.headers) == [A, C]


def test_a_stage_without_completions_passes_on_what_came() -> None:
    second = passed([entered()], A, 1)
    headers = write([second])
    assert calls_in(headers) == [A]
    assert "ce_prompt" not in dict(headers)


def test_a_join_that_asks_nobody_tells_of_the_completions_of_all_its_branches() -> None:
    branches = [passed([entered()], A, 1), passed([entered()], B, 2)]
    assert calls_in(write(branches)) == [A, B]


def test_the_branches_of_a_diamond_count_each_completion_once() -> None:
    top = passed([entered()], A, 1)
    left = passed([top], B, 2, "news/left")
    right = passed([top], C, 3, "news/right")
    own = Call("d.0", "news/join", "join@1", "small", 1, 1, 1)
    assert calls_in(write([left, right, top], own=[own])) == [A, B, C, own]


def test_completions_are_plain_json() -> None:
    calls = json.loads(value(write([entered()], own=[C]), "ce_calls"))
    assert calls == [["c.0", "news/draft", "draft@2", "large", 40, 8, 2, 0]]


# --- what foreign producers send -------------------------------------------------------------

OUR_NAMES = st.sampled_from(
    [
        "ce_id",
        "ce_source",
        "ce_type",
        "ce_inputs",
        "ce_origin",
        "ce_part",
        "ce_calls",
        "traceparent",
    ]
)
FOREIGN = st.lists(
    st.tuples(OUR_NAMES | st.text(max_size=10), st.none() | st.binary(max_size=80)), max_size=8
)
GARBAGE = [b"", b"{", b"5", b"null", b"[[]]", b"[1]", b'["a"]', b'[["a","b"]]', b"\xff", b'{"a":1}']


@given(FOREIGN)
def test_foreign_headers_never_crash(headers: Headers) -> None:
    foreign = received(headers)
    calls_in(headers)
    inputs_of(headers)
    origin_of(foreign)
    made = write([foreign, entered()], own=[A])
    assert inputs_of(made) == [foreign.position, entered().position]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_in_place_of_completions_counts_as_none(garbage: bytes) -> None:
    foreign = received([("ce_calls", garbage)])
    assert calls_in(foreign.headers) == []
    assert calls_in(write([foreign], own=[A])) == [A]
    assert calls_in(write([foreign, entered()], own=[A])) == [A]


@pytest.mark.parametrize("garbage", [b"", b"x", b"a:b:c", b"a:1:2,", b"\xff:1:2", b",", None])
def test_garbage_in_place_of_inputs_counts_as_none(garbage: bytes | None) -> None:
    assert inputs_of([("ce_inputs", garbage)]) == []


def test_a_received_record_knows_its_position_and_size() -> None:
    assert received().position == Position("news.in", 1, 7)
    assert received().size == 2
    assert Received("t", 0, 0, 0, None, None, []).size == 0


def test_an_outgoing_record_leaves_the_partition_open() -> None:
    assert Outgoing("t", None, b"", []).partition == -1

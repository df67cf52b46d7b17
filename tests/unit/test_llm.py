"""What a stage calls: replies are checked, asked for again, and every try is counted."""

import asyncio
import json
from typing import Annotated, Any, Literal, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import codec_for
from schemas.errors import RecordRejected, ReplyRejected, Stop, UsageError
from schemas.message import Call
from schemas.record import (
    DEFAULT_MAX_ITEMS,
    DEFAULT_MAX_LENGTH,
    Text,
    binding_of,
    json_schema,
    record,
)
from schemas.records import Headline
from streams.calls import Caller
from streams.llm import REPLIES, Llm, longest, parse_reply
from streams.memory import Answer, ScriptedModel
from streams.prompts import Prompt

R = TypeVar("R")


@record
class Spot:
    x: int


@record
class Opinion:
    """Every kind of field that a model can fill."""

    title: Annotated[str, Text(max=10)]
    count: int
    share: float
    sure: bool
    kind: Literal["good", "bad"]
    note: str | None
    spots: Annotated[list[Spot], Text(max=2)]


GOOD: dict[str, Any] = {
    "title": "Well", "count": 3, "share": 0.5, "sure": True, "kind": "good", "note": None,
    "spots": [{"x": 1}],
}  # fmt: skip
OPINION = Opinion("Well", 3, 0.5, True, "good", None, [Spot(1)])


def parse(text: str, reply: type[R]) -> R:
    return parse_reply(reply, json_schema(binding_of(reply).expanded), text)


def opinion(**changes: object) -> Opinion:
    return parse(json.dumps(GOOD | changes), Opinion)


# --- replies that fit ------------------------------------------------------------------------


def test_a_good_reply_becomes_a_record() -> None:
    made = opinion()
    assert made == OPINION
    assert isinstance(made.spots[0], Spot)


@pytest.mark.parametrize(
    "wrapped",
    [
        "```json\n%s\n```",
        "```\n%s```",
        "Sure! Here is the answer:\n\n%s\n\nI hope that helps.",
        "\ufeff  %s\n",
        "<think>hm</think>%s",
    ],
)
def test_a_reply_in_a_fence_or_in_prose_is_found(wrapped: str) -> None:
    assert parse(wrapped % json.dumps(GOOD, indent=2), Opinion) == OPINION


def test_order_and_escapes_do_not_matter() -> None:
    text = json.dumps(dict(reversed(GOOD.items()))).replace("Well", "\\u0057ell")
    assert parse(text, Opinion) == OPINION


def test_a_whole_number_is_a_number() -> None:
    assert opinion(share=2).share == 2


def test_bounds_include_their_last_value() -> None:
    assert opinion(title="x" * 10).title == "x" * 10
    assert len(opinion(spots=[{"x": 1}, {"x": 2}]).spots) == 2
    assert opinion(count=2**63 - 1).count == 2**63 - 1


def test_length_is_counted_in_characters() -> None:
    assert opinion(title="🦆" * 10).title == "🦆" * 10


# --- replies that do not ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "no", "null", "[]", '"text"', "[1, 2]", "}{", "{", "}", "```json\n```", "42"]
)
def test_a_reply_without_an_object_is_rejected(text: str) -> None:
    with pytest.raises(ReplyRejected, match="no JSON object in"):
        parse(text, Opinion)


@pytest.mark.parametrize(
    "text",
    [
        "{title: 1}",
        "{'text': 'a'}",
        '{"text": "a",}',
        '{"text": "a"} and {"text": "b"}',
        '{"text": "a"]}',
        "{}}",
    ],
)
def test_broken_json_is_rejected(text: str) -> None:
    with pytest.raises(ReplyRejected):
        parse(text, Headline)


@pytest.mark.parametrize("cut", range(len('{"text": "abc"}')))
def test_a_reply_that_was_cut_off_is_rejected(cut: int) -> None:
    with pytest.raises(ReplyRejected):
        parse('{"text": "abc"}'[:cut], Headline)


@pytest.mark.parametrize(
    ("field", "wrong", "said"),
    [
        ("title", 1, "Opinion.title is int, not string"),
        ("title", None, "Opinion.title is NoneType, not string"),
        ("title", ["a"], "Opinion.title is list, not string"),
        ("count", "3", "Opinion.count is str, not integer"),
        ("count", 3.0, "Opinion.count is float, not integer"),
        ("count", True, "Opinion.count is bool, not integer"),
        ("share", "0.5", "Opinion.share is str, not number"),
        ("share", False, "Opinion.share is bool, not number"),
        ("sure", 1, "Opinion.sure is int, not boolean"),
        ("sure", "yes", "Opinion.sure is str, not boolean"),
        ("kind", "so-so", "Opinion.kind is 'so-so', none of good, bad"),
        ("kind", None, "Opinion.kind is NoneType, not string"),
        ("note", 1, "Opinion.note is int, not string"),
        ("spots", {"x": 1}, "Opinion.spots is dict, not array"),
        ("spots", [1], "Opinion.spots[] is int, not object"),
        ("spots", [{"x": "1"}], "Opinion.spots[].x is str, not integer"),
        ("spots", [{}], "Opinion.spots[] lacks ['x'] and has unknown []"),
        ("spots", [{"x": 1, "y": 1}], "Opinion.spots[] lacks [] and has unknown ['y']"),
        ("spots", [{"x": 1}] * 3, "Opinion.spots has length 3, more than 2"),
        ("title", "x" * 11, "Opinion.title has length 11, more than 10"),
        ("note", "x" * (DEFAULT_MAX_LENGTH + 1), "Opinion.note has length 601, more than 600"),
    ],
)
def test_a_field_that_breaks_the_schema_is_named(field: str, wrong: object, said: str) -> None:
    with pytest.raises(ReplyRejected) as caught:
        opinion(**{field: wrong})
    assert str(caught.value) == said


@pytest.mark.parametrize("missing", GOOD)
def test_a_missing_field_is_named(missing: str) -> None:
    text = json.dumps({k: v for k, v in GOOD.items() if k != missing})
    with pytest.raises(
        ReplyRejected, match=rf"^Opinion lacks \['{missing}'\] and has unknown \[\]$"
    ):
        parse(text, Opinion)


def test_an_extra_field_is_named() -> None:
    with pytest.raises(ReplyRejected, match=r"^Opinion lacks \[\] and has unknown \['mood'\]$"):
        opinion(mood="fine")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_number_is_rejected(number: str) -> None:
    with pytest.raises(ReplyRejected, match=r"Opinion\.share is NoneType, not number"):
        parse(json.dumps(GOOD).replace("0.5", number), Opinion)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**400])
def test_a_number_beyond_avro_s_long_is_rejected(number: int) -> None:
    with pytest.raises(ReplyRejected):
        opinion(count=number)


def test_a_number_of_many_digits_is_rejected() -> None:
    with pytest.raises(ReplyRejected):
        parse(json.dumps(GOOD).replace("0.5", "1" * 5000), Opinion)


@pytest.mark.parametrize("lone", ["\ud800", "a\udfffb"])
def test_a_lone_surrogate_is_rejected(lone: str) -> None:
    with pytest.raises(ReplyRejected, match="can't be encoded"):
        opinion(title=lone)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_is_rejected(opening: str) -> None:
    with pytest.raises(ReplyRejected):
        parse('{"text": ' + opening * 100_000 + "}", Headline)
    with pytest.raises(ReplyRejected):
        parse('{"text": ' + "[" * 500 + "]" * 500 + "}", Headline)


def test_an_error_s_message_stays_short() -> None:
    with pytest.raises(ReplyRejected) as caught:
        parse("x" * 100_000, Headline)
    assert len(str(caught.value)) < 200
    with pytest.raises(ReplyRejected) as caught:
        opinion(kind="x" * 100_000)
    assert len(str(caught.value)) < 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "x"]), inner)
    ),
    max_leaves=8,
)


@given(
    st.text()
    | JSON.map(json.dumps)
    | st.dictionaries(st.sampled_from(list(GOOD)), JSON).map(json.dumps)
)
def test_any_reply_either_fits_or_is_rejected(text: str) -> None:
    try:
        made = parse(text, Opinion)
    except ReplyRejected:
        return
    codec_for(Opinion).encode(made)


@given(st.data())
def test_one_random_field_either_fits_or_is_rejected(data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(list(GOOD)))
    try:
        made = opinion(**{field: data.draw(JSON)})
    except ReplyRejected:
        return
    assert codec_for(Opinion).decode(codec_for(Opinion).encode(made)) == made


# --- how much may come back ------------------------------------------------------------------


def test_the_longest_reply_is_bounded_by_the_schema() -> None:
    small = longest(json_schema(binding_of(Headline).expanded))
    large = longest(json_schema(binding_of(Opinion).expanded))
    assert 70 <= small <= 400
    assert small < large < 10_000


@pytest.mark.parametrize("most", [1, 50, 3000])
def test_a_string_has_room_for_its_bound_in_a_script_of_three_bytes(most: int) -> None:
    assert longest({"type": "string", "maxLength": most}) >= len(("語" * most).encode())


def test_an_array_counts_for_all_its_items() -> None:
    @record
    class Names:
        names: list[Annotated[str, Text(max=50)]]

    assert longest(json_schema(binding_of(Names).expanded)) >= DEFAULT_MAX_ITEMS * 50


# --- asking ----------------------------------------------------------------------------------

TEMPLATE = (
    "{% set temperature = 0.3 %}"
    "{% block system %}s{% endblock %}{% block user %}Say {{ text }}{% endblock %}"
)


def prompts(name: str | None) -> Prompt:
    return Prompt(name or "say@1", TEMPLATE)


def llm_of(model: ScriptedModel) -> Llm:
    return Llm(Caller(model), prompts, "news/say")


class Replies:
    """Answers one after the other."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = iter(answers)

    def __call__(self, _: object) -> Answer:
        return next(self._answers)


def ask(llm: Llm, prompt: str | None = None) -> Headline:
    return asyncio.run(llm(Headline, prompt, text="cheese"))


def test_a_reply_is_asked_for_under_the_record_s_schema() -> None:
    model = ScriptedModel({"Headline": {"text": "Hi"}})
    assert ask(llm_of(model)) == Headline("Hi")
    (request,) = model.requests
    assert (request.prompt.system, request.prompt.user) == ("s", "Say cheese")
    assert request.prompt.temperature == 0.3
    assert request.name == "Headline"
    assert request.schema == json_schema(binding_of(Headline).expanded)
    assert request.max_tokens == longest(request.schema)


def test_a_reply_that_fits_is_asked_for_once_and_counted() -> None:
    llm = llm_of(ScriptedModel({"Headline": '{"text": "Hi"}'}))
    ask(llm)
    (call,) = llm.calls
    assert call == Call(call.id, "news/say", "say@1", "scripted", 3, 2, 1)


def test_a_reply_that_does_not_fit_is_asked_for_again_with_another_seed() -> None:
    model = ScriptedModel(Replies("nonsense", {"text": "x" * 71}, {"text": "Hi"}))
    assert ask(llm_of(model)) == Headline("Hi")
    assert [r.seed for r in model.requests] == [0, 1, 2]
    assert len({r.prompt for r in model.requests}) == 1


def test_after_three_replies_it_gives_up_and_says_what_was_wrong() -> None:
    model = ScriptedModel(Replies("nonsense", "gibberish", {"text": 5}, {"text": "too late"}))
    with pytest.raises(ReplyRejected) as caught:
        ask(llm_of(model))
    assert (
        str(caught.value)
        == "3 replies to say@1 did not fit; the last: Headline.text is int, not string"
    )
    assert len(model.requests) == REPLIES == 3


def test_tokens_and_attempts_of_all_tries_are_counted() -> None:
    llm = llm_of(ScriptedModel(Replies("one two", "one two three", '{"text": "Hi"}')))
    ask(llm)
    (call,) = llm.calls
    assert call == Call(call.id, "news/say", "say@1", "scripted", 9, 2 + 3 + 2, 3)


def test_what_was_rejected_is_counted_as_well() -> None:
    llm = llm_of(ScriptedModel({"Headline": "one two"}))
    with pytest.raises(ReplyRejected):
        ask(llm)
    (call,) = llm.calls
    assert call == Call(call.id, "news/say", "say@1", "scripted", 9, 6, 3)


def test_a_questions_id_is_made_of_what_decides_its_answer() -> None:
    llm = llm_of(ScriptedModel({"Headline": {"text": "Hi"}}))
    ask(llm)
    ask(llm)
    ask(llm, "shout@2")
    first, same, other = (c.id for c in llm.calls)
    assert first == same != other


def test_questions_asked_at_once_are_counted_apart() -> None:
    async def both(llm: Llm) -> None:
        await asyncio.gather(llm(Headline, text="a"), llm(Headline, text="b c d"))

    llm = llm_of(ScriptedModel({"Headline": {"text": "Hi"}}))
    asyncio.run(both(llm))
    assert [(c.prompt_tokens, c.attempts) for c in llm.calls] == [(3, 1), (5, 1)]
    assert len({c.id for c in llm.calls}) == 2


@pytest.mark.parametrize("error", [RecordRejected("too long"), Stop("bad key")])
def test_what_the_endpoint_refuses_is_not_asked_for_again(error: Exception) -> None:
    model = ScriptedModel({"Headline": error})
    llm = llm_of(model)
    with pytest.raises(type(error), match=str(error)):
        ask(llm)
    assert len(model.requests) == 1
    assert [c.attempts for c in llm.calls] == [0]


def test_a_variable_that_is_not_given_is_wrong_use_and_costs_nothing() -> None:
    model = ScriptedModel({"Headline": {"text": "Hi"}})
    with pytest.raises(UsageError, match="'text' is undefined"):
        asyncio.run(llm_of(model)(Headline, title="x"))
    assert model.requests == []


def test_what_is_no_record_can_t_be_asked_for() -> None:
    with pytest.raises(UsageError, match="is not a record"):
        asyncio.run(llm_of(ScriptedModel({}))(int, text="x"))

"""One suite for every way to run a pipeline: in memory, and on Kafka by the exactly-once loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.message import calls_in, inputs_of
from schemas.topics import Topic
from streams import Llm, MemoryDriver, Pipeline, ScriptedModel, join, record
from streams.audit import audit
from streams.model import Model
from tests.support.config import unique
from tests.support.kafka_driver import KafkaDriver

Driver = MemoryDriver | KafkaDriver
MakeDriver = Callable[..., Driver]


@record
class Line:
    text: str


@record
class Word:
    text: str


@record
class Pair:
    left: str
    right: str


@pytest.fixture(params=["memory", "kafka"])
def make_driver(request: pytest.FixtureRequest, tmp_path: Path) -> MakeDriver:
    def make(pipeline: Pipeline, model: Model | None = None) -> Driver:
        if request.param == "memory":
            return MemoryDriver(pipeline, model)
        config: dict[str, Any] = request.getfixturevalue("kafka")
        return KafkaDriver(pipeline, model, config, tmp_path)

    return make


class Words:
    """A pipeline that splits lines, drops empty ones, and sends shouted words elsewhere."""

    def __init__(self) -> None:
        name = unique("words")
        self.lines = Topic(f"{name}.lines", Line)
        self.words = Topic(f"{name}.words", Word)
        self.shouted = Topic(f"{name}.shouted", Word)
        self.pipeline = Pipeline(name)

        @self.pipeline.stage(reads=self.lines, writes=[self.words, self.shouted])
        async def split(line: Line) -> list[Word]:
            if "!" in line.text:
                raise ValueError("no exclamations")
            found = [Word(text) for text in line.text.split()]
            return [self.shouted.bind(w) if w.text.isupper() else w for w in found]  # type: ignore[misc]


def test_fan_out_gives_every_part_once_in_order(make_driver: MakeDriver) -> None:
    words = Words()
    driver = make_driver(words.pipeline)
    driver.write(words.lines, Line("one two three"), key="k")
    driver.run()
    assert [w.text for w in driver.records(words.words)] == ["one", "two", "three"]
    parts = [dict(r.headers)["ce_part"] for r in driver.received(words.words)]
    assert parts == [b"0/3", b"1/3", b"2/3"]


def test_records_of_a_key_stay_in_order(make_driver: MakeDriver) -> None:
    words = Words()
    driver = make_driver(words.pipeline)
    for number in range(30):
        driver.write(words.lines, Line(f"w{number}"), key="same")
    driver.run()
    assert [w.text for w in driver.records(words.words)] == [f"w{n}" for n in range(30)]


def test_a_filtered_record_leaves_a_mark(make_driver: MakeDriver) -> None:
    words = Words()
    driver = make_driver(words.pipeline)
    driver.write(words.lines, Line("   "), key="k")
    driver.run()
    assert driver.records(words.words) == []
    (mark,) = driver.records(words.pipeline.filtered)
    (line,) = driver.received(words.lines)
    assert (mark.stage, mark.topic, mark.offset) == ("split", words.lines.name, line.offset)


def test_content_chooses_the_topic(make_driver: MakeDriver) -> None:
    words = Words()
    driver = make_driver(words.pipeline)
    driver.write(words.lines, Line("loud QUIET"), key="k")
    driver.run()
    assert driver.records(words.words) == [Word("loud")]
    assert driver.records(words.shouted) == [Word("QUIET")]


def test_an_exception_becomes_a_dead_letter_with_the_original(make_driver: MakeDriver) -> None:
    words = Words()
    driver = make_driver(words.pipeline)
    driver.write(words.lines, Line("oh!"), key="k")
    driver.write(words.lines, Line("fine"), key="k")
    driver.run()
    (letter,) = driver.dead_letters
    line = driver.received(words.lines)[0]
    assert (letter.stage, letter.error, letter.message) == (
        "split",
        "ValueError",
        "no exclamations",
    )
    assert (letter.inputs[0].key, letter.inputs[0].value) == (line.key, line.value)
    assert [(h.name, h.value) for h in letter.inputs[0].headers] == line.headers
    assert driver.records(words.words) == [Word("fine")]


@pytest.mark.parametrize("value", [b"", b"junk", None, b"\xc3\x01" + bytes(8) + b"x"])
def test_what_is_no_avro_becomes_a_dead_letter(
    make_driver: MakeDriver, value: bytes | None
) -> None:
    words = Words()
    driver = make_driver(words.pipeline)
    driver.write_bytes(words.lines.name, b"k", value, [("x", None), ("ce_id", b"\xff\xfe")])
    driver.write(words.lines, Line("after"), key="k")
    driver.run()
    (letter,) = driver.dead_letters
    assert letter.error == "DecodeError"
    assert letter.inputs[0].value == value
    assert driver.records(words.words) == [Word("after")]


class Pairs:
    """A pipeline that joins two topics by key."""

    def __init__(self) -> None:
        name = unique("pairs")
        self.lines = Topic(f"{name}.lines", Line)
        self.words = Topic(f"{name}.words", Word)
        self.pairs = Topic(f"{name}.pairs", Pair)
        self.pipeline = Pipeline(name)

        @self.pipeline.stage(reads=join(self.lines, self.words), writes=self.pairs)
        async def pair(line: Line, word: Word) -> Pair:
            return Pair(line.text, word.text)


def test_a_join_brings_equal_keys_together_first_with_first(make_driver: MakeDriver) -> None:
    pairs = Pairs()
    driver = make_driver(pairs.pipeline)
    for n in range(5):
        driver.write(pairs.lines, Line(f"l{n}"), key="a")
    driver.run()
    for n in range(3):
        driver.write(pairs.words, Word(f"w{n}"), key="a")
    driver.write(pairs.words, Word("other"), key="b")
    driver.run()
    assert driver.records(pairs.pairs) == [Pair(f"l{n}", f"w{n}") for n in range(3)]


def test_a_joins_output_names_all_its_inputs(make_driver: MakeDriver) -> None:
    pairs = Pairs()
    driver = make_driver(pairs.pipeline)
    driver.write(pairs.lines, Line("l"), key="a")
    driver.write(pairs.words, Word("w"), key="a")
    driver.run()
    (output,) = driver.received(pairs.pairs)
    inputs = [driver.received(t)[0].position for t in (pairs.lines, pairs.words)]
    assert inputs_of(output.headers) == inputs
    assert output.key == b"a"


def test_a_model_fills_a_record_and_its_tokens_are_counted(make_driver: MakeDriver) -> None:
    name = unique("model")
    lines, words = Topic(f"{name}.lines", Line), Topic(f"{name}.words", Word)
    pipeline = Pipeline(name)

    @pipeline.stage(reads=lines, writes=words, prompt="word@1")
    async def ask(line: Line, llm: Llm) -> Word:
        return await llm(Word, text=line.text)

    answers = iter(["no JSON at all", '{"text": "answer"}'])
    driver = make_driver(pipeline, ScriptedModel(lambda _: next(answers)))
    driver.write(lines, Line("question"), key="k")
    driver.run()
    (output,) = driver.received(words)
    (call,) = calls_in(output.headers)
    assert driver.records(words) == [Word("answer")]
    assert (call.prompt, call.model, call.attempts) == ("word@1", "scripted", 2)
    assert dict(output.headers)["ce_model"] == b"scripted"


def test_a_model_that_never_fits_gives_a_dead_letter(make_driver: MakeDriver) -> None:
    name = unique("model")
    lines, words = Topic(f"{name}.lines", Line), Topic(f"{name}.words", Word)
    pipeline = Pipeline(name)

    @pipeline.stage(reads=lines, writes=words, prompt="word@1")
    async def ask(line: Line, llm: Llm) -> Word:
        return await llm(Word, text=line.text)

    driver = make_driver(pipeline, ScriptedModel({"Word": {"text": 7}}))
    driver.write(lines, Line("question"), key="k")
    driver.run()
    (letter,) = driver.dead_letters
    assert (letter.error, letter.attempts) == ("ReplyRejected", 3)


def test_running_again_adds_nothing(make_driver: MakeDriver) -> None:
    words = Words()
    driver = make_driver(words.pipeline)
    driver.write(words.lines, Line("one"), key="k")
    driver.run()
    driver.run()
    assert driver.records(words.words) == [Word("one")]


def test_the_audit_holds_on_kafka(kafka: dict[str, Any], tmp_path: Path) -> None:
    words = Words()
    driver = KafkaDriver(words.pipeline, None, kafka, tmp_path)
    for text in ("a b", "", "no!", "C"):
        driver.write(words.lines, Line(text), key=text)
    driver.run()
    report = audit(kafka, words.pipeline)
    (split,) = report.stages
    assert report.ok
    assert (split.inputs, split.outputs, split.dead, split.filtered) == (4, 3, 1, 1)

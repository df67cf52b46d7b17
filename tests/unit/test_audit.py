"""The audit's evidence: clean runs pass, every loss and every double is seen."""

from collections.abc import Callable, Iterable

import pytest

from schemas.codec import codec_for
from schemas.message import Headers, Received
from schemas.record import record
from schemas.records import LedgerEntry
from schemas.topics import Topic
from streams import MemoryDriver, Pipeline, join
from streams.audit import SHOWN, Audit, StageAudit, _Evidence, _look_at
from streams.cli.context import output
from streams.cli.inspect import print_audit


@record
class Order:
    id: str
    text: str


@record
class Word:
    text: str


@record
class Count:
    words: int


@record
class Pair:
    text: str


orders = Topic("shop.orders", Order, key="id")
words = Topic("shop.words", Word)
counts = Topic("shop.counts", Count)
pairs = Topic("shop.pairs", Pair)

shop = Pipeline("shop")


@shop.stage(reads=orders, writes=words)
async def split(order: Order) -> list[Word]:
    if order.text == "bad":
        raise ValueError("no")
    return [Word(word) for word in order.text.split()]


@shop.stage(reads=orders, writes=counts)
async def count(order: Order) -> Count:
    if order.text == "lost":
        raise ValueError("no")
    return Count(len(order.text.split()))


@shop.stage(reads=join(orders, counts, on="origin"), writes=pairs)
async def pair(order: Order, count: Count) -> Pair:
    return Pair(f"{order.text} {count.words}")


def ran(*texts: str) -> list[Received]:
    """Everything in the topics after orders of these texts."""
    driver = MemoryDriver(shop)
    for number, text in enumerate(texts):
        driver.write(orders, Order(f"id-{number}", text))
    driver.run()
    return [each for topic in shop.topics for each in driver.received(topic)]


def ends(records: Iterable[Received]) -> dict[tuple[str, int], int]:
    found: dict[tuple[str, int], int] = {}
    for each in records:
        at = (each.topic, each.partition)
        found[at] = max(found.get(at, 0), each.offset + 1)
    return found


def input_ends(stage: str, records: Iterable[Received]) -> dict[tuple[str, int], int]:
    names = {t.name for t in shop.stages[stage].reads}
    return ends(r for r in records if r.topic in names)


def audit(
    records: list[Received], committed: dict[tuple[str, int], int] | None = None
) -> dict[str, StageAudit]:
    """Reports by stage; by default everything there is has been committed."""
    upto = ends(records) if committed is None else committed
    evidence = {s.name: _Evidence(s, upto, {}) for s in shop.stages.values()}
    _look_at(records, shop, evidence)
    return {name: each.conclude(input_ends(name, records)) for name, each in evidence.items()}


def ok(reports: dict[str, StageAudit]) -> bool:
    return Audit(list(reports.values())).ok


def written_by(
    stage: str, topic: Topic[Order] | Topic[Word] | Topic[Count] | Topic[Pair]
) -> Callable[[Received], bool]:
    source = f"shop/{stage}".encode()
    return lambda r: r.topic == topic.name and dict(r.headers).get("ce_source") == source


def without(
    records: list[Received], which: Callable[[Received], bool], number: int = 0
) -> list[Received]:
    """The records without one of those that match; its offset stays committed."""
    gone = [r for r in records if which(r)][number]
    return [r for r in records if r is not gone]


def again(records: list[Received], which: Callable[[Received], bool]) -> list[Received]:
    """The records and one of those that match once more, at the end of its partition."""
    found = next(r for r in records if which(r))
    offset = ends(records)[found.topic, found.partition]
    copy = Received(found.topic, found.partition, offset, 0, found.key, found.value, found.headers)
    return [*records, copy]


# --- clean runs ------------------------------------------------------------------------------


def test_a_clean_run_is_ok() -> None:
    reports = audit(ran("a b c", "d", "e f"))
    assert ok(reports)
    split, count, pair = (reports[name] for name in ("split", "count", "pair"))
    assert (split.inputs, split.outputs) == (3, 6)
    assert (count.inputs, count.outputs) == (3, 3)
    assert (pair.inputs, pair.outputs, pair.waiting) == (6, 3, 0)
    assert [r.examples for r in reports.values()] == [[], [], []]


def test_nothing_at_all_is_ok() -> None:
    assert ok(audit([]))


def test_a_filtered_input_is_fine() -> None:
    reports = audit(ran("", "a"))
    assert ok(reports)
    assert (reports["split"].filtered, reports["split"].outputs) == (1, 1)


def test_a_dead_letter_is_fine_and_counted() -> None:
    reports = audit(ran("bad", "a"))
    assert ok(reports)
    assert (reports["split"].dead, reports["split"].inputs) == (1, 2)
    assert reports["count"].dead == 0


def test_a_half_that_waits_is_fine_and_counted() -> None:
    reports = audit(ran("lost", "a"))
    assert ok(reports)
    assert (reports["count"].dead, reports["pair"].waiting) == (1, 1)
    assert reports["pair"].inputs == 3


def test_undecodable_bytes_are_dead_not_missing() -> None:
    driver = MemoryDriver(shop)
    driver.write_bytes(orders.name, b"k", b"junk")
    driver.run()
    reports = audit([r for topic in shop.topics for r in driver.received(topic)])
    assert ok(reports)
    assert [reports[s].dead for s in ("split", "count", "pair")] == [1, 1, 1]


def test_what_is_not_committed_is_unread_not_missing() -> None:
    records = [r for r in ran("a b", "c") if r.topic == orders.name]
    reports = audit(records, committed={})
    assert ok(reports)
    assert [(r.inputs, r.unread) for r in reports.values()] == [(0, 2)] * 3


def test_the_order_of_the_topics_does_not_matter() -> None:
    records = ran("a b", "bad", "", "lost", "c")
    by_topic = sorted(records, key=lambda r: (r.topic, r.partition, r.offset))
    assert audit(by_topic, ends(records)) == audit(records)


def test_foreign_records_in_a_topic_are_inputs_of_its_readers_only() -> None:
    records = ran("a")
    foreign = Received(words.name, 3, 50, 0, None, b"?", [("ce_source", b"elsewhere/split")])
    reports = audit([*records, foreign])
    assert ok(reports)
    assert reports["split"].outputs == 1


def test_records_of_other_topics_and_garbage_headers_do_not_disturb() -> None:
    garbage: Headers = [("ce_source", b"\xff"), ("ce_inputs", b"\xff"), ("ce_part", b"x/y")]
    strange = Received("other", 0, 0, 0, None, None, garbage)
    assert ok(audit([*ran("a b"), strange]))


# --- losses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "topic"), [("count", counts), ("pair", pairs)])
def test_a_removed_output_is_missing(stage: str, topic: Topic[Count] | Topic[Pair]) -> None:
    records = ran("a b", "c")
    reports = audit(without(records, written_by(stage, topic)), ends(records))
    assert not ok(reports)
    # a join's output accounts for two inputs
    assert reports[stage].missing == (2 if stage == "pair" else 1)
    assert reports[stage].duplicates == 0


def test_a_missing_input_is_named() -> None:
    records = ran("a")
    (source,) = [r for r in records if r.topic == orders.name]
    reports = audit(without(records, written_by("count", counts)), ends(records))
    assert reports["count"].examples == [f"missing: {source.position}"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_one_missing_part_of_a_fan_out_is_missing(number: int) -> None:
    records = ran("a b c")
    reports = audit(without(records, written_by("split", words), number), ends(records))
    assert (reports["split"].missing, reports["split"].duplicates) == (1, 0)
    assert reports["count"].ok


def test_a_removed_dead_letter_is_missing() -> None:
    records = ran("bad")
    gone = without(records, lambda r: r.topic == shop.dead_letters.name)
    assert audit(gone, ends(records))["split"].missing == 1


def test_a_removed_filter_mark_is_missing() -> None:
    records = ran("")
    gone = without(records, lambda r: r.topic == shop.filtered.name)
    assert audit(gone, ends(records))["split"].missing == 1


def test_a_lost_change_of_state_is_missing() -> None:
    records = ran("lost")
    state = shop.stages["pair"].state
    assert state is not None
    gone = without(records, lambda r: r.topic == state.name)
    assert audit(gone, ends(records))["pair"].missing == 1


def test_a_lost_tail_is_missing() -> None:
    records = ran(*"abcdefghij")
    gone = [r for r in records if r.topic != counts.name]
    assert audit(gone, ends(records))["count"].missing == 10


def test_a_report_names_only_so_many() -> None:
    records = ran(*"abcdefghijklmnopqrstuvwxyz")
    gone = [r for r in records if r.topic != counts.name]
    report = audit(gone, ends(records))["count"]
    assert report.missing == 26
    assert len(report.examples) == SHOWN


# --- doubles ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "topic", "inputs"), [("count", counts, 1), ("pair", pairs, 2)])
def test_a_repeated_output_is_a_duplicate(
    stage: str, topic: Topic[Count] | Topic[Pair], inputs: int
) -> None:
    records = ran("a b", "c")
    reports = audit(again(records, written_by(stage, topic)), ends(records))
    assert not ok(reports)
    assert (reports[stage].duplicates, reports[stage].missing) == (inputs, 0)


def test_a_repeated_part_of_a_fan_out_is_a_duplicate() -> None:
    records = ran("a b c")
    reports = audit(again(records, written_by("split", words)), ends(records))
    assert (reports["split"].duplicates, reports["split"].missing) == (1, 0)


def test_a_repeated_part_does_not_stand_for_a_missing_one() -> None:
    records = ran("a b")
    which = written_by("split", words)
    assert audit(without(again(records, which), which, 1), ends(records))["split"].missing == 1


def test_a_repeated_dead_letter_is_a_duplicate() -> None:
    records = ran("bad")
    twice = again(records, lambda r: r.topic == shop.dead_letters.name)
    assert audit(twice, ends(records))["split"].duplicates == 1


@pytest.mark.parametrize("text", ["a", "a b"])
def test_an_input_in_an_output_and_in_a_dead_letter_is_a_duplicate(text: str) -> None:
    records = ran(text)
    output = next(r for r in records if written_by("split", words)(r))
    headers = [(n, v) for n, v in output.headers if n != "ce_part"]
    dead = Received(shop.dead_letters.name, 0, 0, 0, b"k", b"", headers)
    reports = audit([*records, dead], ends(records))
    assert reports["split"].duplicates == 1
    assert reports["split"].dead == 1


def test_an_input_in_an_output_and_filtered_is_a_duplicate() -> None:
    records = ran("a")
    output = next(r for r in records if written_by("count", counts)(r))
    mark = Received(shop.filtered.name, 0, 0, 0, b"k", b"", output.headers)
    assert audit([*records, mark], ends(records))["count"].duplicates == 1


def test_a_half_that_was_used_and_still_waits_is_a_duplicate() -> None:
    records = ran("a")
    state = shop.stages["pair"].state
    assert state is not None
    kept = without(records, lambda r: r.topic == state.name and r.value is None)
    assert audit(kept, ends(records))["pair"].duplicates == 1


def test_a_duplicate_is_named() -> None:
    records = ran("a")
    (source,) = [r for r in records if r.topic == orders.name]
    report = audit(again(records, written_by("count", counts)), ends(records))["count"]
    assert report.examples == [f"duplicates: {source.position}"]


# --- what has no input ------------------------------------------------------------------------


def made_from(records: list[Received], stage: str, *inputs: str) -> list[Received]:
    """The records and one more output, which names other inputs than it was made from."""
    found = next(r for r in records if dict(r.headers).get("ce_source") == f"shop/{stage}".encode())
    headers = [(n, v) for n, v in found.headers if n != "ce_inputs"]
    if inputs:
        headers.append(("ce_inputs", ",".join(inputs).encode()))
    offset = ends(records)[found.topic, found.partition]
    more = Received(found.topic, found.partition, offset, 0, found.key, found.value, headers)
    return [*records, more]


@pytest.mark.parametrize(
    "inputs",
    [
        ["shop.orders:{p}:{end}"],
        ["shop.orders:{p}:-1"],
        ["shop.orders:99:0"],
        ["elsewhere:0:0"],
        ["shop.words:0:0"],
        [],
    ],
)
@pytest.mark.parametrize("text", ["a", "bad", ""])
def test_what_was_made_from_no_input_is_unfounded(text: str, inputs: list[str]) -> None:
    records = ran(text)  # an output, a dead letter, a filtered mark
    (source,) = [r for r in records if r.topic == orders.name]
    named = [i.format(p=source.partition, end=source.offset + 1) for i in inputs]
    # of a topic that another stage reads there is one
    more = made_from([*records, Received(words.name, 0, 0, 0, b"k", b"", [])], "split", *named)
    report = audit(more, {(orders.name, source.partition): 10**6})["split"]
    assert not report.ok
    assert (report.unfounded, report.missing) == (1, 0)
    assert f"unfounded: {more[-1].position}" in report.examples


def test_one_input_of_a_join_that_is_not_there_is_enough() -> None:
    records = ran("a")
    (source,) = [r for r in records if r.topic == orders.name]
    more = made_from(records, "pair", str(source.position), "shop.counts:0:1000000")
    assert audit(more, {})["pair"].unfounded == 1


def test_what_is_written_while_the_audit_reads_is_not_unfounded() -> None:
    records = ran("a b")
    evidence = {s.name: _Evidence(s, {}, {}) for s in shop.stages.values()}
    _look_at([r for r in records if r.topic != orders.name], shop, evidence)
    found = {name: each.conclude(input_ends(name, records)) for name, each in evidence.items()}
    assert ok(found)


def test_an_input_that_retention_has_deleted_is_not_unfounded() -> None:
    records = [r for r in ran("a", "b") if r.topic != orders.name]
    upto = {(orders.name, p): 100 for p in range(4)}
    evidence = {s.name: _Evidence(s, upto, upto) for s in shop.stages.values()}
    _look_at(records, shop, evidence)
    assert evidence["count"].conclude(upto).unfounded == 0


# --- the ledger -------------------------------------------------------------------------------


def entry(kind: str, call: str, offset: int) -> bytes:
    made = LedgerEntry(kind, call, f"shop.orders:0:{offset}", "p@1", "m", 1, "text", 3, 4, 0.5)  # type: ignore[arg-type]
    return codec_for(LedgerEntry).encode(made)


def spending(*values: bytes | None) -> StageAudit:
    """The report on a ledger."""
    evidence = _Evidence(shop.stages["split"], {}, {})
    for offset, value in enumerate(values):
        evidence.see_ledger(Received("shop.split.ledger", 0, offset, 0, b"k", value, []))
    return evidence.conclude({})


def test_every_request_is_counted_and_what_became_of_it() -> None:
    found = spending(
        entry("intent", "a", 0), entry("intent", "a", 0), entry("result", "a", 0),  # one try failed
        entry("intent", "b", 1), entry("intent", "b", 1),  # under way, or lost
        entry("reuse", "a", 2),
        entry("result", "c", 3),  # compacted
        entry("intent", "a", 4), entry("reuse", "a", 4),  # another was quicker
        None,
    )  # fmt: skip
    assert (found.requests, found.calls, found.reused, found.unanswered) == (6, 2, 2, 1)
    assert (found.prompt_tokens, found.cost_usd) == (6, 1.0)


def test_what_is_no_entry_is_skipped_and_counted() -> None:
    found = spending(b"junk", entry("result", "a", 0), b"")
    assert (found.calls, found.unreadable, found.ok) == (1, 2, True)
    assert found.examples == [
        "unreadable: shop.split.ledger:0:0",
        "unreadable: shop.split.ledger:0:2",
    ]


# --- the report ------------------------------------------------------------------------------


def test_the_report_as_json_has_the_promised_fields() -> None:
    report = Audit(list(audit(ran("a")).values())).to_json()
    assert report["ok"] is True
    promised = {"stage", "inputs", "outputs", "dead", "missing", "duplicates", "calls", "repaid"}
    assert [s["stage"] for s in report["stages"]] == ["split", "count", "pair"]
    assert all(promised <= stage.keys() for stage in report["stages"])


def test_one_bad_stage_makes_the_report_bad() -> None:
    assert Audit([StageAudit("a"), StageAudit("b")]).ok
    assert not Audit([StageAudit("a"), StageAudit("b", missing=1)]).ok
    assert not Audit([StageAudit("a"), StageAudit("b", duplicates=1)]).ok
    assert not Audit([StageAudit("a"), StageAudit("b", unfounded=1)]).ok


def test_rare_columns_are_shown_when_they_are_not_zero(capsys: pytest.CaptureFixture[str]) -> None:
    print_audit(Audit([StageAudit("a", calls=3, requests=3)]), output())
    assert not {"requests", "unfounded", "unreadable"} & set(capsys.readouterr().out.split())
    print_audit(Audit([StageAudit("a", calls=3, requests=5, unfounded=6, unreadable=7)]), output())
    shown = capsys.readouterr().out
    assert {"requests", "unfounded", "unreadable", "5", "6", "7"} <= set(shown.split())
    assert "made up" in shown


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_no_figure_is_cut_off_on_a_narrow_screen(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    stage = StageAudit("classify")
    stage.inputs, stage.outputs, stage.calls, stage.reused = 12_345, 12_344, 54_321, 499
    stage.prompt_tokens, stage.completion_tokens, stage.cost_usd = 1_234_567, 765_432, None
    print_audit(Audit([stage]), output())
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "classify" in line)
    figures = "classify 12,345 12,344 0 0 499 54,321 1,234,567/765,432 unknown"
    assert row.split() == figures.split()

"""The ledger's books: what is asked, what is answered from what is kept, where the next owner begins."""

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import Any, cast

import pytest

from schemas.errors import RecordRejected, RetryLater
from schemas.message import Received
from schemas.records import LedgerEntry
from streams import ledger
from streams.calls import Begin
from streams.last_moment import Withheld, check_the_last_moment
from streams.ledger import Book, Page, from_metadata, position, to_metadata
from streams.llm import Question
from streams.model import Completion
from streams.prices import Prices
from streams.stage import OnUnknown

QUESTION = Question("c" * 32, "say@1", "small")


class Paper:
    """A ledger's partition in memory."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.entries: list[LedgerEntry] = []
        self.late: dict[int, LedgerEntry] = {}
        self.reads: list[tuple[int, int]] = []
        self.away = False

    async def write(self, entry: LedgerEntry, page: Page, partition: int) -> int:
        assert partition == 3
        await asyncio.sleep(0)
        self.entries.append(entry)
        self.at += 1
        return self.at - 1

    def book(
        self,
        *entries: LedgerEntry,
        on_unknown: OnUnknown = "retry",
        earlier: "Earlier | None" = None,
    ) -> Book:
        prices = Prices({"small": (1.0, 10.0)})
        kept = dict(enumerate(entries, self.at - len(entries)))
        return Book(3, self.write, kept, self.at, prices, on_unknown, cast(Any, earlier), self.read)

    def read(self, since: int, until: int) -> dict[int, LedgerEntry]:
        self.reads.append((since, until))
        if len(self.reads) == 1 and self.away:
            raise RetryLater("no broker answers")
        return {n: e for n, e in self.late.items() if since <= n < until}

    def hold(self, *late: LedgerEntry) -> None:
        """What a predecessor appended, and what only now can be read."""
        self.late = dict(enumerate(late, self.at))
        self.at += len(late)


class Earlier:
    """The copy of the ledgers that a worker follows."""

    def __init__(self) -> None:
        self.entries: dict[str, LedgerEntry] = {}

    def find(self, call_id: str) -> LedgerEntry | None:
        return self.entries.get(call_id)

    def add(self, entry: LedgerEntry) -> None:
        self.entries[entry.call_id] = entry

    def alone(self, _: str) -> AbstractAsyncContextManager[None]:
        return nullcontext()


def page(offset: int = 7) -> Page:
    return Page("p/ask", [Received("in", 3, offset, 0, b"k", b"", [])])


def complete(
    book: Book, on: Page, *, model: str = "small", question: Question = QUESTION
) -> tuple[Completion, int]:
    """The answer, and how often the model was asked."""
    asked = 0

    async def ask(begin: Begin) -> Completion:
        nonlocal asked
        await begin()
        asked += 1
        return Completion("text", model, 1000, 100)

    return asyncio.run(book.complete(on, question, ask)), asked


def entry(kind: str, text: str | None = None) -> LedgerEntry:
    return LedgerEntry(kind, QUESTION.call_id, "in:3:7", "say@1", "small", 1, text, 5, 6)  # type: ignore[arg-type]


def test_the_intent_comes_before_the_call_and_the_result_after_it() -> None:
    paper = Paper()
    seen_at_call: list[str] = []

    async def ask(begin: Begin) -> Completion:
        await begin()
        seen_at_call.extend(e.kind for e in paper.entries)
        return Completion("text", "small", 1000, 100)

    asyncio.run(paper.book().complete(page(), QUESTION, ask))
    assert seen_at_call == ["intent"]
    intent, result = paper.entries
    assert (intent.kind, intent.call_id, intent.inputs) == ("intent", QUESTION.call_id, "in:3:7")
    assert (result.kind, result.text, result.prompt) == ("result", "text", "say@1")
    assert (result.prompt_tokens, result.completion_tokens) == (1000, 100)
    assert result.cost_usd == pytest.approx(0.001 + 0.001)


def test_an_unknown_price_is_an_unknown_cost() -> None:
    paper = Paper()
    complete(paper.book(), page(), model="large")
    assert paper.entries[-1].cost_usd is None


def test_a_kept_result_is_not_asked_for() -> None:
    paper = Paper()
    answer, asked = complete(paper.book(entry("intent"), entry("result", "kept")), page())
    assert (answer, asked) == (Completion("kept", "small", 5, 6), 0)
    assert paper.entries == []


def test_a_result_counts_whatever_follows_it() -> None:
    _, asked = complete(Paper().book(entry("result", "kept"), entry("intent")), page())
    assert asked == 0


def test_what_is_unknown_is_asked_again_or_parked() -> None:
    assert complete(Paper().book(entry("intent")), page())[1] == 1
    with pytest.raises(RecordRejected, match=r"^maybe paid: call c+ was begun"):
        complete(Paper().book(entry("intent"), on_unknown="park"), page())


def test_a_result_that_could_not_be_read_yet_is_found_before_the_call() -> None:
    paper = Paper(at=100)
    book = paper.book()
    paper.hold(entry("intent"), entry("result", "kept"))
    assert complete(book, page()) == (Completion("kept", "small", 5, 6), 0)
    assert paper.reads == [(100, 102)]
    # until its input is committed the next owner needs it too
    assert position(book, []) == 100
    assert position(book, [], {page().inputs}) == 103


def test_an_intent_that_could_not_be_read_yet_parks_its_call() -> None:
    paper = Paper()
    book = paper.book(on_unknown="park")
    paper.hold(entry("intent"))
    with pytest.raises(RecordRejected, match=r"^maybe paid: call c+ was begun"):
        complete(book, page())


def test_a_ledger_that_holds_nothing_late_is_not_read_again() -> None:
    paper = Paper()
    book = paper.book()
    assert complete(book, page())[1] == 1
    assert paper.reads == []


def test_a_result_that_its_worker_writes_after_it_has_lost_the_partition_is_found() -> None:
    paper = Paper()
    book, other = paper.book(), Question("d" * 32, "say@1", "small")
    assert complete(book, page(1), question=other)[1] == 1
    assert paper.reads == []
    paper.hold(entry("intent"), entry("result", "kept"))
    assert complete(book, page()) == (Completion("kept", "small", 5, 6), 0)
    assert paper.reads == [(2, 4)]


def test_before_a_further_try_it_looks_back_again() -> None:
    paper = Paper()

    async def tries_again(begin: Begin) -> Completion:
        await begin()
        paper.hold(entry("intent"), entry("result", "kept"))
        await begin()
        raise AssertionError("asked")

    answer = asyncio.run(paper.book().complete(page(), QUESTION, tries_again))
    assert answer == Completion("kept", "small", 5, 6)
    assert [e.kind for e in paper.entries] == ["intent", "intent"]


def test_what_was_withheld_is_begun_anew() -> None:
    paper, tries = Paper(), 0

    async def withheld_once(begin: Begin) -> Completion:
        nonlocal tries
        tries += 1
        await begin()
        if tries == 1:
            paper.hold(entry("result", "kept"))
            raise Withheld
        raise AssertionError("asked")

    answer = asyncio.run(paper.book().complete(page(), QUESTION, withheld_once))
    assert (answer.text, tries) == ("kept", 2)


def test_a_request_is_withheld_when_its_answer_came_in_meanwhile() -> None:
    earlier = Earlier()
    asked = []

    async def ready(begin: Begin) -> Completion:
        await begin()
        earlier.entries[QUESTION.call_id] = entry("result", "kept")
        check_the_last_moment()
        asked.append(1)
        return Completion("text", "small", 1000, 100)

    paper = Paper()
    answer = asyncio.run(paper.book(earlier=earlier).complete(page(), QUESTION, ready))
    assert (answer, asked) == (Completion("kept", "small", 5, 6), [])
    paper = Paper()
    answer = asyncio.run(paper.book(earlier=earlier).complete(page(8), QUESTION, ready))
    assert answer == Completion("kept", "small", 0, 0, reused=True)
    assert [(e.kind, e.inputs) for e in paper.entries] == [("reuse", "in:3:8")]


def test_calls_wait_for_what_one_of_them_reads() -> None:
    paper = Paper()
    book = paper.book()
    paper.hold(entry("result", "kept"))

    async def both() -> list[Completion]:
        return await asyncio.gather(*(book.complete(page(n), QUESTION, never) for n in (7, 8)))

    async def never(begin: Begin) -> Completion:
        await begin()
        raise AssertionError("asked")

    assert [answer.text for answer in asyncio.run(both())] == ["kept", "kept"]
    assert paper.reads == [(0, 1)]


def test_late_entries_of_an_input_that_is_committed_keep_nobody_back() -> None:
    paper = Paper()
    book, done = paper.book(), page()
    complete(book, done)
    cause = Received("in", 3, 7, 0, b"k", b"", [])
    book.done([cause], cause)
    paper.hold(entry("result", "late"))
    complete(book, page(8), question=Question("d" * 32, "say@1", "small"))
    assert paper.reads == [(2, 3)]
    assert position(book, []) == paper.at


def test_the_look_back_waits_for_the_broker_and_is_made_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger, "_PAUSE", 0.0)
    paper = Paper()
    paper.away = True
    book = paper.book()
    paper.hold(entry("result", "kept"))
    assert complete(book, page())[1] == 0
    assert complete(book, page())[1] == 0
    assert paper.reads == [(0, 1), (0, 1)]


def test_a_call_that_fails_leaves_its_intent() -> None:
    paper = Paper()

    async def refused(begin: Begin) -> Completion:
        await begin()
        raise RecordRejected("no")

    with pytest.raises(RecordRejected):
        asyncio.run(paper.book().complete(page(), QUESTION, refused))
    assert [e.kind for e in paper.entries] == ["intent"]


def test_the_next_owner_begins_where_the_first_open_page_does() -> None:
    paper = Paper(at=100)
    book = paper.book()
    first, second, silent = page(1), page(2), page(3)
    complete(book, first)
    complete(book, second)
    assert position(book, [first, second, silent]) == 100
    assert position(book, [second, silent]) == 102
    assert position(book, [silent]) == position(book, []) == 104


def test_the_next_owner_also_needs_what_a_predecessor_left_uncommitted() -> None:
    # an answer from the ledger writes nothing into it, but until its input is committed it must be kept
    paper = Paper(at=100)
    book, kept = paper.book(entry("intent"), entry("result", "kept")), page(7)
    book.taken_over = {kept.inputs: 90, page(9).inputs: 95}
    assert complete(book, kept)[1] == 0
    assert position(book, [kept]) == 90
    assert position(book, [], {kept.inputs}) == 95
    assert position(book, [], {kept.inputs, page(9).inputs}) == 100


def test_a_page_begins_with_its_first_call() -> None:
    paper = Paper()
    book, one = paper.book(), page()
    complete(book, one)
    complete(book, one)
    assert one.begins == 0


def test_the_position_rides_as_metadata() -> None:
    assert from_metadata([to_metadata(5), None, "", to_metadata(17), "foreign", "ledger:x"]) == 17
    assert from_metadata([]) == 0


def test_a_reuse_has_a_key_of_its_own() -> None:
    # or compaction would take the result away that it repeats, and what was paid with it
    made = [entry(kind) for kind in ("intent", "result", "reuse")]
    intent, result, reuse = map(ledger._key_of, made)
    assert intent == result == QUESTION.call_id
    assert reuse == f"{QUESTION.call_id} in:3:7"
    assert ledger._key_of(replace(made[2], inputs="in:3:8")) != reuse

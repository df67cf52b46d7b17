"""Declaring stages and pipelines: what does not fit is refused in one readable line."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas import topics
from schemas.errors import UsageError
from schemas.record import record
from schemas.records import Document, Headline, SocialPost, Summary
from schemas.topics import Bound, Topic
from streams import Llm, Pipeline, join
from streams.pipelines.newsroom import newsroom
from streams.stage import Join, Reads, Stage, StageFunction, Writes, declare


@record
class Note:
    text: str


@record
class Memo:
    text: str


notes = Topic("desk.notes", Note)
more_notes = Topic("desk.more-notes", Note)
memos = Topic("desk.memos", Memo)
headlines = Topic("desk.headlines", Headline)


def make(
    function: StageFunction,
    reads: Reads = notes,
    writes: Writes = memos,
    prompt: str | None = None,
    concurrency: int = 1,
) -> Stage:
    return declare("desk", function, reads, writes, prompt, concurrency)


def refusal(function: Any, **arguments: Any) -> str:
    """The one line that says why."""
    with pytest.raises(UsageError) as caught:
        make(function, **arguments)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"stage {function.__name__}: ")
    return str(caught.value).removeprefix(f"stage {function.__name__}: ")


async def copy(note: Note) -> Memo:
    return Memo(note.text)


# --- what is accepted ------------------------------------------------------------------------


def test_a_stage_is_named_after_its_function() -> None:
    stage = make(copy)
    assert (stage.name, stage.full_name, stage.group) == ("copy", "desk/copy", "desk.copy")
    assert (stage.reads, stage.writes, stage.state) == ((notes,), (memos,), None)
    assert not stage.uses_llm
    assert stage.prompt_folder == Path(__file__).parent / "prompts"


def test_a_stage_may_return_several_some_or_none_of_its_records() -> None:
    async def many(note: Note) -> list[Memo]:
        raise NotImplementedError

    async def sequence(note: Note) -> Sequence[Memo | Headline]:
        raise NotImplementedError

    async def maybe(note: Note) -> Memo | None:
        raise NotImplementedError

    async def either(note: Note) -> Memo | Headline:
        raise NotImplementedError

    async def pair(note: Note) -> tuple[Memo, Headline]:
        raise NotImplementedError

    async def row(note: Note) -> tuple[Memo, ...]:
        raise NotImplementedError

    async def routed(note: Note) -> Bound[Memo]:
        raise NotImplementedError

    async def nothing(note: Note) -> None:
        raise NotImplementedError

    for function in (many, sequence, maybe, either, pair, row, routed, nothing):
        assert make(function, writes=[memos, headlines]).writes == (memos, headlines)


def test_a_stage_may_read_several_topics_of_one_record_or_of_several() -> None:
    async def either(given: Note | Memo) -> Headline:
        raise NotImplementedError

    assert make(copy, [notes, more_notes]).reads == (notes, more_notes)
    assert make(either, [notes, memos], headlines).reads == (notes, memos)


def test_a_stage_with_a_model_has_it_last() -> None:
    async def ask(note: Note, llm: Llm) -> Memo:
        raise NotImplementedError

    assert make(ask, prompt="ask@1").uses_llm


def test_a_join_gives_one_record_of_each_topic_in_order_and_has_state() -> None:
    async def both(note: Note, memo: Memo, llm: Llm) -> Headline:
        raise NotImplementedError

    stage = make(both, join(notes, memos, on="origin"), headlines)
    assert (stage.reads, stage.joins_on) == ((notes, memos), "origin")
    assert stage.state is not None
    assert stage.state.name == "desk.both.state"
    assert stage.state.compacted
    assert stage.state.partitions == notes.partitions


def test_a_join_is_on_the_key_if_nothing_is_said() -> None:
    assert join(notes, memos) == Join((notes, memos), "key")


# --- what is refused -------------------------------------------------------------------------


def test_a_plain_function() -> None:
    def plain(note: Note) -> Memo:
        raise NotImplementedError

    assert refusal(plain) == "must be an `async def` function"


def test_missing_annotations() -> None:
    async def bare(note, other: int):  # type: ignore[no-untyped-def]  # noqa: ANN202, RUF100
        ...

    assert refusal(bare) == "needs type annotations for note, return"


def test_an_annotation_that_names_nothing() -> None:
    async def vague(note: "Nothing") -> Memo:  # type: ignore[name-defined]  # noqa: F821
        raise NotImplementedError

    said = "name 'Nothing' is not defined; annotations must be importable names"
    assert refusal(vague) == said


def test_a_model_that_is_not_last() -> None:
    async def first(llm: Llm, note: Note) -> Memo:
        raise NotImplementedError

    async def two(note: Note, llm: Llm, other: Llm) -> Memo:
        raise NotImplementedError

    assert refusal(first) == "the Llm must be the last parameter, and the only one"
    assert refusal(two) == "the Llm must be the last parameter, and the only one"


def test_a_return_type_that_is_no_record() -> None:
    async def mapping(note: Note) -> dict[str, Memo]:
        raise NotImplementedError

    said = "can't return dict[str, schemas.Memo]: return a record, several in a list, or None"
    assert re.sub(r"[\w.]+\.Memo", "schemas.Memo", refusal(mapping)) == said


def test_reading_nothing() -> None:
    assert refusal(copy, reads=[]) == "reads no topic"


def test_writing_nothing() -> None:
    assert refusal(copy, writes=[]) == "writes no topic"


def test_more_records_than_one_without_a_join() -> None:
    async def two(note: Note, memo: Memo) -> Headline:
        raise NotImplementedError

    async def none() -> Memo:
        raise NotImplementedError

    said = "takes 2 records; without a join it gets one at a time"
    assert refusal(two, reads=[notes, memos], writes=headlines) == said
    assert refusal(none).startswith("takes 0 records")


def test_another_record_than_the_topic_holds() -> None:
    assert refusal(copy, reads=memos) == "takes Note but its topics hold Memo"


def test_fewer_records_than_the_topics_hold() -> None:
    assert refusal(copy, reads=[notes, memos]) == "takes Note but its topics hold Memo and Note"


def test_more_records_than_the_topics_hold() -> None:
    async def either(given: Note | Memo) -> Headline:
        raise NotImplementedError

    said = "takes Memo and Note but its topics hold Note"
    assert refusal(either, reads=notes, writes=headlines) == said


def test_another_order_than_the_join_s() -> None:
    async def both(memo: Memo, note: Note) -> Headline:
        raise NotImplementedError

    assert "but the join gives" in refusal(both, reads=join(notes, memos), writes=headlines)


def test_fewer_records_than_the_join_gives() -> None:
    said = "takes Note but the join gives Memo and Note"
    assert refusal(copy, reads=join(notes, memos)) == said


def test_returning_what_no_topic_holds() -> None:
    said = "returns Memo, which none of its topics holds"
    assert refusal(copy, writes=headlines) == said


def test_no_concurrency() -> None:
    assert refusal(copy, concurrency=0) == "concurrency must be at least 1"


def test_a_prompt_without_a_model() -> None:
    assert refusal(copy, prompt="copy@1") == "has a prompt or samples, but no parameter of type Llm"


def test_a_join_of_one_topic() -> None:
    with pytest.raises(UsageError, match=r"^a join needs at least two topics$"):
        join(notes)


def test_a_join_of_topics_with_unequal_partitions() -> None:
    said = r"^joined topics need equal numbers of partitions \(desk\.notes 4, desk\.two 2\)$"
    with pytest.raises(UsageError, match=said):
        join(notes, Topic("desk.two", Memo, partitions=2))


def test_a_model_without_any_prompt() -> None:
    async def ask(note: Note, llm: Llm) -> Memo:
        raise NotImplementedError

    said = '^stage ask names no prompt: add prompt="name@version"$'
    with pytest.raises(UsageError, match=said):
        make(ask).load_prompt()


# --- pipelines -------------------------------------------------------------------------------


def desk() -> Pipeline:
    """``documents`` → note → ``notes`` → copy → ``memos``, and one more reader of ``notes``."""
    pipeline = Pipeline("desk")
    entry = Topic("desk.documents", Document, key="id")

    @pipeline.stage(reads=entry, writes=notes)
    async def note(document: Document) -> Note:
        raise NotImplementedError

    pipeline.stage(reads=notes, writes=memos)(copy)

    @pipeline.stage(reads=join(notes, memos), writes=headlines)
    async def head(note: Note, memo: Memo) -> Headline:
        raise NotImplementedError

    return pipeline


def test_the_decorator_leaves_the_function_as_it_is() -> None:
    assert Pipeline("desk").stage(reads=notes, writes=memos)(copy) is copy


def test_two_stages_of_one_name() -> None:
    with pytest.raises(UsageError, match=r"^pipeline desk has two stages named copy$"):
        desk().stage(reads=notes, writes=memos)(copy)


def test_a_topic_declared_twice_differently() -> None:
    pipeline = desk()
    pipeline.stage(reads=memos, writes=Topic("desk.notes", Note, partitions=9))(back)
    said = r"^topic desk\.notes is declared twice, differently$"
    with pytest.raises(UsageError, match=said):
        pipeline.check()
    with pytest.raises(UsageError, match=said):
        pipeline.topology()


async def back(memo: Memo) -> Note:
    return Note(memo.text)


def test_all_topics_are_data_state_and_the_pipeline_s_own() -> None:
    assert [t.name for t in desk().topics] == [
        "desk.documents", "desk.notes", "desk.memos", "desk.headlines",
        "desk.head.state", "desk.dead-letters", "desk.filtered", "desk.sources",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["notes", "desk.notes"])
def test_a_topic_is_found_with_and_without_the_prefix(name: str) -> None:
    assert desk().topic(name) is notes


def test_an_unknown_topic() -> None:
    with pytest.raises(UsageError, match=r"^no topic 'nots' in desk; `pressroom topology` lists"):
        desk().topic("nots")


def test_stages_are_selected_by_name_or_by_what_they_read() -> None:
    def names(*asked: str) -> list[str]:
        return [s.name for s in desk().select(asked)]

    assert names("head") == ["head"]
    assert names("notes") == names("desk.notes") == ["copy", "head"]
    assert names("head", "notes") == ["head", "copy"]
    assert names("note", "note") == ["note"]
    assert names() == []


def test_selecting_what_is_neither_stage_nor_topic() -> None:
    said = "^'copi' is no stage and no topic; stages: note, copy, head$"
    with pytest.raises(UsageError, match=said):
        desk().select(["copy", "copi"])


def test_selecting_a_topic_that_no_stage_reads() -> None:
    with pytest.raises(UsageError, match=r"^no stage reads desk\.headlines$"):
        desk().select(["headlines"])


def test_the_entry_is_the_topic_of_documents_that_no_stage_writes() -> None:
    assert desk().entry().name == "desk.documents"
    assert desk().entry("documents").name == "desk.documents"


def test_an_entry_that_holds_no_documents() -> None:
    with pytest.raises(UsageError, match=r"^desk\.notes holds Note; ingestion writes Document$"):
        desk().entry("notes")


def test_an_entry_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"^no topic 'documnets' in desk"):
        desk().entry("documnets")


def test_several_entries() -> None:
    pipeline = desk()

    @pipeline.stage(reads=Topic("desk.letters", Document), writes=notes)
    async def letter(document: Document) -> Note:
        raise NotImplementedError

    said = (
        r"^say which topic takes documents, with --topic \(there: desk\.documents, desk\.letters\)$"
    )
    with pytest.raises(UsageError, match=said):
        pipeline.entry()
    assert pipeline.entry("letters").name == "desk.letters"


def test_no_entry() -> None:
    pipeline = Pipeline("desk")
    pipeline.stage(reads=notes, writes=memos)(copy)
    with pytest.raises(UsageError, match=r"with --topic \(there: none\)$"):
        pipeline.entry()


def test_checking_loads_every_prompt() -> None:
    pipeline = Pipeline("desk")

    @pipeline.stage(reads=notes, writes=memos, prompt="no-such-prompt@1")
    async def ask(note: Note, llm: Llm) -> Memo:
        raise NotImplementedError

    with pytest.raises(UsageError, match=r"^no prompt 'no-such-prompt@1' in "):
        pipeline.check()


# --- the newsroom's graph --------------------------------------------------------------------


def test_the_newsroom_checks() -> None:
    newsroom.check()


def test_the_newsroom_s_stages() -> None:
    graph = {
        s["name"]: (s["reads"], s["writes"], s["prompt"]) for s in newsroom.topology()["stages"]
    }
    n = "newsroom."
    assert graph == {
        "classify": ([n + "documents"], [n + "classifications"], "classify@1"),
        "annotate": ([n + "documents"], [n + "annotations"], None),
        "outline": (
            [n + "documents", n + "classifications", n + "annotations"],
            [n + "outlines"],
            "outline@1",
        ),
        "draft": ([n + "outlines", n + "revisions"], [n + "drafts"], "draft@1"),
        "headline": ([n + "drafts"], [n + "headlines"], "headline@1"),
        "summary": ([n + "drafts"], [n + "summaries"], "summary@1"),
        "social": ([n + "drafts"], [n + "social-posts"], "social@1"),
        "review": (
            [n + "drafts", n + "headlines", n + "summaries", n + "social-posts"],
            [n + "revisions", n + "reviews"],
            "review@1",
        ),
        "article": ([n + "reviews"], [n + "articles"], None),
    }


def test_the_newsroom_s_topics() -> None:
    found = {
        t["name"].removeprefix("newsroom."): (t["schema"], t["key"], t["partitions"])
        for t in newsroom.topology()["topics"]
    }
    assert found == {
        "documents": ("pressroom.Document", "id", 4),
        "classifications": ("pressroom.Classification", None, 4),
        "annotations": ("pressroom.Annotation", None, 4),
        "outlines": ("pressroom.Outline", None, 4),
        "revisions": ("pressroom.Revision", None, 4),
        "drafts": ("pressroom.Draft", None, 4),
        "headlines": ("pressroom.Headline", None, 4),
        "summaries": ("pressroom.Summary", None, 4),
        "social-posts": ("pressroom.SocialPost", None, 4),
        "reviews": ("pressroom.Review", None, 4),
        "articles": ("pressroom.Article", "id", 4),
        "outline.state": ("pressroom.Original", None, 4),
        "review.state": ("pressroom.Original", None, 4),
        **{
            f"{stage}.ledger": ("pressroom.LedgerEntry", "call_id", 4)
            for stage in ("classify", "outline", "draft", "headline", "summary", "social", "review")
        },
        "dead-letters": ("pressroom.DeadLetter", None, 4),
        "filtered": ("pressroom.Filtered", None, 4),
        "sources": ("pressroom.SourcePosition", "source", 1),
    }
    assert newsroom.topology()["pipeline"] == "newsroom"


def test_the_newsroom_takes_documents() -> None:
    assert newsroom.entry() is topics.documents


def test_topics_say_their_policy_to_the_broker() -> None:
    assert topics.documents.config["cleanup.policy"] == "delete"
    assert newsroom.sources.config["cleanup.policy"] == "compact"
    kept = int(newsroom.dead_letters.config["max.message.bytes"])
    assert kept > int(topics.documents.config["max.message.bytes"])


def test_binding_a_record_to_a_topic() -> None:
    assert topics.summaries.bind(Summary("a")) == Bound(topics.summaries, Summary("a"))
    assert topics.social_posts.bind(SocialPost("a")).topic is topics.social_posts

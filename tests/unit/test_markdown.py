"""Articles as files: safe names, front matter that YAML reads, nothing but the record in them."""

import string
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from consumers.markdown import file_name, to_markdown
from schemas.message import Call
from schemas.records import Article, Entity

CALLS = [
    Call("a.0", "news/draft", "draft@1", "small", 10, 5, 1),
    Call("b.0", "news/draft", "draft@1", "small", 20, 6, 2),
    Call("c.0", "news/review", "review@2", "large", 30, 7, 1),
]


def article(**changes: Any) -> Article:
    fields: dict[str, Any] = {
        "id": "1a2b", "source": "file:///x.txt", "title": "A title", "summary": "Short.",
        "social_post": "Post!", "body": "The body.", "topic": "science", "language": "en",
        "quality": "high", "entities": [Entity("Ada", "PERSON", 2)], "attempts": 1,
    }  # fmt: skip
    return Article(**fields | changes)


def parsed(text: str) -> tuple[dict[str, Any], str]:
    """Front matter and the rest, as a site generator reads them."""
    empty, front, rest = text.split("---\n", 2)
    assert empty == ""
    loaded = yaml.safe_load(front)
    assert isinstance(loaded, dict)
    return loaded, rest


HOSTILE = {
    "plain": "A title",
    "empty": "",
    "blank": "   ",
    "colon": "title: yes",
    "quotes": "\"double\" 'single' `back` „low“",
    "backslash": "C:\\new\\table \\u0041",
    "newlines": "one\ntwo\r\nthree",
    "separator": "---\nid: owned\n---\n",
    "tab": "a\tb",
    "comment": "# no comment",
    "anchor": "&a *a !!python/object:os.system %TAG @ `",
    "yaml words": "null",
    "number": "0x1F",
    "date": "2026-01-01",
    "list": "- [a, {b: c}]",
    "template": "{{ site.title }} {% raw %}",
    "html": "<script>alert(1)</script>",
    "emoji": "🦆 👩‍🚀 🇩🇪",
    "arabic": "مرحبا بالعالم",
    "chinese": "今天天气很好",
    "combining": "Ze\u0301ro\u0300",
    "zero bytes": "a\x00b\x1b[31m",
    "path": "../../etc/passwd",
    "very long": "long title " * 500,
    "long word": "x" * 5000,
}


@pytest.mark.parametrize("title", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_front_matter_is_yaml_and_holds_the_title_as_it_is(title: str) -> None:
    front, rest = parsed(to_markdown(article(title=title), CALLS))
    assert front["title"] == title
    assert front["id"] == "1a2b"
    assert rest.splitlines()[1] == f"# {' '.join(title.split())}"


@pytest.mark.parametrize("field", ["id", "source", "summary", "social_post"])
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_every_text_in_the_front_matter_is_quoted(field: str, hostile: str) -> None:
    front, _ = parsed(to_markdown(article(**{field: hostile}), []))
    assert front[field] == hostile


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_entities_are_quoted(hostile: str) -> None:
    front, _ = parsed(to_markdown(article(entities=[Entity(hostile, "ORG", 3)]), []))
    assert front["entities"] == [f"{hostile} (ORG, 3)"]


PRINTABLE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), max_size=60)


@given(PRINTABLE, PRINTABLE)
def test_any_printable_text_survives(title: str, summary: str) -> None:
    front, _ = parsed(to_markdown(article(title=title, summary=summary), []))
    assert (front["title"], front["summary"]) == (title, summary)


def test_the_front_matter_says_what_the_article_took() -> None:
    front, rest = parsed(to_markdown(article(attempts=2), CALLS))
    assert front == {
        "id": "1a2b",
        "source": "file:///x.txt",
        "title": "A title",
        "topic": "science",
        "language": "en",
        "quality": "high",
        "drafts": 2,
        "summary": "Short.",
        "social_post": "Post!",
        "entities": ["Ada (PERSON, 2)"],
        "prompts": ["draft@1", "review@2"],
        "models": ["small", "large"],
        "model_calls": 4,
        "prompt_tokens": 60,
        "completion_tokens": 18,
    }
    assert rest == "\n# A title\n\nThe body.\n"


def test_an_article_without_completions_says_so() -> None:
    front, _ = parsed(to_markdown(article(entities=[]), []))
    assert (front["prompts"], front["model_calls"], front["entities"]) == ([], 0, [])


def test_a_separator_in_the_body_stays_in_the_body() -> None:
    front, rest = parsed(to_markdown(article(body="one\n\n---\nid: owned\n---\n\ntwo"), []))
    assert front["id"] == "1a2b"
    assert rest == "\n# A title\n\none\n\n---\nid: owned\n---\n\ntwo\n"


def test_the_same_article_is_the_same_text() -> None:
    assert to_markdown(article(), CALLS) == to_markdown(article(), list(CALLS))
    assert file_name(article()) == file_name(article(body="other", summary="other"))


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("A title", "a-title-1a2b.md"),
        ("  Größe & Schönheit! ", "größe-schönheit-1a2b.md"),
        ("snake_case -- and—dashes", "snake-case-and-dashes-1a2b.md"),
        ("ＦＵＬＬ ①", "full-1-1a2b.md"),
        ("مرحبا بالعالم", "مرحبا-بالعالم-1a2b.md"),
        ("", "article-1a2b.md"),
        ("🦆 !?", "article-1a2b.md"),
        ("---", "article-1a2b.md"),
        ("../../etc/passwd", "etc-passwd-1a2b.md"),
        ("a\x00b\nc\\d", "a-b-c-d-1a2b.md"),
    ],
)
def test_a_name_is_made_of_title_and_id(title: str, name: str) -> None:
    assert file_name(article(title=title)) == name


@given(st.text(max_size=300), st.text(string.printable, max_size=100))
def test_a_name_is_always_one_plain_file(title: str, id: str) -> None:
    name = file_name(article(title=title, id=id))
    assert "/" not in name
    assert "\x00" not in name
    assert not name.startswith(".")
    assert name.endswith(".md")
    assert len(name.encode()) <= 80 + 1 + 64 + 3


def test_names_differ_where_ids_do() -> None:
    assert len({file_name(article(id=f"{n:032x}")) for n in range(100)}) == 100


def test_a_long_title_is_cut_between_characters() -> None:
    assert file_name(article(title="界" * 100)) == f"{'界' * 26}-1a2b.md"

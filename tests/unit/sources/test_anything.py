"""Whatever comes gives something: any bytes, any JSON, and the samples."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from producers.sources import (
    Entry,
    discover,
    read,
)
from tests.unit.sources.conftest import GERMAN, OnlyEntry, Reader

SAMPLES = Path(__file__).parents[3] / "streams" / "pipelines" / "samples"

# Whatever comes

FORMATS = st.sampled_from(["a.txt", "a.md", "a.html", "a.json", "a.jsonl", "a.csv"])
MARKUP = st.lists(
    st.sampled_from(
        [
            *'< </p> <p> <!-- &# " , { [ : --- a é \0'.encode().split(b" "),
            *(b"\n", b"\r", b"# ", b"\xff\xfe", b"\xef\xbb\xbf", b"\xd8\x00", b"\xe9"),
        ]
    )
).map(b"".join)
many = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@many
@given(name=FORMATS, content=st.binary(max_size=500) | MARKUP)
@example(name="a.html", content=b"\xff\xfe\x00\xd8")
def test_any_bytes_give_something_and_the_same_again(
    name: str, content: bytes, results: Reader
) -> None:
    found = results(name, content)
    assert found
    assert found == results(name, content)
    for each in found:
        if isinstance(each, Entry):
            assert each.text.strip()
            assert each.text.isascii() or each.text.encode()
            assert not set(each.text) & ({*map(chr, range(32))} - {"\n", "\t"} | {"\ufeff"})
            assert 1 <= len(each.title) <= 200
            assert len(each.title.splitlines()) == 1
        else:
            assert each.reason
            assert content.find(each.raw) >= 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@many
@given(values=st.lists(json_values, min_size=1), ascii_only=st.booleans(), last=st.booleans())
def test_n_lines_of_jsonl_give_n_results(
    values: list[object], ascii_only: bool, last: bool, results: Reader
) -> None:
    lines = [json.dumps(value, ensure_ascii=ascii_only) for value in values]
    content = "\n".join(lines) + ("\n" if last else "")
    found = results("a.jsonl", content.encode())
    assert len(found) == len(values)


@pytest.mark.parametrize("carry_over", [65_535, 65_536, 65_537])
def test_a_letter_across_chunks_is_one_letter(carry_over: int, entry: OnlyEntry) -> None:
    text = "one two three\n" * 4_681 + "x" * (carry_over - 65_534) + "é\n"
    assert entry("a.txt", text.encode()).text == text
    assert entry("b.txt", (text + GERMAN).encode("cp1252")).text == text + GERMAN


# The samples


def test_the_samples_are_ten_to_twelve_documents() -> None:
    found = [each for source in discover([str(SAMPLES)]) for each in read(source)]
    documents = [each for each in found if isinstance(each, Entry)]
    assert len(documents) == len(found) == 12
    assert all(120 <= len(each.text.split()) <= 400 for each in documents)
    assert len({each.title for each in documents}) == 12

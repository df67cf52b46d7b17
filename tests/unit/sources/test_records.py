"""JSON, JSONL and CSV become documents: each record once, nothing lost."""

import json

import pytest

from producers.sources import (
    MAX_DOCUMENT_BYTES,
    MAX_RAW_BYTES,
    Entry,
    Unreadable,
)
from tests.unit.sources.conftest import OnlyEntry, OnlyReason, Reader

# JSONL


def test_jsonl(results: Reader) -> None:
    lines: list[tuple[str, tuple[str, str] | str]] = [
        ('{"text": "a\\r\\nb", "title": "T"}', ("T", "a\nb")),
        ('{"text": " ", "BODY": "b", "headline": "", "name": "N"}', ("N", "b")),
        ('"a string"', ("a string", "a string")),
        ('{"id": 12345678901234567890123, "ok": true, "x": null, "y": [1], "z": "s"}', (
            "id: 12345678901234567890123", "id: 12345678901234567890123\nok: true\nz: s")),
        ('{"a": NaN, "b": 1.10}', ("a: NaN", "a: NaN\nb: 1.10")),
        ('{"a": ' + "9" * 9_999 + "}", ("a:", "a: " + "9" * 9_999)),
        ('{"text": "x", "text": "y"}', ("y", "y")),
        ('{"text": "\\ud800\\u0000z"}', ("\ufffdz", "\ufffdz")),
        ('{"title": "a\\nb ' + "c" * 300 + '", "text": "t"}', ("a b", "t")),
        ('{"text": "a" "b"}', "line 10 is not JSON: Expecting ',' delimiter at column 14"),
        ("[1]", "line 11 is an array, not an object or a string"),
        ("3.5", "line 12 is a number, not an object or a string"),
        ("null", "line 13 is null, not an object or a string"),
        ("true", "line 14 is true or false, not an object or a string"),
        ('""', "line 15 has no text"),
        ('{"text": "", "id": 1}', "line 16 has no text"),
        ('{"text": 5}', "line 17 has no text"),
        ("{}", "line 18 has no text"),
        ("[" * 100_000, "line 19 cannot be used: it is nested too deeply"),
        ('{"a":' * 100_000, "line 20 cannot be used: it is nested too deeply"),
        ('{"text": "' + "x" * (MAX_DOCUMENT_BYTES + 1) + '"}',
         "line 21 has 2000001 bytes; a document may have at most 2000000"),
        ('"' + "x" * 20_000_000 + '"',
         "line 22 has 20000003 bytes; at most 8000000 are read for one document"),
        ('"last"', ("last", "last")),
    ]  # fmt: skip
    found = results("a.jsonl", "\n".join(line for line, _ in lines).encode())
    got = [(each.title, each.text) if isinstance(each, Entry) else each.reason for each in found]
    assert got == [expected for _, expected in lines]


def test_line_numbers_count_blank_lines(results: Reader) -> None:
    found = results("a.jsonl", b'\xef\xbb\xbf\n  \r\n"a"\r\n\n{\n')
    assert [type(each) for each in found] == [Entry, Unreadable]
    assert isinstance(found[1], Unreadable)
    assert found[1].reason.startswith("line 5 is not JSON")


def test_wide_lines_end_only_at_newlines(results: Reader) -> None:
    # U+0A0A and U+010A have the byte of a newline in them.
    found = results("a.jsonl", '\ufeff"\u010a\u0a0a"\n\n"b"\n[]\n'.encode("utf-16-le"))
    assert [each.text for each in found if isinstance(each, Entry)] == ["\u010a\u0a0a", "b"]
    assert isinstance(found[2], Unreadable)
    assert found[2].raw == "[]\n".encode("utf-16-le")


# JSON


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"text": "a", "title": "T"}, {"body": "b"}, "c"]', ["a", "b", "c"]),
        (' [\r\n {"text": "ä"}\n,\n"b" ]\n', ["ä", "b"]),
        ('{\n "text": "a",\n "n": [1, 2]\n}\n', ["a"]),
        ('{"id": 1.10, "x": "y"}', ["id: 1.10\nx: y"]),
        ('["a", 1, [], null, {}, " "]', [
            "a",
            "element 2 is a number, not an object or a string",
            "element 3 is an array, not an object or a string",
            "element 4 is null, not an object or a string",
            "element 5 has no text",
            "element 6 has no text",
        ]),
        ("[]", ["the file is an array without elements"]),
        ("42", ["the file is a number, not an array or an object"]),
        ('"a"', ["the file is a string, not an array or an object"]),
        ('["a", "b', ["a", "the file is not JSON: Unterminated string starting at at character 7"]),
        ('["a" "b"]', ["a", "the file is not JSON: Expecting ',' delimiter at character 6"]),
        ('["a"', ["a", "the file is not JSON: Expecting ',' delimiter at character 5"]),
        ('["a",]', ["a", "the file is not JSON: Expecting value at character 6"]),
        ('["a"] x', ["a", "the file is not JSON: Extra data at character 7"]),
        ('{"text": "a"}\n{"text": "b"}\n', [
            "the file has more than one value; one on each line is JSONL, a .jsonl file"
        ]),
        ("no JSON", ["the file is not JSON: Expecting value at character 1"]),
        ("[" * 100_000, ["the file cannot be used: it is nested too deeply"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json(content: str, expected: list[str], encoding: str, results: Reader) -> None:
    found = results("a.json", content.encode(encoding))
    assert [each.text if isinstance(each, Entry) else each.reason for each in found] == expected


def test_an_array_may_be_longer_than_what_is_held_of_it(results: Reader) -> None:
    texts = [f"{n} {'x' * 99_990}" for n in range(100)]
    assert [
        each.text
        for each in results("a.json", json.dumps(texts).encode())
        if isinstance(each, Entry)
    ] == texts


def test_an_element_that_is_too_long_ends_the_array(results: Reader) -> None:
    found = results("a.json", b'["a", "' + b"x" * 20_000_000 + b'", "b"]')
    assert isinstance(found[1], Unreadable)
    assert found[1].reason == "the file is not JSON, or an element has more than 8000000 bytes"
    assert len(found) == 2


def test_a_wrong_byte_in_an_array_costs_one_element(results: Reader) -> None:
    found = results("a.json", '["日本語", "'.encode() + b'\xe9", "b"]')
    assert [type(each) for each in found] == [Entry, Unreadable, Entry]
    assert isinstance(found[1], Unreadable)
    assert found[1].raw == b'"\xe9"'
    assert found[1].reason.startswith("element 2 is not valid UTF-8")


def test_values_across_chunks_are_whole(results: Reader) -> None:
    for pad in range(65_520, 65_540):
        found = results("a.json", ('["' + "x" * pad + '", 123456789, "é"]').encode())
        assert [type(each) for each in found] == [Entry, Unreadable, Entry]


# CSV


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_csv_dialects(delimiter: str, newline: str, encoding: str, results: Reader) -> None:
    rows = [" Title ,TEXT,id", '"A, ""b""","one\ntwo; three | four",1', "", "B,c,2"]
    content = newline.join(rows).replace(",", delimiter).replace("\n", newline)
    found = results("a.csv", content.encode(encoding))
    quoted = f'A{delimiter} "b"'
    assert found == [
        Entry(0, " ".join(quoted.split()), "one\ntwo; three | four"),
        Entry(1, "B", "c"),
    ]


def test_csv_rows_that_are_wrong_are_named(results: Reader) -> None:
    content = (
        b'title,text\nA,b,c\nq\n ,\nok,"a\nb"\n"x"y,z\n,,\n   \nA,\xff\n'
        + "é,é\n".encode()
        + b'last,"open\nx,y\n'
    )
    found = results("a.csv", content)
    assert [each.text if isinstance(each, Entry) else each.reason for each in found] == [
        "row 2 (line 2) has too many columns: 3, where the header has 2",
        "row 3 (line 3) has too few columns: 1, where the header has 2",
        "row 4 (line 4) has no text",
        "a\nb",
        "row 6 (line 7) is broken: ',' expected after '\"'",
        "row 7 (line 8) has too many columns: 3, where the header has 2",
        "row 8 (line 10) is not valid UTF-8",
        "é",
        "row 10 (line 13) is broken: unexpected end of data",
    ]
    assert isinstance(found[-1], Unreadable)
    assert found[-1].raw == b'last,"open\nx,y\n'


def test_csv_without_a_text_column_gives_all_columns(entry: OnlyEntry) -> None:
    found = entry("a.csv", b"Name, Age ,,\nAda,36,x,\n")
    assert found.title == "Ada"
    assert found.text == "Name: Ada\nAge: 36\ncolumn 3: x"


def test_csv_fields_may_be_large_but_rows_are_bounded(results: Reader) -> None:
    large = b"x" * 1_000_000
    rows = b'text\n"' + large + b'"\n"' + (b"y" * 99 + b"\n") * 81_000
    found = results("a.csv", rows)
    assert isinstance(found[0], Entry)
    assert found[0].text == large.decode()
    assert isinstance(found[1], Unreadable)
    assert found[1].reason.endswith("is broken: more than 8000000 bytes")
    assert len(found[1].raw) == MAX_RAW_BYTES
    assert found[2:]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"title,text\n", "the file has a header but no rows"),
        (b"title,text\n\n  \n", "the file has a header but no rows"),
        (b'title,"text', "the header is broken: unexpected end of data, so no row can be read"),
    ],
)
def test_csv_without_rows(content: bytes, expected: str, results: Reader) -> None:
    (found,) = results("a.csv", content)
    assert isinstance(found, Unreadable)
    assert found.reason == expected


@pytest.mark.parametrize(
    "rows",
    [
        [
            "Wind turbines were stopped by the storm,2024-01-01",
            "Hospital opens new ward,2024-02-01",
        ],
        ["1,Wind stops", "2,Hospital opens"],
        ["Wind stops,https://a.example/1", "Hospital opens,https://a.example/2"],
        ["The mayor of the town has resigned", "Rain"],
        ["The mayor resigned.", "Rain"],
        ["Storm,2019", "Rain,2020"],
        ["Only one row in the whole file"],
    ],
)
def test_csv_without_a_header_loses_no_row(rows: list[str], results: Reader) -> None:
    found = results("a.csv", "\n".join(rows).encode())
    texts = [each.text for each in found if isinstance(each, Entry)]
    assert texts == [row.replace(",", "\n") for row in rows]


def test_csv_without_a_header_is_titled_by_its_prose(results: Reader) -> None:
    good, bad = results("a.csv", b"1,2024-01-01 10:00,The ward opens\n2,x\n")
    assert isinstance(good, Entry)
    assert good.title == "The ward opens"
    assert isinstance(bad, Unreadable)
    assert bad.reason == "row 2 (line 2) has too few columns: 2, where the first row has 3"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"Question,Answer\nWho?,Me\n", "Question: Who?\nAnswer: Me"),
        (b"Country,2019,2020\nFrance,12,13\n", "Country: France\n2019: 12\n2020: 13"),
        (
            b"Date of the last visit,Ward\n2024-01-01,A\n",
            "Date of the last visit: 2024-01-01\nWard: A",
        ),
        (b"2024-01-01,text\n5,A\n", "A"),
    ],
)
def test_csv_with_unknown_names(content: bytes, text: str, entry: OnlyEntry) -> None:
    assert entry("a.csv", content).text == text


def test_csv_that_may_have_a_header_says_which_names_are_known(reason: OnlyReason) -> None:
    expected = (
        "it cannot be told whether the first row is a header, so no row is read; a header has"
    )
    found = reason("a.csv", b"Hospital opens new ward\n")
    assert found.startswith(expected)
    assert "text, body, content" in found

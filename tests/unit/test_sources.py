"""Files become documents: each record once, nothing lost, nothing garbled, nothing raised."""

import codecs
import gzip
import io
import json
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from producers.sources import (
    MAX_DOCUMENT_BYTES,
    MAX_RAW_BYTES,
    MAX_RECORD_BYTES,
    Entry,
    Format,
    Source,
    SourceError,
    Unreadable,
    discover,
    read,
)

SAMPLES = Path(__file__).parents[2] / "streams" / "pipelines" / "samples"
GERMAN = "Größe und Schönheit: im Fluß über die Brücke, schöne Grüße.\n"
RUSSIAN = "Привет, как дела сегодня? Мы идем в библиотеку.\n"
CHINESE = "今天天气很好，我们去图书馆看书。\n"
ARABIC = "مرحبا بالعالم كيف حالكم اليوم\n"
JAPANESE = "日本語のテキストです。図書館へ行きました。\n"
EMOJI = "🎉🦆 👩‍🚀🇩🇪\n"

Reader = Callable[[str, bytes], list[Entry | Unreadable]]


@pytest.fixture
def results(tmp_path: Path) -> Reader:
    """What reading a file of this name and content gives; the indexes are checked on the way."""

    def read_file(name: str, content: bytes) -> list[Entry | Unreadable]:
        path = tmp_path / name
        path.write_bytes(content)
        (source,) = discover([str(path)])
        found = list(read(source))
        assert [each.index for each in found] == list(range(len(found)))
        return found

    return read_file


@pytest.fixture
def entry(results: Reader) -> Callable[[str, bytes], Entry]:
    """The one document in a file."""

    def only(name: str, content: bytes) -> Entry:
        (found,) = results(name, content)
        assert isinstance(found, Entry), found
        return found

    return only


@pytest.fixture
def reason(results: Reader) -> Callable[[str, bytes], str]:
    """Why a file has no document."""

    def only(name: str, content: bytes) -> str:
        (found,) = results(name, content)
        assert isinstance(found, Unreadable), found
        assert found.raw == content[:MAX_RAW_BYTES]
        assert "\n" not in found.reason
        return found.reason

    return only


OnlyEntry = Callable[[str, bytes], Entry]
OnlyReason = Callable[[str, bytes], str]


def names(sources: list[Source]) -> list[str]:
    return [source.path.name for source in sources]


# Discovering


def test_a_folder_is_searched_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.md", "a.txt", ".hidden", "sub/c.HTML", "sub/d.jsonl", ".git/e.txt", "z"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    sources = discover([str(tmp_path)])
    assert names(sources) == ["a.txt", "b.md", "z", "c.HTML", "d.jsonl"]
    assert [source.format for source in sources] == ["text", "markdown", "text", "html", "jsonl"]


def test_a_file_reached_by_many_ways_counts_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "ä b%.txt"
    file.write_text("x")
    (tmp_path / "in" / "again.txt").symlink_to(file)
    (tmp_path / "in" / "loop").symlink_to(tmp_path)
    odd = f"{tmp_path}/in/../in/./{file.name}"
    (source,) = discover([str(tmp_path), str(file), odd, str(tmp_path / "in" / "again.txt")])
    assert source.uri == file.resolve().as_uri()
    assert source.uri.endswith("/%C3%A4%20b%25.txt")


def test_folders_that_link_to_each_other_are_walked_once(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(8)]
    for folder in folders:
        folder.mkdir()
        (folder / "a.txt").write_text("x")
        for other in folders:  # without a memory of what was seen: 8 ** 40 paths
            (folder / f"to-{other.name}").symlink_to(other)
    assert len(discover([str(tmp_path)])) == len(folders)


def test_a_pipe_in_a_folder_is_reported_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (source,) = discover([str(tmp_path)])
    reason = "the file cannot be read: it is a pipe, a socket or a device"
    assert list(read(source)) == [Unreadable(0, b"", reason)]
    with pytest.raises(OSError, match="it is a pipe"):
        source.fingerprint()
    with pytest.raises(SourceError, match="neither a file nor a folder"):
        discover([str(tmp_path / "pipe")])


@pytest.mark.parametrize("path", ["/no/such/file", "", "nul\0byte", "two\nlines"])
def test_a_wrong_path_gives_one_clear_line(path: str) -> None:
    with pytest.raises(SourceError) as caught:
        discover([path])
    assert repr(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (b'\n {"text": "a"}\n', Format.JSONL),
        (b'"a"\n"b"\n', Format.JSONL),
        ('\ufeff{"text": "a"}'.encode("utf-16-le"), Format.JSONL),
        (b"\n<!DOCTYPE html><p>a", Format.HTML),
        (b"<HTML lang=en>", Format.HTML),
        (b'{\n"text": "a"\n}', Format.TEXT),
        (b"42\n", Format.TEXT),
        (b"[1]\n", Format.TEXT),
        (b"<html5 is not a tag>", Format.TEXT),
        (b"[" * 100_000, Format.TEXT),
        (b"", Format.TEXT),
        (b"\0\1\2", Format.TEXT),
    ],
)
def test_the_format_of_standard_input_is_guessed(
    content: bytes, format: Format, tmp_path: Path
) -> None:
    (source,) = discover(["-"], io.BytesIO(content), tmp_path)
    assert source.format is format
    assert source.path.read_bytes() == content
    assert source.uri == f"stdin:{source.fingerprint()[:16]}"


def test_standard_input_needs_no_spool_and_is_read_once() -> None:
    (source,) = discover(["-", "-"], io.BytesIO(b"a,b\n1,2\n"), format=Format.CSV)
    assert source.format is Format.CSV
    assert [type(found) for found in read(source)] == [Entry]


def test_an_interrupted_standard_input_leaves_nothing_behind(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        discover(["-"], Broken(), tmp_path)
    assert list(tmp_path.iterdir()) == []


# Encodings


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *[
            (text, encoding)
            for text in (GERMAN, RUSSIAN, CHINESE, ARABIC, JAPANESE, EMOJI)
            for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32")
        ],
        (GERMAN, "cp1252"),
        ("A café.", "cp1252"),
        ("It costs £5.\n", "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (CHINESE, "gb18030"),
        ("你好，世界。今天天气很好。", "gb18030"),
        (ARABIC, "cp1256"),
        (JAPANESE, "cp932"),
        (JAPANESE, "euc_jp"),
        ("plain text\n" * 20_000 + GERMAN, "cp1252"),
        (CHINESE * 5_000, "gb18030"),
        (CHINESE * 5_000, "utf-8"),
    ],
)
def test_text_survives_its_encoding(text: str, encoding: str, entry: OnlyEntry) -> None:
    assert entry("a.txt", text.encode(encoding)).text == text


@pytest.mark.parametrize("bom", [codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE])
def test_big_endian_needs_its_mark(bom: bytes, entry: OnlyEntry) -> None:
    encoding = "utf-16-be" if len(bom) == 2 else "utf-32-be"
    assert entry("a.txt", bom + EMOJI.encode(encoding)).text == EMOJI


def tar() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        member = tarfile.TarInfo("a.txt")
        member.size = 9_000
        file.addfile(member, io.BytesIO(b"some text " * 900))
    return archive.getvalue()


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "a.json", "a.jsonl", "a.csv"])
@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + random.Random(1).randbytes(900),
        b"%PDF-1.4\n1 0 obj << /Type /Catalog >>\n",
        gzip.compress(b"hello", mtime=0),
        b"\x7fELF\2\1\1" + bytes(9) + b"\3\0>\0",
        bytes(100),
        "text without a byte order mark".encode("utf-16-le"),
        tar(),
        *(random.Random(size).randbytes(size) for size in (64, 100, 1_000, 100_000)),
    ],
    ids=lambda content: repr(content[:8]),
)
def test_what_is_no_text_is_one_unreadable(name: str, content: bytes, reason: OnlyReason) -> None:
    assert reason(name, content).startswith("the file is ")


def test_a_wrong_byte_in_utf8_does_not_garble_the_rest(reason: OnlyReason, results: Reader) -> None:
    damaged = "日本語 é".encode() + b" \xff x"
    assert reason("a.txt", damaged) == "the file is not valid UTF-8: byte 0xff at offset 13"
    good, bad = results("a.jsonl", '"日本語"\n"'.encode() + b'\xe9"\n')
    assert isinstance(good, Entry)
    assert good.text == "日本語"
    assert isinstance(bad, Unreadable)
    assert bad.raw == b'"\xe9"\n'
    assert bad.reason.startswith("line 2 is not valid UTF-8")


def test_broken_utf16_is_one_unreadable(reason: OnlyReason) -> None:
    assert reason("a.jsonl", '"a"'.encode("utf-16") + b"x").startswith(
        "the file is not valid UTF-16"
    )


def test_text_is_cleaned(entry: OnlyEntry) -> None:
    found = entry("a.txt", "\ufeffone\r\ntwo\rthree\ffour\tfive \x07six\ufeff".encode())
    assert found.text == "one\ntwo\nthree\nfour\tfive six"


# Text, Markdown, titles, sizes


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "a.json", "a.jsonl", "a.csv", "a.bin"])
@pytest.mark.parametrize("content", [b"", b" \r\n\t\n"])
def test_an_empty_file(name: str, content: bytes, reason: OnlyReason) -> None:
    assert reason(name, content) == "the file is empty"


def test_a_file_that_vanished(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    (source,) = discover([str(path)])
    path.unlink()
    expected = Unreadable(0, b"", "the file cannot be read: No such file or directory")
    assert list(read(source)) == [expected]


def test_a_dangling_symlink_in_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone.txt")
    (source,) = discover([str(tmp_path)])
    assert [type(found) for found in read(source)] == [Unreadable]


def test_a_symlink_to_itself_is_reported_once(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    (source,) = discover([str(tmp_path), str(tmp_path)])
    assert source.uri.endswith("/loop")
    reason = "the file cannot be read: Too many levels of symbolic links"
    assert list(read(source)) == [Unreadable(0, b"", reason)]


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("\n\n  First   line \nSecond", "First line"),
        ("-----\n* * *\nAfter a rule", "After a rule"),
        ("word " * 40, ("word " * 24).strip()),
        ("x" * 300, "x" * 120),
        ("!!!\n???", "stem"),
        ("tab\there\u2028and there", "tab here and there"),
    ],
)
def test_a_text_is_titled_by_its_first_line(content: str, title: str, entry: OnlyEntry) -> None:
    assert entry("stem.txt", content.encode()).title == title


@pytest.mark.parametrize(
    ("content", "title", "text"),
    [
        ("intro\n\n## A *b* `c` ##\n", "A b c", None),
        ("```\n# no heading\n```\n# Heading\n", "Heading", None),
        ("Heading\n=======\n", "Heading", None),
        ("#hashtag\n", "#hashtag", None),
        ("---\ntitle: 'A: b'\ndate: 2024-99-99\n---\n# C\n", "A: b", "# C\n"),
        ("---\r\ntitle: >\r\n  folded\r\n  title\r\n...\r\nbody", "folded title", "body"),
        ("---\ntags: [a]\n---\n# C\n", "C", "# C\n"),
        ("---\ntitle: 7\n---\nbody", "7", "body"),
        ("---\nnot front matter\n---\nbody", "not front matter", None),
        ("---\na [[[\n---\nbody", "a [[[", None),
        ("---\n" + "[" * 20_000 + "\n---\n# C\n", "[" * 200, None),
        ("---\ntitle: never closed\n", "title: never closed", None),
    ],
)
def test_markdown(content: str, title: str, text: str | None, entry: OnlyEntry) -> None:
    found = entry("a.md", content.encode())
    assert found.text == (content if text is None else text)
    assert found.title == title


def test_front_matter_alone_is_no_document(reason: OnlyReason) -> None:
    assert reason("a.md", b"---\ntitle: A\n---\n \n") == "the Markdown file has no text"


def test_the_limit_is_in_bytes_of_utf8(entry: OnlyEntry, reason: OnlyReason) -> None:
    assert len(entry("a.txt", b"x" * MAX_DOCUMENT_BYTES).text) == MAX_DOCUMENT_BYTES
    too_long = "é".encode() * (MAX_DOCUMENT_BYTES // 2) + b"x"
    assert reason("a.txt", too_long) == (
        "the file has 2000001 bytes; a document may have at most 2000000"
    )
    assert reason("a.txt", b"x" * (MAX_RECORD_BYTES + 1)).startswith("the file has 8000001 bytes")


# HTML

PAGE = """<!DOCTYPE html><html><head><title> A &amp;
 B </title><style>x { }</style></head><body><svg><title>icon</title></svg>
<h1>Head</h1><p>One<br>two &eacute;<!-- no --> <b> three</b>
<i>four</i>.</p><ul><li>a</li><li>b</li></ul>after
<table><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table>
<pre>  code
    x</pre><script>bad()</script><noscript>js</noscript><template>t</template></body></html>"""


def test_a_page_reads_as_it_looks(entry: OnlyEntry) -> None:
    found = entry("a.html", PAGE.encode())
    assert found.title == "A & B"
    assert found.text == (
        "Head\n\nOne\ntwo é three four.\n\na\nb\nafter\n\n1\t2\n3\n\n  code\n    x"
    )


@pytest.mark.parametrize(
    ("page", "encoding"),
    [
        (f'<meta charset="windows-1251"><title>T</title><p>{RUSSIAN}', "cp1251"),
        (f'<meta charset="iso-8859-1"><title>T</title><p>“{GERMAN}”', "cp1252"),
        (f'<meta http-equiv=Content-Type content="text/html; charset=gb2312">{CHINESE}', "gbk"),
        (f'<meta charset="iso-2022-jp"><p>{JAPANESE}', "iso2022_jp"),
        (f'<meta charset="ascii"><p>{CHINESE}', "utf-8-sig"),
        (f'<meta charset="utf-8"><p>{GERMAN}', "cp1252"),
        (f'<meta charset="rot13"><p>{GERMAN}', "utf-8"),
        (f'<meta charset="no-such"><p>{ARABIC}', "utf-8"),
        (f'<meta charset="utf-16"><p>{ARABIC}', "utf-8"),
        (f"<p>{EMOJI}", "utf-16"),
    ],
)
def test_a_page_says_its_encoding(page: str, encoding: str, entry: OnlyEntry) -> None:
    text = entry("a.html", page.encode(encoding)).text
    assert any(line.strip() in text for line in (RUSSIAN, GERMAN, CHINESE, JAPANESE, ARABIC, EMOJI))


def test_a_page_without_title_has_its_first_heading(entry: OnlyEntry) -> None:
    assert entry("a.html", b"<p>x<h1> <img></h1><h1>The <i>Head</i></h1>").title == "The Head"


def test_a_page_without_text(reason: OnlyReason) -> None:
    assert reason("a.html", b"<title>T</title><script>x</script>&nbsp;") == "the page has no text"


@pytest.mark.parametrize("unit", ["<div>", "<a ", "<!--", "<a href='", "<![CDATA[", "&"])
def test_a_hostile_page_takes_no_time(unit: str, results: Reader) -> None:
    assert len(results("a.html", f"<p>start</p>{unit * 50_000}x".encode())) == 1


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

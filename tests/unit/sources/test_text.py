"""Text in any encoding, Markdown and HTML become documents: nothing garbled, nothing raised."""

import codecs
import gzip
import io
import random
import tarfile
from pathlib import Path

import pytest

from producers.sources import (
    MAX_DOCUMENT_BYTES,
    MAX_RECORD_BYTES,
    Entry,
    Unreadable,
    discover,
    read,
)
from tests.unit.sources.conftest import (
    ARABIC,
    CHINESE,
    EMOJI,
    GERMAN,
    JAPANESE,
    RUSSIAN,
    OnlyEntry,
    OnlyReason,
    Reader,
)

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

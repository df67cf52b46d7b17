"""Which files and streams are read, and in which order."""

import io
import os
from pathlib import Path

import pytest

from producers.sources import (
    Entry,
    Format,
    Source,
    SourceError,
    Unreadable,
    discover,
    read,
)


def names(sources: list[Source]) -> list[str]:
    return [source.path.name for source in sources]


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

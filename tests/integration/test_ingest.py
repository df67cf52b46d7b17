"""Ingestion on a real Kafka: every document once, whatever happens to the files or the process.

What is in the topics is read by the oracle, which shares no code with the product.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumers.reader import read_settled
from producers.ingest import Ingestion, Progress, Report
from producers.sources import discover
from schemas.errors import Fenced, UsageError
from schemas.records import Document
from schemas.topics import Topic, dead_letters_of, sources_of
from streams.admin import create_topics
from tests.integration.conftest import Cli, contract, wait_for
from tests.integration.pipeline import pipeline
from tests.support import oracle
from tests.support.config import unique


class Desk:
    """Where one test's documents go."""

    def __init__(self, config: dict[str, Any], servers: str, folder: Path) -> None:
        self._config, self._servers, self.folder = config, servers, folder
        self._name = unique("ingest")
        self._documents = Topic(f"{self._name}.documents", Document, key="id")
        self._sources, self._dead = sources_of(self._name), dead_letters_of(self._name)
        create_topics(config, [self._documents, self._sources, self._dead])

    def ingest(
        self, *paths: Path, limit: int | None = None, while_reading: Callable[[], object] = int
    ) -> Report:
        """Runs an ingestion; ``while_reading`` is called after its first document."""
        waiting = [while_reading]

        def on_progress(_: Progress) -> None:
            if waiting:
                waiting.pop()()

        ingestion = Ingestion(
            self._config, self._name, self._documents, self._sources, self._dead,
            lambda topics: read_settled(self._config, topics),
            on_progress,
        )  # fmt: skip
        return ingestion.run(discover([str(p) for p in paths]), limit)

    def texts(self) -> list[str]:
        return sorted(s.value["text"] for s in self._seen(self._documents.name, "document"))

    def reasons(self) -> list[str]:
        return sorted(s.value["message"] for s in self._seen(self._dead.name, "dead_letter"))

    def _seen(self, topic: str, name: str) -> list[oracle.Seen]:
        seen = oracle.read(self._servers, topic, contract(name))
        assert len({s.key for s in seen}) == len(seen), "an id twice"
        return seen

    def file(self, name: str, *lines: object) -> Path:
        """A file of lines; in JSONL each is written as JSON unless it is bytes."""
        path = self.folder / name
        encoded = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines]
        if path.suffix != ".jsonl":
            encoded = [str(x).encode() for x in lines]
        path.write_bytes(b"".join(x + b"\n" for x in encoded))
        return path


@pytest.fixture
def desk(kafka: dict[str, Any], bootstrap_servers: str, tmp_path: Path) -> Desk:
    return Desk(kafka, bootstrap_servers, tmp_path)


# --- again ---------------------------------------------------------------------------------------


def test_run_twice_adds_nothing(desk: Desk) -> None:
    desk.file("a.txt", "text")
    desk.file("b.md", "# title", "", "body")
    desk.file("c.jsonl", {"text": "one"}, "two")
    desk.file("d.csv", "title,text", "t,three")
    desk.file("e.html", "<html><body><p>four</p></body></html>")
    first = desk.ingest(desk.folder)
    assert (first.sources, first.documents, first.dead, first.unchanged) == (5, 6, 0, 0)
    texts = desk.texts()
    assert len(texts) == 6
    second = desk.ingest(desk.folder)
    assert (second.documents, second.dead, second.unchanged) == (0, 0, 5)
    assert sorted(second.ids) == sorted(first.ids)
    assert desk.texts() == texts


def test_a_limit_is_gone_on_from(desk: Desk) -> None:
    path = desk.file("a.jsonl", *(f"line {n}" for n in range(9)))
    assert desk.ingest(path, limit=4).documents == 4
    assert desk.ingest(path, limit=4).documents == 0
    assert desk.ingest(path).documents == 5
    assert desk.texts() == [f"line {n}" for n in range(9)]


# --- changed files -------------------------------------------------------------------------------


def test_a_rewritten_file_adds_only_what_is_new(desk: Desk) -> None:
    rows = ["a,one", "b,two", "c,three"]
    path = desk.file("table.csv", "title,text", *rows)
    desk.ingest(path)
    desk.file("table.csv", "title,text", "a,one", "b,TWO", "c,three", "d,four")
    assert desk.ingest(path).documents == 2
    desk.file("table.csv", "title,text", "a,one", "b,TWO")
    assert desk.ingest(path).documents == 0
    desk.file("table.csv", "title,text", *rows)
    assert desk.ingest(path).documents == 0, "as it was at first"
    assert desk.texts() == sorted(["one", "two", "three", "TWO", "four"])


def test_a_row_put_in_front_adds_one_document(desk: Desk) -> None:
    path = desk.file("table.csv", "title,text", "a,one", "b,two", "b,two")
    desk.ingest(path)
    desk.file("table.csv", "title,text", "z,zero", "a,one", "b,two", "b,two")
    assert desk.ingest(path).documents == 1
    desk.file("table.csv", "title,text", "b,two", "b,two", "b,two")
    assert desk.ingest(path).documents == 1, "a third equal row"
    assert desk.texts() == sorted(["zero", "one", "two", "two", "two"])


def test_a_rewritten_file_is_gone_on_from_after_an_interruption(desk: Desk) -> None:
    rows = [f"line {n}" for n in range(10)]
    path = desk.file("t.jsonl", *rows)
    desk.ingest(path)
    desk.file("t.jsonl", *rows, "new")
    desk.ingest(path, limit=5)
    desk.ingest(path)
    assert desk.texts() == sorted([*rows, "new"])


def test_a_file_that_grew_adds_only_its_new_lines(desk: Desk) -> None:
    lines = [f"line {n}" for n in range(30)]
    for size in (10, 30):
        desk.ingest(desk.file("log.jsonl", *lines[:size]))
        assert desk.texts() == sorted(lines[:size])


def test_a_rewritten_text_is_another_document(desk: Desk) -> None:
    for text in ("before", "after"):
        desk.ingest(desk.file("a.txt", text))
    assert desk.texts() == ["after\n", "before\n"]


# --- which is which ------------------------------------------------------------------------------


def test_a_file_reached_by_two_paths_is_one_source(desk: Desk) -> None:
    path = desk.file("a.txt", "text")
    link = desk.folder / "link.txt"
    link.symlink_to(path)
    (desk.folder / "sub").mkdir()
    assert desk.ingest(path, link, desk.folder / "sub" / ".." / "a.txt").sources == 1
    assert desk.ingest(link).unchanged == 1
    assert desk.texts() == ["text\n"]


def test_equal_files_and_equal_lines_are_two_documents(desk: Desk) -> None:
    desk.file("a.txt", "text")
    desk.file("b.txt", "text")
    desk.file("a.jsonl", "same", "same")
    assert desk.ingest(desk.folder).documents == 4
    assert desk.texts() == ["same", "same", "text\n", "text\n"]


# --- what is no document -------------------------------------------------------------------------


def test_what_is_no_document_is_a_dead_letter_with_the_reason_once(desk: Desk) -> None:
    desk.file("lines.jsonl", {"text": "good"}, b'{"text": ', b"\xff\xfe\xfd", 7, {"text": " "})
    desk.file("empty.txt")
    (desk.folder / "image.txt").write_bytes(bytes(range(256)) * 20)
    desk.file("table.csv", "title,text", "only one column")
    first = desk.ingest(desk.folder)
    assert desk.texts() == ["good"]
    reasons = desk.reasons()
    assert len(reasons) == first.dead == len(first.dead_ids) == 7
    for wanted in (
        "line 2 is not JSON",
        "line 3",
        "line 4 is a number",
        "line 5",
        "too few columns",
    ):
        assert [r for r in reasons if wanted in r], (wanted, reasons)
    again = desk.ingest(desk.folder)
    assert (again.documents, again.dead, again.unchanged) == (0, 0, 4)
    assert desk.reasons() == reasons


# --- interrupted ---------------------------------------------------------------------------------


def test_a_second_ingestion_fences_the_first_and_nothing_is_lost(desk: Desk) -> None:
    path = desk.file("a.jsonl", *(f"line {n}" for n in range(1500)))
    with pytest.raises(Fenced, match="took over"):
        desk.ingest(path, while_reading=lambda: desk.ingest(path, limit=700))
    desk.ingest(path)
    assert desk.texts() == sorted(f"line {n}" for n in range(1500))


@pytest.fixture
def lines(cli: Cli) -> list[str]:
    made = [f"line {n} {'x' * 100}" for n in range(20_000)]
    (cli.folder / "lines.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in made))
    return made


def test_killed_in_the_middle_it_resumes(
    cli: Cli, lines: list[str], bootstrap_servers: str
) -> None:
    topic = cli.topic("documents")
    cli.run("topics", "create")
    for _ in range(2):
        written = oracle.ends(bootstrap_servers, topic)
        # what is aborted after the kill adds a control record to each partition, and no document
        enough = sum(written.values()) + len(written)
        killed = cli.start("ingest", "lines.jsonl")
        wait_for(lambda least=enough: _stable(bootstrap_servers, topic) > least, "documents")  # type: ignore[misc]
        killed.kill()
        killed.wait()
    resumed = cli.run("ingest", "lines.jsonl", "--json").json
    assert 0 < resumed["documents"] < len(lines), "it was killed too late"
    seen = oracle.read(bootstrap_servers, topic, contract("document"))
    assert sorted(s.value["text"] for s in seen) == sorted(lines)
    assert len({s.key for s in seen}) == len(lines)
    assert cli.run("ingest", "lines.jsonl", "--json").json["unchanged"] == 1


def _stable(servers: str, topic: str) -> int:
    return sum(oracle.ends(servers, topic, "read_committed").values())


def test_standard_input_twice_adds_nothing(cli: Cli, bootstrap_servers: str) -> None:
    text = '{"text": "one"}\n{"text": "two"}\n'
    assert cli.run("ingest", "-", "--json", stdin=text).json["documents"] == 2
    assert cli.run("ingest", "-", "--json", stdin=text).json["unchanged"] == 1
    seen = oracle.read(bootstrap_servers, cli.topic("documents"), contract("document"))
    assert sorted(s.value["text"] for s in seen) == ["one", "two"]


# --- where to ------------------------------------------------------------------------------------


def test_documents_go_where_documents_belong() -> None:
    assert pipeline.entry() == pipeline.entry("documents")
    with pytest.raises(UsageError, match="Gist"):
        pipeline.entry("gists")

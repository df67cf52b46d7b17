"""The Markdown sink on a real Kafka: each article one file, whatever happens to the process."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumers.markdown import MarkdownSink
from producers.transactional import TransactionalProducer
from schemas.codec import codec_for
from schemas.errors import Stop
from schemas.message import Outgoing, first_headers
from schemas.records import Article
from schemas.topics import Topic
from streams.admin import create_topics
from tests.integration.conftest import Cli, wait_for
from tests.support.config import unique


def article(number: int, title: str = "The same title") -> Article:
    return Article(
        id=f"id-{number}",
        source="test",
        title=title,
        summary="A summary.",
        social_post="A post.",
        body=f"Body {number}.",
        topic="other",
        language="en",
        quality="low",
        entities=[],
        attempts=1,
    )


class Press:
    """A topic of articles and what sinks make of it."""

    def __init__(self, config: dict[str, Any], name: str) -> None:
        self._config = config
        self.topic = Topic(name, Article, key="id")
        create_topics(config, [self.topic])
        self._producer = TransactionalProducer(config, unique("press"))
        self._producer.open()

    def write(self, *articles: Article) -> None:
        encode = codec_for(Article).encode
        self.write_bytes({a.id: encode(a) for a in articles})

    def write_bytes(self, values: dict[str, bytes | None]) -> None:
        name = self.topic.name
        headers = first_headers("1", "test", self.topic.ce_type)
        self._producer.commit(
            [Outgoing(name, key.encode(), value, headers) for key, value in values.items()]
        )

    def sink(self, folder: Path) -> list[Path]:
        """Runs a sink of the folder's own group to the end; gives what it wrote."""
        written: list[Path] = []
        group = f"{self.topic.name}.{folder.name}"
        MarkdownSink(self._config, self.topic, group, folder, written.append).run(until_end=True)
        return written


@pytest.fixture
def press(kafka: dict[str, Any]) -> Press:
    return Press(kafka, unique("articles"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def front_matter(path: Path) -> dict[str, Any]:
    _, front, _ = path.read_text().split("---\n", 2)
    loaded: dict[str, Any] = yaml.safe_load(front)
    return loaded


def test_each_article_becomes_one_file_once(press: Press, tmp_path: Path) -> None:
    press.write(*(article(n) for n in range(20)))
    assert len(press.sink(tmp_path / "out")) == 20
    assert press.sink(tmp_path / "out") == []
    press.write(article(20))
    (new,) = press.sink(tmp_path / "out")
    assert new.read_text().endswith("\n# The same title\n\nBody 20.\n")
    ids = [front_matter(path)["id"] for path in (tmp_path / "out").iterdir()]
    assert sorted(ids) == sorted(f"id-{n}" for n in range(21))


def test_each_folder_gets_everything(press: Press, cli: Cli, tmp_path: Path) -> None:
    Press(press._config, cli.topic("articles")).write(*(article(n) for n in range(5)))
    cli.run("topics", "create")
    started = [cli.start("sink", "--into", name, "--until-end", "--json") for name in ("a", "b")]
    assert [cli.end(process).json["written"] for process in started] == [5, 5]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 5


def test_killed_and_restarted_it_writes_the_same_files(
    press: Press, cli: Cli, tmp_path: Path
) -> None:
    articles = Press(press._config, cli.topic("articles"))
    articles.write(*(article(n) for n in range(2000)))
    cli.run("topics", "create")
    # a killed member's partitions move on sooner than by default
    (tmp_path / "client.properties").write_text("session.timeout.ms=6000\n")
    sink = ("--config", "client.properties", "sink", "--into", "out", "--until-end", "--json")
    killed = cli.start(*sink)
    out = tmp_path / "out"
    wait_for(lambda: out.exists() and len(os.listdir(out)) > 20, "files")
    killed.kill()
    killed.wait()
    assert 20 < len(os.listdir(out)) < 2000, "it was killed too late"
    assert cli.run(*sink).status == 0
    articles.sink(tmp_path / "undisturbed")
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert len(os.listdir(out)) == 2000


def test_what_can_t_be_read_is_kept_as_it_is(press: Press, tmp_path: Path) -> None:
    alien = {"junk": b"no Avro", "cut": codec_for(Article).encode(article(1))[:-3], "none": None}
    press.write_bytes(alien)
    press.write(article(2))
    written = press.sink(tmp_path / "out")
    kept = [path for path in written if path.suffix == ".unreadable"]
    assert sorted(path.read_bytes() for path in kept) == sorted(v or b"" for v in alien.values())
    assert all(path.name.startswith(f"{press.topic.name}-") for path in kept)
    assert len(contents(tmp_path / "out")) == 4


def test_a_title_can_t_lead_out_of_the_folder(press: Press, tmp_path: Path) -> None:
    titles = [
        "../../up",
        "/etc/passwd",
        "a\0b",
        "",
        ".",
        "x" * 5000,
        "新聞 ニュース",
        "---\nid: 1\n---",
    ]
    press.write(*(article(n, title) for n, title in enumerate(titles)))
    written = press.sink(tmp_path / "out")
    assert {path.parent for path in written} == {tmp_path / "out"}
    assert len(contents(tmp_path / "out")) == len(titles)
    found = {front_matter(path)["id"]: front_matter(path)["title"] for path in written}
    assert found == {f"id-{n}": title for n, title in enumerate(titles)}


def test_a_folder_that_can_t_be_made_stops_it_with_one_line(
    press: Press, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Stop, match=r"can't write to .*file"):
        press.sink(tmp_path / "file")
    cli.run("topics", "create")
    refused = cli.run("sink", "--into", "file/out", "--until-end")
    assert refused.status == 1
    (line,) = refused.err.splitlines()
    assert line.startswith("pressroom: can't write to ")


def test_a_file_that_can_t_be_written_stops_it_and_is_written_later(
    press: Press, tmp_path: Path
) -> None:
    press.write(article(1))
    (in_the_way,) = press.sink(tmp_path / "first")
    obstacle = tmp_path / "out" / in_the_way.name
    obstacle.mkdir(parents=True)
    with pytest.raises(Stop, match="can't write"):
        press.sink(tmp_path / "out")
    obstacle.rmdir()
    press.sink(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "first")

"""Everything the documentation shows is run: code, commands, names of make targets, links."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Consumer
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.testing import CliRunner

from streams import local
from streams.cli import app
from streams.prices import load_prices
from streams.settings import read_properties
from tests.integration.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
PRESSROOM = Path(sys.executable).with_name("pressroom")
_A_COMMAND = re.compile(r"(?:\.venv/bin/)?pressroom( .*)?")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, and the file it is said to be, if any."""

    where: str
    language: str
    text: str
    file: str = ""


def blocks(page: Path) -> Iterator[Block]:
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    for at, token in enumerate(tokens):
        if token.type == "fence":
            where = f"{page.name}:{(token.map or [0])[0] + 1}"
            # before it stand a paragraph's content and its end
            yield Block(where, token.info.strip(), token.content, _named(tokens[at - 2]))


def _named(before: Token) -> str:
    """``notes.py`` in a paragraph like "`notes.py`:" or "`prompts/x.md`, beside it:"."""
    spans = before.children or []
    is_name = spans and spans[0].type == "code_inline" and spans[-1].content.endswith(":")
    return spans[0].content if is_name else ""


def spans(page: Path, kind: str) -> Iterator[Token]:
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        yield from (child for child in token.children or [] if child.type == kind)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


class Reader:
    """Someone who does in a folder what the pages say, from top to bottom."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PRESSROOM_", "OPENAI_")) or name == "PRESSROOM_CACHE"
        } | {"PRESSROOM_HOME": str(self.home), "PYTHONPATH": str(ROOT)}
        self.printed: dict[str, str] = {}
        (folder / "letters").mkdir()
        (folder / "letters" / "one.txt").write_text("Dear Ann, the ship arrives on Monday. Bob")
        (folder / "letters" / "two.txt").write_text("Dear Bob, I will be at the harbour. Ann")
        (folder / "client.properties").write_text("socket.keepalive.enable=true\n")

    def do(self, block: Block) -> None:
        if block.language in ("python", "jinja") and block.file:
            path = self.folder / block.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python" and "def test_" in block.text:
            test = self.folder / "test_of_readme.py"
            test.write_text(block.text, encoding="utf-8")
            self._run(block, [sys.executable, "-m", "pytest", "-q", test.name])
        elif block.language == "toml":
            path = self.folder / "prices.toml"
            path.write_text(block.text, encoding="utf-8")
            load_prices(path)
        elif block.language == "properties":
            path = self.folder / (block.file or "documented.properties")
            path.write_text(block.text, encoding="utf-8")
            Consumer({**read_properties(path), "group.id": "documented"})
        elif block.language == "console":
            for line in block.text.splitlines():
                self._command(block, line)
        else:
            pytest.fail(f"{block.where}: nobody knows how to run this {block.language or 'block'}")

    def _command(self, block: Block, line: str) -> None:
        program, *arguments = line.split()
        if program == "make":
            assert set(arguments) <= make_targets(), f"{block.where}: {line}"
        elif program == "pressroom":
            self.printed[line] = self._run(block, [str(PRESSROOM), *arguments])
        elif program == "docker-compose" and block.where.startswith("containers.md"):
            pass  # tests/containers/test_compose.py runs it
        else:
            pytest.fail(f"{block.where}: nobody knows how to run {line!r}")

    def _run(self, block: Block, command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, encoding="utf-8",
            timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.where}: {command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def test_a_reader_who_does_what_the_pages_say_succeeds(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    try:
        for page in PAGES:
            for block in blocks(page):
                reader.do(block)
    finally:
        left = local.down(reader.home)
    assert not left, "the pages end with `pressroom down`"
    gists = reader.printed["pressroom --app notes:notes tail gists"].splitlines()
    assert len(gists) == 2
    assert all(json.loads(gist)["value"]["text"] for gist in gists)


def test_every_command_in_a_sentence_exists() -> None:
    targets = make_targets()
    found = 0
    for page in PAGES:
        for code in (span.content for span in spans(page, "code_inline")):
            if code.startswith("make "):
                assert code.split()[1] in targets, f"{page.name}: {code}"
            if command := _A_COMMAND.fullmatch(code):
                words = [word for word in (command[1] or "").split() if word != "…"]
                shown = CliRunner().invoke(app, [*words, "--help"])
                assert shown.exit_code == 0, f"{page.name}: {code}: {shown.output}"
                found += 1
    assert found > 5


@pytest.mark.parametrize("page", PAGES, ids=[p.name for p in PAGES])
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in spans(page, "link_open"):
        target = str(link.attrs["href"])
        if "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def test_a_block_that_nobody_knows_fails(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    for unknown in (
        Block("x", "console", "docker ps"),
        Block("x", "console", "pressroom --help\nkafka-topics"),
        Block("x", "python", "print(1)"),
        Block("x", "", "text"),
    ):
        with pytest.raises(pytest.fail.Exception, match="nobody knows"):
            reader.do(unknown)
    with pytest.raises(AssertionError):
        reader.do(Block("x", "console", "make coffee"))

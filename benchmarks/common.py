"""What all benchmarks share: the Kafka to measure on, and tables for people and for Markdown."""

import argparse
import logging
import os
import platform
import random
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import KafkaException, Producer, libversion
from rich.console import Console
from rich.table import Table

from schemas.codec import codec_for
from schemas.message import first_headers, record_id
from schemas.records import Document
from schemas.topics import Topic

Say = Callable[[str], None]

ROOT = Path(__file__).parents[1]
PARTITIONS = 4
MB = 1_000_000
_WORDS = ["the", "river", "rose", "and", "by", "morning", "the", "lower", "bridge", "had", "gone"]


@contextmanager
def kafka() -> Iterator[dict[str, Any]]:
    """librdkafka settings for the Kafka to measure on: an embedded one that lives as long.

    ``PRESSROOM_BOOTSTRAP_SERVERS`` names another one.
    """
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    base: dict[str, Any] = {"logger": logging.getLogger("kafka")}
    if address := os.environ.get("PRESSROOM_BOOTSTRAP_SERVERS"):
        yield base | {"bootstrap.servers": address}
        return
    from streams import local
    from streams.settings import Settings

    with tempfile.TemporaryDirectory(prefix="pressroom-bench-") as home:
        try:
            status = local.up(Path(home), Settings().cache, model=False)
            yield base | {"bootstrap.servers": status.bootstrap_servers}
        finally:
            local.down(Path(home))


def leave_cleanly() -> None:
    """Lets every way of asking this process to end be like Ctrl-C, so that what it started ends too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def fill(
    config: dict[str, Any], source: Topic[Document], count: int, size: int = 520, begin: int = 0
) -> None:
    """Writes documents with a text of about ``size`` bytes, keyed and named by their numbers.

    With the default the records have about 600 bytes, and headers as ingestion writes them.
    """
    producer = Producer(
        config | {"linger.ms": 20, "compression.type": "lz4", "message.max.bytes": 8 * 1024 * 1024}
    )
    encode = codec_for(Document).encode
    text = " ".join(random.Random(1).choices(_WORDS, k=size // 4))
    for number in range(begin, begin + count):
        # another piece for every record, so that compression does not make one of all
        at = number % (len(text) - size)
        value = encode(Document(str(number), "bench", f"Title {number}", text[at : at + size]))
        headers: Any = first_headers(record_id(str(number)), "bench", source.ce_type)
        send(producer, source.name, value, str(number), headers)
    producer.flush()


def send(producer: Producer, topic: str, value: bytes, key: str, headers: Any) -> None:
    """Produces; waits where the client's queue is full."""
    while True:
        try:
            producer.produce(topic, value, key, headers=headers)
        except BufferError:
            producer.poll(0.1)
            continue
        producer.poll(0)
        return


@dataclass
class Figures:
    """A table of figures."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def show(self, screen: Console) -> None:
        """Prints it for a person."""
        table = Table(*self.header, title=self.title, title_justify="left")
        for row in self.rows:
            table.add_row(*row)
        screen.print(table)

    def markdown(self) -> str:
        """The same as Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in lines)


def sayer(status: Any, screen: Console) -> Say:
    """Shows what is going on: a status line in a terminal, lines elsewhere."""
    return lambda text: status.update(f"{text}…") if screen.is_terminal else screen.print(text)


def megabytes(size: int) -> str:
    return f"{size / MB:.0f} MB"


def command(
    description: str | None,
    mark: str,
    measures: Callable[[dict[str, Any], Path, bool, Say], Iterator[Figures]],
) -> int:
    """A benchmark's command line: prints its tables as they come, then writes them into a page.

    Args:
        description: the module's docstring.
        mark: of the place in the page.
        measures: the benchmark, given librdkafka settings, a folder for files, whether tiny sizes will
            do, and how it says what it does.
    """
    options, screen = parser(description).parse_args(), Console(stderr=True)
    leave_cleanly()
    tables: list[Figures] = []
    try:
        with (
            tempfile.TemporaryDirectory(prefix=f"pressroom-{mark}-") as folder,
            kafka() as config,
            screen.status("Starting…") as status,
        ):
            for table in measures(config, Path(folder), options.quick, sayer(status, screen)):
                tables.append(table)
                table.show(Console())
    except KeyboardInterrupt:
        screen.print("Interrupted; nothing was left running.")
        return 130
    except (RuntimeError, KafkaException) as error:
        screen.print(str(error), markup=False)
        return 1
    if options.into is not None:
        write_into(options.into, mark, [f"{machine()}.", *(t.markdown() for t in tables)])
    return 0


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark that writes into a page."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="tiny sizes: to see that it works")
    made.add_argument("--into", type=Path, help="a page of Markdown to write the figures into")
    return made


def write_into(page: Path, mark: str, content: Iterable[str]) -> None:
    """Replaces what stands in a page between the comments ``mark: begin`` and ``mark: end``.

    Raises:
        ValueError: the page has no such comments.
    """
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"{page.name} has no {begin} … {end}")
    text = "\n\n".join(content)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def machine(*more: str) -> str:
    """One line: on what it was measured, with the versions that matter."""
    from streams.local.maven import KAFKA_VERSION

    outside = os.environ.get("PRESSROOM_BOOTSTRAP_SERVERS")
    gib = round(psutil.virtual_memory().total / 2**30)
    return " · ".join(
        [
            f"{psutil.cpu_count()} cores, {gib} GiB, {platform.system()}, {platform.machine()}",
            "a Kafka elsewhere"
            if outside
            else f"embedded Kafka {KAFKA_VERSION} on the same machine",
            f"Python {platform.python_version()}",
            f"Pressroom {version('pressroom')}",
            f"confluent-kafka {version('confluent-kafka')} (librdkafka {libversion()[0]})",
            f"fastavro {version('fastavro')}",
            *more,
        ]
    )

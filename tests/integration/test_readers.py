"""Programs written with other stream processors, and Java, read the topics that Pressroom writes."""

import json
import subprocess
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from benchmarks.systems import PEERS_PYTHON, java, no_java, not_installed
from tests.integration.conftest import ROOT, Cli
from tests.support import oracle

pytestmark = pytest.mark.long  # `make test-readers` runs them

_FOREIGN = ROOT / "tests" / "foreign"
_CONTRACT = str(ROOT / "schemas" / "avro" / "document.avsc")
_TEXTS = [f"This is letter {number}." for number in range(20)]
_SECONDS = 90.0
SINGLE, WIRE = "single-object", "wire format"


def _python(name: str) -> list[str]:
    return [str(PEERS_PYTHON), "-m", f"tests.foreign.{name}"]


READERS: dict[str, tuple[list[str], Callable[[], str]]] = {
    "Quix Streams": (_python("quix"), not_installed("quixstreams")),
    "FastStream": (_python("faststream_app"), not_installed("faststream")),
    "Faust": (_python("faust_agent"), not_installed("faust-streaming")),
    "Java": (java(_FOREIGN / "AvroReader.java"), no_java),
}


@pytest.fixture(params=[SINGLE, WIRE])
def topic(request: pytest.FixtureRequest, cli: Cli, bootstrap_servers: str) -> str:
    """A topic of documents, whose partitions all begin with a record that was taken back."""
    if request.param == WIRE:
        cli.environment["SCHEMA_REGISTRY_URL"] = request.getfixturevalue("apicurio").url
    made = cli.topic("documents")
    assert cli.run("topics", "create").status == 0
    _write_and_take_back(bootstrap_servers, made)
    letters = cli.folder / "letters"
    letters.mkdir()
    for number, text in enumerate(_TEXTS):
        (letters / f"{number}.txt").write_text(text)
    assert cli.run("ingest", "letters", "--json").json["documents"] == len(_TEXTS)
    return made


def _write_and_take_back(servers: str, topic: str) -> None:
    producer = Producer({"bootstrap.servers": servers, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    for partition in oracle.ends(servers, topic):
        producer.produce(topic, b"taken back", partition=partition)
    producer.flush(30)
    producer.abort_transaction(30)


def records(command: list[str], count: int, log: Path) -> list[Any]:
    """The first records that a program prints."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            encoding="utf-8",
        )  # fmt: skip
    late = threading.Timer(_SECONDS, process.kill)
    late.start()
    assert process.stdout is not None
    lines = list(islice(process.stdout, count))
    late.cancel()
    process.kill()
    process.communicate()
    assert len(lines) == count, log.read_text()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("reader", READERS)
def test_it_reads_what_is_committed(
    topic: str, bootstrap_servers: str, tmp_path: Path, reader: str
) -> None:
    command, missing = READERS[reader]
    if why := missing():
        pytest.skip(why)
    found = records([*command, bootstrap_servers, topic, _CONTRACT], len(_TEXTS), tmp_path / "log")
    assert sorted(record["text"] for record in found) == sorted(_TEXTS)

"""The embedded stack for real: Kafka and the model start, are reused, survive a kill, stop."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs
import psutil
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from streams import local
from streams.local.ports import is_listening

RECORDS = [b"one", b"two", b"three"]

Home = Callable[[str], Path]


@pytest.fixture(scope="module")
def cache() -> Path:
    given = os.environ.get("PRESSROOM_CACHE")
    return Path(given) if given else platformdirs.user_cache_path("pressroom")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Makes homes, whose processes end with the test."""
    made: list[Path] = []

    def make(name: str) -> Path:
        made.append(tmp_path / name)
        return made[-1]

    yield make
    for one in made:
        local.down(one)


def test_up_is_reused_and_down_leaves_nothing(home: Home, cache: Path) -> None:
    here = home("höme with spaces, and a comma")
    started = local.up(here, cache)
    assert started == local.status(here)
    assert started.running
    pids = _pids(here)
    assert local.up(here, cache) == started
    assert _pids(here) == pids
    assert started.model_url is not None
    assert _complete(started.model_url)["category"] in ("sport", "weather")
    assert local.down(here)
    assert not local.down(here)
    assert local.status(here) == local.Status(False, None, None)
    assert not any(_runs(pid) for pid in pids)


@pytest.mark.long
def test_two_homes_live_side_by_side(home: Home, cache: Path) -> None:
    left, right = (home(name) for name in ("left", "right"))
    addresses = [local.up(one, cache, model=False).bootstrap_servers for one in (left, right)]
    _write(addresses[0])
    assert "records" in _topics(addresses[0])
    assert "records" not in _topics(addresses[1])
    assert local.down(left)
    assert local.status(right).bootstrap_servers == addresses[1]


def test_records_survive_a_killed_broker(home: Home, cache: Path) -> None:
    here = home("home")
    before = local.up(here, cache, model=False)
    _write(before.bootstrap_servers)
    (pid,) = _pids(here)
    psutil.Process(pid).kill()
    _wait_until(lambda: not local.status(here).running)
    after = local.up(here, cache, model=False)
    assert after == before, "clients find it at the same address"
    assert _read(after.bootstrap_servers) == RECORDS
    with pytest.raises(local.LocalError):
        local.purge(here)
    local.down(here)
    local.purge(here)
    assert "records" not in _topics(local.up(here, cache, model=False).bootstrap_servers)


def test_two_starts_at_once_make_one_broker(home: Home, cache: Path) -> None:
    here = home("home")
    found: list[local.Status] = []
    starts = [
        threading.Thread(target=lambda: found.append(local.up(here, cache, model=False)))
        for _ in range(2)
    ]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert len(found) == 2
    assert found[0] == found[1]


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_leaves_nothing_and_the_next_works(
    home: Home, cache: Path, by: signal.Signals
) -> None:
    here = home("home")
    for moment in ((here / "kafka").exists, lambda: bool(_pids(here))):
        start = _start_elsewhere(here, cache)
        _wait_until(moment)
        start.send_signal(by)
        assert start.wait(180) != 0
        assert not local.status(here).running
        assert not _pids(here)
    assert local.up(here, cache, model=False).running


def test_a_start_that_was_killed_is_taken_up(home: Home, cache: Path) -> None:
    here = home("home")
    start = _start_elsewhere(here, cache)
    _wait_until(lambda: bool(_pids(here)))
    start.kill()
    start.wait()
    (pid,) = _pids(here)
    assert local.up(here, cache, model=False).running
    assert _pids(here) == [pid]


def test_without_its_state_file_a_broker_is_found_and_stopped(home: Home, cache: Path) -> None:
    here = home("höme with spaces, and a comma")
    started = local.up(here, cache, model=False)
    (pid,) = _pids(here)
    for damage in (Path.unlink, lambda file: file.write_text("{")):
        damage(here / "run" / "kafka.json")
        assert local.status(here) == started
        assert local.up(here, cache, model=False) == started
        assert _pids(here) == [pid]
    (here / "run" / "kafka.json").unlink()
    assert local.down(here)
    assert not _runs(pid)


def test_a_broken_broker_says_why(home: Home, cache: Path) -> None:
    here = home("home")
    local.up(here, cache, model=False)
    local.down(here)
    (here / "kafka" / "data" / "meta.properties").write_text("version=7\n")
    with pytest.raises(local.LocalError, match=r"Kafka .* stopped while starting: .*kafka\.log"):
        local.up(here, cache, model=False)
    assert not local.status(here).running
    assert (here / "kafka" / "data").exists(), "data is never thrown away"


def _start_elsewhere(home: Path, cache: Path) -> "subprocess.Popen[bytes]":
    """A ``pressroom up`` that is under way until it is ended: Kafka never seems to answer."""
    program = (
        "import sys; from streams.cli import main; from streams.local.kafka import Kafka;"
        "Kafka.answers = lambda *_: False; sys.argv = ['pressroom', 'up', '--no-model']; main()"
    )
    places = {"PRESSROOM_HOME": str(home), "PRESSROOM_CACHE": str(cache)}
    root = Path(local.__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=root, env=os.environ | places, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _pids(home: Path) -> list[int]:
    states = [json.loads(file.read_text()) for file in sorted((home / "run").glob("*.json"))]
    return [state["pid"] for state in states if state["pid"] is not None]


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _topics(servers: str | None) -> set[str]:
    assert servers is not None
    return set(AdminClient({"bootstrap.servers": servers}).list_topics(timeout=10).topics)


def _write(servers: str | None) -> None:
    assert servers is not None
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic("records", num_partitions=1)])["records"].result()
    producer = Producer({"bootstrap.servers": servers, "transactional.id": "writer"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in RECORDS:
        producer.produce("records", value)
    producer.commit_transaction(30)


def _read(servers: str | None) -> list[bytes]:
    config = {"bootstrap.servers": servers, "group.id": "reader", "auto.offset.reset": "earliest"}
    consumer = Consumer(config)
    consumer.subscribe(["records"])
    with closing(consumer):
        found = []
        for _ in RECORDS:
            message = consumer.poll(30)
            assert message is not None
            assert message.error() is None
            found.append(message.value())
        return found  # type: ignore[return-value]


def _complete(url: str) -> dict[str, str]:
    """One completion under a JSON schema, over plain HTTP."""
    schema = {
        "type": "object",
        "properties": {"category": {"enum": ["sport", "weather"]}},
        "required": ["category"],
        "additionalProperties": False,
    }
    body = {
        "model": "SmolLM2-135M-Instruct",
        "messages": [{"role": "user", "content": "It will rain tomorrow. Sport or weather?"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    }
    address = urlsplit(url)
    assert address.hostname == "127.0.0.1"
    assert is_listening(address.port or 0)
    with closing(http.client.HTTPConnection(address.hostname, address.port, 60)) as connection:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", f"{address.path}/chat/completions", json.dumps(body), headers)
        answer = json.load(connection.getresponse())
    content: dict[str, str] = json.loads(answer["choices"][0]["message"]["content"])
    return content

"""Background processes: found when they are ours, never mistaken for another's."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from streams.local import service
from streams.local.errors import Interrupted, LocalError
from streams.local.ports import HOST, choose, is_free, is_listening
from streams.local.service import Service, telling_line

LISTEN = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[2].removeprefix("--port="))))
print("ready", flush=True)
time.sleep(60)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + LISTEN
SILENT = "import time; time.sleep(60)"
FAILING = """
print("ERROR disk is on fire")
print("\\tat some.Frame")
raise SystemExit(1)
"""


class Echo(Service):
    """A small program in place of Kafka."""

    name = "echo"
    title = "Echo 1.0"
    program = LISTEN

    @property
    def mark(self) -> str:
        return f"--home={self.home}"

    def command(self, cache: Path, ports: tuple[int, ...]) -> list[str]:
        return [sys.executable, "-c", self.program, self.mark, f"--port={ports[0]}"]

    def answers(self, ports: tuple[int, ...]) -> bool:
        return is_listening(ports[0])

    @property
    def state(self) -> dict[str, object]:
        content: dict[str, object] = json.loads(self._file.read_text())
        return content

    @state.setter
    def state(self, content: object) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(content))

    def run(self) -> None:
        self.start(Path("unused"), threading.Event())


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Echo]:
    one = Echo(tmp_path / "a höme, with spaces")
    yield one
    one.stop()


def test_it_starts_is_found_and_stops(echo: Echo) -> None:
    assert echo.port() is None
    echo.run()
    assert echo.port() == echo.state["ports"][0]  # type: ignore[index]
    assert Echo(echo.home).adopt()
    assert echo.stop()
    assert echo.port() is None
    assert not echo.stop()


def test_it_runs_detached_from_the_terminal(echo: Echo) -> None:
    echo.run()
    pid = echo.state["pid"]
    assert isinstance(pid, int)
    assert os.getsid(pid) == pid


def test_it_comes_back_on_its_port(echo: Echo) -> None:
    echo.run()
    before = echo.port()
    echo.stop()
    echo.run()
    assert echo.port() == before


def test_it_goes_elsewhere_when_its_port_is_taken(echo: Echo) -> None:
    echo.run()
    before = echo.port()
    echo.stop()
    assert before is not None
    with socket.create_server((HOST, before)):
        echo.run()
        assert echo.port() not in (None, before)


def test_a_port_taken_at_the_last_moment_is_survived(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    (free,) = choose(1)
    with closing(socket.socket()) as other:
        other.bind((HOST, 0))  # taken, yet answers nobody
        offered = [(other.getsockname()[1],), (free,)]
        monkeypatch.setattr(service, "choose", lambda *_: offered.pop(0))
        echo.run()
    assert echo.port() == free


def test_another_program_that_answers_on_the_port_is_not_believed(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    (free,) = choose(1)
    with socket.create_server((HOST, 0)) as other:
        offered = [(other.getsockname()[1],), (free,)]
        monkeypatch.setattr(service, "choose", lambda *_: offered.pop(0))
        monkeypatch.setattr(Echo, "answers", _late)
        echo.run()
    assert echo.port() == free


def test_a_start_that_fails_tells_the_log_s_telling_line(echo: Echo) -> None:
    echo.program = FAILING
    with pytest.raises(LocalError, match="stopped while starting: ERROR disk is on fire; see"):
        echo.run()
    assert not echo.is_alive()
    echo.program = LISTEN
    echo.run()


def test_a_start_that_never_answers_is_given_up(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "START_SECONDS", 0.5)
    echo.program = SILENT
    with pytest.raises(LocalError, match="did not answer within"):
        echo.run()
    assert not echo.is_alive()


def test_a_start_can_be_interrupted(echo: Echo) -> None:
    echo.program = SILENT
    interrupted = threading.Event()
    threading.Timer(0.3, interrupted.set).start()
    with pytest.raises(Interrupted):
        echo.start(Path("unused"), interrupted)
    assert echo.stop()


def test_one_that_ended_is_forgotten(echo: Echo) -> None:
    echo.run()
    _kill(echo)
    assert echo.port() is None
    assert not echo.adopt()
    assert echo.state["pid"] is None


def test_a_foreign_process_with_the_same_id_is_left_alone(echo: Echo) -> None:
    with subprocess.Popen([sys.executable, "-c", SILENT]) as foreign:
        created = psutil.Process(foreign.pid).create_time()
        for claimed in (created, created - 3600):
            echo.state = {"ports": [9], "pid": foreign.pid, "created": claimed}
            assert not echo.is_alive()
            assert not echo.adopt()
            assert not echo.stop()
        assert foreign.poll() is None
        foreign.kill()


def test_another_home_s_process_is_not_ours(echo: Echo, tmp_path: Path) -> None:
    echo.run()
    other = Echo(tmp_path / "other")
    other.state = echo.state
    assert not other.is_alive()
    assert not other.stop()
    assert echo.is_alive()


def test_one_that_was_still_starting_is_waited_for(echo: Echo) -> None:
    echo.program = "import time; time.sleep(1)\n" + LISTEN
    chosen = choose(1)
    echo.log.parent.mkdir(parents=True)
    echo._spawn(echo.command(Path("unused"), chosen), chosen)
    assert echo.port() is None
    assert echo.adopt()
    assert echo.port() == chosen[0]


def test_one_that_hangs_is_replaced(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    echo.run()
    monkeypatch.setattr(service, "START_SECONDS", 0.3)
    monkeypatch.setattr(Echo, "answers", lambda *_: False)
    assert not echo.adopt()
    assert not echo.is_alive()


def test_one_that_ignores_the_request_to_stop_is_killed(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "STOP_SECONDS", 0.5)
    echo.program = STUBBORN
    echo.run()
    port = echo.port()
    assert echo.stop()
    assert port is not None
    assert is_free(port)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"ports": "x"}', '{"ports": [1]}', "null"])
def test_a_damaged_state_file_means_not_running(echo: Echo, content: str) -> None:
    echo._file.parent.mkdir(parents=True)
    echo._file.write_text(content)
    assert echo.port() is None
    assert not echo.adopt()
    echo.run()
    assert echo.port() is not None


@pytest.mark.parametrize("content", [None, "", "{", '{"ports": [], "pid": null, "created": null}'])
def test_one_whose_state_file_is_lost_or_damaged_is_found_again(
    echo: Echo, content: str | None
) -> None:
    echo.run()
    before, port = echo.state, echo.port()
    echo._file.unlink()
    if content is not None:
        echo._file.write_text(content)
    assert echo.port() == port
    assert echo.is_alive()
    assert echo.adopt()
    assert echo.state == before
    echo._file.unlink()
    assert echo.stop()
    assert echo.state["ports"] == [port], "it comes back where it was"
    assert not echo.is_alive()


def test_without_a_state_file_other_processes_are_left_alone(echo: Echo, tmp_path: Path) -> None:
    echo.run()
    other = Echo(tmp_path / "other")
    other._file.parent.mkdir(parents=True)
    assert not other.is_alive()
    assert not other.stop()
    marked = [sys.executable, "-c", SILENT, other.mark]
    (nobody_s,) = choose(1)
    for rest in ([], [f"--port={nobody_s}"]):
        with subprocess.Popen([*marked, *rest]) as foreign:
            assert not other.stop()
            assert foreign.poll() is None
            foreign.kill()
    assert echo.is_alive()


def test_a_long_log_is_set_aside(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_LOG_BYTES", 10)
    echo.log.parent.mkdir(parents=True)
    echo.log.write_text("old " * 10)
    echo.run()
    assert "old" not in echo.log.read_text()
    assert echo.log.with_suffix(".old.log").read_text().startswith("old")


def test_the_telling_line_is_no_stack_frame_and_no_older_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("yesterday's\n")
    start = log.stat().st_size
    assert telling_line(log, start) is None
    with log.open("a") as file:
        file.write("start\nCaused by: it\n\tat Main.main\n\t... 3 more\n\n")
    assert telling_line(log, start) == "Caused by: it"
    assert telling_line(tmp_path / "none") is None


@pytest.mark.parametrize(
    "error",
    [
        "2026-01-01T00:00:00.000+0000 [main] ERROR kafka.Kafka$ - Exiting Kafka due to fatal exception",
        "2026-01-01T00:00:00.000+0000 [main] FATAL kafka.Kafka$ - no memory",
        "Caused by: the disk",
        "java.lang.RuntimeException: No readable meta.properties files found.",
        "ValueError: Failed to load the model",
        "Error: Could not find or load main class kafka.Kafka",
        "[0.001s][error][gc] Not enough memory",
    ],
)
def test_the_telling_line_names_an_error_where_one_does(tmp_path: Path, error: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"ERROR before\n{error}\n\tat a.Frame\nWARN Performing controller activation.\n")
    assert telling_line(log) == error


def _kill(echo: Echo) -> None:
    pid = echo.state["pid"]
    assert isinstance(pid, int)
    psutil.Process(pid).kill()
    while echo.is_alive():
        time.sleep(0.01)


def _late(self: Echo, ports: tuple[int, ...]) -> bool:
    time.sleep(0.5)  # our process has had the time to fail
    return is_listening(ports[0])

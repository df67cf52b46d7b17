"""The systems that are compared: how each is started, and what it needs to be there."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.peers.task import SESSION_TIMEOUT, Task
from streams.local.maven import KAFKA_VERSION

PEERS = ROOT / ".venv-peers"
PEERS_PYTHON = PEERS / "bin" / "python"
AVRO_VERSION = "1.12.0"
JARS = PEERS / "jars" / f"kafka-{KAFKA_VERSION}-avro-{AVRO_VERSION}"
_JAVA_SOURCE = ROOT / "benchmarks" / "peers" / "kafka_streams.java"
_LEAVE_WITHIN = 15.0


@dataclass(frozen=True)
class System:
    """One of the compared."""

    name: str
    guarantee: str
    """What it says it keeps when a program is killed."""
    command: Callable[[Task], list[str]]
    missing: Callable[[], str] = lambda: ""
    """Why it can't be measured here, or nothing."""
    works: tuple[str, ...] = ("copy", "ask")
    prepare: Callable[[Task], list[str]] | None = None
    """A command to run to its end before."""
    group_suffix: str = ""
    """What it appends to the name of the consumer group."""
    version: Callable[[], str] = lambda: ""


class Program:
    """A system at work. Nothing of it is left after :meth:`kill` or :meth:`stop`."""

    def __init__(self, system: System, task: Task) -> None:
        self._task, self.system = task, system
        task.folder.mkdir(parents=True, exist_ok=True)
        self.log = task.folder / "log.txt"
        (task.folder / "client.properties").write_text(f"session.timeout.ms={SESSION_TIMEOUT}\n")
        self._environment = {
            **os.environ,
            **task.to_environment(),
            **_pressroom(task),
            "PYTHONPATH": str(ROOT),
        }
        if system.prepare is not None:
            self._spawn(system.prepare(task)).wait(60)
        self._process = self._spawn(system.command(task))

    def _spawn(self, command: list[str]) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, env=self._environment, cwd=self._task.home, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def check(self) -> None:
        """Raises RuntimeError if it ended by itself."""
        status = self._process.poll()
        if status is not None:
            said = self.log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{self.system.name} ended with status {status}:\n{said}")

    def kill(self) -> None:
        """SIGKILL, to all its processes."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_LEAVE_WITHIN)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:  # or its number may be another's by now
            os.killpg(self._process.pid, number)


def _pressroom(task: Task) -> Mapping[str, str]:
    return {
        "PRESSROOM_BOOTSTRAP_SERVERS": task.servers,
        "PRESSROOM_HOME": task.home,
        # a name of its own, or what an earlier round paid for would be taken again
        "PRESSROOM_MODEL": f"slow-{task.group}",
        "OPENAI_BASE_URL": task.model_url,
    }


def _cli(task: Task, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "streams.cli", "--app", "benchmarks.peers.pressroom:pipeline",
        "--config", str(task.folder / "client.properties"), *arguments,
    ]  # fmt: skip


def _module(python: Path, name: str, *arguments: str) -> Callable[[Task], list[str]]:
    return lambda _: [str(python), "-m", f"benchmarks.peers.{name}", *arguments]


@cache
def _peers_version(distribution: str) -> str:
    """Its version in the peers' environment, or nothing."""
    if not PEERS_PYTHON.exists():
        return ""
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    done = subprocess.run([PEERS_PYTHON, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def not_installed(distribution: str) -> Callable[[], str]:
    return lambda: "" if _peers_version(distribution) else "not installed; make bench-peers does it"


@cache
def _java_version() -> str:
    """The version of a Java that compiles, or nothing."""
    java = shutil.which("java")
    if java is None:
        return ""
    done = subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.split() if line.startswith("jdk.compiler@")]
    return found[0].partition("@")[2] if found else ""


def no_java() -> str:
    """Why :func:`java` can't run, or nothing."""
    if not _java_version():
        return "no Java with a compiler here"
    return "" if JARS.exists() else "no jars; make bench-peers fetches them"


def java(source: Path, *arguments: str) -> list[str]:
    """Runs a Java program from its source, with the jars."""
    path = os.pathsep.join(str(jar) for jar in sorted(JARS.glob("*.jar")))
    options = ["-Xmx1g", "-cp", path, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    return ["java", *options, str(source), *arguments]


def _streams(task: Task) -> list[str]:
    arguments = [task.work, task.servers, task.group, task.source, task.target, task.model_url]
    return java(_JAVA_SOURCE, *arguments, str(task.folder / "state"))


HAND_WRITTEN = System(
    "hand-written loop",
    "exactly once in Kafka",
    _module(Path(sys.executable), "hand_written"),
)
WITH_LINEAGE = System(
    "hand-written loop, Pressroom's headers",
    "exactly once in Kafka",
    _module(Path(sys.executable), "hand_written", "lineage"),
    works=("copy",),
)
PRESSROOM = System(
    "Pressroom",
    "exactly once in Kafka; completions are kept",
    lambda task: _cli(task, "worker", task.work),
    prepare=lambda task: _cli(task, "topics", "create"),
    group_suffix=".WORK",
)
SYSTEMS = [
    HAND_WRITTEN,
    WITH_LINEAGE,
    PRESSROOM,
    System(
        "Kafka Streams",
        "exactly once in Kafka (`exactly_once_v2`)",
        _streams,
        no_java,
        version=lambda: f"{KAFKA_VERSION} (Java {_java_version()})",
    ),
    System(
        "Quix Streams",
        "exactly once in Kafka (`exactly-once`)",
        _module(PEERS_PYTHON, "quix"),
        not_installed("quixstreams"),
        version=lambda: _peers_version("quixstreams"),
    ),
    System(
        "FastStream",
        "at least once (copy), at most once (concurrent calls)",
        _module(PEERS_PYTHON, "faststream_app"),
        not_installed("faststream"),
        version=lambda: _peers_version("faststream"),
    ),
    System(
        "Faust",
        'says `"exactly_once"`',
        _module(PEERS_PYTHON, "faust_agent", "worker"),
        not_installed("faust-streaming"),
        version=lambda: _peers_version("faust-streaming"),
    ),
]


def versions(systems: list[System]) -> list[str]:
    """Name and version of each that has one."""
    return [f"{s.name} {v}" for s in systems if (v := s.version())]


def group_of(system: System, task: Task) -> str:
    """The consumer group whose offsets tell how far it is."""
    return task.group + system.group_suffix.replace("WORK", task.work)

"""A background process that outlives the command that started it.

Its state is a small JSON file: the process's id, when it was created, and its ports. A process is
only believed to be ours when all of it fits, so that an id that the system gave to another program
is never mistaken for ours, let alone stopped. When the file is lost or damaged, the process is found
by its command line, which names the home and the ports.
"""

import json
import os
import re
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from streams.local.errors import Interrupted, LocalError
from streams.local.ports import choose, is_free, is_listening

if TYPE_CHECKING:
    import psutil

START_SECONDS = 120.0
"""How long a service may take to answer."""

STOP_SECONDS = 20.0
"""How long a service may take to shut down before it is killed."""

_ATTEMPTS = 3
_POLL_SECONDS = 0.05
_CLOCK_STEP_SECONDS = 2.0
_LOG_BYTES = 8 << 20
_TELLING = re.compile(r"\b(ERROR|FATAL|error)\b|(Exception|Error)\b|^Caused by:")

# a Popen that is let go of while its process runs warns, and its process stays a zombie
_children: list["subprocess.Popen[bytes]"] = []


class _Died(Exception):
    """The process ended before it answered."""


@dataclass(frozen=True)
class State:
    """What is remembered of a service. Without a process: only which ports it had."""

    ports: tuple[int, ...] = ()
    pid: int | None = None
    created: float | None = None
    """When the process was created, seconds since the epoch."""


class Service(ABC):
    """Starts, finds and stops one background process of a home."""

    name: ClassVar[str]
    """Names its state and log files."""

    title: ClassVar[str]
    """What the user calls it."""

    port_count: ClassVar[int] = 1

    ports_option: ClassVar[str] = "--port="
    """Begins the argument of the command line that gives the ports, with commas between them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home / "logs" / f"{self.name}.log"
        self._file = home / "run" / f"{self.name}.json"

    @property
    def folder(self) -> Path:
        """The process's working directory."""
        return self.home

    @property
    @abstractmethod
    def mark(self) -> str:
        """An argument of the process's command line that no other process has."""

    @abstractmethod
    def command(self, cache: Path, ports: tuple[int, ...]) -> list[str]:
        """The command line; contains :attr:`mark` and the ports by :attr:`ports_option`."""

    @abstractmethod
    def answers(self, ports: tuple[int, ...]) -> bool:
        """Whether the service does its work now."""

    def environment(self) -> dict[str, str]:
        """Variables to set for the process."""
        return {}

    def prepare(self, cache: Path, ports: tuple[int, ...]) -> None:  # noqa: B027
        """What must be done before each start."""

    def ended(self, command: list[str]) -> None:  # noqa: B027
        """What must be done after a process with this command line ended by itself when asked."""

    def port(self) -> int | None:
        """The port it listens on, or None when it does not run."""
        state = self._state()
        if _find(state, self.mark) and is_listening(state.ports[0]):
            return state.ports[0]
        return None

    def is_alive(self) -> bool:
        """Whether its process exists, be it ready or not."""
        return _find(self._state(), self.mark) is not None

    def adopt(self) -> bool:
        """True when it already runs and answers, perhaps after a moment.

        A process that ended is forgotten; one that never answers is stopped.
        """
        state = self._state()
        if _find(state, self.mark) is None:
            self._forget(state)
            return False
        self._remember(state)  # its file may be lost
        try:
            self._await_answer(state, threading.Event())
        except (_Died, TimeoutError):
            self.stop()
            return False
        return True

    def start(self, cache: Path, interrupted: threading.Event) -> None:
        """Starts it and returns when it answers.

        Raises:
            LocalError: it ended or did not answer in time.
            Interrupted: ``interrupted`` was set meanwhile; the process may still run.
        """
        preferred = self._state().ports
        for _ in range(_ATTEMPTS):
            chosen = choose(self.port_count, preferred)
            preferred = ()
            self.log.parent.mkdir(parents=True, exist_ok=True)
            log_start = _open_log(self.log)
            self.prepare(cache, chosen)
            state = self._spawn(self.command(cache, chosen), chosen)
            try:
                self._await_answer(state, interrupted)
                return
            except TimeoutError:
                self.stop()
                raise LocalError(
                    f"{self.title} did not answer within {START_SECONDS:.0f} s; see {self.log}"
                ) from None
            except _Died:
                self._forget(state)
                if all(map(is_free, chosen)):
                    raise self.failure(log_start) from None
        raise LocalError(f"{self.title} found no free port; see {self.log} and run it again")

    def failure(self, log_start: int) -> LocalError:
        """Why it ended, by the log that was written from byte ``log_start`` on."""
        said = telling_line(self.log, log_start) or "it said nothing"
        return LocalError(f"{self.title} stopped while starting: {said}; see {self.log}")

    def stop(self) -> bool:
        """Stops it, gently first. True when there was something to stop."""
        import psutil

        state = self._state()
        process = _find(state, self.mark)
        if process is not None:
            with suppress(psutil.NoSuchProcess):  # it ended by itself
                command = process.cmdline()
                process.terminate()
                if self._await_end(state):
                    self.ended(command)
                else:
                    process.kill()
                    self._await_end(state)
        self._forget(state)
        return process is not None

    def _spawn(self, command: list[str], chosen: tuple[int, ...]) -> State:
        import psutil

        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is not meant for it
            )
        _children.append(child)
        try:
            state = State(chosen, child.pid, psutil.Process(child.pid).create_time())
            self._remember(state)
        except BaseException:
            child.kill()  # nobody would ever find it
            raise
        return state

    def _await_answer(self, state: State, interrupted: threading.Event) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.answers(state.ports):
            if _find(state, self.mark) is None:
                raise _Died
            if time.monotonic() > deadline:
                raise TimeoutError
            if interrupted.wait(_POLL_SECONDS):
                raise Interrupted
        if _find(state, self.mark) is None:
            raise _Died  # it was another program that answered

    def _await_end(self, state: State) -> bool:
        # psutil's own wait goes on until the process's parent has noticed, which may be never
        deadline = time.monotonic() + STOP_SECONDS
        while _find(state, self.mark) is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _state(self) -> State:
        return self._remembered() or self._search() or State()

    def _remembered(self) -> State | None:
        try:
            found = json.loads(self._file.read_bytes())
            state = State(tuple(map(int, found["ports"])), found["pid"], found["created"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return state if len(state.ports) == self.port_count else None

    def _search(self) -> State | None:
        """The state of the running process when its file is lost or damaged."""
        if not self._file.parent.exists():
            return None  # nothing was ever started here
        import psutil

        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ports = self._ports_in(process.cmdline())
                # a container's processes are seen here too, and its home may have the same path,
                # but what listens in there is not reached
                if len(ports) == self.port_count and is_listening(ports[0]):
                    return State(ports, process.pid, process.create_time())
        return None

    def _ports_in(self, command: list[str]) -> tuple[int, ...]:
        """The ports of a command line that is this service's; none when it is another's."""
        given = [part for part in command if part.startswith(self.ports_option)]
        if self.mark not in command or not given:
            return ()
        return tuple(map(int, given[0].removeprefix(self.ports_option).split(",")))

    def _remember(self, state: State) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(state)), "utf-8")
        os.replace(fresh, self._file)

    def _forget(self, state: State) -> None:
        if state.pid is not None:
            self._remember(State(state.ports))


def _find(state: State, mark: str) -> "psutil.Process | None":
    """The process of a state, if it still runs and is the one that was started."""
    if state.pid is None or state.created is None:
        return None
    import psutil

    try:
        process = psutil.Process(state.pid)
        same = abs(process.create_time() - state.created) < _CLOCK_STEP_SECONDS
        return process if same and mark in _command_line(process) else None
    except psutil.Error:
        return None


def _command_line(process: "psutil.Process") -> list[str]:
    """The command line; waits out the moment in which a program that begins or ends has none."""
    import psutil

    for _ in range(1000):
        if process.status() == psutil.STATUS_ZOMBIE:
            break
        if command := process.cmdline():
            return command
        time.sleep(0.001)
    return []


def _open_log(log: Path) -> int:
    """Sets a long log aside; gives where the next line will be."""
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        return 0
    if size < _LOG_BYTES:
        return size
    os.replace(log, log.with_suffix(".old.log"))
    return 0


def telling_line(log: Path, start: int = 0) -> str | None:
    """The last line of a log, from byte ``start`` on, that names an error; without one, the last.

    Stack frames don't count.
    """
    try:
        with log.open("rb") as file:
            file.seek(start)
            text = file.read(_LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    lines = [line.strip() for line in text.splitlines() if line[:1] not in ("\t", "")]
    telling = [line for line in lines if _TELLING.search(line)] or lines
    return telling[-1][:300] if telling else None

"""Kafka processes that belong to a test: to be killed, paused, starved, or hidden by a proxy."""

import signal
import threading
from pathlib import Path

import psutil
from rich.console import Console

from streams.local import maven
from streams.local.cache import ensure
from streams.local.kafka import Kafka
from streams.local.ports import HOST, is_free
from streams.local.service import State
from streams.settings import Settings


class Configured(Kafka):
    """The product's broker, with settings of our own after its settings."""

    def __init__(self, home: Path, extra: str) -> None:
        """
        Args:
            home: where its data are.
            extra: settings; the last of a name counts.
        """
        super().__init__(home.resolve())
        self._extra = extra

    def _write_settings(self, name: str, ports: tuple[int, ...], folder: str) -> None:
        super()._write_settings(name, ports, folder)
        broker, controller = ports
        with (self.folder / name).open("a") as file:
            file.write(self._extra.format(host=HOST, broker=broker, controller=controller))

    def claim(self, ports: tuple[int, ...]) -> None:
        """The ports that it takes from now on, if they are free."""
        self._remember(State(ports))

    @property
    def ports(self) -> tuple[int, ...]:
        """Those that it has, or had."""
        return self._state().ports


class Node:
    """A process of Kafka that can be started, struck and started again."""

    def __init__(self, service: Configured) -> None:
        self.service = service
        self._cache = Settings().cache
        ensure([maven.kafka()], self._cache, Console(stderr=True))

    def up(self) -> str:
        """Starts it, again if need be; gives its own address."""
        self.service.start(self._cache, threading.Event())
        return f"{HOST}:{self.service.ports[0]}"

    @property
    def log(self) -> str:
        """What it said."""
        return self.service.log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        """Whether its process is there, or its ports are not free yet."""
        return self.service.is_alive() or not all(map(is_free, self.service.ports))

    def signal(self, number: signal.Signals) -> None:
        for process in psutil.process_iter(["cmdline"]):
            if self.service.mark in (process.info["cmdline"] or []):
                process.send_signal(number)
                if number is signal.SIGKILL:
                    process.wait(30)

    def close(self) -> None:
        self.signal(signal.SIGCONT)
        self.service.stop()


class Broker(Node):
    """A cluster of one. Runs from the beginning until closed."""

    def __init__(self, home: Path, extra: str = "") -> None:
        super().__init__(Configured(home, extra))
        self.address = self.up()

    def heal(self) -> None:
        """It runs again, whatever was done to it."""
        self.signal(signal.SIGCONT)
        if not self.service.is_alive():
            self.up()


def behind(listener: int, advertised: int) -> str:
    """Settings of a second listener, which sends its clients to a proxy; the first stays as it is."""
    return (
        "listeners=PLAINTEXT://{host}:{broker},PROXIED://{host}:"
        f"{listener},CONTROLLER://{{host}}:{{controller}}\n"
        f"advertised.listeners=PLAINTEXT://{{host}}:{{broker}},PROXIED://{{host}}:{advertised}\n"
        "listener.security.protocol.map="
        "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
    )

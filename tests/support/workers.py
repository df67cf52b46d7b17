"""Worker processes, to be killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

Process = subprocess.Popen[bytes]


class Workers:
    """Starts ``pressroom worker`` processes and sees to it that none is left."""

    def __init__(self, environment: dict[str, str], app: str, home: Path) -> None:
        self.environment = os.environ | environment | {"PRESSROOM_HOME": str(home)}
        self._app = app
        self._logs = home / "workers.log"
        home.mkdir(parents=True, exist_ok=True)
        # a killed worker's partitions move on sooner than by default
        self._properties = home / "client.properties"
        self._properties.write_text("session.timeout.ms=6000\n")
        self.running: list[Process] = []

    def start(self, *arguments: str, program: Sequence[str] = ("streams.cli",)) -> Process:
        """Starts a worker.

        Args:
            arguments: stages, and options as on the command line.
            program: the module that runs the command line, and its own arguments.
        """
        with self._logs.open("ab") as log:
            process = subprocess.Popen(
                [
                    sys.executable, "-m", *program, "--app", self._app,
                    "--config", str(self._properties), "worker", *arguments,
                ],
                env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip
        self.running.append(process)
        return process

    def run(self, *arguments: str, timeout: float = 180) -> int:
        """Runs a worker to its end; gives its exit status."""
        return self.start(*arguments).wait(timeout)

    def signal(self, process: Process, number: signal.Signals) -> None:
        process.send_signal(number)
        if number is signal.SIGKILL:
            process.wait(30)

    def close(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
                process.wait(30)

    def log(self) -> str:
        return self._logs.read_text(errors="replace") if self._logs.exists() else ""

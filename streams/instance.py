"""Transactional ids that are stable per instance, so that a restart fences its predecessor."""

import socket
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

from schemas.errors import UsageError
from streams.stage import Stage

_MOST = 1000


class Instances:
    """Claims one name per stage for this process, free again when the process ends.

    An unnamed instance takes the lowest number on this host that no running process holds. The
    operating system releases a dead process's claim, so a worker that is started again gets the
    same number and with it the same transactional id.
    """

    def __init__(self, home: Path, name: str | None = None) -> None:
        self._folder = home / "instances"
        self._name = name
        self._claims = ExitStack()

    def transactional_id(self, stage: Stage) -> str:
        """``pipeline.stage.instance``."""
        return f"{stage.group}.{self._name or self._claim(stage.group)}"

    def _claim(self, group: str) -> str:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"can't write to {self._folder} ({error.strerror}): set PRESSROOM_HOME"
            ) from None
        for number in range(_MOST):
            lock = FileLock(self._folder / f"{group}.{number}.lock")
            try:
                self._claims.enter_context(lock.acquire(blocking=False))
            except Timeout:
                continue
            return f"{socket.gethostname()}-{number}"
        raise UsageError(f"{_MOST} workers of {group} run on this host; set PRESSROOM_INSTANCE")

    def release(self) -> None:
        """Gives the claims back."""
        self._claims.close()

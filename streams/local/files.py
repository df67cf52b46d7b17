"""Locks and disk errors, for everything that writes under the home or the cache."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from streams.local.errors import LocalError

if TYPE_CHECKING:
    from rich.console import Console

_DISK_ERRORS = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there",
    errno.EROFS: "choose a writable folder",
    errno.EACCES: "choose a writable folder",
    errno.EPERM: "choose a writable folder",
    errno.ENOTDIR: "choose a folder, not a file",
    errno.EEXIST: "choose a folder, not a file",
    errno.ENAMETOOLONG: "choose a shorter path",
}


def is_disk_error(error: Exception) -> bool:
    """Whether the disk is why, so that trying again is of no use."""
    return isinstance(error, OSError) and error.errno in _DISK_ERRORS


@contextmanager
def disk_errors(folder: Path, setting: str) -> Iterator[None]:
    """Turns errors of the disk that holds ``folder`` into one line.

    ``setting`` is the environment variable that moves the folder elsewhere.

    Raises:
        LocalError: the disk is full or read-only, or the path is no folder or can't be made one.
    """
    try:
        yield
    except OSError as error:
        advice = _DISK_ERRORS.get(error.errno or 0)
        if error.errno == errno.ENOENT and _is_on_path(error.filename, folder):
            advice = "choose a writable folder"  # as /proc says it
        if advice is None:
            raise
        raise LocalError(
            f"can't write to {folder}: {error.strerror}; {advice}, or set {setting} to another"
        ) from error


def _is_on_path(name: object, folder: Path) -> bool:
    """Whether a file is in the folder, or a folder above it: others may well be missing."""
    file = Path(str(name))
    return file.is_relative_to(folder) or folder.is_relative_to(file)


@contextmanager
def hold(lock: Path, console: "Console", waiting: str) -> Iterator[None]:
    """Holds a lock between processes; says ``waiting`` once when another one has it.

    The operating system gives the lock back when its holder dies, however it dies.
    """
    from filelock import FileLock, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0.5)
    except Timeout:
        console.print(waiting, style="dim")
        held.acquire()
    try:
        yield
    finally:
        held.release()

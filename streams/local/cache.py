"""The cache: files fetched once, verified by hash, shared by all homes of a user."""

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from streams.local.errors import Interrupted, LocalError
from streams.local.files import disk_errors, hold, is_disk_error

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

_THREADS = 8
_ATTEMPTS = 3

Report = Callable[[int], None]
"""Called by a fetch with the bytes it has so far."""


def default_cache() -> Path:
    """Where downloads are kept: ``PRESSROOM_CACHE``, or in the user's cache folder."""
    return Path(os.environ.get("PRESSROOM_CACHE") or user_cache_path("pressroom"))


@dataclass(frozen=True)
class Artifact:
    """One file to have."""

    source: str
    """What to ask the registry for."""

    path: str
    """Where it goes, relative to the cache."""

    sha256: str
    size: int
    """Bytes."""


Fetch = Callable[[Artifact, Path, Report], Path]
"""Downloads an artifact into an empty folder and gives the file. Any exception means: failed."""


@dataclass(frozen=True)
class Group:
    """Artifacts that are fetched the same way and shown as one progress bar."""

    title: str
    artifacts: tuple[Artifact, ...]
    fetch: Fetch

    def files(self, cache: Path) -> list[Path]:
        """Where the artifacts are in the cache."""
        return [cache / artifact.path for artifact in self.artifacts]


def ensure(groups: Sequence[Group], cache: Path, console: "Console") -> None:
    """Makes every artifact present and whole; asks the network for nothing that already is.

    Safe to run in several processes at once: one downloads, the others wait for it.

    Raises:
        LocalError: a download failed, or the cache can't be written.
    """
    with disk_errors(cache, "PRESSROOM_CACHE"):
        if not _missing(groups, cache):
            return
        waiting = "Another Pressroom is downloading; waiting for it…"
        with hold(cache / "lock", console, waiting):
            missing = _missing(groups, cache)
            if missing:
                _fetch_all(missing, cache, console)


def _missing(groups: Sequence[Group], cache: Path) -> list[Group]:
    """The groups reduced to what is absent or damaged."""
    with ThreadPoolExecutor(_THREADS) as pool:
        reduced = []
        for group in groups:
            whole = pool.map(lambda a: _is_whole(cache / a.path, a), group.artifacts)
            pairs = zip(group.artifacts, whole, strict=True)
            absent = tuple(artifact for artifact, is_whole in pairs if not is_whole)
            reduced.append(Group(group.title, absent, group.fetch))
    return [group for group in reduced if group.artifacts]


def _is_whole(file: Path, artifact: Artifact) -> bool:
    try:
        if file.stat().st_size != artifact.size:
            return False
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == artifact.sha256
    except FileNotFoundError:
        return False


def _fetch_all(groups: Sequence[Group], cache: Path, console: "Console") -> None:
    staging = cache / "staging"
    shutil.rmtree(staging, ignore_errors=True)  # what a killed process left; we hold the lock
    staging.mkdir()
    stop = threading.Event()
    try:
        with _bars(groups, console) as report, ThreadPoolExecutor(_THREADS) as pool:
            # the largest first, so that no single long one is left for the end
            work = sorted(
                ((a, group) for group in groups for a in group.artifacts),
                key=lambda pair: -pair[0].size,
            )
            try:
                futures = [
                    pool.submit(_fetch, artifact, group, cache, staging, report, stop)
                    for artifact, group in work
                ]
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fetch(
    artifact: Artifact,
    group: Group,
    cache: Path,
    staging: Path,
    report: Callable[[Artifact, int], None],
    stop: threading.Event,
) -> None:
    def progress(done: int) -> None:
        if stop.is_set():
            raise Interrupted
        report(artifact, done)

    with tempfile.TemporaryDirectory(dir=staging) as folder:
        with disk_errors(cache, "PRESSROOM_CACHE"):
            file = _persistently(artifact, group.fetch, Path(folder), progress)
        if not _is_whole(file, artifact):
            raise LocalError(
                f"{artifact.source} arrived altered (its SHA-256 is not the expected one); "
                "run it again, and check what sits between this machine and its registry"
            )
        target = cache / artifact.path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
    report(artifact, artifact.size)


def _persistently(artifact: Artifact, fetch: Fetch, folder: Path, progress: Report) -> Path:
    for attempt in range(1, _ATTEMPTS + 1):
        attempt_folder = folder / str(attempt)
        attempt_folder.mkdir()
        try:
            return fetch(artifact, attempt_folder, progress)
        except (Interrupted, LocalError):
            raise
        except Exception as error:
            if is_disk_error(error):
                raise
            progress(0)
            if attempt == _ATTEMPTS:
                raise LocalError(
                    f"can't download {artifact.source} ({_reason(error)}); check the network "
                    "and proxy settings and run it again: what has arrived is kept"
                ) from error
            time.sleep(attempt)
    raise AssertionError("unreachable")


def _reason(error: Exception) -> str:
    # network libraries put whole object dumps into their messages
    text = str(error).partition("\n")[0].strip()
    return text if 0 < len(text) <= 100 else type(error).__name__


@contextmanager
def _bars(groups: Sequence[Group], console: "Console") -> Iterator[Callable[[Artifact, int], None]]:
    """Shows a bar per group and one for all; gives the function that moves them."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        everything = tuple(artifact for group in groups for artifact in group.artifacts)
        shown = [(group.title, group.artifacts) for group in groups] + [("all", everything)]
        tasks: dict[Artifact, list[TaskID]] = {artifact: [] for artifact in everything}
        for title, artifacts in shown:
            task = progress.add_task(title, total=sum(a.size for a in artifacts))
            for artifact in artifacts:
                tasks[artifact].append(task)
        had = dict.fromkeys(everything, 0)

        def report(artifact: Artifact, done: int) -> None:
            advance, had[artifact] = done - had[artifact], done
            for task in tasks[artifact]:
                progress.advance(task, advance)

        yield report

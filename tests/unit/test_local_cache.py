"""The cache: whole files only, fetched once."""

import errno
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from streams.local.cache import Artifact, Fetch, Group, Report, default_cache, ensure
from streams.local.errors import LocalError

CONTENT = b"a jar's bytes"


class Registry:
    """Serves artifacts and counts what it is asked for."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.asked: list[str] = []

    def fetch(self, artifact: Artifact, folder: Path, report: Report) -> Path:
        self.asked.append(artifact.source)
        report(len(self.content) // 2)
        file = folder / "download"
        file.write_bytes(self.content)
        return file


def test_the_cache_is_where_its_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRESSROOM_CACHE", str(tmp_path / "elsewhere"))
    assert default_cache() == tmp_path / "elsewhere"
    monkeypatch.setenv("PRESSROOM_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "pressroom"


def _artifact(name: str = "one") -> Artifact:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return Artifact(f"group:{name}:1", f"jars/{name}-1.jar", digest, len(CONTENT))


def _group(fetch: Fetch, *names: str) -> Group:
    return Group("Kafka", tuple(map(_artifact, names or ("one",))), fetch)


@pytest.fixture
def console() -> Console:
    return Console(quiet=True)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.local.cache.time.sleep", lambda _seconds: None)


def test_a_missing_file_is_fetched_once(tmp_path: Path, console: Console) -> None:
    registry = Registry()
    for _ in range(2):
        ensure([_group(registry.fetch)], tmp_path, console)
    assert registry.asked == ["group:one:1"]
    assert (tmp_path / "jars/one-1.jar").read_bytes() == CONTENT
    assert not (tmp_path / "staging").exists()


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], b"A" + CONTENT[1:]])
def test_a_damaged_file_is_fetched_again(tmp_path: Path, console: Console, damaged: bytes) -> None:
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars/one-1.jar").write_bytes(damaged)
    registry = Registry()
    ensure([_group(registry.fetch)], tmp_path, console)
    assert registry.asked == ["group:one:1"]
    assert (tmp_path / "jars/one-1.jar").read_bytes() == CONTENT


def test_only_what_is_missing_is_asked_for(tmp_path: Path, console: Console) -> None:
    registry = Registry()
    ensure([_group(registry.fetch, "one", "two")], tmp_path, console)
    (tmp_path / "jars/two-1.jar").unlink()
    registry.asked.clear()
    ensure([_group(registry.fetch, "one", "two")], tmp_path, console)
    assert registry.asked == ["group:two:1"]


def test_an_altered_download_never_gets_in(tmp_path: Path, console: Console) -> None:
    with pytest.raises(LocalError, match="altered"):
        ensure([_group(Registry(b"<html>log in first</html>").fetch)], tmp_path, console)
    assert not (tmp_path / "jars/one-1.jar").exists()


def test_no_network_is_one_clear_line(tmp_path: Path, console: Console) -> None:
    def fetch(_artifact: Artifact, _folder: Path, _report: Report) -> Path:
        raise ConnectionError(111, "refused " * 50)

    with pytest.raises(LocalError, match=r"can't download group:one:1 .*; check the network") as e:
        ensure([_group(fetch)], tmp_path, console)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 250


def test_a_hiccup_is_tried_again(tmp_path: Path, console: Console) -> None:
    registry, failures = Registry(), [ConnectionError(), TimeoutError()]

    def fetch(artifact: Artifact, folder: Path, report: Report) -> Path:
        if failures:
            raise failures.pop()
        return registry.fetch(artifact, folder, report)

    ensure([_group(fetch)], tmp_path, console)
    assert (tmp_path / "jars/one-1.jar").read_bytes() == CONTENT


def test_what_arrived_before_a_failure_is_kept(tmp_path: Path, console: Console) -> None:
    registry, arrived = Registry(), threading.Event()

    def fetch(artifact: Artifact, folder: Path, report: Report) -> Path:
        if artifact.source == "group:bad:1":
            arrived.wait(10)
            raise ConnectionError
        file = registry.fetch(artifact, folder, report)
        threading.Timer(0.2, arrived.set).start()
        return file

    with pytest.raises(LocalError):
        ensure([_group(fetch, "one", "bad")], tmp_path, console)
    registry.asked.clear()
    ensure([_group(registry.fetch, "one", "bad")], tmp_path, console)
    assert registry.asked == ["group:bad:1"]


def test_leftovers_of_a_killed_download_are_removed(tmp_path: Path, console: Console) -> None:
    (tmp_path / "staging/tmp1").mkdir(parents=True)
    (tmp_path / "staging/tmp1/half.jar").write_bytes(CONTENT[:3])
    ensure([_group(Registry().fetch)], tmp_path, console)
    assert not (tmp_path / "staging").exists()


def test_two_first_starts_share_one_download(tmp_path: Path, console: Console) -> None:
    registry, both_run = Registry(), threading.Event()

    def slow(artifact: Artifact, folder: Path, report: Report) -> Path:
        both_run.wait(10)
        return registry.fetch(artifact, folder, report)

    starts = [_started(lambda: ensure([_group(slow)], tmp_path, console)) for _ in range(2)]
    both_run.set()
    for start in starts:
        start.join(20)
    assert registry.asked == ["group:one:1"]


def test_a_cache_that_is_no_folder_is_one_clear_line(tmp_path: Path, console: Console) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalError, match="PRESSROOM_CACHE"):
        ensure([_group(Registry().fetch)], tmp_path / "file" / "cache", console)


def test_a_full_disk_is_one_clear_line(tmp_path: Path, console: Console) -> None:
    attempts = []

    def fetch(artifact: Artifact, _folder: Path, _report: Report) -> Path:
        attempts.append(artifact)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(LocalError, match="free some space there, or set PRESSROOM_CACHE"):
        ensure([_group(fetch)], tmp_path, console)
    assert len(attempts) == 1


def _started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread

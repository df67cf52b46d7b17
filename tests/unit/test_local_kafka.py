"""The embedded Kafka's folder: formatted once, and never again."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from streams.local.errors import LocalError
from streams.local.kafka import Kafka

PORTS = (1111, 2222)


class Formatter:
    """In place of Kafka's own: makes the folder that the settings name."""

    def __init__(self) -> None:
        self.runs = 0
        self.status = 0

    def __call__(self, command: list[str], *, cwd: Path, **_: object) -> SimpleNamespace:
        self.runs += 1
        settings = dict(
            line.split("=", 1)
            for line in (cwd / "format.properties").read_text().splitlines()
            if "=" in line
        )
        (cwd / settings["log.dirs"]).mkdir()
        (cwd / settings["log.dirs"] / "meta.properties").touch()
        return SimpleNamespace(returncode=self.status)


@pytest.fixture
def formatter(monkeypatch: pytest.MonkeyPatch) -> Formatter:
    one = Formatter()
    monkeypatch.setattr(subprocess, "run", one)
    return one


@pytest.fixture
def kafka(tmp_path: Path) -> Kafka:
    (tmp_path / "logs").mkdir()
    return Kafka(tmp_path)


def test_a_new_home_is_formatted_once(kafka: Kafka, formatter: Formatter) -> None:
    for _ in range(2):
        kafka.prepare(Path("cache"), PORTS)
    assert formatter.runs == 1
    assert (kafka.folder / "data/meta.properties").exists()


def test_a_half_formatted_home_is_formatted_again(kafka: Kafka, formatter: Formatter) -> None:
    formatter.status = 1
    with pytest.raises(LocalError, match=r"Kafka 4\.2\.2 stopped while starting"):
        kafka.prepare(Path("cache"), PORTS)
    assert not (kafka.folder / "data").exists()
    formatter.status = 0
    kafka.prepare(Path("cache"), PORTS)
    assert (kafka.folder / "data/meta.properties").exists()


def test_the_settings_follow_the_ports(kafka: Kafka, formatter: Formatter) -> None:
    for ports in (PORTS, (3333, 4444)):
        kafka.prepare(Path("cache"), ports)
    text = (kafka.folder / "server.properties").read_text()
    assert "\nadvertised.listeners=PLAINTEXT://127.0.0.1:3333\n" in text
    assert "\ncontroller.quorum.voters=1@127.0.0.1:4444\n" in text
    assert "0.0.0.0" not in text
    assert "1111" not in text


def test_purging_removes_the_data_alone(kafka: Kafka, formatter: Formatter) -> None:
    kafka.prepare(Path("cache"), PORTS)
    kafka.purge()
    kafka.purge()
    assert [path.name for path in kafka.home.iterdir()] == ["logs"]


def test_a_recorded_archive_is_taken_over_when_whole(kafka: Kafka, tmp_path: Path) -> None:
    (option,) = (o for o in kafka.command(tmp_path, PORTS) if o.startswith("-XX:AOTCacheOutput="))
    Path(option.partition("=")[2]).write_bytes(b"archive")
    kafka.ended(["java", option, "kafka.Kafka"])
    (option,) = (o for o in kafka.command(tmp_path, PORTS) if o.startswith("-XX:AOTCache"))
    assert Path(option.removeprefix("-XX:AOTCache=")).read_bytes() == b"archive"

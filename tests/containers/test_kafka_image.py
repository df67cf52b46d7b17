"""The Kafka image, whether pulled or built here, does what Compose and testcontainers need of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.containers.docker import docker, logs
from tests.containers.images import kafka
from tests.integration.conftest import wait_for

pytestmark = pytest.mark.containers

_SETTINGS = "/opt/kafka/config/server.properties"
_MOUNTED = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@localhost:9093
controller.listener.names=CONTROLLER
advertised.listeners=PLAINTEXT://localhost:9092
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
num.partitions=7
"""


@contextmanager
def container(*options: str) -> Iterator[str]:
    """Runs the image; gives the container's id."""
    name = docker("run", "--detach", *options, kafka())
    try:
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


def await_started(name: str, times: int = 1) -> None:
    """Waits until the broker of a container has said so many times that it runs."""

    def started() -> bool:
        assert docker("inspect", "--format={{.State.Running}}", name) == "true", logs(name)
        return logs(name).count("Kafka Server started") >= times

    wait_for(started, "the broker", 90)


def settings(name: str) -> dict[str, str]:
    """What the broker of a container was told."""
    lines = docker("exec", name, "cat", _SETTINGS).splitlines()
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def test_one_node_runs_without_settings_and_again_with_its_data() -> None:
    with container() as name:
        await_started(name)
        assert settings(name)["process.roles"] == "broker,controller"
        docker("restart", "--time=30", name)
        await_started(name, times=2)
        docker("stop", "--time=30", name)
        assert docker("inspect", "--format={{.State.ExitCode}}", name) == "143", "it was killed"


def test_variables_come_after_mounted_settings_and_options_go_to_java(tmp_path: Path) -> None:
    (tmp_path / "server.properties").write_text(_MOUNTED)
    tmp_path.chmod(0o755)
    variables = {
        "KAFKA_LOG_RETENTION_HOURS": "5",
        "KAFKA_A__B___C": "d",
        "KAFKA_HEAP_OPTS": "-Xmx300m",
        "KAFKA_OPTS": "-Dour.own=one",
    }
    given = [f"--env={name}={value}" for name, value in variables.items()]
    with container(f"--volume={tmp_path}:/mnt/shared/config:ro", *given) as name:
        await_started(name)
        found = settings(name)
        assert found["num.partitions"] == "7"
        assert found["log.retention.hours"] == "5"
        assert found["a_b-c"] == "d"
        command = docker("exec", name, "cat", "/proc/1/cmdline").split("\0")
        assert {"-Xmx300m", "-Dour.own=one"} <= set(command)


def test_wrong_settings_are_told() -> None:
    with container("--env=KAFKA_PROCESS_ROLES=broker,controller") as name:
        assert docker("wait", name) == "1"
        assert "Missing required configuration" in logs(name)

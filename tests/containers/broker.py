"""One Kafka broker in a container, for ``--kafka=container``.

testcontainers' own KafkaContainer calls scripts of Confluent's images, which apache/kafka has not.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from tests.containers.docker import Unavailable, pull
from tests.containers.images import kafka
from tests.support.config import answers

_START_SECONDS = 120.0
_PORT = 9092
_ADVERTISED = "/tmp/advertised"
"""Made when the port is known under which clients reach the broker; it waits for that."""

_COMMAND = (
    f"until [ -s {_ADVERTISED} ]; do sleep 0.1; done; . {_ADVERTISED}; exec /etc/kafka/docker/run"
)

_SETTINGS = {
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    # the broker too is a client of its own, and can't come in from outside
    "KAFKA_LISTENERS": f"PLAINTEXT://:{_PORT},CONTROLLER://:9093,BROKER://:9094",
    "KAFKA_INTER_BROKER_LISTENER_NAME": "BROKER",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": (
        "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,BROKER:PLAINTEXT"
    ),
    # one broker holds the only replica
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "8",
    "KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS": "8",
    # as the embedded Kafka has it
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_MESSAGE_MAX_BYTES": "8388608",
    "KAFKA_REPLICA_FETCH_MAX_BYTES": "8388608",
    "KAFKA_HEAP_OPTS": "-Xms128m -Xmx512m",
}


@contextmanager
def broker() -> Iterator[str]:
    """Runs a broker as long as the context lasts; gives its address for clients.

    Raises:
        Unavailable: there is no Docker or no image, or the broker does not answer.
    """
    image = kafka()
    if not pull(testcontainers_config.ryuk_image):  # what cleans up after a killed test
        testcontainers_config.ryuk_disabled = True
    container = DockerContainer(image).with_envs(**_SETTINGS).with_exposed_ports(_PORT)
    with container.with_command(["bash", "-c", _COMMAND]):
        address = f"{container.get_container_host_ip()}:{container.get_exposed_port(_PORT)}"
        advertised = f"PLAINTEXT://{address},BROKER://localhost:9094"
        line = f"export KAFKA_ADVERTISED_LISTENERS={advertised}\n"
        container.copy_into_container(line.encode(), _ADVERTISED)
        until = time.monotonic() + _START_SECONDS
        while not answers(address):
            container.reload()
            if container.status != "running" or time.monotonic() > until:
                said = container.get_wrapped_container().logs(tail=5).decode(errors="replace")
                raise Unavailable(f"{image} does not answer at {address}: {said}")
        yield address

"""Names and settings for tests against Kafka."""

import itertools
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

_numbers = itertools.count()


def client_config(bootstrap_servers: str) -> dict[str, object]:
    """librdkafka settings, with its log kept off standard error."""
    return {"bootstrap.servers": bootstrap_servers, "logger": logging.getLogger("kafka")}


def answers(bootstrap_servers: str) -> bool:
    """Whether a broker answers there now, or within a second."""
    config: dict[str, Any] = client_config(bootstrap_servers)
    admin = AdminClient(config)
    try:
        return bool(admin.list_topics(timeout=1).brokers)
    except KafkaException:
        return False


def unique(name: str) -> str:
    """A name no other test or run uses, so that tests can share a Kafka."""
    return f"{name}-{os.getpid()}-{time.time_ns() // 1_000_000 % 10**9}-{next(_numbers)}"


def configure(config: Mapping[str, Any], topic: str, name: str, value: str) -> None:
    """Sets one of a topic's settings."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient(dict(config))  # kept, or its answer would never come
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)

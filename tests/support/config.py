"""Names and settings for tests against Kafka."""

import itertools
import logging
import os
import time

_numbers = itertools.count()


def client_config(bootstrap_servers: str) -> dict[str, object]:
    """librdkafka settings, with its log kept off standard error."""
    return {"bootstrap.servers": bootstrap_servers, "logger": logging.getLogger("kafka")}


def unique(name: str) -> str:
    """A name no other test or run uses, so that tests can share a Kafka."""
    return f"{name}-{os.getpid()}-{time.time_ns() // 1_000_000 % 10**9}-{next(_numbers)}"

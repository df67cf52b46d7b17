"""An embedded stack for one machine: a real Apache Kafka and a real model, from packages alone."""

from streams.local.errors import LocalError
from streams.local.stack import Status, down, purge, status, up

__all__ = ["LocalError", "Status", "down", "purge", "status", "up"]

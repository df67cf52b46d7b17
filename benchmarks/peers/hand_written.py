"""The hand-written loop of :mod:`benchmarks.by_hand`; with ``lineage``, writing Pressroom's headers."""

import logging
import sys
from typing import Any

from confluent_kafka import Message

from benchmarks import by_hand
from benchmarks.peers.task import SESSION_TIMEOUT, Task, ask, client

WITHOUT_END = sys.maxsize


def as_they_came(_: bytes, message: Message) -> Any:
    return message.headers()


def main() -> None:
    task = Task.from_environment()
    logger = logging.getLogger("kafka")
    config: dict[str, Any] = {
        "bootstrap.servers": task.servers,
        "session.timeout.ms": SESSION_TIMEOUT,
        "logger": logger,
    }
    if task.work == "copy":
        headers = by_hand.lineage if "lineage" in sys.argv else as_they_came
        by_hand.pass_through(config, task.group, task.source, task.target, WITHOUT_END, headers)
    model = client(task)
    by_hand.slow_calls(
        config, task.group, task.source, task.target, WITHOUT_END, task.at_once,
        lambda message: ask(model, message.key() or b""),
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""Quix Streams, exactly-once: a StreamingDataFrame on bytes."""

from typing import Any

from quixstreams import Application

from benchmarks.peers.task import (
    COMMIT_INTERVAL,
    SESSION_TIMEOUT,
    Task,
    ask_blocking,
    blocking_client,
)


def main() -> None:
    task = Task.from_environment()
    app = Application(
        broker_address=task.servers,
        consumer_group=task.group,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=COMMIT_INTERVAL,
        consumer_extra_config={"session.timeout.ms": SESSION_TIMEOUT},
        # without it every transaction waits 100 ms more, see by_hand.py
        producer_extra_config={"retry.backoff.ms": 1, "compression.type": "lz4"},
        state_dir=task.folder / "state",
        auto_create_topics=False,
        loglevel="WARNING",
    )
    raw: dict[str, Any] = {
        f"{part}_{way}": "bytes"
        for part in ("key", "value")
        for way in ("serializer", "deserializer")
    }
    frame = app.dataframe(app.topic(task.source, **raw))
    if task.work == "ask":
        model = blocking_client(task)
        frame = frame.apply(
            lambda _value, key, _timestamp, _headers: ask_blocking(model, key), metadata=True
        )
    frame.to_topic(app.topic(task.target, **raw))
    app.run()


if __name__ == "__main__":
    main()

"""Faust (faust-streaming), ``processing_guarantee="exactly_once"``: an agent on bytes."""

import os
from typing import Any

import faust

from benchmarks.peers.task import COMMIT_INTERVAL, SESSION_TIMEOUT, Task, ask, client

task = Task.from_environment()
os.makedirs(task.home, exist_ok=True)

app = faust.App(
    task.group,
    broker=f"kafka://{task.servers}",
    processing_guarantee="exactly_once",
    broker_session_timeout=SESSION_TIMEOUT / 1000,
    broker_heartbeat_interval=SESSION_TIMEOUT / 3000,
    broker_commit_interval=COMMIT_INTERVAL,
    consumer_auto_offset_reset="earliest",
    producer_compression_type="lz4",
    topic_partitions=4,
    datadir=task.home,
    web_enabled=False,
    value_serializer="raw",
    key_serializer="raw",
)
source = app.topic(task.source, value_type=bytes, key_type=bytes)
target = app.topic(task.target, value_type=bytes, key_type=bytes)

if task.work == "copy":

    @app.agent(source)
    async def copy(stream: Any) -> None:
        async for event in stream.events():
            await event.forward(target)
else:

    @app.agent(source, concurrency=task.at_once)
    async def answer(stream: Any) -> None:
        model = client(task)
        async for key, _ in stream.items():
            await target.send(key=key, value=await ask(model, key))


if __name__ == "__main__":
    faust.Worker(app, loglevel="WARNING").execute_from_commandline()

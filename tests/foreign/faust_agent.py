"""Faust (faust-streaming): an agent on bytes. ``exactly_once`` makes it read what is committed only."""

import sys
import tempfile
from typing import Any

import faust

from tests.foreign.source import Source, show

source = Source()
app = faust.App(
    f"{source.topic}.faust",
    broker=f"kafka://{source.servers}",
    processing_guarantee="exactly_once",
    consumer_auto_offset_reset="earliest",
    datadir=tempfile.mkdtemp(),
    web_enabled=False,
    topic_partitions=1,
    key_serializer="raw",
    value_serializer="raw",
)


@app.agent(app.topic(source.topic, key_type=bytes, value_type=bytes))
async def read(stream: Any) -> None:
    async for value in stream:
        show(source.decode(value))


if __name__ == "__main__":
    # its worker prints to standard output too, and would take what others print for its log
    worker = faust.Worker(
        app, loglevel="WARNING", quiet=True, stdout=sys.stderr, redirect_stdouts=False
    )
    worker.execute_from_commandline()

"""FastStream with its confluent broker: a subscriber with a decoder of its own."""

import asyncio
from typing import Any

from faststream import FastStream
from faststream.confluent import KafkaBroker, KafkaMessage

from tests.foreign.source import Source, show

source = Source()
broker = KafkaBroker(source.servers, logger=None)
app = FastStream(broker, logger=None)


async def decode(message: KafkaMessage) -> Any:
    return source.decode(message.body)


@broker.subscriber(
    source.topic, group_id=f"{source.topic}.faststream", auto_offset_reset="earliest",
    isolation_level="read_committed", decoder=decode,
)  # fmt: skip
async def read(record: dict[str, Any]) -> None:
    show(record)


if __name__ == "__main__":
    asyncio.run(app.run())

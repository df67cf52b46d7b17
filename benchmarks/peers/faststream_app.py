"""FastStream with its confluent broker. It has no transactions: at least once is its best.

Its concurrent subscribers commit before they work (``ACK_FIRST`` is all they allow).
"""

import asyncio
import logging
from typing import Any

from faststream import AckPolicy, FastStream
from faststream.confluent import KafkaBroker, KafkaMessage, KafkaPublishMessage

from benchmarks.peers.task import SESSION_TIMEOUT, Task, ask, client

task = Task.from_environment()
broker = KafkaBroker(
    task.servers,
    log_level=logging.DEBUG,
    config={"session.timeout.ms": SESSION_TIMEOUT, "compression.type": "lz4"},
    acks="all",
)
app = FastStream(broker, logger=None)
options: dict[str, Any] = {
    "group_id": task.group,
    "auto_offset_reset": "earliest",
    "isolation_level": "read_committed",
}

if task.work == "copy":

    @broker.subscriber(
        task.source, batch=True, max_records=1000, polling_interval=0.01,
        ack_policy=AckPolicy.ACK, **options,
    )  # fmt: skip
    async def copy(_: list[bytes], message: KafkaMessage) -> None:
        records = [KafkaPublishMessage(m.value(), key=m.key()) for m in message.raw_message]
        await broker.publish_batch(*records, topic=task.target)
else:
    model = client(task)

    @broker.subscriber(task.source, max_workers=task.at_once, **options)
    async def answer(_: bytes, message: KafkaMessage) -> None:
        key = message.raw_message.key()
        await broker.publish(await ask(model, key), topic=task.target, key=key)


if __name__ == "__main__":
    asyncio.run(app.run())

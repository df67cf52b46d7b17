"""The loop one would write by hand with confluent-kafka: exactly-once, and nothing else."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from fastavro import schemaless_reader, schemaless_writer

Headers = Any

SCHEMA = fastavro.schema.load_schema(
    str(Path(__file__).parent.parent / "schemas" / "avro" / "document.avsc")
)
HEADER = 10
"""Bytes of the single-object encoding before the record's own."""


def clients(config: dict[str, Any], group: str) -> tuple[Consumer, Producer]:
    """A read-committed consumer and a transactional producer, set up as Pressroom's are."""
    consumer = Consumer(
        config
        | {
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    producer = Producer(
        config
        | {
            "transactional.id": group,
            "retry.backoff.ms": 1,
            "linger.ms": 1,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 500_000,
        }
    )
    producer.list_topics(timeout=30)  # connected, it finds the coordinator half a second earlier
    producer.init_transactions(30)
    return consumer, producer


def _commit(consumer: Consumer, producer: Producer, last: dict[tuple[str, int], int]) -> None:
    offsets = [TopicPartition(t, p, offset + 1) for (t, p), offset in last.items()]
    producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 30)
    producer.commit_transaction(30)


def lineage(stage: bytes, message: Message) -> Headers:
    """The headers that Pressroom writes: without them no audit, so they belong to the job."""
    known: dict[str, Any] = dict(message.headers() or ())
    position = f"{message.topic()}:{message.partition()}:{message.offset()}".encode()
    ce_id = blake2b(stage + (known.get("ce_id") or position), digest_size=16).hexdigest().encode()
    now = time.time_ns() // 1_000_000
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1000))
    trace = (known.get("traceparent") or b"")[3:35] or ce_id
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", ce_id),
        ("ce_source", stage),
        ("ce_type", b"pressroom.Document"),
        ("ce_time", f"{at}.{now % 1000:03d}Z".encode()),
        ("content-type", b"application/avro"),
        ("traceparent", b"00-%b-%b-01" % (trace, ce_id[:16])),
        ("ce_inputs", position),
        ("ce_origin", known.get("ce_origin") or position),
    ]


def as_it_is(message: Message) -> bytes | None:
    """The value's bytes, which nobody looks at."""
    return message.value()


def _record(value: bytes) -> Any:
    return schemaless_reader(BytesIO(value[HEADER:]), SCHEMA, None)


def read(message: Message) -> bytes:
    """The bytes as they came, of a record that the program has had in its hands."""
    value = message.value() or b""
    _record(value)
    return value


def decoded_and_encoded(message: Message) -> bytes:
    """The same bytes, made anew of the record."""
    value = message.value() or b""
    record = _record(value)
    out = BytesIO()
    out.write(value[:HEADER])
    schemaless_writer(out, SCHEMA, record)
    return out.getvalue()


def pass_through(
    config: dict[str, Any], group: str, source: str, target: str, count: int,
    headers_of: Callable[[bytes, Message], Headers] = lineage,
    value_of: Callable[[Message], bytes | None] = as_it_is,
) -> None:  # fmt: skip
    """Copies ``count`` records, with their lineage, committing whenever there is something."""
    consumer, producer = clients(config, group)
    consumer.subscribe([source])
    stage = f"{group}/copy".encode()
    done = 0
    while done < count:
        first = consumer.poll(0.1)
        if first is None:
            continue
        messages = [first, *consumer.consume(5000, 0)]
        producer.begin_transaction()
        last: dict[tuple[str, int], int] = {}
        for message in messages:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None
            assert partition is not None
            assert offset is not None
            headers = headers_of(stage, message)
            producer.produce(target, value_of(message), message.key(), partition, headers=headers)
            last[topic, partition] = offset
        _commit(consumer, producer, last)
        done += len(messages)
    consumer.close()


def slow_calls(
    config: dict[str, Any], group: str, source: str, target: str, count: int, at_once: int,
    call: Callable[[Message], Coroutine[Any, Any, bytes]],
) -> None:  # fmt: skip
    """Calls concurrently, commits in order whenever something is finished."""
    consumer, producer = clients(config, group)
    consumer.subscribe([source])
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    free = asyncio.Semaphore(at_once)

    async def limited(message: Message) -> bytes:
        async with free:
            return await call(message)

    queues: dict[int, deque[Any]] = {}
    done = begun = 0
    while done < count:
        while begun - done < 8 * at_once and (message := consumer.poll(0.002)) is not None:
            future = asyncio.run_coroutine_threadsafe(limited(message), loop)
            queues.setdefault(message.partition() or 0, deque()).append((message, future))
            begun += 1
        finished = [
            queue.popleft()
            for queue in queues.values()
            for _ in range(len(queue))
            if queue[0][1].done()
        ]
        if not finished:
            time.sleep(0.002)
            continue
        producer.begin_transaction()
        for message, future in finished:
            producer.produce(target, future.result(), message.key(), message.partition())
        _commit(consumer, producer, {(m.topic(), m.partition()): m.offset() for m, _ in finished})
        done += len(finished)
    consumer.close()
    loop.call_soon_threadsafe(loop.stop)

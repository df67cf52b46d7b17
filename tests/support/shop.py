"""A small shop: records, topics, and pipelines of one or two stages, run in memory."""

import zlib
from typing import Any

from schemas.message import Received
from schemas.record import record
from schemas.topics import Topic
from streams import MemoryDriver, Pipeline, join


@record
class Order:
    id: str
    text: str = ""


@record
class Label:
    text: str


@record
class Parcel:
    id: str
    text: str


orders = Topic("shop.orders", Order, key="id")
labels = Topic("shop.labels", Label)
more_labels = Topic("shop.more-labels", Label)
parcels = Topic("shop.parcels", Parcel, key="id")


def key_of_partition(partition: int, number: int = 0) -> str:
    """A key that the memory driver's partitioner sends to this partition."""
    found = (f"k{n}" for n in range(10_000) if zlib.crc32(f"k{n}".encode()) % 4 == partition)
    return [next(found) for _ in range(number + 1)][number]


def header(received: Received, name: str) -> bytes | None:
    return dict(received.headers).get(name)


def shop(function: Any, reads: Any = orders, writes: Any = labels) -> Pipeline:
    """A pipeline of one stage."""
    pipeline = Pipeline("shop")
    pipeline.stage(reads=reads, writes=writes)(function)
    return pipeline


def run(pipeline: Pipeline, *given_orders: Order) -> MemoryDriver:
    driver = MemoryDriver(pipeline)
    for order in given_orders:
        driver.write(orders, order)
    driver.run()
    return driver


async def label(order: Order) -> Label:
    return Label(order.text)


async def pair(order: Order, label: Label) -> Parcel:
    return Parcel(order.id, f"{order.text}+{label.text}")


def by_key() -> Pipeline:
    return shop(pair, join(orders, labels), parcels)


def diamond() -> Pipeline:
    """orders → label → labels; orders and labels of one origin join."""
    pipeline = Pipeline("shop")
    pipeline.stage(reads=orders, writes=labels)(label)
    pipeline.stage(reads=join(orders, labels, on="origin"), writes=parcels)(pair)
    return pipeline

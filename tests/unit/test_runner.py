"""Where a stage's calls run, and who hears that they are done."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from schemas.codec import codec_for
from schemas.message import Received
from streams import Llm, Pipeline, ScriptedModel
from streams.calls import Caller
from streams.processing import Processor, Work
from streams.runner import OwnThread, Runner
from tests.support.shop import Label, Order, labels, orders

HANGS = 60.0
"""Seconds after which a wait that nobody ends is over."""


async def within(order: Order) -> Label:
    await asyncio.sleep(0.01)
    return Label(order.text)


async def beside(order: Order, llm: Llm) -> Label:
    await asyncio.sleep(0.01)
    return Label(order.text)


@pytest.fixture(params=[within, beside])
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Runs a stage on the owner's thread, and one that may ask a model beside it."""
    pipeline = Pipeline("shop")
    pipeline.stage(reads=orders, writes=labels)(request.param)
    (stage,) = pipeline.stages.values()
    thread = OwnThread()
    made = Runner(thread, Processor(stage, Caller(ScriptedModel({}))), 1)
    yield made
    made.close()
    thread.close()


def is_ended(runner: Runner) -> bool:
    """Waits; whether somebody ended it before its time."""
    began = time.monotonic()
    runner.wait(HANGS)
    return time.monotonic() - began < HANGS


def test_who_waits_hears_of_a_work_that_is_done(runner: Runner) -> None:
    received = Received(orders.name, 0, 0, 0, b"1", codec_for(Order).encode(Order("1", "a")), [])
    work = Work(received, (received,))
    runner.submit([work])
    assert is_ended(runner)
    assert work.outgoing is not None


def test_who_waits_is_woken_from_any_thread(runner: Runner) -> None:
    waker = threading.Timer(0.01, runner.wake)
    waker.start()
    assert is_ended(runner)
    waker.join()

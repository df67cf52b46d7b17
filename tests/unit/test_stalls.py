"""A partition that is not read on because of a foreign transaction is told of, once in a while."""

from typing import Any

import pytest
from confluent_kafka import TopicPartition

from consumers.stalls import PATIENCE, Stalls

P = ("lines", 3)


class Consumer:
    def __init__(self) -> None:
        self.high = 40

    def get_watermark_offsets(self, partition: TopicPartition, cached: bool) -> tuple[int, int]:
        assert cached, "the loop must not wait for a broker"
        assert (partition.topic, partition.partition) == P
        return 0, self.high


class Scene:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.consumer, self.now, self._caplog = Consumer(), 0.0, caplog
        consumer: Any = self.consumer
        self.stalls = Stalls(consumer, lambda: self.now)

    def told(self, *, after: float, at_end: bool = True) -> int:
        """How often it is told of within so many seconds."""
        self._caplog.clear()
        until = self.now + after
        while self.now < until:
            self.now += 1
            self.stalls.look({P} if at_end else set())
        return len(self._caplog.records)


@pytest.fixture
def scene(caplog: pytest.LogCaptureFixture) -> Scene:
    made = Scene(caplog)
    made.stalls.stands(P, 40)
    return made


def test_an_end_is_no_stall(scene: Scene) -> None:
    assert scene.told(after=1000) == 0


def test_an_open_transaction_is_told_of_after_a_while(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.told(after=100)
    scene.consumer.high = 54
    assert scene.told(after=PATIENCE - 5) == 0
    assert scene.told(after=15) == 1
    assert "lines:3 stands at 40 before its end, 54" in caplog.text
    assert scene.told(after=250) == 0, "not again and again"
    assert scene.told(after=100) == 1


def test_transactions_that_end_are_not_told_of(scene: Scene) -> None:
    for offset in range(41, 60):
        scene.consumer.high = offset + 10
        assert scene.told(after=PATIENCE - 10) == 0
        scene.stalls.stands(P, offset)


def test_a_partition_that_is_read_on_is_forgotten(scene: Scene) -> None:
    scene.consumer.high = 54
    scene.told(after=PATIENCE - 10)
    assert scene.told(after=10, at_end=False) == 0
    scene.stalls.stands(P, 40)
    assert scene.told(after=PATIENCE - 10) == 0

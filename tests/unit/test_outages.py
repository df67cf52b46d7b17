"""Who waits for Kafka says so."""

import logging

import pytest
from confluent_kafka import KafkaError

from consumers.outages import Outages
from tests.support.virtual_time import Clock


def test_that_no_broker_answers_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    outages = Outages("draft", clock.monotonic)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            outages(KafkaError(KafkaError._ALL_BROKERS_DOWN))
            clock.now += 20
    assert len(caplog.records) == 2
    assert "draft" in caplog.text


def test_other_errors_are_the_clients_own_affair(caplog: pytest.LogCaptureFixture) -> None:
    Outages("draft")(KafkaError(KafkaError._TRANSPORT))
    assert not caplog.records

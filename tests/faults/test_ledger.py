"""The ledger loses what it held, or is asked for what came too late."""

import threading

import pytest
from confluent_kafka.admin import AdminClient

from streams.admin import create_topics
from tests.faults.conftest import CALLS, Bench


@pytest.mark.fault("the ledger's tail is lost")
def test_a_ledger_without_its_tail_stops_the_worker(bench: Bench) -> None:
    bench.write(60)
    bench.run_to_the_end()
    admin = AdminClient(bench.config)
    for future in admin.delete_topics([bench.ledger]).values():
        future.result(30)
    bench.wait_until(lambda: bench.ledger not in admin.list_topics(timeout=10).topics)
    create_topics(bench.config, bench.module.pipeline.topics)
    bench.write(20)
    before = bench.workers.log()
    assert bench.workers.run("ask") == 1
    said = [s for s in bench.workers.log()[len(before) :].splitlines() if "pressroom:" in s]
    assert len(said) == 1
    assert "its tail was lost" in " ".join(bench.workers.log().split())
    assert len(bench.model.account) == 60  # it asked nothing
    assert sum(bench.left("ask").values()) == 20


@pytest.mark.long
@pytest.mark.fault("late result for a revoked partition")
def test_an_answer_for_a_revoked_partition_is_not_committed(bench: Bench) -> None:
    answers = threading.Event()

    def hold() -> None:
        if bench.model.requests <= CALLS:
            answers.wait(120)

    bench.model.before = hold
    bench.write(100)
    first = bench.workers.start("ask")
    bench.wait_until(lambda: bench.model.requests == CALLS)
    second = bench.workers.start("ask")
    # the revocation waits for the held calls, gives up, and the second one asks for them itself
    bench.await_members("ask", 2)
    bench.await_bills(20)
    bench.struck()
    answers.set()
    bench.finish([first, second, bench.workers.start("shout", "pair")])

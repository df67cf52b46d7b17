"""The network between workers and Kafka loses, delays and breaks what it should carry."""

import threading

import pytest

from tests.faults.conftest import CALLS, Bench
from tests.support.broker import Broker
from tests.support.proxy import (
    ADD_OFFSETS_TO_TXN,
    END_TXN,
    PRODUCE,
    TXN_OFFSET_COMMIT,
    BlackHole,
    Held,
    LostReply,
    Proxy,
    Silence,
)

COUNT = 200


@pytest.fixture(scope="module")
def bootstrap_servers(own_broker: Broker) -> str:
    return own_broker.address


@pytest.fixture
def worker_servers(proxy: Proxy) -> str:
    return proxy.address


@pytest.mark.long
def test_all_that_workers_say_goes_through_it(bench: Bench, proxy: Proxy) -> None:
    bench.write(20)
    bench.run_to_the_end()
    before = proxy.requests
    bench.left()  # the oracles don't
    assert proxy.requests == before > 100


@pytest.mark.fault("EndTxn's reply is lost, then SIGKILL")
@pytest.mark.parametrize(
    "broken", [True, pytest.param(False, marks=pytest.mark.long)], ids=["broken", "silent"]
)
def test_the_reply_to_a_commit_is_lost_and_the_worker_killed(
    bench: Bench, proxy: Proxy, broken: bool
) -> None:
    fault = LostReply(END_TXN, 4, broken=broken)
    proxy.faults.append(fault)
    bench.write(COUNT)
    worker = bench.workers.start("all")
    assert fault.struck.wait(180)
    bench.kill(worker)
    bench.run_to_the_end()


@pytest.mark.long
@pytest.mark.fault("EndTxn's reply is lost")
@pytest.mark.parametrize("broken", [True, False], ids=["broken", "silent"])
def test_the_reply_to_a_commit_is_lost_and_the_worker_goes_on(
    bench: Bench, proxy: Proxy, broken: bool
) -> None:
    fault = LostReply(END_TXN, 4, broken=broken)
    proxy.faults.append(fault)
    bench.write(COUNT)
    worker = bench.workers.start("all")
    assert fault.struck.wait(180)
    bench.struck(0)
    bench.finish([worker])


@pytest.mark.long
@pytest.mark.fault("EndTxn arrives after its client gave up")
def test_a_commit_that_is_late_ends_no_later_transaction(bench: Bench, proxy: Proxy) -> None:
    late, later = Held(END_TXN, 4), BlackHole(TXN_OFFSET_COMMIT)
    proxy.faults.append(late)
    bench.write(COUNT)
    worker = bench.workers.start("ask")
    assert late.struck.wait(180)
    bench.struck(0)
    # it goes on, and has written into a later transaction that has no offsets yet
    proxy.faults.append(later)
    assert later.struck.wait(180)
    bench.wait_until(bench.has_open_transaction)
    late.released.set()
    assert late.arrived.wait(180)
    threading.Event().wait(1)  # for the broker to act on it; it says nothing when it refuses
    bench.kill(worker)
    bench.run_to_the_end()


@pytest.mark.long
@pytest.mark.fault("EndTxn arrives after its client's successor has begun")
def test_a_commit_of_a_killed_worker_that_is_late(bench: Bench, proxy: Proxy) -> None:
    fault = Held(END_TXN, 4)
    proxy.faults.append(fault)
    bench.write(COUNT)
    worker = bench.workers.start("ask")
    assert fault.struck.wait(180)
    bench.kill(worker)
    successor = bench.workers.start("all")
    before = bench.committed_outputs("answers")
    bench.await_outputs("answers", before + 20)
    fault.released.set()
    bench.finish([successor])


@pytest.mark.fault("black hole while offsets are sent")
@pytest.mark.parametrize(
    "api_key",
    [ADD_OFFSETS_TO_TXN, pytest.param(TXN_OFFSET_COMMIT, marks=pytest.mark.long)],
    ids=["AddOffsetsToTxn", "TxnOffsetCommit"],
)
def test_the_offsets_go_into_a_black_hole(bench: Bench, proxy: Proxy, api_key: int) -> None:
    fault = BlackHole(api_key, 2)
    bench.write(COUNT)
    worker = bench.workers.start("all")
    bench.await_outputs("answers", 30)
    proxy.faults.append(fault)
    assert fault.struck.wait(180)
    bench.struck(0)
    bench.finish([worker])


@pytest.mark.long
@pytest.mark.fault("answers that can't be saved while their partitions are revoked")
def test_a_revocation_waits_for_answers_to_be_saved(bench: Bench, proxy: Proxy) -> None:
    answers = threading.Event()
    bench.model.before = lambda: answers.wait(120)
    bench.write(100)
    first = bench.workers.start("ask")
    bench.wait_until(lambda: bench.model.requests == CALLS)
    # until its client gives these connections up, for longer than calls under way are waited for
    silence = Silence(PRODUCE, proxy.links)
    second = bench.workers.start("ask")
    bench.await_members("ask", 2, sharing=False)
    proxy.faults.append(silence)
    answers.set()
    bench.struck(0)
    bench.finish([first, second, bench.workers.start("shout", "pair")])


@pytest.mark.long
def test_latency(bench: Bench, proxy: Proxy) -> None:
    proxy.latency = 0.1
    bench.write(COUNT)
    bench.finish([bench.workers.start("all")])


@pytest.mark.long
def test_replies_in_tiny_pieces(bench: Bench, proxy: Proxy) -> None:
    proxy.slicing = True
    bench.write(COUNT)
    bench.finish([bench.workers.start("all"), bench.workers.start("all")])


@pytest.mark.long
def test_connections_break_at_random(bench: Bench, proxy: Proxy) -> None:
    bench.write(300)
    workers = [bench.workers.start("all"), bench.workers.start("all")]
    bench.await_outputs("answers", 30)
    pause = threading.Event()
    for _ in range(30):
        proxy.reset_some(0.4)
        bench.struck(0)
        pause.wait(0.3)
    bench.finish(workers)


@pytest.mark.long
def test_a_worker_starts_while_connections_break(bench: Bench, proxy: Proxy) -> None:
    bench.write(20)
    worker = bench.workers.start("all")
    pause = threading.Event()
    while not bench.committed_outputs("answers"):
        assert worker.poll() is None, bench.workers.log()
        for _ in range(10):
            proxy.reset_some(0.3)
            pause.wait(0.2)
        pause.wait(1)
    bench.finish([worker])

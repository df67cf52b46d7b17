"""What a join brings together, what waits, and what is restored."""

import random
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import codec_for
from schemas.message import Headers, Received, first_headers, inputs_of, origin_of
from schemas.records import Original
from schemas.topics import Topic
from streams import MemoryDriver, Pipeline, join
from streams.processing import JoinState, from_original
from tests.support.shop import (
    Label,
    Order,
    Parcel,
    by_key,
    diamond,
    key_of_partition,
    labels,
    orders,
    pair,
    parcels,
    run,
    shop,
)


def test_a_join_on_key_brings_equal_keys_together_first_with_first() -> None:
    driver = MemoryDriver(by_key())
    for text in "abc":
        driver.write(orders, Order("k", text))
    for text in "xyz":
        driver.write(labels, Label(text), "k")
    driver.run()
    assert driver.records(parcels) == [Parcel("k", "a+x"), Parcel("k", "b+y"), Parcel("k", "c+z")]
    assert driver.waiting("pair") == []


def test_a_join_on_key_keeps_keys_apart() -> None:
    driver = MemoryDriver(by_key())
    driver.write(orders, Order("1", "a"))
    driver.write(labels, Label("x"), "2")
    driver.run()
    assert driver.records(parcels) == []
    assert {r.key for r in driver.waiting("pair")} == {b"1", b"2"}


def test_a_joined_record_names_all_its_inputs() -> None:
    driver = MemoryDriver(by_key())
    driver.write(orders, Order("1", "a"))
    driver.write(labels, Label("x"), "1")
    driver.run()
    (made,) = driver.received(parcels)
    sources = [*driver.received(orders), *driver.received(labels)]
    assert inputs_of(made.headers) == [s.position for s in sources]


def test_a_join_goes_on_where_it_stopped() -> None:
    driver = MemoryDriver(by_key())
    driver.write(orders, Order("1", "a"))
    driver.run()
    assert len(driver.waiting("pair")) == 1
    driver.write(labels, Label("x"), "1")
    driver.run()
    assert driver.records(parcels) == [Parcel("1", "a+x")]
    assert driver.waiting("pair") == []


def test_a_half_that_waits_is_put_into_the_changelog_and_deleted_when_it_is_used() -> None:
    pipeline = by_key()
    state = pipeline.stages["pair"].state
    assert state is not None
    driver = MemoryDriver(pipeline)
    driver.write(orders, Order("1", "a"))
    driver.run()
    (source,) = driver.received(orders)
    (put,) = driver.received(state)
    assert put.key == f"{orders.name}:{source.offset}".encode()
    assert put.partition == source.partition
    assert from_original(codec_for(Original).decode(put.value)) == source
    assert inputs_of(put.headers) == [source.position]
    driver.write(labels, Label("x"), "1")
    driver.run()
    _, delete = driver.received(state)
    assert (delete.key, delete.value, delete.partition) == (put.key, None, put.partition)


def test_a_join_s_dead_letter_keeps_bytes_and_headers_of_all_inputs() -> None:
    async def fail(order: Order, label: Label) -> Parcel:
        raise ValueError("no")

    pipeline = shop(fail, join(orders, labels), parcels)
    driver = MemoryDriver(pipeline)
    driver.write_bytes(
        orders.name, b"1", codec_for(Order).encode(Order("1", "a")), first_headers("1", "s", "t")
    )
    driver.write_bytes(labels.name, b"1", codec_for(Label).encode(Label("x")), [("own", b"\xff")])
    driver.run()
    sources = [*driver.received(orders), *driver.received(labels)]
    (letter,), (dead,) = driver.dead_letters, driver.received(pipeline.dead_letters)
    assert [from_original(i) for i in letter.inputs] == sources
    assert inputs_of(dead.headers) == [s.position for s in sources]
    assert driver.waiting("fail") == []


def test_an_undecodable_half_is_a_dead_letter_and_joins_nothing() -> None:
    driver = MemoryDriver(by_key())
    driver.write_bytes(orders.name, b"1", b"junk")
    driver.write(labels, Label("x"), "1")
    driver.run()
    assert len(driver.dead_letters) == 1
    assert [r.topic for r in driver.waiting("pair")] == [labels.name]


def test_a_keyless_foreign_record_gets_the_key_from_its_field() -> None:
    driver = MemoryDriver(by_key())
    partition_of_no_key = zlib.crc32(b"") % 4
    key = key_of_partition(partition_of_no_key)
    driver.write_bytes(orders.name, None, codec_for(Order).encode(Order(key, "a")))
    driver.write(labels, Label("x"), key)
    driver.run()
    assert driver.records(parcels) == [Parcel(key, "a+x")]


def test_a_join_on_origin_brings_what_came_of_one_record_together() -> None:
    # one key for all: joining on the key could mix them
    driver = run(diamond(), *(Order("same", str(n)) for n in range(10)))
    assert driver.records(parcels) == [Parcel("same", f"{n}+{n}") for n in range(10)]
    assert driver.waiting("pair") == []


def test_a_join_on_origin_waits_for_a_branch_that_died() -> None:
    async def picky(order: Order) -> Label:
        if order.text == "bad":
            raise ValueError("no")
        return Label(order.text)

    pipeline = Pipeline("shop")
    pipeline.stage(reads=orders, writes=labels)(picky)
    pipeline.stage(reads=join(orders, labels, on="origin"), writes=parcels)(pair)
    driver = run(pipeline, Order("k", "bad"), Order("k", "good"))
    assert driver.records(parcels) == [Parcel("k", "good+good")]
    assert [origin_of(r) for r in driver.waiting("pair")] == [
        str(driver.received(orders)[0].position)
    ]


def test_a_join_of_three_takes_one_of_each() -> None:
    more = Topic("shop.more", Label)

    async def three(order: Order, one: Label, two: Label) -> Parcel:
        return Parcel(order.id, f"{order.text}{one.text}{two.text}")

    for arrival in ("olm", "oml", "lom", "lmo", "mol", "mlo"):
        driver = MemoryDriver(shop(three, join(orders, labels, more), parcels))
        for which in arrival:
            if which == "o":
                driver.write(orders, Order("k", "o"))
            else:
                driver.write(labels if which == "l" else more, Label(which), "k")
            driver.run()
        assert driver.records(parcels) == [Parcel("k", "olm")]
        assert driver.waiting("three") == []


# --- state that is restored ------------------------------------------------------------------


def half(topic: str, offset: int, key: int, origin: int) -> Received:
    cls = {orders.name: Order(str(key)), labels.name: Label(str(offset))}[topic]
    headers: Headers = [("ce_origin", f"in:0:{origin}".encode())]
    return Received(topic, 0, offset, 0, b"%d" % key, codec_for(type(cls)).encode(cls), headers)


def compacted(changes: Sequence[Any]) -> list[bytes]:
    """What compaction leaves of a changelog, in no particular order."""
    last: dict[bytes, bytes | None] = {}
    for change in changes:
        last[change.key] = change.value
    left = [value for value in last.values() if value is not None]
    random.Random(0).shuffle(left)
    return left


def arrive(state: JoinState, received: Received, changes: list[Any]) -> list[str]:
    """Which halves this one completes a set with."""
    work = state.add(received)
    changes += work.kept
    assert (work.outgoing is None) == bool(work.inputs)
    return [str(i.position) for i in work.inputs]


ARRIVALS = st.lists(
    st.tuples(st.sampled_from([orders.name, labels.name]), st.integers(0, 2), st.integers(0, 2)),
    max_size=30,
)


@pytest.mark.parametrize("on", ["key", "origin"])
@given(arrivals=ARRIVALS, restarts=st.sets(st.integers(0, 30)))
def test_a_restored_state_does_what_it_would_have_done(
    on: Any, arrivals: list[tuple[str, int, int]], restarts: set[int]
) -> None:
    stage = shop(pair, join(orders, labels, on=on), parcels).stages["pair"]
    offsets = {orders.name: 0, labels.name: 0}
    steady, restarted = JoinState(stage), JoinState(stage)
    changes: list[Any] = []
    for number, (topic, key, origin) in enumerate(arrivals):
        if number in restarts:
            restarted = JoinState(stage)
            restarted.restore(compacted(changes))
        received = half(topic, offsets[topic], key, origin)
        offsets[topic] += 1
        assert arrive(restarted, received, changes) == arrive(steady, received, [])
    waiting = sorted(str(r.position) for r in steady.waiting())
    assert sorted(str(r.position) for r in restarted.waiting()) == waiting
    assert sorted(map(stored_at, compacted(changes))) == waiting


def stored_at(value: bytes) -> str:
    return str(from_original(codec_for(Original).decode(value)).position)


@given(arrivals=ARRIVALS)
def test_every_half_is_used_once_or_waits(arrivals: list[tuple[str, int, int]]) -> None:
    stage = by_key().stages["pair"]
    state = JoinState(stage)
    used: list[str] = []
    everything = [half(topic, n, key, origin) for n, (topic, key, origin) in enumerate(arrivals)]
    for received in everything:
        used += arrive(state, received, [])
    waiting = [str(r.position) for r in state.waiting()]
    assert sorted(used + waiting) == sorted(str(r.position) for r in everything)
    for key in {r.key for r in everything}:
        assert len({r.topic for r in state.waiting() if r.key == key}) <= 1

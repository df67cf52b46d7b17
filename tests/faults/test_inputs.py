"""Inputs that no stage can read, that are too large, or that mean harm; and writers that hang."""

import random
from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from producers.transactional import TransactionalProducer
from schemas.codec import codec_for
from schemas.message import Outgoing
from tests.faults.conftest import Bench
from tests.support.config import configure, unique

HOSTILE = [
    "{{ 7 * 7 }} {% raw %} {{ text.__class__.__mro__ }}",
    "\x00\x01\x1b[2J\x7f",
    "\u202egnp.exe \u200b\ufeff\u2028\u2029 end",
    '"}, {"text": "injected"}, {"x": "',
    "a\u0300" * 60,
    "🏳️‍🌈 𝕬𝖛𝖗𝖔 \U0010fffd",
    "%s %n ${jndi:ldap://localhost/a} ' OR 1=1; --",
]


def _unreadable(bench: Bench) -> dict[str, bytes | None]:
    valid = codec_for(bench.module.Line).encode(bench.module.Line("cut off"))
    return {
        "nothing": b"",
        "a tombstone": None,
        "noise": random.Random(1).randbytes(300),
        "text": b'{"text": "line"}',
        "an unknown schema": valid[:2] + bytes(8) + valid[10:],
        "another framing": b"\x00\x00\x00\x00\x07" + valid[10:],
        "a length beyond the end": valid[:10] + b"\xff\xff\xff\xff\x0f",
        "a negative length": valid[:10] + b"\x03",
        "bytes that are no text": valid[:10] + b"\x04\xff\xfe",
    }


def _append(bench: Bench, values: list[bytes | None]) -> None:
    producer = TransactionalProducer(bench.config, unique("writer"))
    producer.open()
    producer.commit([Outgoing(bench.module.lines.name, b"k1", v, []) for v in values])


@pytest.mark.fault("undecodable Avro, unknown schema")
def test_what_cannot_be_read_becomes_a_dead_letter(bench: Bench) -> None:
    bench.write(20)
    unreadable = list(_unreadable(bench).values())
    _append(bench, unreadable)
    bench.write(20)
    worker = bench.workers.start("all")
    bench.finish([worker])
    # two stages read the lines, and each has its letters, in order and with the bytes as they came
    for stage in ("ask", "shout"):
        letters = [x["inputs"][0] for x in bench.dead_letters() if x["stage"] == stage]
        assert [i["value"] for i in sorted(letters, key=lambda i: i["offset"])] == unreadable
    assert len(bench.dead_letters()) == 2 * len(unreadable)


@pytest.mark.fault("oversized record")
def test_what_is_too_large_becomes_a_dead_letter(bench: Bench) -> None:
    configure(bench.config, bench.module.shouts.name, "max.message.bytes", "100000")
    bench.write(20)
    large = codec_for(bench.module.Line).encode(
        bench.module.Line(random.Random(1).randbytes(150_000).hex())
    )
    _append(bench, [large])
    bench.in_flight += 2  # its answer repeats it, and so fits in none of three replies
    bench.write(20)
    bench.finish([bench.workers.start("all")])
    letters = bench.dead_letters()
    assert sorted(x["stage"] for x in letters) == ["ask", "shout"]
    assert all(x["inputs"][0]["value"] == large for x in letters)


@pytest.mark.fault("hostile text")
def test_hostile_text_is_text(bench: Bench) -> None:
    bench.texts["k1"] = list(HOSTILE)
    encode = codec_for(bench.module.Line).encode
    _append(bench, [encode(bench.module.Line(text)) for text in HOSTILE])
    bench.write(20)
    bench.finish([bench.workers.start("all")])
    assert sorted(bench.model.bills) == sorted(t for ts in bench.texts.values() for t in ts)
    assert not bench.dead_letters()


def _abandon(_: Producer) -> None:
    """The broker ends it when its timeout is up."""


@pytest.mark.fault("another producer's hanging transaction on the input")
@pytest.mark.parametrize(
    ("end", "committed"),
    [
        pytest.param(lambda p: p.commit_transaction(30), True, marks=pytest.mark.long),
        (lambda p: p.abort_transaction(30), False),
        pytest.param(_abandon, False, marks=pytest.mark.long),
    ],
    ids=["committed at last", "aborted", "timed out"],
)
def test_a_transaction_hangs_on_the_input(
    bench: Bench, end: Callable[[Producer], None], committed: bool
) -> None:
    bench.write(40)
    foreign = Producer(
        bench.config
        | {"transactional.id": unique("foreign"), "transaction.timeout.ms": 60_000}
        | {"partitioner": "murmur2_random"}  # the same keys go to the same partitions
    )
    foreign.init_transactions(30)
    foreign.begin_transaction()
    # its lines stand in every partition
    kept = {key: list(texts) for key, texts in bench.texts.items()}
    for line in bench.lines(14):
        foreign.produce(line.topic, line.value, line.key)
    foreign.flush(30)
    if not committed:
        bench.texts = kept
        bench.numbered = 54
    bench.write(40)
    worker = bench.workers.start("all")
    bench.await_outputs("pairs", 40)
    assert len(bench.outputs("answers")) == 40  # nothing is read past the open transaction
    if end is _abandon:
        bench.wait_until(lambda: "another producer has been open" in bench.workers.log())
    bench.struck(0)
    end(foreign)
    bench.finish([worker])

"""Creates the topics a pipeline needs, and reads what its consumer groups have committed."""

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
)

from consumers.reader import DEFAULTS, Partition, partitions_of, unseen
from schemas.errors import Refused, RetryLater, Stop, UsageError
from streams.stage import AnyTopic, Stage

_TIMEOUT = 30.0
_PASSING = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._WAIT_COORD,
)
_INTERNAL = ("__consumer_offsets", "__transaction_state")
_MIN_IN_SYNC = "min.insync.replicas"


def create_topics(
    config: Mapping[str, Any], topics: Collection[AnyTopic], replication: int | None = None
) -> list[str]:
    """Creates those that are missing; gives their names. Existing topics stay as they are, and so do
    those that this client may know nothing of.

    Args:
        config: librdkafka settings.
        topics: what is needed.
        replication: replicas of each partition, of which two have to be in sync for a write where
            there are three or more; None leaves both to the broker's defaults.

    Raises:
        RetryLater: no broker answers.
        Stop: the broker refuses.
    """
    admin = AdminClient(dict(config))
    missing = _absent(admin, {t.name for t in topics})
    wanted = [_new(t, replication) for t in topics if t.name in missing]
    if not wanted:
        return []
    created = []
    for name, future in admin.create_topics(wanted, operation_timeout=_TIMEOUT).items():
        try:
            future.result()
            created.append(name)
        except KafkaException as failure:
            error: KafkaError = failure.args[0]
            if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise Stop(
                    f"Kafka refuses CREATE on topic {name}: let someone run `pressroom topics create` "
                    "who may"
                ) from failure
            if error.code() == KafkaError._TRANSPORT:
                raise RetryLater(f"Kafka does not answer: {error.str()}") from failure
            if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise Stop(f"can't create topic {name}: {error.str()}") from failure
    _await_topics(admin, {t.topic for t in wanted})
    return created


def _absent(admin: AdminClient, names: set[str]) -> set[str]:
    try:
        absent, _ = unseen(admin, names - admin.list_topics(timeout=_TIMEOUT).topics.keys())
    except KafkaException as failure:
        raise RetryLater(f"Kafka does not answer: {failure.args[0].str()}") from failure
    return absent


def _await_topics(admin: AdminClient, names: set[str]) -> None:
    """Until the brokers have heard of what the controller has created."""
    until = time.monotonic() + _TIMEOUT
    while time.monotonic() < until:
        if not _absent(admin, names):
            return
        time.sleep(0.05)
    raise RetryLater(f"Kafka has created {', '.join(sorted(names))}, but knows nothing of it yet")


def _new(topic: AnyTopic, replication: int | None) -> NewTopic:
    if replication is None:
        return NewTopic(topic.name, num_partitions=topic.partitions, config=topic.config)
    in_sync = {_MIN_IN_SYNC: "2" if replication > 2 else "1"}
    return NewTopic(topic.name, topic.partitions, replication, config=topic.config | in_sync)


def durability_warnings(config: Mapping[str, Any], topics: Collection[AnyTopic]) -> list[str]:
    """What the loss of one broker would lose or stop, one line for each kind; Kafka's own topics too.

    A cluster of one broker gets none: it is lost as a whole.

    Raises:
        RetryLater: no broker answers.
    """
    admin = AdminClient(dict(config))
    try:
        known = admin.list_topics(timeout=_TIMEOUT)
    except KafkaException as failure:
        raise RetryLater(f"Kafka does not answer: {failure.args[0].str()}") from failure
    names = [name for name in (*(t.name for t in topics), *_INTERNAL) if name in known.topics]
    if len(known.brokers) < 2 or not names:
        return []
    in_sync = _min_in_sync(admin, names)
    found: dict[str, list[str]] = {}
    for name in names:
        replicas = min(len(p.replicas) for p in known.topics[name].partitions.values())
        if weakness := _weakness(replicas, in_sync.get(name)):
            found.setdefault(weakness, []).append(name)
    return [f"{_listed(weak)}: {weakness}" for weakness, weak in found.items()]


def _weakness(replicas: int, in_sync: int | None) -> str | None:
    if replicas < 2:
        return (
            "one replica; a broker that is away stops them, and its disk's loss loses them. "
            "Reassign them to three brokers (for new topics: PRESSROOM_REPLICATION=3)"
        )
    if in_sync is not None and in_sync >= replicas:
        return f"{_MIN_IN_SYNC} is {in_sync} of {replicas}; a broker that is away stops them"
    if in_sync == 1:
        return f"{_MIN_IN_SYNC} is 1; a broker's loss may lose what it alone had. Set it to 2"
    return None


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _min_in_sync(admin: AdminClient, names: Collection[str]) -> dict[str, int]:
    """For each topic whose settings this client may see, its ``min.insync.replicas``."""
    asked = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
    found = {}
    for resource, future in admin.describe_configs(asked, request_timeout=_TIMEOUT).items():
        with suppress(KafkaException):
            found[str(resource.name)] = int(future.result()[_MIN_IN_SYNC].value)
    return found


def check_topics(config: Mapping[str, Any], stage: Stage) -> dict[str, int]:
    """The real numbers of partitions of a stage's topics.

    Raises:
        UsageError: a topic is missing, or joined topics have different numbers.
    """
    topics = [t.name for t in (*stage.reads, *stage.writes)]
    topics += [t.name for t in (stage.state, stage.ledger) if t is not None]
    counts = partitions_of(config, topics)
    joined = [t.name for t in stage.reads] + [stage.state.name] if stage.state else []
    if len({counts[name] for name in joined}) > 1:
        detail = ", ".join(f"{name} has {counts[name]}" for name in joined)
        raise UsageError(f"stage {stage.name} joins topics with unequal partitions: {detail}")
    inputs = max(counts[t.name] for t in stage.reads)
    if stage.ledger is not None and counts[stage.ledger.name] < inputs:
        raise UsageError(
            f"{stage.ledger.name} has {counts[stage.ledger.name]} partitions and needs {inputs}, "
            "as many as the stage's input"
        )
    return counts


def committed_offsets(config: Mapping[str, Any], stage: Stage) -> dict[Partition, int]:
    """The next offset each partition of a stage's topics would be read from; 0 where none is.

    Raises:
        RetryLater: no broker answers.
        Refused: the broker does.
    """
    counts = partitions_of(config, [t.name for t in stage.reads])
    found = {(t, p): 0 for t, count in counts.items() for p in range(count)}
    # a consumer that never joins: asked by an admin client, librdkafka ends the whole process when the
    # group's coordinator goes away meanwhile (its issue 4605)
    client = Consumer(DEFAULTS | dict(config) | {"group.id": stage.group})
    try:
        answer = _committed(client, stage.group, [TopicPartition(*at) for at in found])
    finally:
        client.close()
    return found | {(tp.topic, tp.partition): tp.offset for tp in answer if tp.offset >= 0}


def _committed(
    client: Consumer, group: str, partitions: list[TopicPartition]
) -> list[TopicPartition]:
    until = time.monotonic() + _TIMEOUT
    while True:
        try:
            return client.committed(partitions, _TIMEOUT)
        except KafkaException as failure:
            error: KafkaError = failure.args[0]
            if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                raise Refused(f"Kafka refuses DESCRIBE on group {group}") from failure
            # a broker that was just started does not coordinate yet
            if error.code() not in _PASSING or time.monotonic() > until:
                raise RetryLater(f"can't read offsets: {error.str()}") from failure
            time.sleep(0.1)

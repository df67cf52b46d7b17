"""Creates the topics a pipeline needs, and reads what its consumer groups have committed."""

from collections.abc import Collection, Mapping
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from consumers.reader import Partition, partitions_of, unseen
from schemas.errors import Refused, RetryLater, Stop, UsageError
from streams.stage import AnyTopic, Stage

_TIMEOUT = 30.0


def create_topics(config: Mapping[str, Any], topics: Collection[AnyTopic]) -> list[str]:
    """Creates those that are missing; gives their names. Existing topics stay as they are, and so do
    those that this client may know nothing of.

    Raises:
        RetryLater: no broker answers.
        Stop: the broker refuses.
    """
    admin = AdminClient(dict(config))
    try:
        existing = admin.list_topics(timeout=_TIMEOUT).topics
        missing, _ = unseen(admin, {t.name for t in topics} - existing.keys())
    except KafkaException as failure:
        raise RetryLater(f"Kafka does not answer: {failure.args[0].str()}") from failure
    wanted = [
        NewTopic(t.name, num_partitions=t.partitions, config=t.config)
        for t in topics
        if t.name in missing
    ]
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
            if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise Stop(f"can't create topic {name}: {error.str()}") from failure
    return created


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
    request = [ConsumerGroupTopicPartitions(stage.group)]
    admin = AdminClient(dict(config))  # a client that is let go of answers no more
    futures = admin.list_consumer_group_offsets(
        request, require_stable=True, request_timeout=_TIMEOUT
    )
    try:
        answer = futures[stage.group].result()
    except KafkaException as failure:
        error = failure.args[0]
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise Refused(f"Kafka refuses DESCRIBE on group {stage.group}") from failure
        raise RetryLater(f"can't read offsets: {error.str()}") from failure
    for tp in answer.topic_partitions or ():
        if tp.offset >= 0 and (tp.topic, tp.partition) in found:
            found[tp.topic, tp.partition] = tp.offset
    return found

"""The least rights that each part of a pipeline needs on a Kafka with access control.

READ and WRITE imply DESCRIBE, so that is listed only where nothing else is. Idempotent writing needs no
right of its own since Kafka 3.0.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from schemas.errors import RetryLater, Stop, UsageError
from schemas.topics import dead_letters_of, filtered_of
from streams.pipeline import Pipeline
from streams.stage import Stage

_TIMEOUT = 30.0
_REFUSED = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)
_KINDS = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
}

Operation = Literal["READ", "WRITE", "DESCRIBE", "CREATE"]
Kind = Literal["topic", "group", "transactional-id"]


@dataclass(frozen=True, slots=True)
class Right:
    """One operation on one resource; ``prefixed``: on all whose names begin with ``name``."""

    operation: Operation
    kind: Kind
    name: str
    prefixed: bool = False

    def __str__(self) -> str:
        return f"{self.operation} on {self.kind} {self.name}{'*' if self.prefixed else ''}"

    def options(self) -> str:
        """As options of Kafka's own ``kafka-acls.sh``."""
        pattern = " --resource-pattern-type prefixed" if self.prefixed else ""
        return f"--operation {self.operation} --{self.kind} {self.name}{pattern}"

    def binding(self, principal: str) -> AclBinding:
        """As the admin client takes it.

        Args:
            principal: who gets the right, like ``User:ann``; from any host.
        """
        pattern = ResourcePatternType.PREFIXED if self.prefixed else ResourcePatternType.LITERAL
        return AclBinding(
            _KINDS[self.kind], self.name, pattern, principal, "*",
            AclOperation[self.operation], AclPermissionType.ALLOW,
        )  # fmt: skip


def rights_of_stage(stage: Stage) -> list[Right]:
    """What a worker of a stage needs."""
    read = [t.name for t in stage.reads]
    evidence = (dead_letters_of(stage.pipeline), filtered_of(stage.pipeline))
    written = [t.name for t in (*stage.writes, *evidence)]
    for kept in (stage.state, stage.ledger):
        if kept is not None:
            read.append(kept.name)
            written.append(kept.name)
    return [
        *_on_topics("READ", read),
        *_on_topics("WRITE", written),
        Right("READ", "group", stage.group),
        Right("WRITE", "transactional-id", f"{stage.group}.", prefixed=True),
    ]


def rights_of_ingest(pipeline: Pipeline, topic: str) -> list[Right]:
    """What ``pressroom ingest`` needs to write into a topic."""
    topics = [topic, pipeline.dead_letters.name, pipeline.sources.name]
    return [
        *_on_topics("READ", topics),
        *_on_topics("WRITE", topics),
        Right("WRITE", "transactional-id", f"{pipeline.name}.ingest.{topic}"),
    ]


def rights_of_sink(pipeline: Pipeline, topic: str) -> list[Right]:
    """What ``pressroom sink`` needs to write a topic into files."""
    groups = Right("READ", "group", f"{pipeline.name}.markdown.", prefixed=True)
    return [*_on_topics("READ", [topic]), groups]


def rights_of_audit(pipeline: Pipeline) -> list[Right]:
    """What ``pressroom audit`` needs."""
    groups = [Right("DESCRIBE", "group", s.group) for s in pipeline.stages.values()]
    return [*_on_topics("READ", [t.name for t in pipeline.topics]), *groups]


def rights_by_part(pipeline: Pipeline) -> dict[str, list[Right]]:
    """The rights of every stage and of every command that uses Kafka, by name."""
    names = [t.name for t in pipeline.topics]
    found = {s.name: rights_of_stage(s) for s in pipeline.stages.values()}
    commands = {
        "topics": [*_on_topics("CREATE", names), *_on_topics("DESCRIBE", names)],
        "ingest": [r for t in _documents(pipeline) for r in rights_of_ingest(pipeline, t)],
        "sink": [r for t in _articles(pipeline) for r in rights_of_sink(pipeline, t)],
        "tail": _on_topics("READ", names),
        "audit": rights_of_audit(pipeline),
    }
    for name, rights in commands.items():
        found[name] = list(dict.fromkeys([*found.get(name, ()), *rights]))
    return {name: rights for name, rights in found.items() if rights}


def _on_topics(operation: Operation, names: Iterable[str]) -> list[Right]:
    return [Right(operation, "topic", name) for name in names]


def _documents(pipeline: Pipeline) -> list[str]:
    written = {t.name for s in pipeline.stages.values() for t in s.writes}
    found = [t for t in pipeline.data_topics if t.record.__name__ == "Document"]
    return [t.name for t in found if t.name not in written]


def _articles(pipeline: Pipeline) -> list[str]:
    return [t.name for t in pipeline.data_topics if t.record.__name__ == "Article"]


def grant(config: Mapping[str, Any], rights: Mapping[str, Collection[Right]]) -> None:
    """Gives rights, by principal. What is there already stays.

    Raises:
        Stop: the broker refuses.
    """
    admin = AdminClient(dict(config))
    # parts that share a principal share rights, and none may be given twice
    bindings = [right.binding(who) for who, some in rights.items() for right in dict.fromkeys(some)]
    for future in admin.create_acls(bindings, request_timeout=_TIMEOUT).values():
        try:
            future.result()
        except KafkaException as failure:
            said = failure.args[0].str()
            raise Stop(f"can't create ACLs: {said}; it takes ALTER on the cluster") from failure


def check_rights(config: Mapping[str, Any], rights: Iterable[Right]) -> None:
    """Asks Kafka whether this client has rights on topics and groups.

    Topics that don't exist, and brokers that don't tell, are passed over.

    Raises:
        UsageError: some are missing; the message lists them.
        RetryLater: no broker answers.
    """
    wanted = [r for r in rights if r.kind != "transactional-id"]
    admin = AdminClient(dict(config))
    topics = list(dict.fromkeys(r.name for r in wanted if r.kind == "topic"))
    groups = list(dict.fromkeys(r.name for r in wanted if r.kind == "group" and not r.prefixed))
    given: dict[tuple[str, str], Collection[Any] | None] = {}
    if topics:
        answers = admin.describe_topics(
            TopicCollection(topics), include_authorized_operations=True, request_timeout=_TIMEOUT
        )
        given |= {("topic", name): _allowed(future) for name, future in answers.items()}
    if groups:
        answers = admin.describe_consumer_groups(
            groups, include_authorized_operations=True, request_timeout=_TIMEOUT
        )
        given |= {("group", name): _allowed(future) for name, future in answers.items()}
    missing = [r for r in wanted if not _is_given(r, given.get((r.kind, r.name)))]
    if missing:
        listed = ", ".join(map(str, missing))
        raise UsageError(
            f"Kafka refuses {listed}; `pressroom acls` lists the rights that are needed"
        )


def _is_given(right: Right, allowed: Collection[Any] | None) -> bool:
    return allowed is None or AclOperation[right.operation] in allowed


def _allowed(future: Any) -> Collection[Any] | None:
    """The operations that a resource allows; None when nobody knows."""
    try:
        found: Collection[Any] | None = future.result().authorized_operations
    except KafkaException as failure:
        error: KafkaError = failure.args[0]
        if error.code() in _REFUSED:
            return ()
        if error.code() in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT):
            raise RetryLater(f"Kafka does not answer: {error.str()}") from failure
        return None
    return found or None

"""Topics are there for whoever asks once they were created."""

from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from consumers.reader import partitions_of
from schemas.records import Document
from schemas.topics import Topic
from streams import admin
from tests.support.config import unique


class _Late(AdminClient):
    """Asks a broker that hears of new topics late: of none in its first few answers."""

    left = 0

    def list_topics(self, *args: Any, **kwargs: Any) -> Any:
        known = super().list_topics(*args, **kwargs)
        if _Late.left:
            _Late.left -= 1
            known.topics.clear()
        return known

    def describe_topics(self, *args: Any, **kwargs: Any) -> Any:
        if _Late.left:
            (topics,) = args
            names = type(topics)([unique("nowhere") for _ in topics.topic_names])
            answers = super().describe_topics(names, **kwargs)
            return dict(zip(topics.topic_names, answers.values(), strict=True))
        return super().describe_topics(*args, **kwargs)


def test_created_topics_are_waited_for(
    kafka: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = [Topic(unique("late"), Document, partitions=n) for n in (1, 3)]
    monkeypatch.setattr(admin, "AdminClient", _Late)
    monkeypatch.setattr(_Late, "left", 3)
    assert sorted(admin.create_topics(kafka, topics)) == sorted(t.name for t in topics)
    assert _Late.left == 0
    assert partitions_of(kafka, [t.name for t in topics]) == {t.name: t.partitions for t in topics}
    assert admin.create_topics(kafka, topics) == []

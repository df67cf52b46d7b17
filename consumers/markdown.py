"""A sink: articles as Markdown files with front matter, each exactly once.

A file's name and content depend on nothing but its record, a file appears whole or not at all, and
offsets are committed after the files are on disk. So a sink that is killed and started again writes
the same files once more instead of others.
"""

import json
import logging
import os
import re
import threading
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumers.reader import DEFAULTS, end_offsets, partitions_of, to_received
from schemas.codec import SINGLE_OBJECT, Framing
from schemas.errors import RecordRejected, RetryLater, Stop
from schemas.message import Call, Received, calls_in, record_id
from schemas.records import Article
from schemas.topics import Topic

_BATCH = 500
_PAUSE = 1.0

log = logging.getLogger(__name__)


class MarkdownSink:
    """Writes a topic of articles into a folder, as a member of a consumer group."""

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: Topic[Article],
        group: str,
        folder: Path,
        on_written: Callable[[Path], None] = lambda _: None,
        framing: Framing = SINGLE_OBJECT,
    ) -> None:
        """
        Args:
            config: librdkafka settings, at least ``bootstrap.servers``.
            topic: what to write.
            group: the consumer group; sinks of one group share the work.
            folder: where to; made if missing.
            on_written: told of every file.
            framing: how values are written.
        """
        self._config = DEFAULTS | dict(config) | {"group.id": group, "enable.auto.commit": False}
        self._topic, self._folder, self._on_written = topic, folder, on_written
        self._codec = framing.reader(Article)
        self._stopping = threading.Event()
        self._reached: dict[int, int] = {}
        self._assigned: set[int] | None = None

    def stop(self) -> None:
        """Makes :meth:`run` return soon. Safe from any thread and signal handler."""
        self._stopping.set()

    def run(self, until_end: bool = False) -> None:
        """Writes until :meth:`stop`.

        Args:
            until_end: stop by itself when what is there now has been written.

        Raises:
            RetryLater: no broker answers.
            Stop: the folder can't be written to, or the topic not be read.
        """
        self._prepare()
        consumer = Consumer(self._config)
        consumer.subscribe([self._topic.name], on_assign=self._on_assign, on_revoke=self._on_revoke)
        ends = self._ends() if until_end else {}
        try:
            while not (self._stopping.is_set() or (until_end and self._has_reached(ends))):
                first = consumer.poll(0.1)
                if first is not None:
                    self._write_batch(consumer, [first, *consumer.consume(_BATCH, 0)])
        finally:
            consumer.close()

    def _ends(self) -> dict[int, int]:
        name = self._topic.name
        count = partitions_of(self._config, [name])[name]
        ends = end_offsets(self._config, [(name, p) for p in range(count)])
        return {partition: end for (_, partition), end in ends.items()}

    def _has_reached(self, ends: dict[int, int]) -> bool:
        if self._assigned is None:
            return False
        return all(self._reached.get(p, -1) >= ends[p] for p in self._assigned)

    def _prepare(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for left in self._folder.glob(".*.part"):  # of a sink that was killed while writing
                left.unlink(missing_ok=True)
        except OSError as error:
            raise Stop(f"can't write to {self._folder}: {error.strerror}") from error

    def _write_batch(self, consumer: Consumer, messages: list[Message]) -> None:
        records = [to_received(m) for m in messages if self._is_record(m)]
        for number, received in enumerate(records):
            try:
                self._on_written(self._write(received))
            except RetryLater as error:
                log.warning("waiting: %s", error)
                self._read_again(consumer, records[number:])
                del records[number:]
                break
        if records:
            _commit(consumer, records)

    def _read_again(self, consumer: Consumer, records: list[Received]) -> None:
        """Goes back to records that can't be read until the registry answers again."""
        first = {r.partition: r.offset for r in reversed(records)}
        for partition, offset in first.items():
            self._reached.pop(partition, None)
            with suppress(KafkaException):  # it may have been revoked
                consumer.seek(TopicPartition(self._topic.name, partition, offset))
        self._stopping.wait(_PAUSE)

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() == KafkaError._PARTITION_EOF:
            self._reached[int(message.partition() or 0)] = int(message.offset() or 0)
        elif error.fatal() or not error.retriable():
            raise Stop(f"can't read {self._topic.name}: {error.str()}")
        return False

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned = (self._assigned or set()) | {tp.partition for tp in partitions}

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {tp.partition for tp in partitions}
        self._assigned = (self._assigned or set()) - gone

    def _write(self, received: Received) -> Path:
        try:
            article = self._codec.decode(received.value)
            name, content = file_name(article), to_markdown(article, calls_in(received.headers))
            encoded = content.encode("utf-8", "replace")
        except RecordRejected:
            # what can't be read is kept as it is, beside the rest
            name = f"{received.topic}-{received.partition}-{received.offset}.unreadable"
            encoded = received.value or b""
        return self._place(name, encoded)

    def _place(self, name: str, content: bytes) -> Path:
        path, part = self._folder / name, self._folder / f".{name}.{os.getpid()}.part"
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            raise Stop(f"can't write {path}: {error.strerror}") from error
        return path


def _commit(consumer: Consumer, records: list[Received]) -> None:
    last = {r.partition: r for r in records}
    offsets = [TopicPartition(r.topic, r.partition, r.offset + 1) for r in last.values()]
    try:
        consumer.commit(offsets=offsets, asynchronous=False)
    except KafkaException as failure:
        error: KafkaError = failure.args[0]
        # what is not committed is written again, to the same names with the same content
        if error.fatal():
            raise RetryLater(f"can't commit: {error.str()}") from failure


def file_name(article: Article) -> str:
    """``slug-of-the-title-1a2b3c4d5e6f.md``: made of the title and the id alone."""
    plain = unicodedata.normalize("NFKC", article.title).lower()
    slug = re.sub(r"[\W_]+", "-", plain[:200]).strip("-")
    short = slug.encode()[:80].decode("utf-8", "ignore").strip("-")
    plain_id = article.id if re.fullmatch(r"[0-9a-z-]{1,64}", article.id) else record_id(article.id)
    return f"{short or 'article'}-{plain_id}.md"


def to_markdown(article: Article, calls: list[Call]) -> str:
    """An article as Markdown with YAML front matter; strings are quoted as JSON, which YAML reads."""
    front = {
        "id": article.id,
        "source": article.source,
        "title": article.title,
        "topic": article.topic,
        "language": article.language,
        "quality": article.quality,
        "drafts": article.attempts,
        "summary": article.summary,
        "social_post": article.social_post,
        "entities": [f"{e.text} ({e.label}, {e.count})" for e in article.entities],
        "prompts": list(dict.fromkeys(c.prompt for c in calls)),
        "models": list(dict.fromkeys(c.model for c in calls)),
        "model_calls": sum(c.attempts for c in calls),
        "prompt_tokens": sum(c.prompt_tokens for c in calls),
        "completion_tokens": sum(c.completion_tokens for c in calls),
    }
    lines = [f"{name}: {_quoted(value)}" for name, value in front.items()]
    title = " ".join(article.title.split())
    return "\n".join(["---", *lines, "---", "", f"# {title}", "", article.body.strip(), ""])


# what JSON leaves as it is and YAML does not read, or reads as a line break
_NO_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def _quoted(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return _NO_YAML.sub(lambda match: f"\\u{ord(match.group()):04x}", text)

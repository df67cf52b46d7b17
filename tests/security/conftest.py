"""What the security tests share: one broker with an authorizer, and a stage that needs every right."""

import importlib
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from producers.transactional import TransactionalProducer
from schemas import encryption
from schemas.codec import codec_for
from schemas.message import Outgoing, first_headers, record_id
from schemas.record import schema_of
from schemas.topics import Topic
from streams.admin import create_topics
from streams.rights import Right, rights_of_stage
from streams.settings import load_settings
from tests.integration.conftest import Cli, wait_for
from tests.support import oracle
from tests.support.config import unique
from tests.support.model_server import ModelServer
from tests.support.secure import SecureBroker

NOTHING: Mapping[str, str] = {}


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """A broker with TLS, SASL and access control."""
    broker = SecureBroker(tmp_path_factory.mktemp("secure"))
    yield broker
    broker.close()


class Merging:
    """The stage ``merge`` under a user of its own, who has only the rights that it is given."""

    def __init__(
        self, broker: SecureBroker, cli: Cli, module: ModuleType, model: ModelServer
    ) -> None:
        self.broker, self.cli, self.module, self.model = broker, cli, module, model
        self.stage = module.pipeline.stages["merge"]
        self.user, self.password = unique("user"), unique("password")
        broker.add_user(self.user, self.password)
        self.principal = f"User:{self.user}"
        self.rights = rights_of_stage(self.stage)
        login = broker.login(self.user, self.password, session_timeout_ms="6000")
        cli.app = "tests.security.pipeline:pipeline"
        cli.environment |= {
            "PRESSROOM_BOOTSTRAP_SERVERS": broker.at(broker.ports.sasl_ssl),
            "PRESSROOM_PROPERTIES": str(login),
            "OPENAI_BASE_URL": model.url,
            "PRESSROOM_MODEL": unique("model"),
        }
        self.written: list[str] = []

    def topic(self, name: str) -> str:
        return self.cli.topic(name)

    def create_topics(self) -> None:
        create_topics(self.broker.config, self.module.pipeline.topics)

    def grant(self, *rights: Right) -> None:
        self.broker.grant(*(r.binding(self.principal) for r in rights))

    def write(self, *texts: str, encrypted: Mapping[str, str] = NOTHING) -> None:
        """Both halves of each, under a key of their own, whose outcomes then are expected."""
        self._write(texts, (self.module.lefts, self.module.rights), encrypted)
        self.written += texts

    def write_left(self, text: str, encrypted: Mapping[str, str] = NOTHING) -> None:
        """A half that waits for another."""
        self._write((text,), (self.module.lefts,), encrypted)

    def _write(
        self, texts: Sequence[str], topics: Iterable[Topic[Any]], encrypted: Mapping[str, str]
    ) -> None:
        settings = load_settings(
            **{n.removeprefix("PRESSROOM_").lower(): v for n, v in encrypted.items()}
        )
        settings.use_encryption()
        encode, first = codec_for(self.module.Half).encode, len(self.written)
        producer = TransactionalProducer(
            self.broker.config | {"compression.type": "none"}, unique("writer")
        )
        producer.open()
        producer.commit(
            Outgoing(
                topic.name,
                str(first + at).encode(),
                encode(self.module.Half(text)),
                first_headers(record_id(topic.name, str(first + at)), "test", topic.ce_type),
            )
            for topic in topics
            for at, text in enumerate(texts)
        )
        encryption.use(None)

    def start(self, *options: str) -> "subprocess.Popen[str]":
        return self.cli.start("worker", "merge", *options)

    def texts(self) -> list[str]:
        schema = schema_of(self.module.Whole)
        seen = oracle.read(self.broker.address, self.topic("wholes"), schema)
        return sorted(str(s.value["text"]) for s in seen)

    def await_texts(self, count: int) -> None:
        wait_for(lambda: len(self.texts()) >= count, f"{count} outputs")

    def audit(self) -> dict[str, object]:
        """The audit of this one stage, by someone who may read everything."""
        result = self.cli.run(
            "audit", "--json",
            PRESSROOM_BOOTSTRAP_SERVERS=self.broker.address, PRESSROOM_PROPERTIES="/dev/null",
        )  # fmt: skip
        assert result.json["ok"], result.json
        (stage,) = result.json["stages"]
        found: dict[str, object] = stage
        return found


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The command line, on the secure broker once its settings say so."""
    made = Cli(tmp_path, {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"})
    yield made
    made.close()


@pytest.fixture
def merging(
    secure: SecureBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Merging]:
    cli = Cli(tmp_path, {})
    monkeypatch.setenv("INTEGRATION_PIPELINE", cli.name)
    import tests.security.pipeline

    module = importlib.reload(tests.security.pipeline)
    model = ModelServer(lambda r: json.dumps({"text": r["messages"][-1]["content"].strip()}))
    yield Merging(secure, cli, module, model)
    cli.close()
    model.close()

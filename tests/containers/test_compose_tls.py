"""``docker-compose.tls.yml``: TLS, a user for each service, and no more rights than each needs."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka import Consumer, KafkaError

from schemas.record import schema_of
from schemas.topics import articles, documents
from tests.containers import images
from tests.containers.compose import TLS, Project, await_until, console, letters
from tests.containers.docker import docker
from tests.support.config import client_config, unique
from tests.support.model_server import ModelServer

pytestmark = pytest.mark.containers

_DOCUMENTS = 3
_SINK = "newsroom.sink"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def project(model: ModelServer, secrets: Path) -> Iterator[Project]:
    """All of it, made by what the page shows."""
    made = Project(model, TLS, PRESSROOM_TLS=str(secrets))
    try:
        made("build")
        for line in console(1):
            made.shell(line, images.ROOT)
        yield made
    finally:
        made.close()


def login(secrets: Path, user: str) -> dict[str, str]:
    """A user's settings, for a client on the host."""
    lines = (secrets / f"{user}.properties").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines)
    return given | {"ssl.ca.location": str(secrets / "ca.pem")}


def read(project: Project, settings: dict[str, str], topic: str, count: int) -> list[Any]:
    """So many of a topic's values, or the error that comes instead; nothing of Pressroom is used."""
    config: dict[str, Any] = client_config(project.servers) | settings
    group = {"group.id": unique("newsroom.markdown.stranger"), "auto.offset.reset": "earliest"}
    consumer = Consumer(config | group)
    consumer.subscribe([topic])
    found: list[Any] = []
    until = time.monotonic() + 60
    while len(found) < count and time.monotonic() < until:
        message = consumer.poll(1)
        if message is not None:
            found.append(message.error() or message.value())
    consumer.close()
    return found


def test_every_service_does_its_work_with_its_own_rights(
    project: Project, secrets: Path, tmp_path: Path
) -> None:
    folder = str(letters(tmp_path, 1, _DOCUMENTS))
    report = project.pressroom("ingest", "/documents", documents=folder)
    assert report["documents"] == _DOCUMENTS
    (sink,) = project.containers("sink")
    await_until(
        lambda: len(docker("exec", sink, "ls", "/articles").split()) == _DOCUMENTS, "the files"
    )
    audit = project.pressroom("audit")
    assert audit["ok"], audit
    assert not any(s["unread"] or s["waiting"] or s["dead"] for s in audit["stages"]), audit

    values = read(project, login(secrets, _SINK), articles.name, _DOCUMENTS)
    schema = fastavro.parse_schema(dict(schema_of(articles.record)))
    ids = {fastavro.schemaless_reader(io.BytesIO(v[5:]), schema, None)["id"] for v in values}  # type: ignore[index, call-overload]
    assert len(ids) == _DOCUMENTS


def test_a_user_has_no_rights_but_its_own(project: Project, secrets: Path) -> None:
    (error,) = read(project, login(secrets, _SINK), documents.name, 1)
    assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"security.protocol": "PLAINTEXT"}, "wants TLS (SSL, SASL_SSL)"),
        ({"sasl.password": "wrong"}, f"refuses the login of {_SINK!r}"),
    ],
    ids=["plaintext", "password"],
)
def test_a_wrong_way_in_is_told_in_one_line(
    project: Project, secrets: Path, tmp_path: Path, wrong: dict[str, str], said: str
) -> None:
    file = tmp_path / "client.properties"
    settings = login(secrets, _SINK) | wrong
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    environment = {
        "PRESSROOM_BOOTSTRAP_SERVERS": project.servers, "PRESSROOM_PROPERTIES": str(file),
        "PRESSROOM_HOME": str(tmp_path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", "tail", "articles"], cwd=images.ROOT,
        env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert said in line


def test_what_is_secret_stays_and_is_nobody_elses(project: Project, secrets: Path) -> None:
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    project.shell("make certificates", images.ROOT)
    assert {file.name: file.read_text() for file in secrets.iterdir()} == before
    assert secrets.stat().st_mode & 0o077 == 0
    (worker,) = project.containers("draft")
    assert docker("exec", worker, "ls", "/tls").split() == ["ca.pem", "client.properties"]

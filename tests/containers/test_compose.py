"""``docker-compose.yml``: three brokers, a registry, a service per stage; scaled and struck."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

from schemas.record import schema_of
from schemas.topics import articles
from streams.pipelines.newsroom import newsroom
from tests.containers import images
from tests.containers.compose import PLAIN, TLS, Project, await_until, console, letters
from tests.containers.docker import Unavailable, docker, run
from tests.integration.test_registry import Stranger
from tests.support import oracle
from tests.support.config import client_config
from tests.support.model_server import ModelServer

pytestmark = pytest.mark.containers

_DOCUMENTS = 12
"""In each of the three batches."""
_SERVICES = (*newsroom.stages, "sink", "registry", "model", "kafka-1", "kafka-2", "kafka-3")
_CALLS = 8
"""A worker's calls at once."""


@pytest.fixture(scope="module")
def project(model: ModelServer) -> Iterator[Project]:
    """All of it, up and healthy."""
    made = Project(model)
    try:
        made("build")
        made("up", "--detach", "--no-build")
        for service in _SERVICES:
            await_until(lambda s=service: made.healthy(s), f"{service} to be healthy")  # type: ignore[misc]
        yield made
    finally:
        made.close()


def ingested(project: Project, folder: str) -> int:
    """How many documents of a folder an ingestion wrote; 0 when it could not begin."""
    report = project.pressroom("ingest", "/documents", documents=folder)
    return int(report["documents"]) if report else 0


def members(project: Project, stage: str) -> int:
    """How many members of a stage's group have partitions."""
    group = newsroom.stages[stage].group
    config: dict[str, Any] = client_config(project.servers)
    admin = AdminClient(config)  # kept, or its answer would never come
    try:
        found = admin.describe_consumer_groups([group], request_timeout=10)[group].result()
    except KafkaException:  # its coordinator moves
        return 0
    return sum(bool(member.assignment.topic_partitions) for member in found.members)


def written(project: Project) -> list[str]:
    """The ids of the articles."""
    seen = oracle.read(project.servers, articles.name, schema_of(articles.record))
    return [s.value["id"] for s in seen]


@pytest.mark.parametrize("files", [PLAIN, TLS], ids=["plain", "tls"])
@pytest.mark.parametrize("version", ["docker-compose", "docker compose"])
def test_each_version_of_compose_accepts_the_files(version: str, files: str) -> None:
    program = version.split()
    try:
        run([*program, "version"])
    except Unavailable:
        pytest.skip(f"no `{version}` here")
    done = subprocess.run(
        [*program, "config"], cwd=images.ROOT, env=os.environ | {"COMPOSE_FILE": files},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kafka-3" in done.stdout


def test_scaled_and_struck_it_writes_every_article_once(
    project: Project, model: ModelServer, tmp_path: Path
) -> None:
    def ingest(number: int) -> None:
        folder = str(letters(tmp_path, number, _DOCUMENTS))
        # it ends with a line while the registry is away, and has written nothing then
        await_until(lambda: ingested(project, folder) == _DOCUMENTS, "the registry to be back")

    ingest(1)
    project("up", "--detach", "--no-recreate", "--no-build", "--scale=draft=3", "draft")
    await_until(lambda: members(project, "draft") == 3, "three members")
    ingest(2)
    for service in ("kafka-2", "draft", "registry"):
        project.kill(service)
    ingest(3)
    project("up", "--detach", "--no-recreate", "--no-build", "--scale=draft=1", "draft")
    await_until(lambda: len(written(project)) >= 3 * _DOCUMENTS, "the articles")
    for service in ("kafka-2", "registry"):
        await_until(lambda s=service: project.healthy(s), f"{service} to be back")  # type: ignore[misc]
    assert len(project.containers("draft")) == 1
    await_until(lambda: members(project, "draft") == 1, "one member")

    found = written(project)
    assert len(found) == len(set(found)) == 3 * _DOCUMENTS
    report = project.pressroom("audit")
    assert report["ok"], report
    assert not any(s["unread"] or s["waiting"] or s["dead"] for s in report["stages"]), report
    calls = sum(stage["calls"] for stage in report["stages"])
    assert calls <= len(model.bills) <= calls + 2 * _CALLS, "one worker was killed, one broker"
    (sink,) = project.containers("sink")
    listed = ["docker", "exec", sink, "ls", "/articles"]
    await_until(lambda: len(docker(*listed[1:]).split()) == 3 * _DOCUMENTS, "the files")


def test_what_the_page_shows_works(project: Project, tmp_path: Path) -> None:
    letters(tmp_path, 4, _DOCUMENTS).rename(tmp_path / "letters")
    first, *shown, last = console(0)
    assert (first, last) == ("make images", "docker-compose down")
    for line in shown:
        project.shell(line, tmp_path)
    await_until(lambda: len(written(project)) == 4 * _DOCUMENTS, "the articles")


def test_topics_are_replicated_and_wait_for_two_replicas(project: Project) -> None:
    config: dict[str, Any] = client_config(project.servers)
    admin = AdminClient(config)
    topics = admin.list_topics(timeout=30).topics
    checked = [t.name for t in newsroom.topics] + ["__consumer_offsets", "__transaction_state"]
    for name in checked:
        assert {len(p.replicas) for p in topics[name].partitions.values()} == {3}, name
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in checked]
    for resource, future in admin.describe_configs(resources).items():
        assert future.result(30)["min.insync.replicas"].value == "2", resource


def test_a_stranger_with_the_registry_reads_the_articles(project: Project) -> None:
    stranger = Stranger(project.registry, project.servers)
    assert {f"{t.name}-value" for t in newsroom.topics} <= set(stranger.registry.get_subjects())
    assert sorted(a["id"] for a in stranger.records(articles.name)) == sorted(written(project))


def test_the_model_answers(project: Project) -> None:
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
    request = urllib.request.Request(
        f"{project.model}/chat/completions", json.dumps(body).encode(),
        {"content-type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=120) as answer:
        assert json.load(answer)["choices"][0]["message"]["content"]


def test_pressroom_runs_as_nobody_special_and_leaves_when_told(project: Project) -> None:
    (worker,) = project.containers("review")
    assert docker("exec", worker, "id", "-u") == "10001"
    docker("stop", "--time=40", worker)
    assert docker("inspect", "--format={{.State.ExitCode}}", worker) == "0"

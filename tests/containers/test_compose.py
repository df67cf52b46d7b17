"""``docker-compose.yml``: three brokers, a registry, a service per stage; scaled and struck."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

from schemas.record import schema_of
from schemas.topics import articles
from streams.pipelines.newsroom import newsroom
from tests.containers import images
from tests.containers.compose import Project, await_until
from tests.containers.docker import Unavailable, docker, run
from tests.integration.test_docs import blocks
from tests.support import oracle
from tests.support.config import client_config, unique
from tests.support.model_server import ModelServer

pytestmark = pytest.mark.containers

_DOCUMENTS = 12
"""In each of the three batches."""
_SERVICES = (*newsroom.stages, "sink", "registry", "model", "kafka-1", "kafka-2", "kafka-3")
_CALLS = 8
"""A worker's calls at once."""


def sentence(request: dict[str, Any]) -> str:
    """An answer under the request's schema, which differs from question to question."""
    name = sha256(request["messages"][-1]["content"].encode()).hexdigest()[:12]
    return json.dumps(
        _instance(request["response_format"]["json_schema"]["schema"], f"About {name}.")
    )


def _instance(schema: dict[str, Any], text: str) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    match schema["type"]:
        case "object":
            return {name: _instance(part, text) for name, part in schema["properties"].items()}
        case "array":
            return [_instance(schema["items"], text)]
    return text


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    """A fast model server of ours, which bills; containers reach it on the host."""
    server = ModelServer(sentence, seconds=0.3, host="0.0.0.0")
    yield server
    server.close()


@pytest.fixture(scope="module")
def project(model: ModelServer) -> Iterator[Project]:
    """All of it, up and healthy."""
    url = model.url.replace(model.host, "host.docker.internal")
    made = Project(OPENAI_BASE_URL=url, PRESSROOM_MODEL=unique("model"))
    try:
        made("build")
        made("up", "--detach", "--no-build")
        for service in _SERVICES:
            await_until(lambda s=service: made.healthy(s), f"{service} to be healthy")  # type: ignore[misc]
        yield made
    finally:
        made.close()


def batch(folder: Path, number: int) -> Path:
    made = folder / str(number)
    made.mkdir(mode=0o755)
    for each in range(_DOCUMENTS):
        (made / f"{each}.txt").write_text(f"Ada Lovelace wrote program {number}.{each} in London.")
    folder.chmod(0o755)
    return made


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


@pytest.mark.parametrize("version", ["docker-compose", "docker compose"])
def test_each_version_of_compose_accepts_the_file(version: str) -> None:
    program = version.split()
    try:
        run([*program, "version"])
    except Unavailable:
        pytest.skip(f"no `{version}` here")
    done = subprocess.run([*program, "config"], cwd=images.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "kafka-3" in done.stdout


def test_scaled_and_struck_it_writes_every_article_once(
    project: Project, model: ModelServer, tmp_path: Path
) -> None:
    def ingest(number: int) -> None:
        folder = batch(tmp_path, number)
        report = project.pressroom("ingest", "/documents", documents=str(folder))
        assert report["documents"] == _DOCUMENTS

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
    batch(tmp_path, 4).rename(tmp_path / "letters")
    (block,) = (
        b for b in blocks(images.ROOT / "docs" / "containers.md") if b.language == "console"
    )
    first, *shown, last = block.text.splitlines()
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


def test_the_model_and_the_registry_answer(project: Project) -> None:
    with urllib.request.urlopen(f"{project.registry}/subjects", timeout=30) as answer:
        assert answer.status == 200
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

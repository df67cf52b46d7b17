"""Jars of Kafka Streams, of the embedded Kafka's version, and of Avro: ``python -m benchmarks.jars``."""

import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.systems import AVRO_VERSION, JARS
from streams.local.maven import KAFKA_VERSION

ROOTS = (
    f"org.apache.kafka:kafka-streams:jar:{KAFKA_VERSION}:compile",
    f"org.apache.avro:avro:jar:{AVRO_VERSION}:compile",
    "org.slf4j:slf4j-simple:jar:1.7.36:compile",
)


def fetch() -> None:
    """Resolves and downloads what is missing; other versions go."""
    from jgo.maven import MavenContext

    screen = Console(stderr=True)
    if JARS.exists():
        return
    shutil.rmtree(JARS.parent, ignore_errors=True)
    fresh, cache = JARS.with_name("new"), JARS.with_name("cache")
    with screen.status("Fetching Kafka Streams and Avro (100 MB, once)…"):
        context = MavenContext(repo_cache=cache, timeout=60)
        wanted = [context.create_dependency(root) for root in ROOTS]
        inputs, needed = context.resolver.resolve(wanted)
        jars = [*inputs, *(d for d in needed if d.scope in ("compile", "runtime"))]
        paths = [_path(dependency.artifact) for dependency in jars]
        fresh.mkdir()
        for path in paths:
            shutil.move(path, fresh / path.name)
        fresh.rename(JARS)
        shutil.rmtree(cache)


def _path(artifact: Any) -> Path:
    path: Path = artifact.resolve()
    return path


if __name__ == "__main__":
    fetch()

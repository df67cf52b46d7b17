"""Kafka Streams' jars, of the embedded Kafka's version: ``python -m benchmarks.jars``."""

import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.systems import JARS
from streams.local.maven import KAFKA_VERSION

ROOTS = (
    f"org.apache.kafka:kafka-streams:jar:{KAFKA_VERSION}:compile",
    "org.slf4j:slf4j-simple:jar:1.7.36:compile",
)


def fetch() -> None:
    """Resolves and downloads what is missing; other versions go."""
    from jgo.maven import MavenContext

    screen = Console(stderr=True)
    if (JARS / KAFKA_VERSION).exists():
        return
    with screen.status("Fetching Kafka Streams (100 MB, once)…"):
        context = MavenContext(repo_cache=JARS / "cache", timeout=60)
        wanted = [context.create_dependency(root) for root in ROOTS]
        inputs, needed = context.resolver.resolve(wanted)
        jars = [*inputs, *(d for d in needed if d.scope in ("compile", "runtime"))]
        paths = [_path(dependency.artifact) for dependency in jars]
        folder = JARS / f"{KAFKA_VERSION}.new"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for path in paths:
            shutil.move(path, folder / path.name)
        folder.rename(JARS / KAFKA_VERSION)
        shutil.rmtree(JARS / "cache")


def _path(artifact: Any) -> Path:
    path: Path = artifact.resolve()
    return path


if __name__ == "__main__":
    fetch()

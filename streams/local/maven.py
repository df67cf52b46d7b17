"""Kafka's jars: exactly those that ``kafka.lock`` names, from Maven Central.

``python -m streams.local.maven >kafka.lock`` writes the lock anew, after a change of
:data:`ROOTS`. It resolves the whole dependency graph, which a start never does.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from streams.local.cache import Artifact, Group, Report

# Not 4.3: a broker killed between a commit and its markers may, when it is back, take the partition
# for deleted and skip the marker. The last stable offset then never moves again (KAFKA-20734).
KAFKA_VERSION = "4.2.2"

# log4j's own binding would make the resolver pick an older kafka-clients
ROOTS = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")

_JAR_TIME = 315_532_800
"""Java's ahead-of-time cache knows a jar by its time: the same one, fetched again, stays known."""

_TIMEOUT = 30
"""Seconds without a byte after which a download has failed."""


def kafka() -> Group:
    """The jars of Kafka's class path, in its order."""
    lines = files("streams.local").joinpath("kafka.lock").read_text("utf-8").splitlines()
    locked = tuple(_parse(line) for line in lines if not line.startswith("#"))
    return Group(f"Kafka {KAFKA_VERSION}", locked, fetch)


def _parse(line: str) -> Artifact:
    coordinate, sha256, size = line.split()
    _, name, version = coordinate.split(":")
    return Artifact(coordinate, f"jars/{name}-{version}.jar", sha256, int(size))


def fetch(artifact: Artifact, folder: Path, report: Report) -> Path:
    """Downloads one file; jgo checks it against the repository's own checksum on the way.

    Its source is ``group:name:version``, or ``group:name:version:classifier:type`` for what is no jar.
    """
    from jgo.maven import MavenContext, PythonResolver

    @contextmanager
    def progress(_file: str, _size: int) -> Iterator[Callable[[int], None]]:
        done = 0

        def update(count: int) -> None:
            nonlocal done
            done += count
            report(done)

        yield update

    resolver = PythonResolver(progress_callback=progress)
    context = MavenContext(resolver, repo_cache=folder, timeout=_TIMEOUT)
    group, name, version, *kind = artifact.source.split(":")
    jar: Path = context.project(group, name).at_version(version).artifact(*kind).resolve()
    os.utime(jar, (_JAR_TIME, _JAR_TIME))
    return jar


def resolve_lock() -> str:
    """The text of a new lock: all that :data:`ROOTS` need at run time, hashed."""
    from jgo.maven import MavenContext

    with tempfile.TemporaryDirectory() as folder:
        context = MavenContext(repo_cache=Path(folder), timeout=_TIMEOUT)
        wanted = [context.create_dependency(_compiled(root)) for root in ROOTS]
        inputs, needed = context.resolver.resolve(wanted)
        found = [*inputs, *(d for d in needed if d.scope in ("compile", "runtime"))]
        lines = [_lock_line(dependency.artifact) for dependency in found]
    header = "# coordinate sha256 bytes; written by python -m streams.local.maven"
    return "\n".join([header, *lines]) + "\n"


def _compiled(coordinate: str) -> str:
    # all five parts, since jgo takes a scope after three for a version
    group, name, version = coordinate.split(":")
    return f"{group}:{name}:jar:{version}:compile"


def _lock_line(artifact: Any) -> str:
    content = artifact.resolve().read_bytes()
    coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
    return f"{coordinate} {hashlib.sha256(content).hexdigest()} {len(content)}"


if __name__ == "__main__":
    sys.stdout.write(resolve_lock())

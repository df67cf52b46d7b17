"""Older schemas of a pipeline's own records: files ``history/NAME-N.avsc`` beside its module.

Records that were written with one of them are read as the present class of the same name, without the
namespace, as Avro's schema resolution has it: so a module may be renamed, too.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from schemas import records
from schemas.codec import fingerprint, remember
from schemas.compatibility import difference_of
from schemas.errors import UsageError
from schemas.record import Schema, schema_of
from streams.stage import Stage


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of the history: a schema and the 8 bytes that name it."""

    file: Path
    schema: Schema
    fingerprint: bytes

    @property
    def name(self) -> str:
        """The schema's name without its namespace."""
        return str(self.schema["name"]).rpartition(".")[2]


def remember_history(stages: Collection[Stage]) -> list[Kept]:
    """Makes what was written with the kept schemas of these stages readable.

    Raises:
        UsageError: a file is no schema of a record, or the present class can't read it.
    """
    folders = dict.fromkeys(stage.history for stage in stages)
    found = [_read(file) for folder in folders for file in sorted(folder.glob("*.avsc"))]
    classes = _homes(stages)
    for kept in found:
        _check_is_read(kept, classes)
    return found


def keep(stages: Collection[Stage]) -> list[Path]:
    """Writes the present schemas of the stages' own records that are not kept yet.

    Raises:
        UsageError: as :func:`remember_history`, or a file can't be written.
    """
    known = {kept.fingerprint for kept in remember_history(stages)}
    homes = {cls: home for cls, home in _homes(stages).items() if not _is_pressroom_s(cls)}
    return [
        _write(home, schema_of(cls))
        for cls, home in homes.items()
        if fingerprint(schema_of(cls)) not in known
    ]


def _is_pressroom_s(cls: type) -> bool:
    return cls.__module__ == records.__name__  # which has a history of its own


def _homes(stages: Iterable[Stage]) -> dict[type, Path]:
    """The record classes of the topics, each with the history of the first stage that has it."""
    homes: dict[type, Path] = {}
    for stage in stages:
        for topic in (*stage.reads, *stage.writes):
            homes.setdefault(topic.record, stage.history)
    return homes


def _read(file: Path) -> Kept:
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"can't read {file}: {error}") from None
    match schema:
        case {"type": "record", "name": str(), "fields": [*_]}:
            with _naming(file):
                return Kept(file, schema, remember(schema))
    raise UsageError(f"{file} is no Avro schema of a record")


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # fastavro and avro raise whatever the file gives rise to
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"{file} is no Avro schema of a record ({said})") from None


def _check_is_read(kept: Kept, classes: Iterable[type]) -> None:
    named = [cls for cls in classes if schema_of(cls)["name"] == kept.name]
    # of two with one name, it may be the other's
    with _naming(kept.file):
        differences = [difference_of(schema_of(cls), kept.schema) for cls in named]
    if differences and all(differences):
        raise UsageError(
            f"{kept.name} can't read what was written with {kept.file}: {differences[0]}"
        )


def _write(folder: Path, schema: Schema) -> Path:
    try:
        folder.mkdir(exist_ok=True)
        file = next(
            f for n in count(1) if not (f := folder / f"{schema['name']}-{n}.avsc").exists()
        )
        with file.open("x", encoding="utf-8") as out:
            out.write(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UsageError(f"can't write to {folder}: {error.strerror or error}") from None
    return file

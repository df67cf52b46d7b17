"""The history of a pipeline's records: what was written before a change is read after it."""

import json
import os
import subprocess
import sys
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer

from schemas.codec import MAGIC, SINGLE_OBJECT, fingerprint
from schemas.errors import UsageError
from schemas.record import Schema, schema_of
from streams import MemoryDriver, Pipeline
from streams.history import keep

ROOT = Path(__file__).parents[2]
MODULE = """
from typing import Literal
from schemas.records import Document
from streams import Pipeline, Topic, record

@record
class Point:
    x: int

@record
class Gist:
    text: str
    kind: Literal["a", "b"]
    first: Point | None
    points: list[Point]
    kinds: dict[str, Literal["a", "b"]]
    {more}

@record
class Copy:
    gist: Gist

gists = Topic("notes.gists", Gist)
copies = Topic("notes.copies", Copy)
notes = Pipeline("notes")

@notes.stage(reads=Topic("notes.documents", Document), writes=gists)
async def gist(document: Document) -> Gist:
    raise NotImplementedError

@notes.stage(reads=gists, writes=copies)
async def copy(gist: Gist) -> Copy:
    return Copy(gist)
"""
DATA: dict[str, Any] = {
    "text": "t", "kind": "b", "first": {"x": 1}, "points": [{"x": 2}], "kinds": {"k": "a"},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where modules are imported from."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def load(folder: Path, module: str, more: str = "") -> Any:
    """Writes and imports the module. What it writes is known from then on in this process."""
    sys.modules.pop(module, None)
    (folder / f"{module}.py").write_text(MODULE.replace("{more}", more), encoding="utf-8")
    return import_module(module)


def older(namespace: str) -> Schema:
    """What a Gist was in a module of this name, which this process never had."""
    kind = {"type": "enum", "name": "GistKind", "symbols": ["a", "b"]}
    kinds = {"type": "enum", "name": "GistKinds", "symbols": ["a", "b"]}
    point = {"type": "record", "name": "Point", "fields": [{"name": "x", "type": "long"}]}
    types = {
        "text": "string",
        "kind": kind,
        "first": ["null", point],
        "points": {"type": "array", "items": f"{namespace}.Point"},
        "kinds": {"type": "map", "values": kinds},
    }
    fields = [{"name": name, "type": avro} for name, avro in types.items()]
    return {"type": "record", "name": "Gist", "namespace": namespace, "fields": fields}


def written(schema: Schema) -> bytes:
    out = BytesIO()
    schemaless_writer(out, parse_schema(schema), DATA)
    return MAGIC + fingerprint(schema) + out.getvalue()


def kept(folder: Path, schema: object, name: str = "Gist-1") -> Path:
    (folder / "history").mkdir(exist_ok=True)
    file = folder / "history" / f"{name}.avsc"
    file.write_text(schema if isinstance(schema, str) else json.dumps(schema), encoding="utf-8")
    return file


def copied(module: Any, value: bytes) -> MemoryDriver:
    driver = MemoryDriver(module.notes)
    driver.write_bytes("notes.gists", b"k", value)
    driver.run()
    return driver


# --- reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "was"), [("grown", "grown"), ("moved", "was_here")], ids=["same module", "renamed"]
)
def test_a_record_of_a_kept_schema_is_read_as_the_present_class(
    folder: Path, module: str, was: str
) -> None:
    kept(folder, older(was))
    now = load(folder, module, 'mood: str = "calm"')
    driver = copied(now, written(older(was)))
    assert driver.dead_letters == []
    (copy,) = driver.records(now.copies)
    points = [now.Point(2)]
    assert copy.gist == now.Gist("t", "b", now.Point(1), points, {"k": "a"}, "calm")


def test_a_record_of_a_schema_that_is_not_kept_is_a_dead_letter_with_a_hint(folder: Path) -> None:
    driver = copied(load(folder, "forgetful"), written(older("forgotten")))
    (letter,) = driver.dead_letters
    assert "unknown schema" in letter.message
    assert "`pressroom schemas keep` before a change" in letter.message
    assert "docs/schemas.md" in letter.message


def test_checking_a_pipeline_remembers_its_history(folder: Path) -> None:
    old = kept(folder, "{")
    pipeline: Pipeline = load(folder, "checked").notes
    with pytest.raises(UsageError, match=str(old)):
        pipeline.check()
    old.unlink()
    pipeline.check()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "^can't read .*Gist-1.avsc: Expecting"),
        ("\ud800", "^can't read .*Gist-1.avsc: 'utf-8' codec"),
        ('"string"', "Gist-1.avsc is no Avro schema of a record$"),
        ('{"type": "enum", "name": "A", "symbols": ["a"]}', "is no Avro schema of a record$"),
        ('{"type": "record", "name": "A"}', "Gist-1.avsc is no Avro schema of a record$"),
        (
            '{"type": "record", "name": "Gist", "fields": [{"name": "a", "type": '
            '{"type": "enum", "name": "B", "symbols": ["b", "b"]}}]}',
            "Gist-1.avsc is no Avro schema of a record .*symbol",
        ),
        (
            '{"type": "record", "name": "A", "fields": [{"name": "a", "type": "nope"}]}',
            "Gist-1.avsc is no Avro schema of a record .UnknownType: nope",
        ),
    ],
)
def test_a_file_that_is_no_schema_of_a_record_is_named(folder: Path, text: str, said: str) -> None:
    kept(folder, "").write_bytes(text.encode("utf-8", "surrogatepass"))
    now = load(folder, "bad_file")
    with pytest.raises(UsageError, match=said) as refusal:
        MemoryDriver(now.notes)
    assert "\n" not in str(refusal.value)


def test_a_change_that_older_records_can_t_bear_is_said_at_once(folder: Path) -> None:
    kept(folder, older("was_whole"))
    now = load(folder, "broken", "mood: str")
    said = (
        r"^Gist can't read what was written with .*Gist-1\.avsc: a new field has no default: .*mood"
    )
    with pytest.raises(UsageError, match=said):
        MemoryDriver(now.notes)


def test_a_schema_of_a_record_that_is_no_longer_there_is_only_remembered(folder: Path) -> None:
    gone = older("gone") | {"name": "Letter"}
    kept(folder, gone)
    MemoryDriver(load(folder, "without_letters").notes)
    assert SINGLE_OBJECT.describe(written(gone)) == ("gone.Letter", DATA)


# --- keeping ---------------------------------------------------------------------------------


def test_each_record_of_one_s_own_is_kept_once(folder: Path) -> None:
    now = load(folder, "kept_once")
    stages = now.notes.stages.values()
    history = folder / "history"
    assert keep(stages) == [history / "Gist-1.avsc", history / "Copy-1.avsc"]
    assert json.loads((history / "Gist-1.avsc").read_text()) == schema_of(now.Gist)
    before = {file: file.read_bytes() for file in history.iterdir()}
    assert keep(stages) == []
    assert {file: file.read_bytes() for file in history.iterdir()} == before


def test_another_schema_of_the_same_name_gets_the_next_number(folder: Path) -> None:
    first = kept(folder, older("elsewhere"))
    before = first.read_bytes()
    now = load(folder, "numbered")
    assert [f.name for f in keep(now.notes.stages.values())] == ["Gist-2.avsc", "Copy-1.avsc"]
    assert first.read_bytes() == before


def test_what_is_kept_under_another_file_s_name_is_kept(folder: Path) -> None:
    now = load(folder, "by_fingerprint")
    kept(folder, schema_of(now.Gist), "older")
    assert [f.name for f in keep(now.notes.stages.values())] == ["Copy-1.avsc"]


def test_a_folder_that_can_t_be_made_is_named(folder: Path) -> None:
    (folder / "history").write_text("a diary")
    now = load(folder, "diary")
    with pytest.raises(UsageError, match=r"^can't write to .*history: File exists$"):
        keep(now.notes.stages.values())


def test_what_was_kept_before_a_change_is_read_after_it(folder: Path) -> None:
    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, capture_output=True, encoding="utf-8", check=True,
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        )  # fmt: skip
        return done.stdout

    def pressroom(*command: str) -> Any:
        shown = run("-m", "streams.cli", "--app", "diary_v1:notes", "schemas", *command)
        return json.loads(shown.splitlines()[-1]) if "--json" in command else shown

    (folder / "diary_v1.py").write_text(MODULE.replace("{more}", ""))
    history = folder / "history"
    written = [str(history / f"{name}-1.avsc") for name in ("Gist", "Copy")]
    assert pressroom("keep", "--json") == {"written": written}
    assert pressroom("keep", "--json") == {"written": []}
    assert pressroom("keep") == "All schemas are kept.\n"
    value = run(
        "-c",
        "from diary_v1 import *; from schemas.codec import codec_for\n"
        'print(codec_for(Gist).encode(Gist("t", "b", None, [Point(2)], {"k": "a"})).hex())',
    )
    (folder / "diary_v1.py").unlink()
    now = load(folder, "diary_v2", 'mood: str = "calm"')
    driver = copied(now, bytes.fromhex(value))
    (copy,) = driver.records(now.copies)
    assert copy.gist == now.Gist("t", "b", None, [now.Point(2)], {"k": "a"}, "calm")

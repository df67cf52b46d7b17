"""The house's rules: who may import whom, what is loaded when, and that the packages are ours."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import streams

ROOT = Path(__file__).parents[2]
PACKAGES = ["streams", "schemas", "producers", "consumers"]
HEAVY = ["confluent_kafka", "aiohttp", "rich", "spacy", "faust", "pydantic"]


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_imports_go_one_way() -> None:
    command = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_four_packages_come_from_one_parent_directory() -> None:
    parents = set()
    for name in PACKAGES:
        module = importlib.import_module(name)
        assert module.__file__ is not None, f"{name} is a namespace: another package shadows it"
        parents.add(Path(module.__file__).parents[1])
    assert parents == {ROOT}


@pytest.mark.parametrize("name", streams.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(streams, name) is not None
    assert python(f"from streams import {name}; print({name}.__name__)") == name


def test_the_public_names_are_sorted_and_few() -> None:
    assert streams.__all__ == sorted(streams.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Strems"):
        _ = streams.Strems


@pytest.mark.parametrize("module", ["streams.cli", "streams", "streams.pipelines.newsroom"])
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    loaded = python(f"import sys, {module}; print(*(m for m in {HEAVY} if m in sys.modules))")
    assert loaded == ""


@pytest.mark.parametrize("module", ["schemas.records", "schemas.codec", "schemas.topics"])
def test_schemas_load_none_of_the_other_packages(module: str) -> None:
    others = ["streams", "producers", "consumers"]
    assert python(f"import sys, {module}; print(*(m for m in {others} if m in sys.modules))") == ""

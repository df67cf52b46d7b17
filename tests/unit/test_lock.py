"""What the image and ``.venv`` are made from is in step with ``pyproject.toml``."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
_PINNED = re.compile(r"^([a-z0-9-]+)==([^ ]+)(?: ; ([^\\]+))? \\$", re.MULTILINE)


LOCKS = {"requirements.lock": (), "requirements-dev.lock": ("dev", "encryption")}
"""Each lock, with the extras it pins besides what is always needed."""

each_lock = pytest.mark.parametrize("lock", LOCKS)


def locked(lock: str) -> dict[str, set[str]]:
    """The versions of each package in a lock; some have another on another Python."""
    found: dict[str, set[str]] = {}
    for name, version, _ in _PINNED.findall((ROOT / lock).read_text()):
        found.setdefault(name, set()).add(version)
    return found


def wanted(lock: str) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    asked = [*project["dependencies"], *(r for extra in LOCKS[lock] for r in optional[extra])]
    return [text for text in asked if Requirement(text).name != project["name"]]


def unmet(requirements: list[str], pins: dict[str, set[str]]) -> list[str]:
    """What is asked for, directly or by what is asked for, and is not pinned to what fits."""
    missing, seen = [], set()
    left = [Requirement(text) for text in requirements]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        versions = pins.get(name, set())
        if not any(requirement.specifier.contains(v, prereleases=True) for v in versions):
            missing.append(str(requirement))
        left += _asked_by(name, versions, requirement.extras)
    return missing


def _asked_by(name: str, versions: set[str], extras: set[str]) -> list[Requirement]:
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        return []
    if installed.version not in versions:
        return []  # what another version asks for says nothing of the lock
    asked = [Requirement(text) for text in installed.requires or ()]
    applies = [{"extra": extra} for extra in extras or {""}]
    return [r for r in asked if r.marker is None or any(map(r.marker.evaluate, applies))]


@each_lock
def test_what_the_project_needs_is_pinned(lock: str) -> None:
    assert not unmet(wanted(lock), locked(lock)), "run `make lock`"


@pytest.mark.parametrize(
    "asked", ["fastavro>=99", "no-such-package", "rich==1.0"], ids=["newer", "new", "older"]
)
def test_what_is_not_pinned_is_noticed(asked: str) -> None:
    assert unmet([asked], locked("requirements.lock")) == [asked]


def test_the_image_and_the_tests_have_the_same_versions() -> None:
    tested = locked("requirements-dev.lock")
    assert {name: tested.get(name) for name in locked("requirements.lock")} == locked(
        "requirements.lock"
    )


@each_lock
def test_everything_is_hashed(lock: str) -> None:
    entries = re.split(r"\n(?=[a-z0-9-]+==)", (ROOT / lock).read_text())
    assert len(entries) - 1 == sum(map(len, locked(lock).values()))
    assert all("--hash=sha256:" in entry for entry in entries[1:])

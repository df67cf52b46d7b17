"""``requirements.lock``, which the image is made from, is in step with ``pyproject.toml``."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
_PINNED = re.compile(r"^([a-z0-9-]+)==([^ ]+)(?: ; ([^\\]+))? \\$", re.MULTILINE)


def locked() -> dict[str, set[str]]:
    """The versions of each package in the lock; some have another on another Python."""
    found: dict[str, set[str]] = {}
    for name, version, _ in _PINNED.findall((ROOT / "requirements.lock").read_text()):
        found.setdefault(name, set()).add(version)
    return found


def wanted() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["dependencies"])


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
        left += _asked_by(name, requirement.extras)
    return missing


def _asked_by(name: str, extras: set[str]) -> list[Requirement]:
    try:
        asked = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        return []
    applies = [{"extra": extra} for extra in extras or {""}]
    return [r for r in asked if r.marker is None or any(map(r.marker.evaluate, applies))]


def test_what_the_project_needs_is_pinned() -> None:
    assert not unmet(wanted(), locked()), "run `make lock`"


@pytest.mark.parametrize(
    "asked", ["fastavro>=99", "no-such-package", "rich==1.0"], ids=["newer", "new", "older"]
)
def test_what_is_not_pinned_is_noticed(asked: str) -> None:
    assert unmet([asked], locked()) == [asked]


def test_everything_is_hashed() -> None:
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-z0-9-]+==)", text)
    assert len(entries) - 1 == sum(map(len, locked().values()))
    assert all("--hash=sha256:" in entry for entry in entries[1:])

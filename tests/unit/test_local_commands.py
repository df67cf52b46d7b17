"""``up``, ``down`` and ``status``: what the settings make embedded is what counts."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from schemas.errors import UsageError
from streams import local
from streams.cli import local as commands
from streams.settings import Settings

KAFKA, MODEL = "127.0.0.1:20000", "http://127.0.0.1:20001/v1"
BOTH: dict[str, str] = {}
ONLY_KAFKA = {"openai_base_url": "http://elsewhere/v1"}
ONLY_MODEL = {"bootstrap_servers": "elsewhere:9092"}
NONE = ONLY_KAFKA | ONLY_MODEL


class Stack:
    """In place of the embedded one: what runs is what is said here."""

    def __init__(self, patch: pytest.MonkeyPatch, home: Path) -> None:
        self.patch, self.home = patch, home
        self.started: dict[str, bool] = {}
        patch.setattr(local, "up", self._up)

    def set(
        self, given: dict[str, str], kafka: str | None = None, model: str | None = None
    ) -> None:
        for name in ("PRESSROOM_BOOTSTRAP_SERVERS", "OPENAI_BASE_URL"):
            self.patch.delenv(name, raising=False)
        made = Settings(home=self.home, **given)  # type: ignore[arg-type]
        made.embedded = local.Status(bool(kafka or model), kafka, model)
        self.patch.setattr(commands, "settings", lambda: made)

    def _up(self, *_: Path, kafka: bool, model: bool, **__: Any) -> local.Status:
        self.started = {"kafka": kafka, "model": model}
        return local.Status(True, KAFKA if kafka else None, MODEL if model else None)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stack:
    return Stack(monkeypatch, tmp_path / "home")


@pytest.mark.parametrize(
    ("given", "kafka", "model", "running"),
    [
        (BOTH, KAFKA, MODEL, True),
        (BOTH, KAFKA, None, False),
        (BOTH, None, MODEL, False),
        (BOTH, None, None, False),
        (ONLY_KAFKA, KAFKA, None, True),
        (ONLY_KAFKA, None, MODEL, False),
        (ONLY_MODEL, None, MODEL, True),
        (ONLY_MODEL, KAFKA, None, False),
        (NONE, None, None, False),
        (NONE, KAFKA, None, True),
    ],
)
def test_running_is_what_the_settings_want_of_it(
    stack: Stack, capsys: pytest.CaptureFixture[str],
    given: dict[str, str], kafka: str | None, model: str | None, running: bool,
) -> None:  # fmt: skip
    stack.set(given, kafka, model)
    try:
        commands.status(json=True)
        exit_status = 0
    except typer.Exit as end:
        exit_status = end.exit_code
    told = {"running": running, "bootstrap_servers": kafka, "model_url": model}
    assert json.loads(capsys.readouterr().out) == told
    assert exit_status == (0 if running else 1)


@pytest.mark.parametrize(
    ("given", "options", "started"),
    [
        (BOTH, {}, (True, True)),
        (BOTH, {"model": False}, (True, False)),
        (ONLY_KAFKA, {}, (True, False)),
        (ONLY_KAFKA, {"model": True}, (True, True)),
        (ONLY_MODEL, {}, (False, True)),
        (ONLY_MODEL, {"kafka": True, "model": False}, (True, False)),
        (NONE, {"model": True}, (False, True)),
    ],
)
def test_up_starts_what_the_settings_make_embedded_and_what_is_asked_for(
    stack: Stack, given: dict[str, str], options: dict[str, bool], started: tuple[bool, bool]
) -> None:
    stack.set(given)
    commands.up(**options)
    assert (stack.started["kafka"], stack.started["model"]) == started


@pytest.mark.parametrize(
    ("given", "options"),
    [(BOTH, {"kafka": False, "model": False}), (ONLY_KAFKA, {"kafka": False}), (NONE, {})],
)
def test_up_with_nothing_to_start_is_wrong_use(
    stack: Stack, given: dict[str, str], options: dict[str, bool]
) -> None:
    stack.set(given)
    with pytest.raises(UsageError, match="nothing to start"):
        commands.up(**options)
    assert not stack.started


def test_what_is_set_elsewhere_is_said(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    stack.set(ONLY_KAFKA, KAFKA)
    commands.status()
    assert "Model  not running here: OPENAI_BASE_URL is set" in capsys.readouterr().out


def test_down_says_what_it_deleted(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    stack.set(BOTH)
    (stack.home / "kafka" / "data").mkdir(parents=True)
    commands.down(purge=True)
    said = capsys.readouterr().out
    assert said == f"Nothing was running.\nDeleted all topics, in {stack.home / 'kafka'}\n"
    commands.down(purge=True)
    assert "There were no topics." in capsys.readouterr().out
    commands.down(json=True, purge=True)
    assert json.loads(capsys.readouterr().out) == {"stopped": False, "purged": False}

"""Where there is no Docker, one line says so."""

import os
import sys

import pytest

from tests.containers.__main__ import main


@pytest.mark.parametrize(("arguments", "status"), [([], 3), (["--if-possible"], 0)])
def test_without_docker_and_the_right_to_install_it(
    arguments: list[str],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["containers", *arguments])
    assert main() == status
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("tests in containers: not run: no Docker: ")

"""The benchmarks run, with tiny sizes, and write their tables; how fast is no test's business."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT

COMMANDS = {
    "peers": ["benchmarks.against_peers", "--rounds=1", "--systems=Pressroom,hand-written loop"],
    "growth": ["benchmarks.growth"],
    "scaling": ["benchmarks.scaling"],
}


def run(servers: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PRESSROOM_BOOTSTRAP_SERVERS": servers}, check=False,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("mark", COMMANDS)
def test_a_benchmark_writes_its_figures_into_a_page(
    bootstrap_servers: str, tmp_path: Path, mark: str
) -> None:
    page = tmp_path / "page.md"
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    done = run(bootstrap_servers, *COMMANDS[mark], "--quick", f"--into={page}")
    assert done.returncode == 0, done.stdout + done.stderr
    written = page.read_text()
    assert written.startswith(f"before\n{begin}\n")
    assert written.endswith(f"\n{end}\nafter\n")
    assert "old" not in written
    assert written.count("| --- |") >= (3 if mark == "scaling" else 4)
    for system in ("Pressroom", "hand-written loop") if mark == "peers" else ():
        assert written.count(f"| {system} |") == 5, "one table lacks it: " + done.stdout
    assert str(ROOT) not in written


def test_a_system_that_nobody_knows_is_wrong_use(bootstrap_servers: str) -> None:
    done = run(bootstrap_servers, "benchmarks.against_peers", "--systems=none", "--quick")
    assert done.returncode == 2
    assert "no such system" in done.stderr

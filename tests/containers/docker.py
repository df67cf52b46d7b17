"""Docker's command line, and a daemon where none runs."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("docker.io", "docker-compose", "debootstrap")

_START_SECONDS = 60.0
_PULL_SECONDS = 300.0


class Unavailable(Exception):
    """Why containers can't be had here, in one line."""


def docker(*arguments: str, timeout: float | None = None) -> str:
    """Runs a docker command; gives what it printed.

    Raises:
        Unavailable: it failed, or took longer than ``timeout`` seconds.
    """
    return run(["docker", *arguments], timeout)


def run(command: Sequence[str], timeout: float | None = None) -> str:
    """Runs a program; gives what it printed.

    Raises:
        Unavailable: it is not there, failed, or took longer than ``timeout`` seconds.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise Unavailable(f"{' '.join(command[:3])} failed: {''.join(last)}")
    return done.stdout.strip()


def logs(container: str) -> str:
    """All that a container said, on standard output and standard error."""
    return run(["sh", "-c", 'docker logs "$0" 2>&1', container])


def answers() -> bool:
    """Whether a daemon can be spoken to."""
    try:
        docker("version", timeout=30)
    except Unavailable:
        return False
    return True


def pull(image: str) -> bool:
    """Whether an image is here, or could be pulled."""
    try:
        docker("image", "inspect", image)
    except Unavailable:
        try:
            docker("pull", "--quiet", image, timeout=_PULL_SECONDS)
        except Unavailable:
            return False
    return True


@contextmanager
def daemon(log: Path) -> Iterator[None]:
    """A daemon, for as long as the context lasts: the one that runs, or one of our own.

    As root, what is missing is installed and the daemon is started, and stopped at the end.

    Args:
        log: where a daemon of our own writes what it says.

    Raises:
        Unavailable: there is none, and none can be had.
    """
    if not answers() and os.geteuid() != 0:
        raise Unavailable(
            "no Docker: start its daemon (and join its group), or run this as root to have it installed"
        )
    install_missing()
    if answers():
        yield
        return
    with _started(log):
        yield


def install_missing() -> None:
    """Installs what is missing, if we are root.

    Raises:
        Unavailable: it can't be installed.
    """
    if os.geteuid() != 0:
        return
    wanted = {
        "docker.io": "dockerd",
        "docker-compose": "docker-compose",
        "debootstrap": "debootstrap",
    }
    missing = [package for package in PACKAGES if shutil.which(wanted[package]) is None]
    if answers() and "docker.io" in missing:
        missing.remove("docker.io")  # somebody else's daemon
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise Unavailable(f"no Docker: install {', '.join(missing)} (there is no apt-get to do it)")
    run(["apt-get", "update", "--quiet"])
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    run(
        [
            *environment,
            "apt-get",
            "install",
            "--yes",
            "--no-install-recommends",
            *missing,
            "iptables",
        ]
    )


@contextmanager
def _started(log: Path) -> Iterator[None]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(["dockerd"], stdout=file, stderr=file, start_new_session=True)
    try:
        until = time.monotonic() + _START_SECONDS
        while not answers():
            if process.poll() is not None or time.monotonic() > until:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise Unavailable(f"no Docker: dockerd does not start: {''.join(last)}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(60)

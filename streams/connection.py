"""Whether Kafka can be reached with given settings, and if not, why: asked once, when a command begins.

The client itself tries on for ever, whatever is wrong, and what it says is meant for its log. A wrong
password must not look like a broker that is away; so its log is read here, for as long as it takes.
"""

import logging
import re
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas.errors import RetryLater, UsageError

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds after which a Kafka that does not answer is given up; a login that it refuses, sooner."""

_FIRST_STEP = 1.0
_PAUSE = 0.2
_DIAGNOSIS = 2.0
_CERTAIN = 2
_FAIL = re.compile(r"FAIL .*?: (?:\w+://)?(\S+?)/\w+: (.*)")
_DETAIL = re.compile(r" \(after \d+ms.*?\)$|: receive 0 after POLLIN")
# what the client says of a connection that can't work until the settings are changed
_LOGIN = re.compile(r"SASL authentication error|mechanism handshake failed")
_UNTRUSTED = re.compile(r"certificate verify failed")
_NO_TLS = re.compile(r"PLAINTEXT broker listener|wrong version number")
_CLOSED = re.compile(r"Disconnected: connection closed by peer")


def patiently(step: Callable[[], T]) -> T:
    """What a step gives, tried again while no broker answers: any connection may break.

    Raises:
        RetryLater: none has answered for :data:`PATIENCE`.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return step()
        except RetryLater:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE)


def check_connection(config: Mapping[str, Any]) -> None:
    """Returns when a broker has answered.

    Raises:
        UsageError: every broker refuses these settings, or is no Kafka that speaks this protocol.
        RetryLater: no broker answers.
    """
    trouble = _Trouble(config)
    admin = AdminClient(dict(config) | {"logger": trouble.log})
    until, step = time.monotonic() + PATIENCE, _FIRST_STEP
    while True:
        try:
            admin.list_topics(topic="__consumer_offsets", timeout=step)
            return
        except KafkaException as failure:
            said = failure.args[0].str()
        admin.poll(0)  # which hands over the log
        if trouble.is_certain:
            raise UsageError(trouble.advice())
        left = until - time.monotonic()
        # the first answer may be slow: a far-away broker, a login to be computed
        step = min(2 * step, max(left, _FIRST_STEP))
        if left <= 0:
            where, why = config["bootstrap.servers"], trouble.last or said
            raise RetryLater(f"Kafka does not answer at {where}: {why}")


class _Trouble(logging.Handler):
    """Why brokers can't be reached, by the client's log."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self._config = config
        self._servers = {s.strip() for s in str(config["bootstrap.servers"]).split(",")}
        self._times: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self.last = ""
        """What was said last."""
        self.log = logging.Logger("connection", logging.INFO)
        self.log.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        found = _FAIL.search(record.getMessage())
        if found is None:
            return
        server, self.last = found[1], _DETAIL.sub("", found[2])
        if any(kind.search(self.last) for kind in (_LOGIN, _UNTRUSTED, _NO_TLS, _CLOSED)):
            self._times[server] += 1
            self._reasons[server] = self.last

    @property
    def is_certain(self) -> bool:
        """Whether every broker has refused again and again: one that starts may refuse at first."""
        return all(self._times[server] >= _CERTAIN for server in self._servers)

    def advice(self) -> str:
        """One line: what is wrong with the first broker, and what to do."""
        server = min(self._servers)
        said = self._reasons[server]
        if _LOGIN.search(said):
            user = self._config.get("sasl.username", "")
            return (
                f"{server} refuses the login of {user!r} ({said}): "
                "check sasl.mechanism, sasl.username and sasl.password"
            )
        if _UNTRUSTED.search(said):
            return (
                f"the TLS certificate of {server} is not accepted ({self._untrusted(server)}): check "
                "ssl.ca.location, the host's name and the certificate's dates"
            )
        if _NO_TLS.search(said):
            return (
                f"{server} does not speak TLS: set security.protocol to PLAINTEXT or "
                "SASL_PLAINTEXT, or use the port that speaks TLS"
            )
        protocol = self._config.get("security.protocol", "PLAINTEXT")
        return (
            f"{server} closes connections of security.protocol={protocol}: it is no Kafka, or wants "
            "TLS (SSL, SASL_SSL) or a login (SASL_PLAINTEXT, SASL_SSL)"
        )

    def _untrusted(self, server: str) -> str:
        """What is wrong with a certificate; the client says only that something is."""
        host, _, port = server.rpartition(":")
        try:
            context = ssl.create_default_context(cafile=self._config.get("ssl.ca.location"))
            with socket.create_connection((host.strip("[]"), int(port)), _DIAGNOSIS) as plain:
                context.wrap_socket(plain, server_hostname=host.strip("[]")).close()
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        except (OSError, ValueError):
            pass
        return "it can't be verified"

"""A connection that can't work says why in one line, in time, and leaves with a status."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Cli, Result
from tests.integration.test_cli import refused
from tests.support.config import unique
from tests.support.secure import SecureBroker

pytestmark = pytest.mark.long  # `make security` runs them

SECONDS = 120
"""Far less than for ever; a command that waits without end fails here."""


@pytest.fixture
def client(secure: SecureBroker, tmp_path: Path) -> Iterator[Cli]:
    made = Cli(tmp_path, {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"})
    yield made
    made.close()


def _login(secure: SecureBroker, **given: str) -> dict[str, str]:
    secure.add_user("ann", "right")
    return {
        "security_protocol": "SASL_SSL",
        "ssl_ca_location": str(secure.ca),
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": "ann",
        "sasl_password": "right",
    } | given


def _run(client: Cli, address: str, properties: Path, *command: str) -> Result:
    process = client.start(
        *command, PRESSROOM_BOOTSTRAP_SERVERS=address, PRESSROOM_PROPERTIES=str(properties)
    )
    return client.end(process, timeout=SECONDS)


def _refused(client: Cli, address: str, properties: Path) -> str:
    return refused(_run(client, address, properties, "audit"))


def test_every_command_says_that_the_password_is_wrong(secure: SecureBroker, client: Cli) -> None:
    wrong = secure.properties(unique("wrong"), **_login(secure, sasl_password="guess"))
    environment = {
        "PRESSROOM_BOOTSTRAP_SERVERS": secure.at(secure.ports.sasl_ssl),
        "PRESSROOM_PROPERTIES": str(wrong),
    }
    commands = ("topics create", "ingest .", "worker all", "sink --into out", "tail gists", "audit")
    running = {c: client.start(*c.split(), **environment) for c in commands}
    for command, process in running.items():
        said = refused(client.end(process, timeout=SECONDS))
        assert "refuses the login of 'ann'" in said, command
        assert "check sasl.mechanism, sasl.username and sasl.password" in said
        assert "guess" not in said


def test_a_mechanism_that_the_broker_lacks(secure: SecureBroker, client: Cli) -> None:
    plain = secure.properties(unique("plain"), **_login(secure, sasl_mechanism="PLAIN"))
    said = _refused(client, secure.at(secure.ports.sasl_ssl), plain)
    assert "check sasl.mechanism" in said
    assert "SCRAM-SHA-512" in said


@pytest.mark.parametrize(
    ("port", "ca", "why"),
    [
        ("ssl", "wrong_ca", "unable to get local issuer certificate"),
        ("expired", "ca", "certificate has expired"),
    ],
)
def test_a_certificate_that_is_not_to_be_trusted(
    secure: SecureBroker, client: Cli, port: str, ca: str, why: str
) -> None:
    location = str(getattr(secure, ca))
    settings = secure.properties(unique(ca), security_protocol="SSL", ssl_ca_location=location)
    said = _refused(client, secure.at(getattr(secure.ports, port)), settings)
    assert f"is not accepted ({why})" in said
    assert "ssl.ca.location" in said


@pytest.mark.parametrize(
    ("protocol", "port"),
    [
        ("PLAINTEXT", "ssl"),
        ("PLAINTEXT", "sasl"),
        ("SASL_PLAINTEXT", "sasl_ssl"),
    ],
)
def test_too_little_protocol_for_a_port(
    secure: SecureBroker, client: Cli, protocol: str, port: str
) -> None:
    given = _login(secure) if protocol.startswith("SASL") else {}
    settings = secure.properties(unique("little"), **(given | {"security_protocol": protocol}))
    said = _refused(client, secure.at(getattr(secure.ports, port)), settings)
    assert f"closes connections of security.protocol={protocol}" in said
    assert "wants TLS (SSL, SASL_SSL) or a login" in said


def test_tls_to_a_plain_port(secure: SecureBroker, client: Cli) -> None:
    given = {"security_protocol": "SSL", "ssl_ca_location": str(secure.ca)}
    settings = secure.properties(unique("tls"), **given)
    said = _refused(client, secure.address, settings)
    assert "does not speak TLS: set security.protocol to PLAINTEXT" in said


def test_a_host_that_is_not_there(secure: SecureBroker, client: Cli) -> None:
    settings = secure.properties(unique("nowhere"), **_login(secure))
    said = refused(_run(client, "nowhere.invalid:9092", settings, "audit"), 1)
    assert "Kafka does not answer at nowhere.invalid:9092: Failed to resolve" in said


def test_one_broker_that_answers_is_enough(secure: SecureBroker, client: Cli) -> None:
    settings = secure.properties(unique("one"), **_login(secure))
    servers = f"nowhere.invalid:9092,{secure.at(secure.ports.sasl_ssl)}"
    said = refused(_run(client, servers, settings, "tail", "gists"))
    assert "nowhere" not in said
    assert "gists" in said

"""Canaries in every place for secrets: none of them comes out anywhere."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from consumers.reader import read_settled
from tests.integration.conftest import Result
from tests.integration.test_cli import refused
from tests.security.conftest import Merging
from tests.support.config import unique

KEY, PASSWORD, TLS, REGISTRY = (
    f"canary-{name}-{'x7' * 6}" for name in ("api", "sasl", "tls", "registry")
)
CANARIES = (KEY, PASSWORD, TLS, REGISTRY)


class _Echo(BaseHTTPRequestHandler):
    """An endpoint that repeats the key it was sent, whatever it answers."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said, key = request["messages"][-1]["content"], self.headers["authorization"]
        if "revoked" in said:
            self._send(401, {"error": {"message": f"{key} was revoked"}})
        elif "denied" in said:
            self._send(400, {"error": {"message": f"you sent {key}"}})
        else:
            message = {
                "role": "assistant",
                "content": json.dumps({"text": f"{said.strip()} {key}"}),
            }
            self._send(200, {
                "id": "1", "object": "chat.completion", "created": 0, "model": "echo",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            })  # fmt: skip

    def _send(self, status: int, body: dict[str, Any]) -> None:
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def _locked_key(folder: Path) -> dict[str, str]:
    """A client certificate whose key wants a password."""
    certificate = trustme.CA().issue_cert("client")
    key: Any = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    locked = BestAvailableEncryption(TLS.encode())
    (folder / "client.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
    )
    certificate.cert_chain_pems[0].write_to_path(folder / "client.pem")
    return {
        "ssl_key_location": str(folder / "client.key"),
        "ssl_certificate_location": str(folder / "client.pem"),
        "ssl_key_password": TLS,
    }


def _files(folder: Path) -> Iterator[bytes]:
    yield from (path.read_bytes() for path in folder.rglob("*") if path.is_file())


def _records(merging: Merging) -> Iterator[bytes]:
    for received in read_settled(
        merging.broker.config, [t.name for t in merging.module.pipeline.topics]
    ):
        yield b"\n".join([received.key or b"", received.value or b"", repr(received).encode()])


def test_no_secret_comes_out_anywhere(merging: Merging, echo: str, tmp_path: Path) -> None:
    cli, broker = merging.cli, merging.broker
    merging.create_topics()
    merging.grant(*merging.rights)
    broker.add_user(merging.user, PASSWORD)
    login = broker.login(
        merging.user, PASSWORD, debug="all", compression_type="none", **_locked_key(tmp_path)
    )
    wrong = broker.login(merging.user, f"{PASSWORD}-no")
    cli.environment |= {
        "PRESSROOM_PROPERTIES": str(login),
        "OPENAI_BASE_URL": echo,
        "OPENAI_API_KEY": KEY,
        "OPENAI_LOG": "debug",
        "SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO": f"ann:{REGISTRY}",
    }
    results: list[Result] = []
    merging.write("plain", "denied", "fail leak", "filter")
    worked = cli.run("-v", "worker", "merge", "--until-idle", "1", "--json")
    assert worked.json["stages"] == [{"stage": "merge", "committed": 8, "dead": 2}]
    merging.write("revoked")
    stopped = cli.run("-v", "worker", "merge", "--until-idle", "1")
    assert stopped.status == 1
    assert "check OPENAI_API_KEY" in stopped.err
    results += [worked, stopped]

    refusal = cli.run("worker", "merge", PRESSROOM_PROPERTIES=str(wrong))
    assert "refuses the login" in refused(refusal)
    for number, line in enumerate([f"sasl.pasword={PASSWORD}", PASSWORD, f"acks={PASSWORD}"]):
        bad = tmp_path / f"bad-{number}.properties"
        bad.write_text(login.read_text() + line + "\n")
        results.append(cli.run("worker", "merge", PRESSROOM_PROPERTIES=str(bad)))
        refused(results[-1])
    (tmp_path / "crashes.py").write_text(
        "import os\nraise ValueError(dict(os.environ))  # which holds every secret there is\n"
    )
    results += [refusal, cli.run("--app", "crashes:pipeline", "topology")]
    everything = {
        "PRESSROOM_BOOTSTRAP_SERVERS": broker.address,
        "PRESSROOM_PROPERTIES": "/dev/null",
    }
    for command in ("dead list", "audit", "status", "tail wholes", "acls"):
        results.append(cli.run(*command.split(), "--json", **everything))

    shown = [text.encode() for result in results for text in (result.out, result.err)]
    kept = [*_records(merging), *_files(tmp_path / "home"), *_files(broker.logs)]
    (dead,) = (r for r in results if "dead_letters" in r.out)
    assert "you sent Bearer [secret]" in dead.out  # the letter is there, without the key
    assert "told to fail" in dead.out
    assert any(b"plain+plain" in text for text in kept)  # what is no secret is found in this way
    for canary in CANARIES:
        assert not [text for text in (*shown, *kept) if canary.encode() in text], canary


@pytest.mark.long
def test_a_password_in_a_url_is_not_shown(merging: Merging) -> None:
    merging.create_topics()
    merging.grant(*merging.rights)
    merging.write("a")
    url = f"http://ann:{KEY}@{merging.model.url.removeprefix('http://')}"
    merging.model.fault = lambda _: (401, {})
    result = merging.cli.run("worker", "merge", OPENAI_BASE_URL=url, PRESSROOM_MODEL=unique("m"))
    assert result.status == 1
    assert "refuses the key" in result.err
    assert KEY not in result.err + result.out

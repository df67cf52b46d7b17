"""A broker with every kind of listener, an authorizer, and certificates made on the spot."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from streams.local.ports import HOST, choose
from tests.support.broker import Broker
from tests.support.config import client_config, unique

_SETTINGS = """\
listeners=PLAINTEXT://{{host}}:{{broker}},SSL://{{host}}:{ssl},SASL_PLAINTEXT://{{host}}:{sasl},\
SASL_SSL://{{host}}:{sasl_ssl},EXPIRED://{{host}}:{expired},CONTROLLER://{{host}}:{{controller}}
advertised.listeners=PLAINTEXT://{{host}}:{{broker}},SSL://{{host}}:{ssl},\
SASL_PLAINTEXT://{{host}}:{sasl},SASL_SSL://{{host}}:{sasl_ssl},EXPIRED://{{host}}:{expired}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,\
SASL_SSL:SASL_SSL,EXPIRED:SSL,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config={jaas}
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={jaas}
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
listener.name.expired.ssl.keystore.type=PEM
listener.name.expired.ssl.keystore.location={expired_keystore}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:ANONYMOUS
"""
_JAAS = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


@dataclass(frozen=True)
class Ports:
    ssl: int
    sasl: int
    sasl_ssl: int
    expired: int


class SecureBroker:
    """Its plain listener is the administrator's; users of the others have only what they are given."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: where its data and certificates are.
        """
        self._folder = folder
        authority = trustme.CA()
        self.ca = _written(folder / "ca.pem", authority.cert_pem.bytes())
        self.wrong_ca = _written(folder / "wrong-ca.pem", trustme.CA().cert_pem.bytes())
        past = datetime.now(UTC) - timedelta(days=1)
        self.ports = Ports(*choose(4))
        settings = _SETTINGS.format(
            **vars(self.ports),
            jaas=_JAAS,
            keystore=_keystore(folder / "broker.pem", authority.issue_cert(HOST)),
            expired_keystore=_keystore(
                folder / "expired.pem", authority.issue_cert(HOST, not_after=past)
            ),
        )
        self._broker = Broker(folder / "home", settings)
        self.address = self._broker.address
        self.config: dict[str, Any] = dict(client_config(self.address))
        self.admin = AdminClient(self.config)

    def at(self, port: int) -> str:
        """The address of one of :attr:`ports`."""
        return f"{HOST}:{port}"

    def add_user(self, name: str, password: str) -> None:
        """Makes a SCRAM user, or gives one another password."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(name, info, password.encode())
        for future in self.admin.alter_user_scram_credentials([change]).values():
            future.result(30)

    def grant(self, *acls: AclBinding) -> None:
        """Gives rights."""
        for future in self.admin.create_acls(list(acls)).values():
            future.result(30)

    def revoke(self, *filters: AclBindingFilter) -> None:
        """Takes rights away."""
        for future in self.admin.delete_acls(list(filters)).values():
            assert future.result(30)

    def properties(self, name: str, **given: str) -> Path:
        """A file of client settings; ``_`` in names stands for a dot."""
        lines = [f"{key.replace('_', '.')}={value}\n" for key, value in given.items()]
        return _written(self._folder / f"{name}.properties", "".join(lines).encode())

    def login(self, user: str, password: str, **given: str) -> Path:
        """Client settings of a SCRAM user over TLS."""
        return self.properties(
            unique(user),
            **{
                "security_protocol": "SASL_SSL",
                "ssl_ca_location": str(self.ca),
                "sasl_mechanism": "SCRAM-SHA-512",
                "sasl_username": user,
                "sasl_password": password,
            }
            | given,
        )

    @property
    def logs(self) -> Path:
        """The folder of its log segments."""
        return self._folder / "home" / "kafka" / "data"

    def close(self) -> None:
        self._broker.close()


def _keystore(path: Path, certificate: trustme.LeafCert) -> Path:
    # Kafka reads private keys in PKCS #8 only
    key: Any = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    return _written(path, plain + chain)


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path

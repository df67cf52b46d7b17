"""Makes the users that ``certificates.sh`` gave passwords, and lets the registry keep its schemas.

``docker-compose.tls.yml`` runs it as the administrator, each time that it starts.
"""

from pathlib import Path

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from streams.settings import load_settings, read_properties

_INFO = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
_REGISTRYS = (
    (ResourceType.TOPIC, "kafkasql-"),
    (ResourceType.TOPIC, "registry-events"),
    (ResourceType.GROUP, "apicurio-"),
)


def _user(file: Path) -> UserScramCredentialAlteration:
    given = read_properties(file)
    password = given["sasl.password"].encode()
    return UserScramCredentialUpsertion(given["sasl.username"], _INFO, password)


def _registrys(kind: ResourceType, prefix: str) -> AclBinding:
    return AclBinding(
        kind, prefix, ResourcePatternType.PREFIXED, "User:CN=registry", "*",
        AclOperation.ALL, AclPermissionType.ALLOW,
    )  # fmt: skip


def main() -> None:
    admin = AdminClient(load_settings().client_config())
    users = [_user(file) for file in sorted(Path("/tls").glob("newsroom.*.properties"))]
    made = admin.alter_user_scram_credentials(users)
    granted = admin.create_acls([_registrys(*each) for each in _REGISTRYS])
    for future in (*made.values(), *granted.values()):
        future.result(30)


if __name__ == "__main__":
    main()

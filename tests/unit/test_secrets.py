"""Secrets are blotted out by name, in every form they are noted in."""

import pytest

from schemas import secrets
from schemas.secrets import BLOT, is_secret, note_secret, note_url, redact


@pytest.mark.parametrize(
    "name",
    [
        "sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem",
        "sasl.oauthbearer.client.secret", "sasl.oauthbearer.config", "basic.auth.user.info",
        "OPENAI_API_KEY", "SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO", "PRESSROOM_TOKEN",
    ],
)  # fmt: skip
def test_settings_with_secrets_are_known_by_their_names(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["sasl.username", "ssl.ca.location", "ssl.key.location", "bootstrap.servers", "PRESSROOM_MODEL",
     "PRESSROOM_ENCRYPTION_KEYS"],
)  # fmt: skip
def test_others_are_not_taken_for_secrets(name: str) -> None:
    assert not is_secret(name)


@pytest.fixture(autouse=True)
def nothing_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", set())
    monkeypatch.setattr(secrets, "_pattern", None)


def test_a_secret_is_blotted_out_also_within_a_longer_one() -> None:
    note_secret("opensesame")
    note_secret("opensesame-2")
    assert redact("say opensesame-2, not opensesame.") == f"say {BLOT}, not {BLOT}."


def test_user_info_is_blotted_out_by_its_parts_and_as_a_header() -> None:
    note_url("https://ann:p%40ssword@host/v1")
    for form in ("ann:p%40ssword", "p%40ssword", "p@ssword", "YW5uOnAlNDBzc3dvcmQ="):
        assert redact(f"<{form}>") == f"<{BLOT}>"


def test_what_is_too_short_or_says_nothing_stays() -> None:
    note_secret("none")
    note_secret("a")
    note_url("https://host/v1")
    assert redact("none at a host") == "none at a host"

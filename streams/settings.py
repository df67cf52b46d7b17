"""Settings: from the environment, with the embedded Kafka and model as defaults."""

import logging
import re
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.codec import SINGLE_OBJECT, Framing
from schemas.errors import UsageError
from schemas.secrets import is_secret, note_environment, note_secret
from streams.calls import NO_LIMITS, Caller, Limits
from streams.completions import Completions
from streams.connection import check_connection
from streams.ledger import OnLoss
from streams.local import Status, status
from streams.local.cache import default_cache
from streams.model import Model, OpenAIModel
from streams.prices import load_prices

EMBEDDED_MODEL = "SmolLM2-135M-Instruct"

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Settings(BaseSettings):
    """What the environment says. Every field is also documented in ``docs/settings.md``."""

    model_config = SettingsConfigDict(
        # an empty variable means unset, as it does to the shell's ${X:-}
        env_prefix="PRESSROOM_",
        env_ignore_empty=True,
        populate_by_name=True,
    )

    bootstrap_servers: str | None = None
    """Kafka's address, ``host:port,…``; unset: the embedded Kafka."""

    home: Path = Field(default_factory=lambda: user_data_path("pressroom"))
    """Where the embedded Kafka and the instances keep their state."""

    cache: Path = Field(default_factory=default_cache)
    """Where downloads are kept; homes share it."""

    model: str = EMBEDDED_MODEL
    """The model's name at the endpoint."""

    model_timeout: float = Field(default=120.0, gt=0)
    """Seconds for one request to the model."""

    grace: float = Field(default=20.0, ge=0)
    """Seconds a worker that is told to stop waits for the calls that are under way."""

    instance: str | None = None
    """Name of this worker for its transactional ids; unset: made of host name and a free number."""

    openai_base_url: str | None = Field(
        default=None, validation_alias=AliasChoices("OPENAI_BASE_URL", "openai_base_url")
    )
    """An OpenAI-compatible endpoint; unset: the embedded model."""

    openai_api_key: str = Field(
        default="none",
        validation_alias=AliasChoices("OPENAI_API_KEY", "openai_api_key"),
        repr=False,
    )

    schema_registry_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("SCHEMA_REGISTRY_URL", "schema_registry_url"),
        repr=False,
    )
    """A registry's Confluent-compatible API; unset: values are in Avro's single-object encoding."""

    schema_registry_basic_auth_user_info: str | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO", "schema_registry_basic_auth_user_info"
        ),
        repr=False,
    )
    """``user:password`` for the registry."""

    schema_registry_ssl_ca_location: str | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "SCHEMA_REGISTRY_SSL_CA_LOCATION", "schema_registry_ssl_ca_location"
        ),
    )
    """A PEM file of the CA that signed the registry's certificate."""

    prices: Path | None = None
    """A file of model prices, of the form of ``streams/prices.toml``."""

    reuse: str = "on"
    """Whether a question that was asked before is answered from the ledgers: ``on``, ``off``, or an age
    up to which (``90s``, ``12h``, ``7d``)."""

    ledger_loss: OnLoss = "stop"
    """What a worker does where a ledger has lost entries that it needs."""

    replication: int | None = Field(default=None, ge=1)
    """Replicas of each partition of the topics that are created; unset: the broker's default."""
    encrypt: str = ""
    """The fields to encrypt, ``Record.field,…``."""

    encryption_keys: Path | None = None
    """The file of keys of encrypted fields."""

    kms_key: str | None = None
    """The URI of the KMS's key that encrypts the file of keys."""

    properties: Path | None = None
    """A file of librdkafka settings, ``name=value`` lines."""

    @field_validator("openai_base_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            address = urlsplit(value)
            fine = address.scheme in ("http", "https") and address.hostname and address.port != 0
        except ValueError:  # a port that is none
            fine = False
        if not fine:
            raise ValueError("say an address like https://api.example.com/v1")
        return value

    @field_validator("reuse")
    @classmethod
    def _check_reuse(cls, value: str) -> str:
        if value not in ("on", "off") and _AGE.fullmatch(value) is None:
            raise ValueError("say on, off, or an age like 90s, 30m, 12h or 7d")
        return value

    @property
    def encrypted_fields(self) -> list[str]:
        return [name.strip() for name in self.encrypt.split(",") if name.strip()]

    def keys_and_kms(self) -> tuple[Path, str]:
        """Where the keys of encrypted fields are, and the URI of what encrypts them.

        Raises:
            UsageError: it is not said.
        """
        if self.encryption_keys is None or not self.kms_key:
            raise UsageError(
                "encryption needs PRESSROOM_ENCRYPTION_KEYS, a file, and PRESSROOM_KMS_KEY, the URI "
                "of the key that encrypts it (file:///… for a local one)"
            )
        return self.encryption_keys, self.kms_key

    def use_encryption(self) -> None:
        """Makes this process encrypt and decrypt as the settings say.

        Raises:
            UsageError: the keys can't be used.
        """
        from schemas import encryption

        if self.encryption_keys is None and not self.encrypted_fields:
            encryption.use(None)
            return
        encryption.use(encryption.load_cipher(*self.keys_and_kms(), self.encrypted_fields))

    @cached_property
    def embedded(self) -> Status:
        """What runs under :attr:`home`."""
        return status(self.home)

    @property
    def uses_embedded_kafka(self) -> bool:
        return not self.bootstrap_servers

    @property
    def uses_embedded_model(self) -> bool:
        return not self.openai_base_url

    def client_config(self) -> dict[str, Any]:
        """librdkafka settings for every client.

        Raises:
            UsageError: the embedded Kafka is wanted and does not run, the file is malformed, or Kafka
                refuses these settings.
            RetryLater: no broker answers.
        """
        servers = self.bootstrap_servers or self.embedded.bootstrap_servers
        if not servers:
            raise UsageError(
                "no Kafka: run `pressroom up`, or set PRESSROOM_BOOTSTRAP_SERVERS=host:port"
            )
        extra = read_properties(self.properties) if self.properties else {}
        # librdkafka writes to stderr by itself otherwise, and floods it while a broker is away
        config = {"bootstrap.servers": servers, "logger": logging.getLogger("kafka"), **extra}
        if extra:
            self._check(config)
        check_connection(config)
        return config

    def _check(self, config: dict[str, Any]) -> None:
        from confluent_kafka import Consumer, KafkaException

        try:
            Consumer(config | {"group.id": "pressroom-check"})
        except (KafkaException, TypeError, ValueError) as error:
            said = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            raise UsageError(f"{self.properties}: {said}") from None

    @cached_property
    def framing(self) -> Framing:
        """How values are written: in Confluent's wire format if there is a registry.

        Raises:
            UsageError: a setting of the registry is malformed.
        """
        if not self.schema_registry_url:
            return SINGLE_OBJECT
        from schemas.registry import WireFormat  # its client takes a while to import

        return WireFormat(
            self.schema_registry_url,
            self.schema_registry_basic_auth_user_info,
            self.schema_registry_ssl_ca_location,
        )

    def completions(self, config: dict[str, Any]) -> Completions | None:
        """The completions that may be taken again; None when none may be."""
        if self.reuse == "off":
            return None
        age = _AGE.fullmatch(self.reuse)
        longest = float(age[1]) * _SECONDS[age[2]] if age is not None else None
        return Completions(config, self.home / "completions", longest, self.framing)

    def caller(self, limits: Limits = NO_LIMITS) -> Caller:
        """Asks the model, within limits.

        Raises:
            UsageError: the embedded model is wanted and does not run, or its price is not known.
        """
        return Caller(self.open_model(), limits, load_prices(self.prices))

    def open_model(self) -> Model:
        """The model client.

        Raises:
            UsageError: the embedded model is wanted and does not run.
        """
        url = self.openai_base_url or self.embedded.model_url
        if not url:
            raise UsageError("no model: run `pressroom up`, or set OPENAI_BASE_URL")
        return OpenAIModel(url, self.openai_api_key, self.model, self.model_timeout)


def load_settings(**given: Any) -> Settings:
    """The settings, with what the command line gives before what the environment says.

    Raises:
        UsageError: a value is malformed.
    """
    note_environment()
    try:
        return Settings(**{k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{_variable(name)}: {said}") from None


def _variable(field: str) -> str:
    """The environment variable of a setting."""
    upper = field.upper()
    return upper if upper.startswith(("OPENAI_", "SCHEMA_REGISTRY_")) else f"PRESSROOM_{upper}"


def read_properties(path: Path) -> dict[str, str]:
    """Reads a client.properties file: ``name=value`` lines; ``#`` and ``!`` begin comments.

    Raises:
        UsageError: the file can't be read, or a line is no such line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if not stripped or stripped[0] in "#!":
            continue
        name, equals, value = stripped.partition("=")
        if not equals:
            raise UsageError(f"{path}, line {number}: not of the form name=value")
        found[name.strip()] = value.strip()
        if is_secret(name):
            note_secret(value.strip())
    return found

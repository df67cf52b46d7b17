"""``keys create`` and ``keys rotate``: the keys of encrypted fields."""

from typing import Any

from streams.cli.context import Json, emit, output, settings


def create(json: Json = False) -> None:
    """Make the file of keys that PRESSROOM_ENCRYPTION_KEYS names, encrypted by PRESSROOM_KMS_KEY.

    Example: pressroom keys create
    """
    from schemas.encryption import create_keys

    current = settings(encrypt="")
    keys, kms_key = current.keys_and_kms()
    create_keys(keys, kms_key)
    _say({"file": str(keys)}, f"{keys} made.", json)


def rotate(json: Json = False) -> None:
    """Add a key, which encrypts from now on; the older ones still decrypt. Restart workers after it.

    Example: pressroom keys rotate
    """
    from schemas.encryption import rotate_keys

    keys, kms_key = settings(encrypt="").keys_and_kms()
    added = rotate_keys(keys, kms_key)
    _say({"file": str(keys), "key": added}, f"{keys} has key {added} now.", json)


def _say(data: dict[str, Any], text: str, json: bool) -> None:
    if json:
        emit(data)
    else:
        output().print(text)

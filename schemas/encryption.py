"""Encryption of chosen fields, by Google's Tink: authenticated, bound to record and field, keys by id.

A field's place in the schema stays as it is: a string holds ``pressroom-aead:`` and base64, bytes hold
the same mark and the ciphertext. The ciphertext names its key, so that keys can be rotated while records
of older ones are about. The keys lie in a file, encrypted by a key that a KMS holds and gives to nobody;
the KMS is asked once, at the start.
"""

import base64
import json
import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from schemas.errors import DecodeError, Stop, UsageError
from schemas.record import Schema, binding_of, bound

log = logging.getLogger(__name__)

MARK = "pressroom-aead:"
"""Begins every ciphertext."""

MARK_BYTES = MARK.encode()
"""Stands in every value that holds a ciphertext, and may stand in others."""

# after the mark: what follows is plain; neither base64 nor Tink's own ciphertexts begin so
_PLAIN = "="
# a nonce and a tag, the shortest ciphertext of AES-GCM
_LEAST = 28
_LOCAL = "file://"
# what Pressroom itself keeps of records and of what was asked and answered
_ALWAYS = ("LedgerEntry.text", "DeadLetter.message", "Original.value")

Change = Callable[[str, Any], Any]
"""Makes a field's new value of its full name and its value."""


class Cipher:
    """Encrypts and decrypts fields."""

    def __init__(self, keys: Any, fields: Collection[str] = ()) -> None:
        """
        Args:
            keys: Tink's handle of them.
            fields: ``Record.field`` of what is encrypted when it is written; what is read is
                decrypted wherever it stands.
        """
        from tink import aead

        self._aead = keys.primitive(aead.Aead)
        self._ids = {key.key_id for key in keys.keyset_info().key_info}
        self.fields = frozenset((*fields, *_ALWAYS)) if fields else frozenset()

    def encrypt(self, field: str, value: Any) -> Any:
        """A field's value as it is written."""
        if field[field.rfind(".", 0, field.rfind(".")) + 1 :] not in self.fields:
            return _escaped(field, value)
        encoded = self._aead.encrypt(_bytes(value), field.encode())
        if isinstance(value, bytes):
            return MARK_BYTES + encoded
        return MARK + base64.b64encode(encoded).decode()

    def decrypt(self, field: str, value: Any) -> Any:
        """A field's value as it was before.

        Raises:
            DecodeError: it was changed, or moved from another field.
            Stop: its key is not there.
        """
        if not _is_ciphertext(value):
            return _unescaped(value)
        ciphertext = _ciphertext(field, value)
        try:
            plain = self._opened(field, ciphertext)
            return plain if isinstance(value, bytes) else plain.decode()
        except Stop:
            raise
        except Exception as error:  # Tink's own errors, or no UTF-8
            raise DecodeError(f"{field} can't be decrypted with these keys: {error}") from None

    def _opened(self, field: str, ciphertext: bytes) -> bytes:
        # Tink's own framing: a byte 1, then the key's id
        key = int.from_bytes(ciphertext[1:5], "big")
        if ciphertext[:1] == b"\x01" and key not in self._ids:
            raise Stop(
                f"{field} is encrypted with key {key}, which is not in PRESSROOM_ENCRYPTION_KEYS: "
                "give this worker the new file"
            )
        plain: bytes = self._aead.decrypt(ciphertext, field.encode())
        return plain


_cipher: Cipher | None = None


def use(cipher: Cipher | None) -> None:
    """Sets how this process encrypts; None: not at all."""
    global _cipher
    _cipher = cipher


def encrypts() -> bool:
    """Whether this process encrypts what it writes."""
    return _cipher is not None and bool(_cipher.fields)


def encrypt(schema: Schema, data: dict[str, Any]) -> dict[str, Any]:
    """A record's data with the chosen fields encrypted, and no other that looks as if it were."""
    change = _escaped if _cipher is None else _cipher.encrypt
    changed: dict[str, Any] = _walk(schema, data, change, {}, "", "")
    return changed


def decrypt(schema: Schema, data: dict[str, Any]) -> dict[str, Any]:
    """A record's data with all fields decrypted.

    Raises:
        Stop: a field is encrypted, and this process has no key.
        DecodeError: a field can't be decrypted, with whatever key.
    """
    change = _keyless if _cipher is None else _cipher.decrypt
    changed: dict[str, Any] = _walk(schema, data, change, {}, "", "")
    return changed


def _escaped(_: str, value: Any) -> Any:
    """A plain value that begins as a ciphertext does is marked: anybody may write such a document."""
    if not value.startswith(MARK if isinstance(value, str) else MARK_BYTES):
        return value
    return MARK + _PLAIN + value if isinstance(value, str) else MARK_BYTES + _PLAIN.encode() + value


def _unescaped(value: Any) -> Any:
    mark = MARK + _PLAIN if isinstance(value, str) else MARK_BYTES + _PLAIN.encode()
    return value.removeprefix(mark)


def _keyless(field: str, value: Any) -> Any:
    if _is_ciphertext(value):
        _ciphertext(field, value)
        raise Stop(
            f"{field} is encrypted and there is no key: set PRESSROOM_ENCRYPTION_KEYS "
            "and PRESSROOM_KMS_KEY"
        )
    return _unescaped(value)


def _is_ciphertext(value: str | bytes) -> bool:
    if isinstance(value, str):
        return value.startswith(MARK) and not value.startswith(MARK + _PLAIN)
    return value.startswith(MARK_BYTES) and not value.startswith(MARK_BYTES + _PLAIN.encode())


def _ciphertext(field: str, value: str | bytes) -> bytes:
    """What follows the mark. Damage must not pass for a missing key: that would stop the worker."""
    try:
        if isinstance(value, bytes):
            ciphertext = value[len(MARK_BYTES) :]
        else:
            ciphertext = base64.b64decode(value[len(MARK) :], validate=True)
    except ValueError:
        raise DecodeError(f"{field} begins as encrypted ones do, but is no base64") from None
    if len(ciphertext) < _LEAST:
        raise DecodeError(f"{field} begins as encrypted ones do, but is too short")
    return ciphertext


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _walk(
    schema: Any, value: Any, change: Change, named: dict[str, Any], field: str, namespace: str
) -> Any:
    """The value with every string and bytes in it changed.

    Args:
        schema: of the value; a name stands for a type that was defined before.
        value: plain data.
        change: what makes new strings and bytes.
        named: the types defined so far.
        field: the full name of the field it stands in.
        namespace: that names without one belong to.
    """
    match schema:
        case {"type": "record", "fields": fields}:
            name = _full_name(schema, namespace)
            named[name] = schema
            inner = name.rpartition(".")[0]
            return value | {
                f["name"]: _walk(
                    f["type"], value[f["name"]], change, named, f"{name}.{f['name']}", inner
                )
                for f in fields
            }
        case [*branches] if value is not None:
            other = next(b for b in branches if b != "null")
            return _walk(other, value, change, named, field, namespace)
        case {"type": "array", "items": items}:
            return [_walk(items, v, change, named, field, namespace) for v in value]
        case {"type": "map", "values": values}:
            return {k: _walk(values, v, change, named, field, namespace) for k, v in value.items()}
        case "string" | "bytes" | {"type": "string" | "bytes"}:
            # what is of another type is refused by the encoder, which says so better
            return change(field, value) if isinstance(value, (str, bytes)) else value
        case str() if schema in named:
            return _walk(named[schema], value, change, named, field, namespace)
    return value


def _full_name(schema: Schema, namespace: str) -> str:
    name = str(schema["name"])
    namespace = str(schema.get("namespace", namespace))
    return name if "." in name or not namespace else f"{namespace}.{name}"


def check_fields(fields: Collection[str]) -> None:
    """Checks that what is to be encrypted exists.

    Raises:
        UsageError: a field does not, or it holds no text.
    """
    known = {cls.__name__: binding_of(cls).expanded for cls in bound}
    for name in fields:
        record, _, field = name.partition(".")
        types = {f["name"]: f["type"] for f in known.get(record, {"fields": ()})["fields"]}
        if field not in types:
            raise UsageError(
                f"PRESSROOM_ENCRYPT: no field {name!r}; say Record.field, like Document.text"
            )
        if not _holds_text(types[field]):
            raise UsageError(f"PRESSROOM_ENCRYPT: {name} holds neither text nor bytes")


def _holds_text(schema: Any) -> bool:
    match schema:
        case "string" | "bytes" | {"type": "string" | "bytes"}:
            return True
        case [*branches]:
            return any(map(_holds_text, branches))
        case {"type": "array", "items": inner} | {"type": "map", "values": inner}:
            return _holds_text(inner)
    return False


# --- keys --------------------------------------------------------------------------------------


def load_cipher(keys: Path, kms_key: str, fields: Collection[str] = ()) -> Cipher:
    """The cipher with the keys of a file.

    Args:
        keys: the file, as :func:`create_keys` makes it.
        kms_key: the URI of the key that encrypts it; ``file://…`` is a key in a local file.
        fields: see :class:`Cipher`.

    Raises:
        UsageError: the file or the KMS's key can't be used.
    """
    return Cipher(_read(keys, kms_key), fields)


def create_keys(keys: Path, kms_key: str) -> None:
    """Makes a file with a first key; and the key that encrypts it, if that is a local file.

    Raises:
        UsageError: the file exists, or can't be written.
    """
    from tink import json_proto_keyset_format, secret_key_access

    if keys.exists():
        raise UsageError(f"{keys} exists; `pressroom keys rotate` adds a key to it")
    local = Path(kms_key.removeprefix(_LOCAL))
    if kms_key.startswith(_LOCAL) and not local.exists():
        plain = json_proto_keyset_format.serialize(_new_handle(), secret_key_access.TOKEN)
        _write_private(local, plain)
    _write(keys, kms_key, _new_handle())


def rotate_keys(keys: Path, kms_key: str) -> int:
    """Adds a key, with which all is encrypted from now on; gives its id. The older ones still decrypt.

    Raises:
        UsageError: the file or the KMS's key can't be used.
    """
    from tink import json_proto_keyset_format as keyset_format
    from tink import secret_key_access

    token = secret_key_access.TOKEN
    held = json.loads(keyset_format.serialize(_read(keys, kms_key), token))
    added = json.loads(keyset_format.serialize(_new_handle(), token))
    joined = {"primaryKeyId": added["primaryKeyId"], "key": [*held["key"], *added["key"]]}
    _write(keys, kms_key, keyset_format.parse(json.dumps(joined), token))
    return int(added["primaryKeyId"])


def _new_handle() -> Any:
    import tink
    from tink import aead

    _register()
    return tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)


def _read(keys: Path, kms_key: str) -> Any:
    kms = _kms_aead(kms_key)
    try:
        text = keys.read_text("utf-8")
    except OSError as error:
        raise UsageError(
            f"can't read {keys} ({error.strerror}); `pressroom keys create` makes it"
        ) from None
    from tink import json_proto_keyset_format

    try:
        return json_proto_keyset_format.parse_encrypted(text, kms, b"")
    except Exception as error:  # of Tink, of the KMS, of protobuf
        raise UsageError(f"{keys} can't be decrypted with {kms_key}: {error}") from None


def _write(keys: Path, kms_key: str, handle: Any) -> None:
    from tink import json_proto_keyset_format

    _write_private(
        keys, json_proto_keyset_format.serialize_encrypted(handle, _kms_aead(kms_key), b"")
    )


def _write_private(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        fresh.replace(path)
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}") from None


def _register() -> None:
    try:
        from tink import aead
    except ImportError:
        raise UsageError(
            "encryption needs Tink: install it with `pip install 'pressroom[encryption]'`"
        ) from None
    aead.register()


def _kms_aead(uri: str) -> Any:
    """The primitive of a KMS's key: a local file, or of whatever client is registered with Tink."""
    _register()
    import tink

    try:
        if uri.startswith(_LOCAL):
            return _local_aead(Path(uri.removeprefix(_LOCAL)))
        return tink.kms_client_from_uri(uri).get_aead(uri)
    except Exception as error:  # a KMS's client fails in its own ways
        raise UsageError(f"the KMS's key {uri} can't be used: {error}") from None


def _local_aead(path: Path) -> Any:
    from tink import aead, json_proto_keyset_format, secret_key_access

    handle = json_proto_keyset_format.parse(path.read_text("utf-8"), secret_key_access.TOKEN)
    return handle.primitive(aead.Aead)

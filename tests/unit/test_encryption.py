"""Encrypted fields: bound to where they stand, readable after a rotation, safe against look-alikes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastavro import schemaless_reader

from schemas import encryption
from schemas.codec import SINGLE_OBJECT, codec_for
from schemas.encryption import MARK, check_fields, create_keys, load_cipher, rotate_keys
from schemas.errors import DecodeError, Stop, UsageError
from schemas.record import Text, record, schema_of
from schemas.records import DeadLetter, Document, LedgerEntry, Original


@record(namespace="letters")
class Part:
    text: str
    note: str


@record(namespace="letters")
class Letter:
    parts: list[Part]
    tags: dict[str, str]
    seal: bytes | None
    remark: Annotated[str | None, Text(max=9)]
    pages: int


FIELDS = ["Part.text", "Letter.tags", "Letter.seal", "Letter.remark", "Document.text"]
LETTER = Letter([Part("secret one", "open"), Part("secret two", "")], {"a": "secret three"},
                b"secret four", "secret 5", 3)  # fmt: skip
DOCUMENT = Document("1", "file:///a", "Title", "secret text")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, str]:
    made = (tmp_path / "keys.json", f"file://{tmp_path}/kms.json")
    create_keys(*made)
    return made


@pytest.fixture(autouse=True)
def cipher(keys: tuple[Path, str]) -> Iterator[None]:
    encryption.use(load_cipher(*keys, FIELDS))
    yield
    encryption.use(None)


@pytest.mark.parametrize("written", [LETTER, replace(LETTER, seal=None, remark=None, parts=[])])
def test_what_was_encrypted_is_read_again(written: Letter) -> None:
    encoded = codec_for(Letter).encode(written)
    assert b"secret" not in encoded
    assert codec_for(Letter).decode(encoded) == written
    assert SINGLE_OBJECT.describe(encoded)[1] == codec_for(Letter)._to_avro(written)


def test_only_the_chosen_fields_are_encrypted_and_what_is_kept_of_records() -> None:
    assert b"open" in codec_for(Letter).encode(LETTER)
    entry = LedgerEntry("result", "1", "t:0:0", "p@1", "m", 0, text="secret answer")
    original = Original("t", 0, 0, 0, b"k", b"secret raw", [])
    letter = DeadLetter("s", "ValueError", "secret quoted", 1, [original])
    for kept in (entry, letter):
        encoded = codec_for(type(kept)).encode(kept)
        assert b"secret" not in encoded
        assert codec_for(type(kept)).decode(encoded) == kept


def test_bytes_are_passed_on_as_they_came_only_when_nothing_is_to_be_encrypted() -> None:
    encryption.use(None)
    plain = codec_for(Document).encode(DOCUMENT)
    assert codec_for(Document).repeats(plain)
    encryption.use(None)


def test_what_was_plain_is_not_passed_on_once_its_fields_are_encrypted(
    keys: tuple[Path, str],
) -> None:
    encryption.use(None)
    plain = codec_for(Document).encode(DOCUMENT)
    encryption.use(load_cipher(*keys, FIELDS))
    assert not codec_for(Document).repeats(plain)
    assert codec_for(Document).decode(plain) == DOCUMENT


def test_without_a_key_a_worker_stops_and_a_person_sees_the_ciphertext() -> None:
    encoded = codec_for(Document).encode(DOCUMENT)
    encryption.use(None)
    with pytest.raises(Stop, match=r"Document\.text is encrypted.*PRESSROOM_ENCRYPTION_KEYS"):
        codec_for(Document).decode(encoded)
    name, shown = SINGLE_OBJECT.describe(encoded)
    assert name.endswith("Document")
    assert shown is not None
    assert shown["text"].startswith(MARK)
    assert shown["title"] == "Title"


def _moved(encoded: bytes, source: str, target: str) -> bytes:
    """The record with one field's ciphertext put into another field."""
    import io

    data: Any = schemaless_reader(io.BytesIO(encoded[10:]), schema_of(Document), None)
    data[target] = data[source]
    encryption.use(None)
    return codec_for(Document)._written(data)


def test_a_ciphertext_in_another_field_is_refused(keys: tuple[Path, str]) -> None:
    moved = _moved(codec_for(Document).encode(DOCUMENT), "text", "title")
    encryption.use(load_cipher(*keys, FIELDS))
    with pytest.raises(DecodeError, match=r"Document\.title can't be decrypted"):
        codec_for(Document).decode(moved)


def test_older_records_stay_readable_after_a_rotation_and_new_ones_need_the_new_key(
    keys: tuple[Path, str],
) -> None:
    before = codec_for(Document).encode(DOCUMENT)
    old = load_cipher(*keys, FIELDS)
    added = rotate_keys(*keys)
    encryption.use(load_cipher(*keys, FIELDS))
    assert codec_for(Document).decode(before) == DOCUMENT
    after = codec_for(Document).encode(DOCUMENT)
    encryption.use(old)
    with pytest.raises(Stop, match=f"with key {added}, which is not in PRESSROOM_ENCRYPTION_KEYS"):
        codec_for(Document).decode(after)


def test_keys_lie_encrypted_and_private_and_another_kms_key_does_not_open_them(
    keys: tuple[Path, str], tmp_path: Path
) -> None:
    path, _ = keys
    assert set(json.loads(path.read_text())) >= {"encryptedKeyset"}
    assert path.stat().st_mode & 0o077 == 0
    create_keys(tmp_path / "other.json", f"file://{tmp_path}/other-kms.json")
    with pytest.raises(UsageError, match="can't be decrypted with"):
        load_cipher(path, f"file://{tmp_path}/other-kms.json")


def test_a_kms_that_nobody_knows_is_named(keys: tuple[Path, str]) -> None:
    with pytest.raises(UsageError, match=r"aws-kms://x can't be used"):
        load_cipher(keys[0], "aws-kms://x")


def test_keys_are_not_overwritten(keys: tuple[Path, str]) -> None:
    with pytest.raises(UsageError, match="keys rotate"):
        create_keys(*keys)


@pytest.mark.parametrize("text", [MARK, f"{MARK}AAAA", f"{MARK}=AAAA", f"{MARK}="])
@pytest.mark.parametrize("keyed", [True, False])
def test_a_text_that_looks_encrypted_is_read_as_it_was_written(
    text: str, keyed: bool, keys: tuple[Path, str]
) -> None:
    encryption.use(load_cipher(*keys, FIELDS) if keyed else None)
    document = Document("1", text, text, text)
    assert codec_for(Document).decode(codec_for(Document).encode(document)) == document


@pytest.mark.parametrize("damaged", [MARK, f"{MARK}<{MARK}", f"{MARK}AAAA", f"{MARK}AA=A"])
@pytest.mark.parametrize("keyed", [True, False])
def test_what_only_begins_like_a_ciphertext_is_a_dead_letter_and_no_missing_key(
    damaged: str, keyed: bool, keys: tuple[Path, str]
) -> None:
    plain = codec_for(Document)._to_avro(DOCUMENT)
    encoded = codec_for(Document)._written(plain | {"text": damaged})
    encryption.use(load_cipher(*keys, FIELDS) if keyed else None)
    with pytest.raises(DecodeError, match=r"Document\.text begins as encrypted ones do, but is"):
        codec_for(Document).decode(encoded)


@pytest.mark.parametrize(
    ("field", "why"),
    [("Nothing.text", "no field"), ("Document.body", "no field"), ("Document", "no field"),
     ("Letter.pages", "neither text nor bytes"), ("Letter.parts", "neither text nor bytes")],
)  # fmt: skip
def test_fields_that_cannot_be_encrypted_are_named(field: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        check_fields([field])
    check_fields(FIELDS)

"""Encrypted fields leave no trace: not in log segments, not in the home, not in logs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Result
from tests.security.conftest import Merging

CANARY = "canary-in-a-field-q9q9q9"
FIELDS = "Half.text,Whole.text"


def _files(folder: Path) -> Iterator[bytes]:
    yield from (path.read_bytes() for path in folder.rglob("*") if path.is_file())


def _traces(merging: Merging, results: list[Result]) -> list[bytes]:
    """What holds the canary, of all that is kept or logged."""
    folder = merging.broker.logs
    segments = [f for p in folder.glob(f"{merging.cli.name}.*") for f in _files(p)]
    assert len(segments) > 20
    home = list(_files(merging.cli.folder / "home"))
    assert home
    logged = [r.err.encode() for r in results]
    return [found for found in (*segments, *home, *logged) if CANARY.encode() in found]


@pytest.fixture
def encrypted(merging: Merging, tmp_path: Path) -> dict[str, str]:
    """The environment of whoever has the keys."""
    merging.create_topics()
    merging.grant(*merging.rights)
    # else a compressed segment might hide what is not encrypted
    login = merging.broker.login(merging.user, merging.password, compression_type="none")
    merging.cli.environment["PRESSROOM_PROPERTIES"] = str(login)
    environment = {
        "PRESSROOM_ENCRYPT": FIELDS,
        "PRESSROOM_ENCRYPTION_KEYS": str(tmp_path / "keys.json"),
        "PRESSROOM_KMS_KEY": f"file://{tmp_path}/kms.json",
    }
    assert merging.cli.run("keys", "create", **environment).status == 0
    return environment


def _work(merging: Merging, environment: dict[str, str]) -> list[Result]:
    """Outputs, a dead letter, a filtered record, a half that waits, and answers used again."""
    texts = (f"{CANARY} one", f"{CANARY} fail", f"{CANARY} filter", f"{CANARY} one")
    merging.write(*texts, encrypted=environment)
    merging.write_left(f"{CANARY} waits", encrypted=environment)
    results = [merging.cli.run("-v", "worker", "merge", "--until-idle", "1", **environment)]
    assert results[0].status == 0, results[0].err
    return results


def test_no_trace_of_an_encrypted_field_is_left(
    merging: Merging, encrypted: dict[str, str]
) -> None:
    results = _work(merging, encrypted)
    assert not _traces(merging, results)

    everything = {"PRESSROOM_BOOTSTRAP_SERVERS": merging.broker.address,
                  "PRESSROOM_PROPERTIES": "/dev/null"}  # fmt: skip
    tail = ("tail", "wholes")
    keyed = merging.cli.run(*tail, **(everything | encrypted))
    assert [r["value"]["text"] for r in keyed.records] == [f"{CANARY} one+{CANARY} one"] * 2
    keyless = merging.cli.run(*tail, **everything)
    assert all(r["value"]["text"].startswith("pressroom-aead:") for r in keyless.records)
    assert keyless.err.count("is encrypted and there is no key") == 1
    letters = merging.cli.run("dead", "list", "--json", **(everything | encrypted)).json
    (letter,) = letters["dead_letters"]
    assert f"told to fail: {CANARY} fail" in letter["message"]
    assert letter["inputs"][0]["record"]["text"] == f"{CANARY} fail"
    audit = merging.cli.run("audit", "--json", **(everything | encrypted)).json
    (stage,) = audit["stages"]
    assert (audit["ok"], stage["calls"], stage["reused"], stage["waiting"]) == (True, 1, 1, 1)


@pytest.mark.long
def test_a_worker_without_keys_stops_at_the_first_record_and_loses_nothing(
    merging: Merging, encrypted: dict[str, str]
) -> None:
    merging.write(f"{CANARY} one", encrypted=encrypted)
    refusal = merging.cli.run("worker", "merge", "--until-idle", "1")
    assert refusal.status == 1
    assert (
        "Half.text is encrypted and there is no key: set PRESSROOM_ENCRYPTION_KEYS" in refusal.err
    )
    assert "Traceback" not in refusal.err
    rotated = merging.cli.run("keys", "rotate", "--json", **encrypted)
    assert rotated.json["key"] > 0
    done = merging.cli.run("worker", "merge", "--until-idle", "1", "--json", **encrypted)
    assert done.json == {"stages": [{"stage": "merge", "committed": 2}]}


@pytest.mark.long
def test_without_encryption_the_same_search_finds_it_everywhere(
    merging: Merging, encrypted: dict[str, str]
) -> None:
    found = _traces(merging, _work(merging, {}))
    assert len(found) >= 7  # inputs, outputs, state, ledger, dead letters, the home's copy


@pytest.mark.long
def test_a_field_that_is_not_there_is_named(merging: Merging, encrypted: dict[str, str]) -> None:
    wrong = encrypted | {"PRESSROOM_ENCRYPT": "Half.txt"}
    said = merging.cli.run("worker", "merge", **wrong)
    assert said.status == 2
    assert said.err == (
        "pressroom: PRESSROOM_ENCRYPT: no field 'Half.txt'; say Record.field, like Document.text\n"
    )
    assert json.loads((merging.cli.folder / "keys.json").read_text())

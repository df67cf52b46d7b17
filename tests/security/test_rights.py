"""The rights that ``pressroom acls`` lists are enough, and not one of them can be left out."""

import signal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AclBindingFilter  # type: ignore[attr-defined]

from schemas.topics import ledger_of
from streams.admin import create_topics
from streams.rights import Right
from tests.integration.conftest import Cli, wait_for
from tests.integration.test_cli import refused
from tests.security.conftest import Merging
from tests.support.secure import SecureBroker

pytestmark = pytest.mark.long  # `make security` runs them

ALL = (
    "READ topic lefts", "READ topic rights", "READ topic merge.state", "READ topic merge.ledger",
    "WRITE topic wholes", "WRITE topic dead-letters", "WRITE topic filtered",
    "WRITE topic merge.state", "WRITE topic merge.ledger", "READ group merge",
    "WRITE transactional-id merge.",
)  # fmt: skip


def _named(merging: Merging, name: str) -> Right:
    operation, kind, resource = name.split()
    (found,) = (
        r
        for r in merging.rights
        if (r.operation, r.kind, r.name) == (operation, kind, merging.topic(resource))
    )
    return found


def _revoke(merging: Merging, right: Right) -> None:
    acl = right.binding(merging.principal)
    wanted = AclBindingFilter(
        acl.restype, acl.name, acl.resource_pattern_type,
        acl.principal, acl.host, acl.operation, acl.permission_type,
    )  # fmt: skip
    merging.broker.revoke(wanted)


def test_the_rights_are_all_tested(merging: Merging) -> None:
    assert {_named(merging, name) for name in ALL} == set(merging.rights)
    assert len(merging.rights) == len(ALL)


def test_the_rights_are_enough_even_through_a_rebalance_and_a_crash(merging: Merging) -> None:
    merging.create_topics()
    listed = merging.cli.run("acls", "merge", "--principal", merging.principal, "--json").json[
        "acls"
    ]
    assert len(listed) == len(ALL)
    applied = merging.cli.run(
        "acls", "merge", "--principal", merging.principal, "--apply", "--json",
        PRESSROOM_BOOTSTRAP_SERVERS=merging.broker.address, PRESSROOM_PROPERTIES="/dev/null",
    )  # fmt: skip
    assert applied.json["acls"] == listed
    # a ledger that it may see and not read: it does without
    hidden = ledger_of(merging.cli.name, "hidden", 1)
    create_topics(merging.broker.config, [hidden])
    merging.grant(Right("DESCRIBE", "topic", hidden.name))

    merging.write(*(f"a{n}" for n in range(8)), "filter", "fail")
    first = merging.start()
    merging.await_texts(8)
    second = merging.start()
    merging.write(*(f"b{n}" for n in range(8)))
    merging.await_texts(16)
    merging.model.before = lambda: merging.model.closed.wait(0.3)
    merging.write(*(f"c{n}" for n in range(16)))
    begun = merging.model.requests
    wait_for(lambda: merging.model.requests > begun, "a call to be under way")
    first.send_signal(signal.SIGKILL)
    merging.await_texts(32)
    second.send_signal(signal.SIGTERM)
    left = merging.cli.end(second)
    assert left.status == 0
    assert left.err.count(f"no completions are taken from {hidden.name}: not readable") == 1
    first.wait(30)
    expected = sorted(f"{t}+{t}" for t in merging.written if t not in ("filter", "fail"))
    assert merging.texts() == expected
    report = merging.audit()
    assert report["dead"] == 1
    assert report["filtered"] == 1
    assert report["unread"] == report["waiting"] == 0


@pytest.mark.parametrize("taken", ALL)
def test_without_one_right_a_worker_does_not_begin_and_names_it(
    merging: Merging, taken: str
) -> None:
    merging.create_topics()
    missing = _named(merging, taken)
    merging.grant(*(r for r in merging.rights if r != missing))
    merging.write("fail", "filter", "a")
    result = merging.cli.end(merging.start("--until-idle", "1"), timeout=120)
    assert result.status in (1, 2)
    (line,) = (line for line in result.err.splitlines() if line.startswith("pressroom: "))
    assert f"{missing.operation} on {missing.kind} {missing.name}" in line
    assert "Traceback" not in result.err
    assert merging.texts() == []

    merging.grant(missing)
    assert merging.cli.end(merging.start("--until-idle", "1"), timeout=120).status == 0
    assert merging.texts() == ["a+a"]


@pytest.mark.parametrize(
    "taken",
    # what a worker has taken over it does not read again
    [n for n in ALL if "READ topic merge" not in n],
)
def test_a_worker_that_loses_a_right_leaves_and_names_it_and_loses_nothing(
    merging: Merging, taken: str
) -> None:
    merging.create_topics()
    merging.grant(*merging.rights)
    merging.write("a")
    worker = merging.start()
    merging.await_texts(1)
    missing = _named(merging, taken)
    _revoke(merging, missing)
    merging.write("fail", "filter", "b")
    result = merging.cli.end(worker, timeout=120)
    assert result.status == 1, result.err
    (line,) = (line for line in result.err.splitlines() if line.startswith("pressroom: "))
    assert f"{missing.operation} on {missing.kind} {missing.name}" in line
    assert "Traceback" not in result.err

    merging.grant(missing)
    assert merging.cli.end(merging.start("--until-idle", "1"), timeout=120).status == 0
    assert merging.texts() == ["a+a", "b+b"]
    report = merging.audit()
    assert (report["dead"], report["filtered"], report["unread"]) == (1, 1, 0)


def test_what_has_no_rights_at_all_says_so(merging: Merging) -> None:
    merging.create_topics()
    for command in ("topics create", "audit", "tail wholes", "worker merge"):
        assert "Kafka refuses " in refused(merging.cli.run(*command.split())), command


COMMANDS = ("topics", "ingest", "publish", "sink", "tail", "audit")


def test_each_command_runs_with_its_own_rights_alone(
    secure: SecureBroker, cli: Cli, tmp_path: Path
) -> None:
    everything = {"PRESSROOM_BOOTSTRAP_SERVERS": secure.address}
    assert cli.run("acls", *COMMANDS, "--apply", **everything).status == 0
    shared = cli.run("acls", *COMMANDS, "--principal", "User:all", "--apply", **everything)
    assert shared.status == 0, shared.err
    logins = {}
    for part in COMMANDS:
        secure.add_user(f"{cli.name}.{part}", part * 3)
        logins[part] = secure.login(f"{cli.name}.{part}", part * 3)
    (tmp_path / "a.txt").write_text("A document.")

    def run(part: str, *command: str) -> Any:
        address = secure.at(secure.ports.sasl_ssl)
        environment = {"PRESSROOM_BOOTSTRAP_SERVERS": address}
        result = cli.run(*command, "--json", **environment, PRESSROOM_PROPERTIES=str(logins[part]))
        assert result.status == 0, result.err
        return result.json

    assert len(run("topics", "topics", "create")["created"]) > 5
    assert run("ingest", "ingest", "a.txt")["documents"] == 1
    (tmp_path / "a.txt").write_text("Another document.")  # what was read before is looked through
    assert run("ingest", "ingest", "a.txt")["documents"] == 1
    worked = run("publish", "worker", "publish", "--until-idle", "1")
    assert worked["stages"] == [{"stage": "publish", "committed": 2}]
    assert run("sink", "sink", "--into", "out", "--until-end")["written"] == 2
    assert run("tail", "tail", "articles")["records"] == 2
    assert run("audit", "audit")["ok"]
    other = cli.run(
        "audit",
        PRESSROOM_BOOTSTRAP_SERVERS=secure.at(secure.ports.sasl_ssl),
        PRESSROOM_PROPERTIES=str(logins["tail"]),
    )
    assert f"DESCRIBE on group {cli.topic('publish')}" in refused(other)

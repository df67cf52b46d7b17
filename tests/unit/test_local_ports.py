"""Ports: the preferred ones while they are free, others otherwise."""

import socket
import threading
from collections.abc import Iterator

import pytest

from streams.local.ports import HOST, choose, is_free, is_listening


@pytest.fixture
def taken() -> Iterator[int]:
    """A port somebody else listens on while the test runs."""
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


def test_preferred_ports_are_kept_while_free() -> None:
    before = choose(2)
    assert choose(2, before) == before


def test_preferred_ports_are_waited_for() -> None:
    """A killed server's threads end one after the other, and the last one closes its sockets."""
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        threading.Timer(0.3, server.close).start()
        assert choose(1, (port,)) == (port,)


def test_all_are_chosen_anew_when_one_is_taken(taken: int) -> None:
    (free,) = choose(1)
    chosen = choose(2, (free, taken))
    assert taken not in chosen
    assert len(set(chosen)) == 2


def test_ports_of_another_number_are_not_preferred() -> None:
    assert len(choose(2, choose(1))) == 2


def test_a_listener_makes_a_port_taken(taken: int) -> None:
    assert not is_free(taken)
    assert is_listening(taken)


def test_nothing_listens_on_a_free_port() -> None:
    (port,) = choose(1)
    assert is_free(port)
    assert not is_listening(port)

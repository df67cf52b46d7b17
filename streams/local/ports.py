"""Free ports on the loopback interface."""

import errno
import random
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack

HOST = "127.0.0.1"

# below those that systems give to outgoing connections: while a server is away, a client that tries
# to reach it again could be given, and so take, its very port
_PORTS = range(20_000, 32_000)

# a server that was killed counts as gone a moment before its last thread has let go of its port
_LINGER_SECONDS = 2.0
_POLL_SECONDS = 0.05


def choose(count: int, preferred: Sequence[int] = ()) -> tuple[int, ...]:
    """``count`` free ports: the preferred ones if all are free within 2 s, otherwise others.

    Somebody else can still take one before it is used.
    """
    if len(preferred) == count and _await_free(preferred):
        return tuple(preferred)
    with ExitStack() as open_until_all_are_chosen:
        sockets = [open_until_all_are_chosen.enter_context(socket.socket()) for _ in range(count)]
        return tuple(map(_bind, sockets))


def _bind(server: socket.socket) -> int:
    for port in random.sample(_PORTS, 1000):
        try:
            server.bind((HOST, port))
        except OSError:
            continue
        return port
    raise OSError(errno.EADDRINUSE, f"no free port between {_PORTS.start} and {_PORTS.stop}")


def _await_free(ports: Sequence[int]) -> bool:
    deadline = time.monotonic() + _LINGER_SECONDS
    while not all(map(is_free, ports)):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        # connections of a server that just stopped linger, and don't keep a new one from starting
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def is_listening(port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True

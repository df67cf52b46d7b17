"""Free ports on the loopback interface."""

import socket
from collections.abc import Sequence
from contextlib import ExitStack

HOST = "127.0.0.1"


def choose(count: int, preferred: Sequence[int] = ()) -> tuple[int, ...]:
    """``count`` free ports: the preferred ones if all are free, otherwise others.

    Somebody else can still take one before it is used.
    """
    if len(preferred) == count and all(map(is_free, preferred)):
        return tuple(preferred)
    with ExitStack() as open_until_all_are_chosen:
        sockets = [open_until_all_are_chosen.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return tuple(one.getsockname()[1] for one in sockets)


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

"""Sockets."""

import socket
import struct


def reset(connection: socket.socket) -> None:
    """Closes a connection at once, so that its peer sees it reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.close(connection.detach())

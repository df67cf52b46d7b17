"""A TCP proxy before Kafka that reads the requests it forwards, and loses, delays or breaks some.

It stands at the address that the broker advertises, so all that a client says goes through it. Two
threads serve a connection, one for each direction; both see whole requests and replies.
"""

import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from streams.local.ports import HOST
from tests.support.net import reset

PRODUCE = 0
ADD_OFFSETS_TO_TXN = 25
END_TXN = 26
TXN_OFFSET_COMMIT = 28

_ENTIRE = 1 << 20


@dataclass(frozen=True)
class Request:
    """The head of a request."""

    api_key: int
    api_version: int
    correlation_id: int


@dataclass(eq=False)
class Link:
    """One client's connection, and the one to the broker that belongs to it."""

    client: socket.socket
    broker: socket.socket
    lost: dict[int, Callable[[], None]] = field(default_factory=dict)
    """Correlation ids of requests whose replies are lost, and what happens when one is there."""

    def reset(self) -> None:
        """Breaks both connections at once."""
        for end in (self.client, self.broker):
            _shut(end, socket.SHUT_RDWR)  # or the threads that wait in it would go on waiting
            with suppress(OSError):
                reset(end)


class Fault(Protocol):
    """Hears of every request; keeps it from the broker by returning False."""

    def __call__(self, request: Request, link: Link) -> bool: ...


class _Nth:
    """Strikes the N-th request of one kind."""

    def __init__(self, api_key: int, at: int = 1) -> None:
        self._api_key, self._at = api_key, at
        self._numbers = count(1)
        self.struck = threading.Event()
        """Set when it has happened."""

    def __call__(self, request: Request, link: Link) -> bool:
        if request.api_key != self._api_key or next(self._numbers) != self._at:
            return True
        return self._strike(request, link)

    def _strike(self, request: Request, link: Link) -> bool:
        raise NotImplementedError


class LostReply(_Nth):
    """The broker does what it is asked, and its reply is lost: the connection breaks, or is silent."""

    def __init__(self, api_key: int, at: int = 1, *, broken: bool) -> None:
        super().__init__(api_key, at)
        self._broken = broken

    def _strike(self, request: Request, link: Link) -> bool:
        def lose() -> None:
            self.struck.set()
            if self._broken:
                link.reset()

        link.lost[request.correlation_id] = lose
        return True


class Held(_Nth):
    """The request is on its way until it is released, even if its client has gone meanwhile."""

    def __init__(self, api_key: int, at: int = 1) -> None:
        super().__init__(api_key, at)
        self.released, self.arrived = threading.Event(), threading.Event()

    def _strike(self, request: Request, link: Link) -> bool:
        link.lost[request.correlation_id] = self.arrived.set  # its client waits no more
        self.struck.set()
        return self.released.wait()


class BlackHole:
    """Requests of one kind go in and nothing comes out, so many times."""

    def __init__(self, api_key: int, times: int = 1) -> None:
        self._api_key, self._left = api_key, times
        self.struck = threading.Event()

    def __call__(self, request: Request, link: Link) -> bool:
        if request.api_key != self._api_key or self._left <= 0:
            return True
        self._left -= 1
        self.struck.set()
        return False


class Silence:
    """Requests of one kind on the connections of a moment go in and nothing comes out."""

    def __init__(self, api_key: int, links: Iterable[Link]) -> None:
        self._api_key, self._links = api_key, set(links)

    def __call__(self, request: Request, link: Link) -> bool:
        return request.api_key != self._api_key or link not in self._links


class Proxy:
    """Listens until closed. By default it changes nothing."""

    def __init__(self, port: int, broker: int, seed: int = 0) -> None:
        """
        Args:
            port: where to listen.
            broker: the port of the broker's own listener.
            seed: of the sizes of pieces and the choice of connections.
        """
        self._broker = broker
        self._random = random.Random(seed)
        self.faults: list[Fault] = []
        self.latency = 0.0
        """Seconds by which each request and each reply is late."""
        self.slicing = False
        """Whether replies come in pieces of a few bytes."""
        self.requests = 0
        """How many were forwarded."""
        self.links: set[Link] = set()
        """The connections there are."""
        self._server = socket.create_server((HOST, port), backlog=100)
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"{HOST}:{self._server.getsockname()[1]}"

    def reset_some(self, share: float = 1.0) -> None:
        """Breaks each connection with the given probability."""
        for link in list(self.links):
            if self._random.random() < share:
                link.reset()

    def close(self) -> None:
        """Stops listening and breaks what is open."""
        _shut(self._server, socket.SHUT_RDWR)
        self._server.close()
        self.reset_some()

    # --- one thread for new connections, two for each -----------------------------------------

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            broker = socket.create_connection((HOST, self._broker))
        except OSError:  # the broker is away
            reset(client)
            return
        for end in (client, broker):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(client, broker)
        self.links.add(link)
        replies = threading.Thread(target=self._reply, args=(link,), daemon=True)
        replies.start()
        with suppress(OSError):
            self._request(link)
        # what was sent is still to be read: a reset would throw it away
        _shut(broker, socket.SHUT_WR)
        replies.join()
        self.links.discard(link)
        client.close()
        broker.close()

    def _request(self, link: Link) -> None:
        for frame in _frames(link.client):
            request = Request(*struct.unpack(">hhi", frame[:8]))
            if all(fault(request, link) for fault in self.faults):
                self.requests += 1
                time.sleep(self.latency)
                link.broker.sendall(struct.pack(">i", len(frame)) + frame)

    def _reply(self, link: Link) -> None:
        with suppress(OSError):
            for frame in _frames(link.broker):
                (correlation_id,) = struct.unpack(">i", frame[:4])
                if lost := link.lost.pop(correlation_id, None):
                    lost()
                    continue
                time.sleep(self.latency)
                self._send(link.client, struct.pack(">i", len(frame)) + frame)
        _shut(link.client, socket.SHUT_RDWR)

    def _send(self, client: socket.socket, data: bytes) -> None:
        while data:
            size = self._random.randint(1, 40) if self.slicing else _ENTIRE
            client.sendall(data[:size])
            data = data[size:]


def _frames(connection: socket.socket) -> Iterator[bytes]:
    """What comes after each length, until the connection ends."""
    while head := _read(connection, 4):
        (length,) = struct.unpack(">i", head)
        yield _read(connection, length)


def _read(connection: socket.socket, length: int) -> bytes:
    """So many bytes; none if the connection ends before."""
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            return b""
        data += piece
    return data


def _shut(connection: socket.socket, how: int) -> None:
    with suppress(OSError):
        connection.shutdown(how)

"""The connections to a model's endpoint: JSON goes out, bytes come back.

They are kept open and used again, and close with the event loop they belong to. It is not OpenAI's own
client: with 64 calls at once a worker took 6.5 ms of processor time for a call with that one, and 2.1
to 2.6 with this.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from importlib.metadata import version
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import certifi
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import BytesPayload

from schemas.secrets import note_url
from streams.last_moment import Withheld, check_the_last_moment

_KEPT_OPEN = 4.0
"""Seconds an unused connection stays open: less than servers do, or a request might meet its end."""
_WHOLE_ANSWER = 1.0
"""Seconds that an answer has in all, beyond the timeout of its pieces."""
# a loop alone does not keep its tasks from being collected
_keepers: set[asyncio.Task[None]] = set()


class Answer(NamedTuple):
    """What an endpoint answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Endpoint:
    """One address, and the key to it."""

    def __init__(self, base_url: str, api_key: str, timeout: float) -> None:
        """
        Args:
            base_url: ends in ``/v1`` as a rule; a user and password in it stand for the key.
            api_key: the bearer's.
            timeout: seconds for connecting, and for each piece of an answer; an answer that drips in
                gets a second more in all.
        """
        self._base_url, self._timeout = base_url.rstrip("/"), timeout
        address = urlsplit(base_url)
        self._headers = {
            "content-type": "application/json",
            "user-agent": f"pressroom/{version('pressroom')}",
        }
        if address.username is None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._secure = address.scheme == "https"
        self._proxy = _proxy(address.scheme, address.hostname or "")
        note_url(self._proxy or "")
        self._session: aiohttp.ClientSession | None = None

    async def post(self, path: str, content: object) -> Answer:
        """Asks once; never again by itself, since every request may be paid for.

        Raises:
            aiohttp.ClientError, TimeoutError: there is no whole answer; of the first,
                ``ClientConnectorError``, ``ConnectionTimeoutError`` and ``ClientHttpProxyError`` say
                that nothing was sent.
            Withheld: see :mod:`streams.last_moment`.
        """
        body = _Body(json.dumps(content, separators=(",", ":")).encode())
        asked = self._opened().post(self._base_url + path, data=body, proxy=self._proxy)
        try:
            async with asked as response:
                return Answer(response.status, response.headers, await response.read())
        except aiohttp.ClientConnectionError as error:
            if isinstance(error.__cause__, Withheld):
                raise error.__cause__ from None
            raise

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                # how many at once is the caller's to say
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=_KEPT_OPEN, ssl=_trusting() if self._secure else True
                ),
                timeout=aiohttp.ClientTimeout(
                    total=self._timeout + _WHOLE_ANSWER,
                    sock_connect=self._timeout,
                    sock_read=self._timeout,
                ),
            )
            keeper = asyncio.get_running_loop().create_task(_close_at_last(self._session))
            _keepers.add(keeper)
            keeper.add_done_callback(_keepers.discard)
        return self._session


class _Body(BytesPayload):
    """Written together with the headers, in one go: between the check and the sending nothing runs."""

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        check_the_last_moment()
        await super().write_with_length(writer, content_length)


async def _close_at_last(session: aiohttp.ClientSession) -> None:
    """Waits to be cancelled, as a loop's tasks are when it ends."""
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await session.close()


def _trusting() -> ssl.SSLContext:
    """The system's certificates, those of ``SSL_CERT_FILE``, and the public ones that come along."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _proxy(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for an address: ``HTTPS_PROXY``, ``NO_PROXY`` and so on."""
    known = getproxies()
    return None if proxy_bypass(host) else known.get(scheme) or known.get("all")

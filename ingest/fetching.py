"""Fetching pictures that events only point at: at once, and from nowhere they should not lead.

What a device writes into a message decides which address this process connects to, so nothing
is fetched but from hosts and networks that the settings list, and an address of a private network
or of this machine only where its network is listed itself. The address that was checked is the
one connected to, whatever the name resolves to a moment later; a redirect is not followed; size
and time are bounded from the first byte to the last.

::

    IngestError
    └── NotFetched      there is no picture to be had: the event is kept without, saying why
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Iterable

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from device_profiles.errors import shown
from ingest.addresses import Allowed
from ingest.errors import IngestError

MAX_PICTURE_BYTES = 8 * 1024 * 1024
TIMEOUT_S = 5.0
AT_ONCE = 16
"""Connections at a time: bounds memory together with `MAX_PICTURE_BYTES`."""

REST_S = 30.0
"""So long a host that did not answer is left alone: whatever else waits must not wait for it."""

MOST_HOSTS = 1_000


class NotFetched(IngestError):  # noqa: N818 - what became of it, not a fault of ours
    """There is no picture to be had; the message says why in one line."""


class _CheckedResolver(AbstractResolver):
    """Resolves names to addresses that may be connected to, and to no others."""

    def __init__(self, allowed: Allowed, inner: AbstractResolver) -> None:
        self._allowed = allowed
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        taken = [one for one in found if self._allowed.takes(host, one["host"])]
        if not taken:
            where = ", ".join(one["host"] for one in found) or "nowhere"
            raise NotFetched(
                f"host {shown(host)} leads to {where}, which frames.fetch_from does not list"
            )
        return taken

    async def close(self) -> None:
        await self._inner.close()


class Fetcher:
    """Fetches pictures over HTTP, bounded in every way; see the module."""

    def __init__(
        self,
        entries: Iterable[str],
        *,
        max_bytes: int = MAX_PICTURE_BYTES,
        timeout_s: float = TIMEOUT_S,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Nothing is connected yet.

        Args:
            entries: Of the settings; see `Allowed`. None at all: nothing is fetched.
            max_bytes: A larger picture is given up.
            timeout_s: From the name's resolution to the last byte.
            resolver: Of names; None for the system's.

        Raises:
            ValueError: An entry is no host and no network.
        """
        self._allowed = Allowed(entries)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._resting: dict[str, float] = {}

    async def fetch(self, address: str) -> bytes:
        """Fetch a picture.

        Args:
            address: As a device wrote it.

        Returns:
            What is there; whether it is a picture is for the caller to see.

        Raises:
            NotFetched: It is not allowed, not there, too large, or too slow.
        """
        url, host = self._checked(address)
        if self._resting.get(host, 0.0) > time.monotonic():
            raise NotFetched(f"host {shown(host)} did not answer a moment ago")
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                return await self._get(url)
        except TimeoutError:
            self._rest(host)
            raise NotFetched(
                f"host {shown(host)} did not send it within {self._timeout_s:g} s"
            ) from None
        except aiohttp.ClientError as fault:
            self._rest(host)
            raise NotFetched(
                f"host {shown(host)} cannot be asked: {shown(str(fault), 120)}"
            ) from None
        except OSError as fault:
            raise NotFetched(
                f"host {shown(host)} cannot be asked: {shown(str(fault), 120)}"
            ) from None

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _checked(self, address: str) -> tuple[yarl.URL, str]:
        if not self._allowed:
            raise NotFetched("nothing is fetched: frames.fetch_from lists no host")
        try:
            url = yarl.URL(address)
            host, port = url.host, url.port
        except ValueError:
            raise NotFetched(f"{shown(address)} is no address") from None
        if url.scheme not in ("http", "https") or not host or not port:
            raise NotFetched(f"{shown(address)} is no http or https address")
        if url.user is not None or url.password is not None:
            raise NotFetched("its address holds a user or a password")
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return url, host
        # The connector asks the resolver for names alone.
        if not self._allowed.takes(host, host):
            raise NotFetched(f"address {host} is not listed in frames.fetch_from")
        return url, host

    async def _get(self, url: yarl.URL) -> bytes:
        async with self._open().get(
            url, allow_redirects=False, headers={"Accept-Encoding": "identity"}
        ) as answer:
            if 300 <= answer.status < 400:
                where = answer.headers.get("Location", "")
                raise NotFetched(f"it leads on to {shown(where)}, which is not followed")
            if answer.status != 200:
                raise NotFetched(f"host {shown(url.host)} answers {answer.status}")
            self._bound(answer.content_length or 0)
            held = bytearray()
            async for chunk in answer.content.iter_any():
                held += chunk
                self._bound(len(held))
            return bytes(held)

    def _bound(self, size: int) -> None:
        if size > self._max_bytes:
            raise NotFetched(f"it is larger than {self._max_bytes} bytes")

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=_CheckedResolver(
                    self._allowed, self._resolver or aiohttp.ThreadedResolver()
                ),
                use_dns_cache=False,
                limit=AT_ONCE,
                force_close=True,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            )
        return self._session

    def _rest(self, host: str) -> None:
        if len(self._resting) >= MOST_HOSTS:
            self._resting.clear()
        self._resting[host] = time.monotonic() + REST_S

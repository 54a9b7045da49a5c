"""Fetching what a message points at: only from where the settings say, bounded in every way."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from ingest.fetching import Fetcher, NotFetched

LOOPBACK = "127.0.0.0/8"
PICTURE = b"\xff\xd8" + bytes(10_000)


@dataclass
class Gallery:
    """A server of pictures that does what it should not.

    Attributes:
        port: Where it listens, on the loopback interface.
        asked: Paths, in the order they were asked for.
        closing: Set at the end, for answers that never come.
    """

    port: int = 0
    asked: list[str] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        match request.path:
            case "/picture":
                return web.Response(body=PICTURE)
            case "/redirect":
                raise web.HTTPFound(self.url("picture"))
            case "/missing":
                raise web.HTTPNotFound
            case "/large":
                return web.Response(body=bytes(200_000))
            case "/compressed":
                answer = web.Response(body=bytes(50_000_000))
                answer.enable_compression(web.ContentCoding.gzip)
                return answer
            case "/endless" | "/drip":
                stream = web.StreamResponse()
                await stream.prepare(request)
                pause_s = 0.01 if request.path == "/drip" else 0.0
                with_bytes = b"\xff" * (1 if pause_s else 65_536)
                try:
                    while True:
                        await stream.write(with_bytes)
                        await asyncio.sleep(pause_s)
                except ConnectionError:
                    return stream
            case _:
                await self.closing.wait()
                return web.Response()


@pytest.fixture
async def gallery() -> AsyncIterator[Gallery]:
    found = Gallery()
    app = web.Application()
    app.router.add_get("/{name}", found.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.port = runner.addresses[0][1]
    yield found
    found.closing.set()
    await runner.cleanup()


class Names(AbstractResolver):
    """Resolves names as it was told to, each time to the next of its addresses."""

    def __init__(self, **addresses: list[str]) -> None:
        self.addresses = {name.replace("_", "."): found for name, found in addresses.items()}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = self.addresses.get(host, ["127.0.0.1"])  # what systems make of odd numbers
        address = found.pop(0) if len(found) > 1 else found[0]
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        """Nothing is open."""


async def refused(fetcher: Fetcher, url: str) -> str:
    try:
        with pytest.raises(NotFetched) as caught:
            await fetcher.fetch(url)
    finally:
        await fetcher.close()
    return str(caught.value)


async def test_a_picture_is_fetched_from_a_listed_network(gallery: Gallery) -> None:
    fetcher = Fetcher([LOOPBACK])
    assert await fetcher.fetch(gallery.url("picture")) == PICTURE
    await fetcher.close()


async def test_nothing_is_fetched_unless_something_is_listed(gallery: Gallery) -> None:
    assert "lists no host" in await refused(Fetcher([]), gallery.url("picture"))
    assert gallery.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://[::1]/x",
        "http://[::ffff:127.0.0.1]/x",
        "http://[64:ff9b::7f00:1]/x",
        "http://[2002:7f00:1::]/x",
        "http://169.254.169.254/latest/meta-data",
        "http://100.100.100.200/latest/meta-data",
        "http://192.168.1.1/x",
        "http://10.1.2.3/x",
        "http://172.16.0.1/x",
        "http://[fe80::1]/x",
        "http://[fd00:ec2::254]/x",
        "http://0.0.0.0/x",
        "http://224.0.0.1/x",
        "http://8.8.8.8/x",
        "http://2130706433/x",
        "http://127.1/x",
        "http://0x7f.0.0.1/x",
        "http://user:password@pictures.example/x",
        "http://elsewhere.example/x",
        "ftp://pictures.example/x",
        "file:///etc/passwd",
        "http://",
        "http://[/x",
        "http://pictures.example:99999/x",
        "//pictures.example/x",
    ],
)
async def test_what_is_not_listed_is_not_asked(url: str) -> None:
    resolver = Names(pictures_example=["203.0.113.9"], elsewhere_example=["8.8.8.8"])
    fetcher = Fetcher(["pictures.example", "198.51.100.0/24"], resolver=resolver, timeout_s=30)
    said = await refused(fetcher, url)
    assert "answer" not in said


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "10.255.255.1"]
)
async def test_a_listed_name_does_not_lead_into_the_private_network(
    gallery: Gallery, address: str
) -> None:
    fetcher = Fetcher(["pictures.example"], resolver=Names(pictures_example=[address]))
    said = await refused(fetcher, gallery.url("picture", "pictures.example"))
    assert address in said
    assert gallery.asked == []


async def test_the_address_that_was_checked_is_the_one_connected_to(gallery: Gallery) -> None:
    """A name that means another address the moment after is of no use to anybody."""
    names = Names(pictures_example=["127.0.0.1", "10.0.0.1"])
    fetcher = Fetcher([LOOPBACK], resolver=names, timeout_s=30)
    assert await fetcher.fetch(gallery.url("picture", "pictures.example")) == PICTURE
    assert "10.0.0.1" in await refused(fetcher, gallery.url("picture", "pictures.example"))
    assert gallery.asked == ["/picture"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("redirect", "leads on to"),
        ("missing", "answers 404"),
        ("large", "larger than 100000 bytes"),
        ("endless", "larger than 100000 bytes"),
    ],
)
async def test_what_the_server_does_is_bounded(gallery: Gallery, path: str, says: str) -> None:
    fetcher = Fetcher([LOOPBACK], max_bytes=100_000, timeout_s=30)
    assert says in await refused(fetcher, gallery.url(path))
    assert gallery.asked == [f"/{path}"]


async def test_nothing_is_unpacked(gallery: Gallery) -> None:
    fetcher = Fetcher([LOOPBACK], max_bytes=100_000, timeout_s=30)
    assert len(await fetcher.fetch(gallery.url("compressed"))) < 100_000
    await fetcher.close()


@pytest.mark.parametrize("path", ["drip", "silent"])
async def test_a_slow_host_is_given_up_and_left_alone_for_a_while(
    gallery: Gallery, path: str
) -> None:
    fetcher = Fetcher([LOOPBACK], timeout_s=0.2)
    with pytest.raises(NotFetched, match=r"within 0\.2 s"):
        await fetcher.fetch(gallery.url(path))
    assert "did not answer a moment ago" in await refused(fetcher, gallery.url("picture"))
    assert gallery.asked == [f"/{path}"]


async def test_a_host_that_is_not_there_is_said(unused_tcp_port: int) -> None:
    fetcher = Fetcher([LOOPBACK])
    assert "cannot be asked" in await refused(fetcher, f"http://127.0.0.1:{unused_tcp_port}/x")


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "http://pictures.example", "a/b", "", "."])
def test_an_entry_that_is_no_place_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a host's name nor a network"):
        Fetcher([entry])
